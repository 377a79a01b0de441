"""A scene as a plotly figure."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from graphnn.layout import ROLE_COLORS, ROLES, SHADE_COLORS
from graphnn.network import Network
from graphnn.trace import Trace
from graphnn.viz.paths import INK, css, css_all, is_crowded, paths
from graphnn.viz.places import HEIGHT, WIDTH
from graphnn.viz.scene import By, ImageShape, Scene, check_trace, compose
from graphnn.viz.words import caption, labels, level_titles, plain_names

if TYPE_CHECKING:
    import plotly.graph_objects as go

# plotly's words for the shapes of `graphnn.layout.SHAPES`.
_SYMBOLS = ("square", "circle", "hexagon", "triangle-up")
_SOFT = "#52606d"
_FONT = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"
_MARGIN = 30.0
# Not white, which would be one with the paper.
_IMAGE_SCALE = [[0.0, "#000000"], [1.0, "#ebebeb"]]
# Hover finds points, so an edge has some along it: more of them where edges are few.
_HOVER_POINTS, _MOST_POINTS = 40_000, 9
_GOLDEN = (5**0.5 - 1) / 2
_MOST_TITLES = 14
# Names stand beside their neurons where a level has no more than this.
_NAMED = 24


def draw(
    net: Network,
    trace: Trace | None = None,
    sample: int = 0,
    max_edges: int = 2_000,
    by: By = None,
    threshold: float = 0.0,
    image_shape: ImageShape = None,
) -> go.Figure:
    """An interactive picture of a network: neurons in columns by level, the strongest edges.

    Blue is positive, orange negative, and an edge is the wider the stronger. Hovering an edge shows
    its source's value, weight and target's value, hovering a neuron its value, preactivation, bias
    and name. The title says what is left out. `write_html` draws the same for many samples.

    Args:
        net: The network.
        trace: A trace of this network, or None for its weights alone.
        sample: The sample of the trace, counted over all leading dimensions.
        max_edges: How many edges at most; the strongest are kept.
        by: What edges are chosen and coloured by: "weight", "contribution" (weight * source value)
            or scores of your own, (E,) or one row for each sample of the trace (*, E), as
            attribution gives. Default: "contribution" with a trace, else "weight".
        threshold: The least magnitude of an edge that is shown.
        image_shape: (height, width) of the input group, or a dict of group -> (height, width):
            such a group is drawn as an image, several times as many neurons as several.

    Returns:
        A plotly Figure.

    Raises:
        GraphError: The trace is of another graph, or has no such sample; or another argument does
            not fit.
        ImportError: plotly is not installed.

    Example:
        >>> net = graphnn.from_edges([("x", "h", 2.0), ("h", "y", -1.0)], bias=False)
        >>> figure = graphnn.viz.draw(net, net.trace(torch.tensor([[3.0]])))
        >>> figure.layout.title.text
        'All 2 edges, coloured by contribution. Left out: 0 edges and 0 neurons of 2 and 3.'
    """
    go = require_plotly()
    check_trace(net, trace, sample)
    scene = compose(net, trace, [sample], max_edges, by, threshold, image_shape)
    figure = skeleton(scene)
    figure["layout"]["title"]["text"] = caption(scene)
    figure["layout"]["height"] = 760
    figure["layout"]["shapes"] = paths(scene, 0)
    # What is the same for all samples comes last, and lacks nothing.
    for own, more in zip(figure["data"], contents(scene, 0), strict=False):
        if "marker" in more:
            more["marker"] = {**own["marker"], **more["marker"]}
        own.update(more)
    return go.Figure(figure)


def require_plotly() -> Any:
    """The module plotly.graph_objects, or an ImportError that says how to install it."""
    try:
        import plotly.graph_objects as go
    except ImportError:
        raise ImportError(
            "pictures need plotly, not installed here: pip install 'graphnn[viz]'"
        ) from None
    return go


def skeleton(scene: Scene) -> dict[str, Any]:
    """The figure without its size and what a sample changes: styles of its traces, and the layout.

    The traces are: one that edges are hovered by, one for each image, one for each role of neuron
    in `roles_shown`, the names, and entries of the legend.
    """
    number = {"hoverlabel": {"align": "left"}}
    data: list[dict[str, Any]] = [
        {"type": "scatter", "mode": "none", "hovertemplate": _edge_text(scene), **number}
    ]
    for image in scene.places.images:
        data.append({
            "type": "heatmap", "x": image.x, "y": image.y,
            "colorscale": _IMAGE_SCALE,
            "showscale": False, "hovertemplate": _neuron_text(scene), "name": image.group, **number,
        })  # fmt: skip
    for role in roles_shown(scene):
        data.append({
            "type": "scatter", "hovertemplate": _neuron_text(scene), **number, **_marks(scene, role)
        })  # fmt: skip
    data += [_names(scene), *_legend(scene)]
    for own in data:
        own.setdefault("showlegend", own["type"] == "scatter" and "name" in own)
    return {"data": data, "layout": _layout(scene)}


def _marks(scene: Scene, role: int) -> dict[str, Any]:
    if is_crowded(scene):
        return {"mode": "none"}
    line = {"color": INK, "width": 0.8}
    return {
        "mode": "markers", "name": ROLES[role],
        "marker": {"symbol": _SYMBOLS[role], "opacity": 1, "line": line},
    }  # fmt: skip


def _legend(scene: Scene) -> list[dict[str, Any]]:
    """Entries of what is drawn as paths."""
    nowhere = {"type": "scatter", "x": [None], "y": [None], "hoverinfo": "skip"}
    entries: list[dict[str, Any]] = []
    if is_crowded(scene) and not scene.samples.size:
        for role in roles_shown(scene):
            marker = {"symbol": "square", "color": css(ROLE_COLORS[role]), "size": 12}
            entries.append({"mode": "markers", "name": ROLES[role], "marker": marker, **nowhere})
    for name, shade in (("positive", 2 * 64), ("negative", 0)):
        line = {"color": css(SHADE_COLORS[shade]), "width": 4}
        entries.append({"mode": "lines", "name": name, "line": line, **nowhere})
    return entries


def contents(scene: Scene, sample: int) -> list[dict[str, Any]]:
    """What the first traces of a skeleton lack.

    Args:
        scene: The scene.
        sample: Which of its samples.

    Returns:
        What is to be added to the traces that edges, images and neurons are.
    """
    texts = labels(scene)
    traces: list[dict[str, Any]] = [_edge_hover(scene, sample, texts)]
    told = _neuron_numbers(scene, sample, texts)
    for image in scene.places.images:
        own = np.searchsorted(scene.neurons, image.neurons)
        values = np.zeros(own.shape) if not scene.samples.size else scene.values[sample][own]
        low, high = image_range(scene, own)
        custom = [[told[neuron] for neuron in row] for row in own.tolist()]
        traces.append({"z": values, "zmin": low, "zmax": high, "customdata": custom})
    sizes = scene.places.sizes[scene.neurons]
    shades = scene.neuron_shades(sample) if scene.samples.size else None
    for role in roles_shown(scene):
        own = neurons_of(scene, role)
        color = css(ROLE_COLORS[role]) if shades is None else css_all(SHADE_COLORS[shades[own]])
        traces.append({
            "x": scene.x[own], "y": scene.y[own],
            "customdata": [told[neuron] for neuron in own.tolist()],
        })  # fmt: skip
        if not is_crowded(scene):
            traces[-1]["marker"] = {"color": color, "size": sizes[own]}
    return traces


def roles_shown(scene: Scene) -> list[int]:
    """The roles of the neurons that are no pixels."""
    return [role for role in range(len(ROLES)) if neurons_of(scene, role).size]


def neurons_of(scene: Scene, role: int) -> np.ndarray:
    """The places, in `scene.neurons`, of the neurons of a role that are no pixels."""
    return np.flatnonzero((scene.roles == role) & scene.is_single)


def image_range(scene: Scene, own: np.ndarray) -> tuple[float, float]:
    """The values that are black and white in an image, over all samples."""
    values = scene.values[:, own.ravel()].astype(np.float64)
    values = values[np.isfinite(values)]
    low, high = (values.min(), values.max()) if values.size else (0.0, 1.0)
    return (float(low), float(high)) if high > low else (float(low), float(low) + 1.0)


def hover_points(scene: Scene) -> int:
    """How many points an edge is hovered by."""
    return min(_MOST_POINTS, max(1, _HOVER_POINTS // max(scene.edges.size, 1)))


def hover_shares(edges: int, points: int) -> np.ndarray:
    """(edges, points) shares of the way from source to target, different for neighbours.

    In a dense level the middles of many edges are one and the same point.
    """
    shift = np.arange(edges) * _GOLDEN % 1.0
    return 0.12 + 0.76 * (np.arange(points)[None, :] + shift[:, None]) / points


def _edge_text(scene: Scene) -> str:
    lines = ["<b>edge %{customdata[0]}</b>  %{customdata[1]} \N{RIGHTWARDS ARROW} %{customdata[2]}"]
    if scene.samples.size:
        lines += ["source value %{customdata[4]:.5~g}"]
    lines += ["weight %{customdata[3]:.5~g}"]
    if scene.samples.size:
        lines += ["target value %{customdata[5]:.5~g}", "contribution %{customdata[6]:.5~g}"]
    if scene.scores is not None:
        lines += ["score %{customdata[7]:.5~g}"]
    return "<br>".join(lines) + "<extra></extra>"


def _neuron_text(scene: Scene) -> str:
    lines = ["<b>%{customdata[0]}</b>", "level %{customdata[1]}, %{customdata[2]}"]
    if scene.samples.size:
        lines += ["value %{customdata[4]:.5~g}", "preactivation %{customdata[5]:.5~g}"]
    return "<br>".join([*lines, "bias %{customdata[3]}"]) + "<extra></extra>"


def _edge_hover(scene: Scene, sample: int, texts: list[str]) -> dict[str, Any]:
    share = hover_shares(scene.edges.size, hover_points(scene))
    x, y = (_along(place, scene, bend, share) for place, bend in ((scene.x, 0), (scene.y, 1)))
    columns: list[list[Any]] = [
        scene.edges.tolist(),
        [texts[neuron] for neuron in scene.source.tolist()],
        [texts[neuron] for neuron in scene.target.tolist()],
        numbers(scene.weight),
    ]
    if scene.samples.size:
        values = scene.values[sample]
        at_source, at_target = values[scene.source], values[scene.target]
        columns += [numbers(at_source), numbers(at_target), numbers(scene.weight * at_source)]
    if scene.scores is not None:
        columns += [[None] * scene.edges.size] * (7 - len(columns))
        columns += [numbers(scene.strength(sample))]
    rows = list(zip(*columns, strict=True))
    # One row serves all points of its edge.
    custom = [row for row in rows for _ in range(share.shape[1])]
    return {"x": x.ravel(), "y": y.ravel(), "customdata": custom}


def _along(place: np.ndarray, scene: Scene, bend: int, share: np.ndarray) -> np.ndarray:
    """Points of quadratic curves, which straight edges are too."""
    start, end = place[scene.source][:, None], place[scene.target][:, None]
    control = (start + end) / 2 + bend * 2 * scene.bend[:, None]
    rest = 1 - share
    return rest * rest * start + 2 * share * rest * control + share * share * end


def _neuron_numbers(scene: Scene, sample: int, texts: list[str]) -> list[tuple[Any, ...]]:
    """For each neuron its label, level, activation, bias and, in a sample, value, preactivation."""
    graph = scene.graph
    names = [entry.name for entry in graph.activation_table]
    activations = [names[code] for code in graph.activation_code[scene.neurons].tolist()]
    columns = [texts, graph.level[scene.neurons].tolist(), activations, biases(scene)]
    if scene.samples.size:
        columns += [numbers(scene.values[sample]), numbers(scene.preactivations[sample])]
    return list(zip(*columns, strict=True))


def biases(scene: Scene) -> list[str]:
    """What is said of each neuron's bias."""
    own = zip(numbers(scene.bias), scene.is_biased.tolist(), strict=True)
    return [_short(bias) if has_one else "none" for bias, has_one in own]


