"""Text and numbers as XML holds them, for the formats that are XML."""

from __future__ import annotations

import math
import re
from collections.abc import Hashable, Sequence

from graphnn.errors import ConversionError

_NOT_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# A reader turns bare line breaks and tabs into other white space.
_ESCAPES = str.maketrans(
    {"&": "&amp;", "<": "&lt;", ">": "&gt;", "\t": "&#9;", "\n": "&#10;", "\r": "&#13;"}
)
_TO_ESCAPE = re.compile("[&<>\t\n\r]")


def escaped(text: str) -> str:
    """Text as it stands between tags."""
    return text.translate(_ESCAPES) if _TO_ESCAPE.search(text) else text


def in_quotes(text: str) -> str:
    """Text as it stands in an attribute's double quotes."""
    return escaped(text).replace('"', "&quot;")


def number(value: float) -> str:
    """A number, for programs in Java and in Python."""
    # repr gives the digits that lead back to the same float64. The rest is spelled as in Java,
    # from which GraphML has its types, and as Python reads it too.
    if math.isfinite(value):
        return repr(value)
    word = "NaN" if math.isnan(value) else "Infinity"
    return f"-{word}" if math.copysign(1.0, value) < 0 else word


def name_texts(names: Sequence[Hashable]) -> list[str]:
    """Names as text, none of which XML cannot hold.

    Args:
        names: The neurons' names.

    Returns:
        One text a name, not escaped.

    Raises:
        ConversionError: A name holds a character that XML cannot.
    """
    texts = [str(name) for name in names]
    for neuron, text in enumerate(texts):
        wrong = _NOT_XML.search(text)
        if wrong:
            raise ConversionError(
                f"names must consist of characters that XML can hold, but neuron {neuron} is "
                f"called {names[neuron]!r}, which has {wrong[0]!r} at place {wrong.start()}."
            )
    return texts
