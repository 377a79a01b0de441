"""What a graph, a network or a trace is, on one screen: as text and for notebooks."""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from torch import Tensor

if TYPE_CHECKING:
    from graphnn.graph import NeuronGraph

# Of a terminal: what a summary takes, without the line for the next prompt.
SCREEN_LINES, SCREEN_COLUMNS = 23, 80
_MOST_NAMES = 4


@dataclass(frozen=True)
class Summary:
    """Some facts and a table of levels.

    Args:
        title: What is described.
        facts: Pairs of a fact's name and its text.
        header: The names of the table's columns.
        rows: The rows of the table, as text.
    """

    title: str
    facts: Sequence[tuple[str, str]]
    header: Sequence[str]
    rows: Sequence[Sequence[str]]

    def text(self) -> str:
        """For a terminal."""
        lines = [*self.fact_lines(SCREEN_COLUMNS - 2), *self.table_lines()]
        return "\n".join([self.title, *(f"  {line}" for line in lines)])

    def fact_lines(self, columns: int) -> list[str]:
        """A line for each fact, cut after an item where it is too long."""
        longest = max(len(name) for name, _ in self.facts) + 2
        return [f"{name:<{longest}}{_cut(fact, columns - longest)}" for name, fact in self.facts]

    def table_lines(self) -> list[str]:
        """The table, its columns to the right."""
        table = [self.header, *self.rows]
        widths = [max(len(row[place]) for row in table) for place in range(len(self.header))]
        return [
            "  ".join(f"{cell:>{width}}" for cell, width in zip(row, widths, strict=True))
            for row in table
        ]

    def html(self) -> str:
        """For a notebook; names from files are text."""
        facts = "".join(
            f'<tr><th style="text-align:left">{html.escape(name)}</th>'
            f'<td style="text-align:left">{html.escape(_cut(fact, SCREEN_COLUMNS))}</td></tr>'
            for name, fact in self.facts
        )
        head = "".join(f"<th>{html.escape(name)}</th>" for name in self.header)
        rows = "".join(
            f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>"
            for row in self.rows
        )
        return (
            f"<div><b>{html.escape(self.title)}</b><table>{facts}</table>"
            f"<table><tr>{head}</tr>{rows}</table></div>"
        )


def of_graph(graph: NeuronGraph) -> Summary:
    """The summary of a wiring."""
    facts = graph_facts(graph)
    return Summary("NeuronGraph", facts, *level_table(graph, room_for_levels(facts)))


def graph_facts(graph: NeuronGraph) -> list[tuple[str, str]]:
    """Neurons, edges, levels, density, activations, groups and names of a wiring."""
    graph = graph.to("cpu")
    inputs, outputs = (np.unique(ids.numpy()) for ids in (graph.input_ids, graph.output_ids))
    hidden = graph.num_neurons - np.union1d(inputs, outputs).size
    level = graph.level.numpy()
    source, target = graph.edge_index.numpy()
    skips = np.count_nonzero(level[target] - level[source] > 1)
    return [
        (
            "neurons",
            f"{graph.num_neurons:,}: {inputs.size:,} inputs, {hidden:,} hidden, "
            f"{outputs.size:,} outputs",
        ),
        ("edges", f"{graph.num_edges:,}, of which {skips:,} skip a level"),
        ("levels", f"{graph.num_levels:,}"),
        ("density", f"{graph.density:.3g}"),
        ("activations", activations_text(graph)),
        ("inputs", _groups(graph.inputs)),
        ("outputs", _groups(graph.outputs)),
        ("names", _names(graph)),
    ]


def activations_text(graph: NeuronGraph) -> str:
    """How many computed neurons have each activation, the most frequent first."""
    graph = graph.to("cpu")
    is_computed = np.ones(graph.num_neurons, bool)
    is_computed[graph.input_ids.numpy()] = False
    codes = graph.activation_code.numpy()[is_computed]
    code, first, count = np.unique(codes, return_index=True, return_counts=True)
    # Of equal counts, the one that occurs first comes first.
    order = np.lexsort((first, -count)).tolist()
    names = [f"{graph.activation_table[code[i]].name} {count[i]:,}" for i in order]
    return ", ".join(names) or "none"


def level_table(graph: NeuronGraph, most: int) -> tuple[Sequence[str], Sequence[Sequence[str]]]:
    """Header and at most so many rows of neurons and edges by level."""
    graph = graph.to("cpu")
    level = graph.level.numpy()
    neurons = np.bincount(level, minlength=graph.num_levels)
    # Exact while a level has fewer than 2 ** 53 edges.
    edges = np.bincount(level, weights=graph.fan_in.numpy(), minlength=graph.num_levels)
    fan_in = edges / np.maximum(neurons, 1)
    return ("level", "neurons", "edges", "mean fan-in"), [
        ("...", "", "", "")
        if own is None
        else (str(own), f"{neurons[own]:,}", f"{int(edges[own]):,}", f"{fan_in[own]:.4g}")
        for own in shown_levels(graph.num_levels, most)
    ]


def room_for_levels(facts: Sequence[tuple[str, str]]) -> int:
    """How many rows of a table fit on a screen below the title, the facts and a head."""
    return SCREEN_LINES - len(facts) - 2


def shown_levels(count: int, most: int) -> list[int | None]:
    """At most so many levels, the first ones and the last two; None for those left out."""
    if count <= most:
        return list(range(count))
    return [*range(most - 3), None, count - 2, count - 1]


def bytes_text(count: int) -> str:
    """A number of bytes as people read it."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"


def _groups(groups: Mapping[str, Tensor]) -> str:
    return ", ".join(f"{name} ({ids.numel():,})" for name, ids in groups.items())


def _names(graph: NeuronGraph) -> str:
    if graph.names is None:
        return "none: neurons go by their ids"
    shown = ", ".join(_printable(str(name)) for name in graph.names[:_MOST_NAMES])
    return shown if len(graph.names) <= _MOST_NAMES else f"{shown}, ..."


def _printable(name: str) -> str:
    """A name on one line, whatever it holds."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in name)


def _cut(text: str, columns: int) -> str:
    if len(text) <= columns:
        return text
    cut = text.rfind(", ", 0, columns - len(", ...") + 2)
    return f"{text[:cut]}, ..." if cut > 0 else f"{text[: columns - 3]}..."
