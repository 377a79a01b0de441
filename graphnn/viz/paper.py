"""Pictures for papers: matplotlib figures, to be saved as SVG, PDF or PNG."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np

from graphnn.edited import check_network
from graphnn.errors import GraphError
from graphnn.graph import NeuronGraph
from graphnn.layout import ROLE_COLORS, ROLES, SHADE_COLORS
from graphnn.network import Network
from graphnn.trace import Trace
from graphnn.viz.figure import neurons_of, roles_shown
from graphnn.viz.paths import INK, line_widths
from graphnn.viz.places import HEIGHT, WIDTH
from graphnn.viz.scene import By, ImageShape, Scene, check_trace, compose
from graphnn.viz.words import caption, level_titles

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# matplotlib's words for the shapes of `graphnn.layout.SHAPES`.
_MARKERS = ("s", "o", "h", "^")
_BLUE, _ORANGE = (SHADE_COLORS[place] / 255 for place in (128, 0))
_BINS = 60
_MOST_PANELS = 12
_MOST_POINTS = 200_000
_CURVE = np.linspace(0.0, 1.0, 12)


def plot_network(
    net: Network,
    trace: Trace | None = None,
    sample: int = 0,
    max_edges: int = 2_000,
    by: By = None,
    threshold: float = 0.0,
    image_shape: ImageShape = None,
) -> Figure:
    """The picture that `draw` shows, as a still one.

    Args:
        net: The network.
        trace: As in `draw`.
        sample: As in `draw`.
        max_edges: As in `draw`.
        by: As in `draw`.
        threshold: As in `draw`.
        image_shape: As in `draw`.

    Returns:
        A matplotlib Figure.

    Raises:
        GraphError: As `draw`.
        ImportError: matplotlib is not installed.

    Example:
        >>> net = graphnn.from_edges([("x", "h", 2.0), ("h", "y", -1.0)])
        >>> graphnn.viz.plot_network(net).savefig(getfixture("tmp_path") / "net.svg")
    """
    figure = _figure(11, 6.5)
    check_trace(net, trace, sample)
    scene = compose(net, trace, [sample], max_edges, by, threshold, image_shape)
    axes = figure.subplots()
    _add_edges(axes, scene)
    for image in scene.places.images:
        own = np.searchsorted(scene.neurons, image.neurons)
        half = abs(image.y[0] - image.y[-1]) / max(2 * image.y.size - 2, 1) or 5.0
        pixels = scene.values[0][own] if scene.samples.size else np.zeros(own.shape)
        extent = (image.x[0] - half, image.x[-1] + half, image.y[-1] - half, image.y[0] + half)
        axes.imshow(pixels, cmap="gray", extent=extent, aspect="auto", zorder=2)
    _add_neurons(axes, scene)
    step = -(-scene.places.columns.size // _MOST_PANELS)
    for x, title in list(zip(scene.places.columns, level_titles(scene), strict=True))[::step]:
        text = title.replace("<br>", "\n")
        axes.text(x, HEIGHT / 2 + 12, text, ha="center", va="bottom", fontsize=8, parse_math=False)
    axes.set_xlim(0, max(scene.places.width, WIDTH))
    highest = max(HEIGHT / 2, float(np.abs(scene.y).max(initial=0.0)) + 25)
    axes.set_ylim(-highest, highest)
    axes.set_axis_off()
    figure.text(0.01, 0.01, caption(scene), fontsize=8, parse_math=False)
    return figure


def plot_weights(net: Network) -> Figure:
    """Histograms of the weights, one for the edges into each level.

    Args:
        net: The network.

    Returns:
        A matplotlib Figure; of many levels, evenly spaced ones.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> net = graphnn.from_edges([("x", "h", 2.0), ("h", "y", -1.0)])
        >>> len(graphnn.viz.plot_weights(net).axes)
        2
    """
    check_network(net)
    weight = net.weight.detach().double().cpu()
    graph = net.graph.to("cpu")
    levels = _some(range(1, graph.num_levels))
    numbers = {level: weight[graph.edges_of_level(level)].numpy() for level in levels}
    return _histograms(numbers, "weight")


def plot_activations(trace: Trace) -> Figure:
    """Histograms of the neurons' values over all samples, one for each level.

    Args:
        trace: A trace of any network.

    Returns:
        A matplotlib Figure; of many levels, evenly spaced ones.

    Raises:
        GraphError: The trace has no sample.
        ImportError: matplotlib is not installed.

    Example:
        >>> net = graphnn.from_edges([("x", "h", 2.0), ("h", "y", -1.0)])
        >>> len(graphnn.viz.plot_activations(net.trace(torch.randn(5, 1))).axes)
        3
    """
    if not isinstance(trace, Trace):
        raise GraphError(f"trace must be what net.trace(x) returns (got {type(trace).__name__}).")
    if trace.values.numel() == 0:
        raise GraphError("a trace must have at least one sample to be drawn (it has none).")
    graph = trace.graph.to(trace.values.device)
    values = trace.values.detach().reshape(-1, graph.num_neurons)
    numbers = {}
    for level in _some(range(graph.num_levels)):
        own = (graph.level == level).nonzero().flatten()
        numbers[level] = values[:, own].double().cpu().numpy().ravel()
    return _histograms(numbers, "value")


def plot_degrees(graph: NeuronGraph) -> Figure:
    """How many neurons have how many incoming and outgoing edges.

    Args:
        graph: The wiring.

    Returns:
        A matplotlib Figure.

    Raises:
        ImportError: matplotlib is not installed.

    Example:
        >>> graph = graphnn.NeuronGraph([[0, 0, 1, 2], [1, 2, 3, 3]])
        >>> [axes.get_title() for axes in graphnn.viz.plot_degrees(graph).axes]
        ['incoming edges', 'outgoing edges']
    """
    _check_graph(graph)
    figure = _figure(9, 3.5)
    graph = graph.to("cpu")
    fan_out = np.bincount(graph.edge_index[0].numpy(), minlength=graph.num_neurons)
    panels = figure.subplots(1, 2)
    for axes, title, degree in zip(
        panels, ("incoming edges", "outgoing edges"), (graph.fan_in.numpy(), fan_out), strict=True
    ):
        most = int(degree.max(initial=0))
        edges = np.arange(most + 2) - 0.5 if most < _BINS else _BINS
        axes.hist(degree, bins=edges, color=_BLUE, log=True)
        axes.set_title(title, fontsize=10)
        axes.set_xlabel("edges")
        axes.set_ylabel("neurons")
        # A single neuron would stand on the axis, unseen.
        axes.set_ylim(bottom=0.5)
    return figure


def plot_sparsity(graph: NeuronGraph, level: int) -> Figure:
    """Which neurons of a level read which others: a point for each edge.

    Args:
        graph: The wiring.
        level: 1 ... L - 1.

    Returns:
        A matplotlib Figure; of more than 200,000 edges it shows evenly spaced ones, and says so.

    Raises:
        GraphError: There is no such level.
        ImportError: matplotlib is not installed.

    Example:
        >>> graph = graphnn.NeuronGraph([[0, 0, 1, 2], [1, 2, 3, 3]])
        >>> graphnn.viz.plot_sparsity(graph, 2).axes[0].get_title()
        'level 2: 2 edges, 100 % of 2 sources by 1 targets'
    """
    _check_graph(graph)
    graph = graph.to("cpu")
    edges = graph.edges_of_level(level).numpy()
    if level == 0:
        raise GraphError("level must be at least 1: no edge leads to level 0.")
    figure = _figure(6, 5.5)
    source, target = graph.edge_index.numpy()[:, edges]
    (sources, x), (targets, y) = (np.unique(own, return_inverse=True) for own in (source, target))
    share = edges.size / max(sources.size * targets.size, 1)
    step = -(-edges.size // _MOST_POINTS) or 1
    axes = figure.subplots()
    size = float(np.clip(250 / max(sources.size, targets.size, 1), 0.5, 12))
    axes.plot(x[::step], y[::step], "s", color=_BLUE, markersize=size, markeredgewidth=0)
    axes.invert_yaxis()
    shown = f", {x[::step].size:,} of them shown" if step > 1 else ""
    axes.set_title(
        f"level {level}: {edges.size:,} edges{shown}, {100 * share:.3g} % of {sources.size:,} "
        f"sources by {targets.size:,} targets",
        fontsize=9,
    )
    axes.set_xlabel("source neurons of the level, by id")
    axes.set_ylabel("target neurons, by id")
    return figure


def _check_graph(graph: object) -> None:
    if not isinstance(graph, NeuronGraph):
        raise GraphError(
            f"graph must be a graphnn.NeuronGraph (got {type(graph).__name__}). "
            "Of a network it is net.graph."
        )


def _figure(width: float, height: float) -> Figure:
    try:
        # Not pyplot, which keeps every figure alive and chooses a window system.
        from matplotlib.figure import Figure
    except ImportError:
        raise ImportError(
            "pictures for papers need matplotlib, not installed here: pip install 'graphnn[viz]'"
        ) from None
    return Figure(figsize=(width, height), layout="constrained")


def _some(levels: range) -> list[int]:
    """At most as many levels as there are panels, evenly spaced, first and last among them."""
    if len(levels) <= _MOST_PANELS:
        return list(levels)
    return [levels[round(i)] for i in np.linspace(0, len(levels) - 1, _MOST_PANELS)]


def _histograms(numbers: dict[int, np.ndarray], what: str) -> Figure:
    columns = min(4, max(len(numbers), 1))
    rows = math.ceil(len(numbers) / columns)
    figure = _figure(3 * columns, 2.4 * max(rows, 1))
    for place, (level, own) in enumerate(numbers.items(), start=1):
        axes = figure.add_subplot(rows, columns, place)
        finite = own[np.isfinite(own)]
        counts, edges = np.histogram(finite, bins=_BINS)
        colors = [_BLUE if middle >= 0 else _ORANGE for middle in (edges[:-1] + edges[1:]) / 2]
        axes.bar(edges[:-1], counts, width=np.diff(edges), align="edge", color=colors)
        left_out = f", {own.size - finite.size:,} not finite" if finite.size < own.size else ""
        axes.set_title(f"level {level}: {own.size:,}{left_out}", fontsize=9)
        axes.set_xlabel(what, fontsize=8)
        axes.tick_params(labelsize=7)
    return figure


def _add_edges(axes: Any, scene: Scene) -> None:
    from matplotlib.collections import LineCollection

    share = _CURVE[:, None]
    rest = 1 - share
    lines = []
    for place, bend in ((scene.x, 0.0), (scene.y, 2.0)):
        start, end = place[scene.source], place[scene.target]
        middle = (start + end) / 2 + bend * scene.bend
        lines.append(rest * rest * start + 2 * share * rest * middle + share * share * end)
    shades = scene.edge_shades(0)
    order = np.argsort(np.abs(shades - 64), kind="stable")
    axes.add_collection(
        LineCollection(
            list(np.stack(lines, axis=-1).swapaxes(0, 1)[order]),
            colors=SHADE_COLORS[shades[order]] / 255,
            linewidths=np.array(line_widths(scene))[shades[order]] * 0.7,
            zorder=1,
        )
    )


def _add_neurons(axes: Any, scene: Scene) -> None:
    sizes = scene.places.sizes[scene.neurons]
    for role in roles_shown(scene):
        own = neurons_of(scene, role)
        if scene.samples.size:
            colors = SHADE_COLORS[scene.neuron_shades(0)[own]] / 255
        else:
            colors = np.repeat(ROLE_COLORS[role][None] / 255, own.size, axis=0)
        axes.scatter(
            scene.x[own], scene.y[own], s=(0.62 * sizes[own]) ** 2, c=colors, zorder=3,
            marker=_MARKERS[role], edgecolors=INK, linewidths=0.4, label=ROLES[role],
        )  # fmt: skip
