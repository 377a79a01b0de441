"""Edges, and the neurons of crowded scenes, as few SVG paths of one shade each."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np

from graphnn.layout import ROLE_COLORS, SHADE_COLORS, SHADE_WIDTHS
from graphnn.viz.places import WIDTH
from graphnn.viz.scene import Scene

INK = "#1f2933"
# Edges of one strength are painted this many at a time, each sign's in one path: a path of all
# of them would hide those of the other sign. Shorter runs would take plotly longer.
RUN = 128
_WIDE_EDGES = 400
# plotly makes an element of each marker, which takes it 0.1 s for 1,000 of them.
_MOST_MARKERS = 5_000


def paths(scene: Scene, sample: int) -> list[dict[str, Any]]:
    """Shapes of all edges, the strongest on top, then of a crowded scene's neurons."""
    drawn = _edge_paths(scene, sample)
    return [*drawn, *_neuron_paths(scene, sample)] if is_crowded(scene) else drawn


def is_crowded(scene: Scene) -> bool:
    """Whether the neurons that are no pixels are too many for a marker each."""
    return int(scene.is_single.sum()) > _MOST_MARKERS


def css(color: np.ndarray) -> str:
    """A colour as the web writes it."""
    return "#" + bytes(color.tolist()).hex()


def css_all(colors: np.ndarray) -> list[str]:
    """(n, 3) colours as the web writes them."""
    return [css(color) for color in colors]


def line_widths(scene: Scene) -> list[float]:
    """The width of each shade; many edges are drawn thinner, to be told apart."""
    factor = min(1.0, (_WIDE_EDGES / max(scene.edges.size, 1)) ** 0.4)
    return np.round(SHADE_WIDTHS * factor, 2).tolist()


def mark_stretch(scene: Scene) -> float:
    """How much wider than high a mark is in the positions' unit, to look square."""
    return max(scene.places.width / WIDTH, 1.0)


def _edge_paths(scene: Scene, sample: int) -> list[dict[str, Any]]:
    x, y, widths = scene.x, scene.y, line_widths(scene)
    found: dict[tuple[int, int], list[str]] = {}
    seen: Counter[int] = Counter()
    ends = (scene.source, scene.target)
    x0, x1, y0, y1 = (place[end].tolist() for place in (x, y) for end in ends)
    edges = zip(
        scene.edge_shades(sample).tolist(), x0, y0, x1, y1, scene.bend.tolist(), strict=True
    )
    for shade, left, low, right, high, bend in edges:
        middle = "L"
        if bend:
            middle = f"Q{(left + right) / 2:.1f},{(low + high) / 2 + 2 * bend:.1f} "
        run = seen[abs(shade - 64)] // RUN
        seen[abs(shade - 64)] += 1
        piece = f"M{left:.1f},{low:.1f}{middle}{right:.1f},{high:.1f}"
        found.setdefault((run, shade), []).append(piece)
    return [
        {
            "type": "path", "layer": "below", "path": "".join(found[run, shade]),
            "line": {"color": css(SHADE_COLORS[shade]), "width": widths[shade]},
        }
        for run, shade in sorted(found, key=_strongest_last)
    ]  # fmt: skip


def _strongest_last(own: tuple[int, int]) -> tuple[int, int, int]:
    """What runs of edges are sorted by; the signs take turns in being on top."""
    run, shade = own
    return abs(shade - 64), -run, shade if run % 2 == 0 else -shade


def _neuron_paths(scene: Scene, sample: int) -> list[dict[str, Any]]:
    """Squares, filled with what a neuron's marker is filled with."""
    own = np.flatnonzero(scene.is_single)
    if scene.samples.size:
        code, colors = scene.neuron_shades(sample)[own], SHADE_COLORS
    else:
        code, colors = scene.roles[own], ROLE_COLORS
    half = scene.places.sizes[scene.neurons[own]] / 2
    across = half * mark_stretch(scene)
    x, y = scene.x[own], scene.y[own]
    sides = (side.tolist() for side in (x - across, x + across, y - half, y + half))
    found: dict[int, list[str]] = {}
    for group, left, right, low, high in zip(code.tolist(), *sides, strict=True):
        found.setdefault(group, []).append(
            f"M{left:.1f},{low:.1f}H{right:.1f}V{high:.1f}H{left:.1f}Z"
        )
    return [
        {
            "type": "path", "layer": "below", "path": "".join(found[group]),
            "fillcolor": css(colors[group]), "line": {"color": INK, "width": 0},
        }
        for group in sorted(found)
    ]  # fmt: skip