def _short(number: Any) -> str:
    # Adding 0 turns -0.0 into 0.0.
    return number if isinstance(number, str) else f"{number + 0.0:.5g}"


def numbers(column: np.ndarray) -> list[Any]:
    """Numbers for a template: JSON, and with it plotly, has no NaN and no infinity."""
    own = column.astype(np.float64)
    if np.isfinite(own).all():
        return own.tolist()
    words = {"nan": "NaN", "inf": "Infinity", "-inf": "-Infinity"}
    return [words.get(str(number), number) for number in own.tolist()]


def _names(scene: Scene) -> dict[str, Any]:
    """Names beside the neurons of narrow levels."""
    graph, names = scene.graph, plain_names(scene)
    level = graph.level.numpy()[scene.neurons]
    count = np.bincount(level[scene.is_single], minlength=graph.num_levels)
    few = (count <= _NAMED)[level]
    own = np.flatnonzero(few & scene.is_single) if names is not None else np.array([], np.int64)
    return {
        # Text keeps clear of its own trace's markers only, so it has some, unseen.
        "type": "scatter", "mode": "markers+text", "hoverinfo": "skip",
        "x": scene.x[own], "y": scene.y[own],
        "marker": {"size": scene.places.sizes[scene.neurons[own]], "opacity": 0},
        "text": [names[i] for i in own.tolist()] if names is not None else [],
        "textposition": "bottom center", "textfont": {"size": 11, "color": INK},
    }  # fmt: skip


