"""Draws docs/network.svg, the picture at the top of the README, from a network's own trace.

Run it from the repository's root: python docs/draw_network.py
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import graphnn

_WIDTH, _HEIGHT = 900, 452
_TOP, _BOTTOM = 38, 384
_POSITIVE, _NEGATIVE, _INK, _SOFT = "#2f6fd0", "#e8793a", "#1f2933", "#7b8794"
_RADIUS = 15
_SIZES = (4, 6, 5, 2)


def build() -> graphnn.Network:
    """A small sparse network with edges that skip a level."""
    generator = torch.Generator().manual_seed(11)
    starts = [sum(_SIZES[:level]) for level in range(len(_SIZES) + 1)]
    edges = [
        (source, target)
        for level in range(1, len(_SIZES))
        for target in range(starts[level], starts[level + 1])
        for source in range(starts[level - 1], starts[level])
        if torch.rand((), generator=generator) < 0.72
    ]
    edges += [(0, starts[2]), (3, starts[3] - 1), (starts[1], starts[3])]
    hidden = ["tanh" if neuron >= starts[1] else "identity" for neuron in range(starts[-1])]
    graph = graphnn.NeuronGraph(torch.tensor(edges).t(), activation=hidden, bias=False)
    weight = torch.randn(len(edges), generator=generator)
    return graphnn.Network(graph, weight=weight)


def positions(graph: graphnn.NeuronGraph) -> list[tuple[float, float]]:
    """The centre of every neuron: a column for each level."""
    places = [(0.0, 0.0)] * graph.num_neurons
    for level in range(graph.num_levels):
        column = (graph.level == level).nonzero().flatten().tolist()
        x = 70 + level * (_WIDTH - 140) / (graph.num_levels - 1)
        gap = min(66.0, (_BOTTOM - _TOP - 20) / len(column))
        first = (_TOP + _BOTTOM) / 2 - gap * (len(column) - 1) / 2
        for place, neuron in enumerate(column):
            places[neuron] = (x, first + place * gap)
    return places


def _mix(colour: str, share: float) -> str:
    """The colour, as much of it as `share` says, on white."""
    parts = (int(colour[i : i + 2], 16) for i in (1, 3, 5))
    return "#" + "".join(f"{round(255 + (part - 255) * share):02x}" for part in parts)


def _edge_path(start: tuple[float, float], end: tuple[float, float]) -> str:
    (x1, y1), (x2, y2) = start, end
    bend = (x2 - x1) * 0.42
    return f"M{x1:.1f} {y1:.1f}C{x1 + bend:.1f} {y1:.1f} {x2 - bend:.1f} {y2:.1f} {x2:.1f} {y2:.1f}"


def draw() -> str:
    """The picture, as SVG."""
    net = build()
    graph = net.graph
    with torch.no_grad():
        trace = net.trace(torch.tensor([[0.9, -0.6, 0.4, -0.95]]))
    places = positions(graph)
    sources, targets = graph.edge_index.tolist()
    weights, values = trace.weight.tolist(), trace.values[0].tolist()
    level_two = graph.edges_of_level(2)
    chosen = int(level_two[trace.weight[level_two].abs().argmax()])

    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {_HEIGHT}" '
        'font-family="system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif">',
        "<title>A neural network drawn as the graph it is</title>",
        f'<rect width="{_WIDTH}" height="{_HEIGHT}" rx="14" fill="#ffffff"/>',
        '<g fill="none" stroke-linecap="round">',
    ]
    # The widest go last, on top of the thin ones, and the chosen edge above all.
    for edge in sorted(range(graph.num_edges), key=lambda e: (e == chosen, abs(weights[e]))):
        strength = min(abs(weights[edge]) / 2, 1.0)
        colour = _POSITIVE if weights[edge] > 0 else _NEGATIVE
        opacity = 1.0 if edge == chosen else 0.22 + 0.5 * strength
        width = 5.0 if edge == chosen else 0.8 + 3.2 * strength
        path = _edge_path(places[sources[edge]], places[targets[edge]])
        lines.append(
            f'<path d="{path}" stroke="{colour}" stroke-width="{width:.2f}" '
            f'stroke-opacity="{opacity:.2f}"/>'
        )
    lines.append("</g>")
    for neuron, (x, y) in enumerate(places):
        colour = _POSITIVE if values[neuron] >= 0 else _NEGATIVE
        share = 0.12 + 0.75 * min(abs(values[neuron]), 1.0)
        ring = 3 if neuron in (sources[chosen], targets[chosen]) else 1.5
        lines.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{_RADIUS}" fill="{_mix(colour, share)}" '
            f'stroke="{_INK}" stroke-width="{ring}"/>'
        )
    lines += _captions(graph, places)
    lines += _triplet(trace, chosen, places)
    lines.append("</svg>")
    return "\n".join(lines) + "\n"


def _captions(graph: graphnn.NeuronGraph, places: list[tuple[float, float]]) -> list[str]:
    lines = []
    for level in range(graph.num_levels):
        x = places[int((graph.level == level).nonzero()[0])][0]
        text = {0: "inputs", graph.num_levels - 1: "outputs"}.get(level, f"level {level}")
        lines.append(
            f'<text x="{x:.1f}" y="30" text-anchor="middle" font-size="14" fill="{_SOFT}">'
            f"{text}</text>"
        )
    for place, (colour, text) in enumerate(((_POSITIVE, "positive"), (_NEGATIVE, "negative"))):
        x, y = 58 + place * 100, _BOTTOM + 32
        lines.append(
            f'<rect x="{x}" y="{y - 9}" width="20" height="9" rx="4" fill="{colour}"/>'
            f'<text x="{x + 26}" y="{y}" font-size="13" fill="{_SOFT}">{text}</text>'
        )
    return lines


def _triplet(trace: graphnn.Trace, edge: int, places: list[tuple[float, float]]) -> list[str]:
    """The chosen edge's triplet, in a box below the picture that points at the edge."""
    source, target = trace.graph.edge_index[:, edge].tolist()
    numbers = trace.triplets_of([edge])[0, 0].tolist()
    texts = [f"{number:+.2f}".replace("-", "\N{MINUS SIGN}") for number in numbers]
    (x1, y1), (x2, y2) = places[source], places[target]
    x, y = (x1 + x2) / 2, (y1 + y2) / 2
    width, height = 300, 52
    left, top = x - width / 2, _BOTTOM + 6
    box = [
        f'<path d="M{x:.1f} {y:.1f}V{top}" stroke="{_INK}" stroke-width="1.2"/>'
        f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{_INK}"/>'
        f'<rect x="{left:.1f}" y="{top}" width="{width}" height="{height}" rx="9" '
        f'fill="#ffffff" stroke="{_INK}" stroke-width="1.2"/>'
    ]
    for index, (text, what) in enumerate(
        zip(texts, ("source value", "edge weight", "target value"), strict=True)
    ):
        x = left + width * (2 * index + 1) / 6
        colour = _POSITIVE if numbers[index] >= 0 else _NEGATIVE
        box.append(
            f'<text x="{x:.1f}" y="{top + 23}" text-anchor="middle" font-size="16" '
            f'font-weight="600" fill="{colour}">{text}</text>'
            f'<text x="{x:.1f}" y="{top + 42}" text-anchor="middle" font-size="12" '
            f'fill="{_SOFT}">{what}</text>'
        )
    return box


if __name__ == "__main__":
    path = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("network.svg")
    path.write_text(draw(), encoding="utf-8")
    print(f"wrote {path}")
