"""A scene as one HTML file that needs nothing but a browser."""

from __future__ import annotations

import base64
import json
import os
from importlib.resources import files
from typing import Any

import numpy as np
import torch

from graphnn.io.atomic import replacing
from graphnn.layout import ROLE_COLORS, SHADE_COLORS
from graphnn.network import Network
from graphnn.trace import Trace
from graphnn.viz import figure, paths
from graphnn.viz.scene import By, ImageShape, Scene, check_numbers, check_trace, compose
from graphnn.viz.words import caption, short_names

# What a page of 20,000 edges has room for; of larger batches it holds some samples.
_MOST_BYTES = 7_900_000
# In base64 the columns of `_columns` take about so many bytes.
_NEURON_BYTES, _EDGE_BYTES = 46, 34


def write_html(
    net: Network,
    path: str | os.PathLike[str],
    trace: Trace | None = None,
    sample: int = 0,
    max_edges: int = 2_000,
    by: By = None,
    threshold: float = 0.0,
    image_shape: ImageShape = None,
) -> None:
    """Writes `draw`'s picture, with sliders over samples and edges, as one self-contained page.

    The file opens without a network connection: plotly.js stands in it. Edges are the strongest
    on average over the samples, and their colours compare with each other across samples. A page
    holds so many samples that it stays under 8 MB with 20,000 edges, at least one; it says which.

    Args:
        net: The network.
        path: The file; replaced as a whole or not at all.
        trace: A trace of this network, or None for its weights alone.
        sample: The sample shown first, counted over all leading dimensions.
        max_edges: As in `draw`.
        by: As in `draw`.
        threshold: As in `draw`; of the mean magnitude.
        image_shape: As in `draw`.

    Raises:
        GraphError: As `draw`.
        ImportError: plotly is not installed.
        OSError: The file cannot be written.

    Example:
        >>> path = getfixture("tmp_path") / "net.html"
        >>> net = graphnn.from_edges([("x", "h", 2.0), ("h", "y", -1.0)], bias=False)
        >>> graphnn.viz.write_html(net, path, net.trace(torch.tensor([[3.0], [-1.0]])))
        >>> "http" in path.read_text().split("<body>")[1]
        False
    """
    go = figure.require_plotly()
    from plotly.offline import get_plotlyjs

    check_numbers(max_edges, threshold)
    library = get_plotlyjs()
    samples = _samples(net, trace, sample, max_edges, by, _MOST_BYTES - len(library))
    scene = compose(net, trace, samples, max_edges, by, threshold, image_shape)
    page = files("graphnn.viz").joinpath("page.html").read_text(encoding="utf-8")
    script = files("graphnn.viz").joinpath("page.js").read_text(encoding="utf-8")
    first = int(sample % scene.num_samples - scene.samples[0]) if scene.samples.size else 0
    parts = {
        "PLOTLY": library,
        "FIGURE": go.Figure(figure.skeleton(scene)).to_json() or "",
        "SCENE": _in_script(json.dumps(_columns(scene, first))),
        "SCRIPT": script,
    }
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        # Cut at the marks, so that none is looked for in what is put in.
        for number, piece in enumerate(page.split("@@")):
            file.write(parts[piece] if number % 2 else piece)


def _samples(
    net: Network, trace: Trace | None, sample: int, max_edges: int, by: By, room: int
) -> range:
    """As many consecutive samples as fit into `room` bytes, `sample` among them."""
    total = check_trace(net, trace, sample)
    if trace is None:
        return range(0)
    graph = net.graph
    edges = min(max_edges, graph.num_edges)
    # How many neurons are shown is not known yet; the edges bound it in a large network.
    neurons = min(graph.num_neurons, 2 * edges + 4_000)
    names = sum(map(len, map(str, graph.names or ()))) // max(graph.num_neurons, 1)
    # Base64 makes them 4/3 as long.
    number = 4 / 3 * (8 if trace.values.dtype == torch.float64 else 4)
    scores = edges if isinstance(by, torch.Tensor | np.ndarray) else 0
    room -= neurons * (_NEURON_BYTES + names) + edges * _EDGE_BYTES
    count = min(total, max(1, int(room / (number * (2 * neurons + scores)))))
    first = min(sample % total, total - count) if count < total else 0
    return range(first, first + count)


def _columns(scene: Scene, first: int) -> dict[str, Any]:
    """All that page.js needs; its words are those of `Scene`."""
    names = [entry.name for entry in scene.graph.activation_table]
    images = []
    for image in scene.places.images:
        own = np.searchsorted(scene.neurons, image.neurons)
        images.append({"neurons": own.tolist(), "range": figure.image_range(scene, own)})
    points = figure.hover_points(scene)
    return {
        "first": first,
        "samples": scene.samples.tolist(),
        "by": scene.by,
        "scale": scene.scale,
        "points": points,
        "shares": _packed(figure.hover_shares(scene.edges.size, points).astype(np.float32)),
        "caption": caption(scene),
        "neurons": _packed(scene.neurons),
        "names": short_names(scene),
        "level": _packed(scene.graph.level.numpy()[scene.neurons]),
        "activation": _packed(scene.graph.activation_code.numpy()[scene.neurons]),
        "activations": names,
        "bias": _packed(scene.bias),
        "biased": _packed(scene.is_biased.astype(np.uint8)),
        "roles": [_packed(figure.neurons_of(scene, role)) for role in figure.roles_shown(scene)],
        "crowded": paths.is_crowded(scene),
        "run": paths.RUN,
        "stretch": paths.mark_stretch(scene),
        "ink": paths.INK,
        "roleColors": paths.css_all(ROLE_COLORS[figure.roles_shown(scene)]),
        "images": images,
        "x": _packed(scene.x.astype(np.float32)),
        "y": _packed(scene.y.astype(np.float32)),
        "size": _packed(scene.places.sizes[scene.neurons].astype(np.float32)),
        "reach": _packed(scene.reach.astype(np.float32)),
        "edges": _packed(scene.edges),
        "source": _packed(scene.source),
        "target": _packed(scene.target),
        "bend": _packed(scene.bend.astype(np.float32)),
        "weight": _packed(scene.weight),
        "values": _packed(scene.values),
        "preactivations": _packed(scene.preactivations),
        "scores": None if scene.scores is None else _packed(scene.scores),
        "shadeColors": paths.css_all(SHADE_COLORS),
        "shadeWidths": paths.line_widths(scene),
    }


def _packed(column: np.ndarray) -> list[str]:
    """A column's type and its numbers, little endian, in base64."""
    if column.dtype.kind in "iu":
        column = column.astype(np.min_scalar_type(column.max(initial=0)).newbyteorder("<"))
    elif column.dtype != np.float64 or np.array_equal(column, column.astype(np.float32)):
        column = column.astype("<f4")
    return [column.dtype.str[1:], base64.b64encode(column.tobytes()).decode()]


def _in_script(text: str) -> str:
    """JSON that ends no script element, whatever is written in it."""
    return text.replace("<", "\\u003c")