def _layout(scene: Scene) -> dict[str, Any]:
    places = scene.places
    highest = float(np.abs(scene.y).max(initial=0.0))
    reach = max(highest + float(np.abs(scene.bend).max(initial=0.0)), HEIGHT / 2) + _MARGIN
    titles = level_titles(scene)
    step = -(-len(titles) // _MOST_TITLES)
    layout = {
        "template": {}, "hovermode": "closest", "dragmode": "pan",
        "uirevision": "graphnn", "plot_bgcolor": "white", "paper_bgcolor": "white",
        "font": {"color": INK, "family": _FONT},
        "title": {"font": {"size": 14}, "x": 0.01, "xanchor": "left"},
        "margin": {"l": 20, "r": 50, "t": 70, "b": 60}, "modebar": {"orientation": "v"},
        "hoverlabel": {"bgcolor": "white", "bordercolor": INK, "font": {"color": INK}},
        "legend": {"orientation": "h", "x": 0.5, "xanchor": "center", "y": -0.09,
                   "itemclick": False, "itemdoubleclick": False, "itemsizing": "constant"},
        "xaxis": {"range": [0, max(places.width, WIDTH)], "showgrid": False, "zeroline": False,
                  "ticks": "", "tickvals": places.columns[::step].tolist(),
                  "ticktext": titles[::step], "side": "top", "tickfont": {"color": _SOFT}},
        "yaxis": {"range": [-reach, reach], "visible": False},
    }  # fmt: skip
    if places.images and places.width <= 1.5 * WIDTH:
        # Pixels are square, unless a deep network would become a thin line for it.
        layout["xaxis"] |= {"scaleanchor": "y"}
    return layout
