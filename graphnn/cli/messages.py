"""Errors as the command line says them: in its own options, not in arguments of Python."""

from __future__ import annotations

import re

# What the library says, and what stands for it here.
_TERMS = (
    (r"pass coalesce='sum'", "pass --coalesce sum"),
    (
        r"Name other columns in columns=; columns=\(0, 1\)",
        "Name others in --columns; --columns 0,1",
    ),
    (r" Use graphnn\.register_activation to add one\.", ""),
    (
        r"If it is your own, register it first: graphnn\.register_activation\(.*?, function\)\.",
        "A network with activations of its own is read in Python.",
    ),
    (r"Convert a copy with \.float\(\)\.", "Write .safetensors instead."),
    (r" For all edges give graph\.num_edges\.", ""),
    # Arguments that are called as their options are.
    (r"^(columns|epochs|sample) must", r"--\1 must"),
    (r"^max_edges must", "--max-edges must"),
)


def one_line(error: Exception) -> str:
    """An error's message without line breaks.

    Args:
        error: What a command raised.
    """
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    text = " ".join(str(error).split())
    for said, own in _TERMS:
        text = re.sub(said, own, text)
    return text
