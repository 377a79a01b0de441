"""Which columns of a table hold the edges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from graphnn.errors import GraphError


@dataclass(frozen=True)
class Columns:
    """Which columns of a frame or file hold sources, targets and weights.

    Args:
        names: Two or three names, or 0-based places in a file without a header.
        optional: How many of the last ones may be absent.
    """

    names: tuple[Any, ...]
    optional: int = 0

    @classmethod
    def read(cls, columns: Any) -> Columns:
        """The argument `columns` of `from_edges`."""
        if columns is None:
            return cls(("source", "target", "weight"), optional=1)
        if isinstance(columns, str) or not isinstance(columns, Sequence):
            columns = (columns,)
        names = tuple(columns)
        if len(names) not in (2, 3) or len(set(names)) < len(names):
            raise GraphError(
                "columns must name two or three different columns, source, target and, if the "
                f"edges have weights, weight (got {names!r})."
            )
        read = cls(names)
        if read.are_places and min(names) < 0:
            raise GraphError(f"columns must be names, or places from 0 on (got {names!r}).")
        return read

    @property
    def are_places(self) -> bool:
        """Whether they are places, so that a file has no header."""
        return all(isinstance(name, int) and not isinstance(name, bool) for name in self.names)

    @property
    def shown(self) -> str:
        """As messages name them."""
        if self.optional:
            return "source, target and, if the edges have weights, weight"
        return ", ".join(map(str, self.names))

    def find(self, header: list[Any]) -> tuple[int, ...] | None:
        """Their places in a header; None where one is missing or occurs twice."""
        counts = [header.count(name) for name in self.names]
        required = len(counts) - self.optional
        if set(counts[:required]) != {1} or any(count > 1 for count in counts[required:]):
            return None
        return tuple(
            header.index(name) for name, count in zip(self.names, counts, strict=True) if count
        )
