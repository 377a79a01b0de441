"""The kernels of `fused_cpu`: where they are kept compiled, and what is said meanwhile."""

from __future__ import annotations

import hashlib
import os
import sys
import threading
from collections.abc import Callable, Hashable
from functools import cache
from pathlib import Path
from typing import Any

# A wait longer than this many seconds is explained.
_PATIENCE = 1.0

_ready: set[Hashable] = set()


@cache
def _folder() -> str:
    """Where compiled kernels are kept.

    numba's cache on disk notices an edit of the file that a kernel is in, but not of the files that
    the kernel's file imports; so the folder is named after the contents of all of them.
    """
    from numba.core import config

    folder = Path(__file__).parent
    files = (
        "fused_cpu_kernels.py", "fused_cpu_backward.py", "fused_cpu_matrix.py",
        "fused_cpu_sample_kernels.py", "elementwise.py", "transcendental.py", "lanes.py", "bits.py",
        "rows.py",
    )  # fmt: skip
    digest = hashlib.sha256(b"".join((folder / name).read_bytes() for name in files)).hexdigest()
    # By name, because numba makes its settings at run time.
    usual = config.__dict__["CACHE_DIR"]
    root = Path(usual) if usual else folder / "__pycache__"
    if not os.access(root if root.exists() else root.parent, os.W_OK):
        root = Path.home() / ".cache" / "graphnn"
    return str(root / f"kernels-{digest[:16]}")


def kernel(function: Callable[..., Any]) -> Any:
    """Compiles a function when it is first called, without Python's lock, and keeps the code.

    A decorator, so that it holds for the kernels' file however that is imported.
    """
    from numba import njit
    from numba.core import config

    settings, folder = config.__dict__, _folder()
    usual = settings["CACHE_DIR"]
    settings["CACHE_DIR"] = folder
    try:
        return njit(nogil=True, cache=True, error_model="numpy")(function)
    finally:
        settings["CACHE_DIR"] = usual


@cache
def kernels() -> Any:
    """The compiled kernels."""
    from graphnn.backends import fused_cpu_kernels

    return fused_cpu_kernels


@cache
def backward_kernels() -> Any:
    """The compiled kernels of the backward pass."""
    from graphnn.backends import fused_cpu_backward

    return fused_cpu_backward


@cache
def matrix_kernels() -> Any:
    """The compiled kernels of levels that run as matrix products."""
    from graphnn.backends import fused_cpu_matrix

    return fused_cpu_matrix


@cache
def sample_kernels() -> Any:
    """The compiled kernels of chains for one sample."""
    from graphnn.backends import fused_cpu_sample_kernels

    return fused_cpu_sample_kernels


@cache
def tags() -> Any:
    """The tags that stand for tiles' widths: `lanes.TAGS`."""
    from graphnn.backends import lanes

    return lanes.TAGS


@cache
def _explain() -> None:
    """Says why it takes long, once for all variants."""
    sys.stderr.write(
        "graphnn: compiling the CPU kernels; kept on disk, so this happens once a machine\n"
    )


def announce(variant: Hashable, call: Callable[[], None]) -> None:
    """Makes the first call of a kernel's variant, and says so on stderr if it takes long.

    Args:
        variant: What tells this compilation from others; later calls with it do nothing.
        call: Calls the kernel without work, so that its time is that of compiling, or of reading
            the compiled code from disk.
    """
    if variant in _ready:
        return
    timer = threading.Timer(_PATIENCE, _explain)
    timer.daemon = True
    timer.start()
    try:
        call()
    finally:
        timer.cancel()
    _ready.add(variant)
