"""Tables in Markdown, and the sentence above them."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

Line = dict[str, Any]


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table whose columns, but for the first, are right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def where(lines: list[Line]) -> str:
    """The sentence that says what a run was measured on."""
    first = lines[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    loads = sorted(line["load"] for line in lines if line["load"] is not None)
    load = f"; load {loads[0]} to {loads[-1]}" if loads else ""
    others = [line["others"] for line in lines if "others" in line]
    if others:
        load += f"; other processes took at most {max(others)} cores in a measurement"
    return (
        f"{first['cpu']}, {first['cores']} cores, {first['device']}; {versions}; commit "
        f"`{first['commit']}`; {first['time']}{load}."
    )
