"""Runs of GraphML edges that all look alike, one to a line, read without a call for each tag.

A million edges are eight million elements, and a streamed parser's calls are most of the time of
reading them. A line that matches here is one whole edge element, of characters that mean nothing
but themselves in XML; any other is left to the parser.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

Number = type[int] | type[float]

END = b"</edge>\n"
_LOOKS = re.compile(
    rb'<edge source="[^"]*" target="[^"]*">((?:<data key="[^"]*">[^<]*</data>)*)</edge>\n'
)
_KEY = re.compile(rb'<data key="([^"]*)">')
# Printable ASCII without the characters that XML gives a meaning.
_TEXT = rb"[ !#-%'-;=?-~]*"
_INTEGER = rb"-?[0-9]{1,18}"
_REAL = rb"[-+]?(?:[0-9]+(?:\.[0-9]*)?(?:[eE][-+]?[0-9]+)?|Infinity|NaN)"
_KINDS = {int: _INTEGER, float: _REAL}


@dataclass(frozen=True, slots=True)
class Key:
    """A declared attribute.

    Args:
        name: Of the attribute.
        wanted: Whether it is a part of the network, and not of its picture.
        convert: The type that its values must have, or None for text.
    """

    name: str
    wanted: bool
    convert: Number | None


@dataclass(frozen=True, eq=False)
class EdgeLines:
    """What the lines of a run look like.

    Args:
        line: Matches one line; its groups are source, target and the two numbers.
        run: Matches as many lines as there are.
        index: The group of the edge's index.
        weight: The group of its weight.
    """

    line: re.Pattern[bytes]
    run: re.Pattern[bytes]
    index: int
    weight: int

    @classmethod
    def like(cls, line: bytes, keys: Mapping[str, Key]) -> EdgeLines | None:
        """The pattern of lines with the keys of one line.

        Args:
            line: A line of a file.
            keys: The declared attributes of edges by id.

        Returns:
            The pattern, or None if the line is not of a kind that can be read here.
        """
        looks = _LOOKS.fullmatch(line)
        if looks is None:
            return None
        line = rb'<edge source="(%b)" target="(%b)">' % (_TEXT, _TEXT)
        run = rb'<edge source="%b" target="%b">' % (_TEXT, _TEXT)
        names = ["source", "target"]
        for identity in _KEY.findall(looks[1]):
            key = keys.get(identity.decode("latin-1"))
            if key is None or not re.fullmatch(_TEXT, identity):
                return None
            value = _TEXT if key.convert is None else _KINDS[key.convert]
            datum = b'<data key="%b">' % re.escape(identity)
            run += datum + value + b"</data>"
            if key.wanted:
                names.append(key.name)
                value = b"(%b)" % value
            line += datum + value + b"</data>"
        if sorted(names) != ["index", "source", "target", "weight"]:
            return None
        return cls(
            re.compile(line + END),
            # Possessive: a line never matches in a second way, so there is nothing to go back to.
            re.compile(b"(?:%b)*+" % (run + END)),
            names.index("index"),
            names.index("weight"),
        )

    def read(self, block: bytes, place: Mapping[bytes, int]) -> Run | None:
        """Reads the lines at the start of a block, as far as they match.

        Args:
            block: Bytes of a file from the start of a line.
            place: Node id -> place.

        Returns:
            The run, or None if it is empty, names an unknown node or has a negative index.
        """
        length = self.run.match(block).end()  # pyright: ignore[reportOptionalMemberAccess]
        if length == 0:
            return None
        columns = list(zip(*self.line.findall(block, 0, length), strict=True))
        source = [place.get(label, -1) for label in columns[0]]
        target = [place.get(label, -1) for label in columns[1]]
        index = list(map(int, columns[self.index]))
        if min(source) < 0 or min(target) < 0 or min(index) < 0:
            return None
        return Run(length, source, target, index, list(map(float, columns[self.weight])))


@dataclass(frozen=True, eq=False)
class Run:
    """The edges of some lines.

    Args:
        length: Of the lines in bytes.
        source: Places of the sources.
        target: Places of the targets.
        index: Index attributes.
        weight: Weights.
    """

    length: int
    source: Sequence[int]
    target: Sequence[int]
    index: Sequence[int]
    weight: Sequence[float]
