"""Where the neurons of a picture stand, and how neurons and edges are drawn.

All of it is plain numbers that graph viewers understand: positions, sizes, colours, widths.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from graphnn.errors import GraphError
from graphnn.graph import NeuronGraph
from graphnn.network import Network
from graphnn.trace import Trace

ROLES = ("input", "hidden", "output", "constant")
# Shapes say the role where the colour says the value. The words are yEd's.
SHAPES = ("rectangle", "ellipse", "hexagon", "triangle")

_INPUT, _HIDDEN, _OUTPUT, _CONSTANT = range(4)
# Okabe and Ito's palette, which readers of every kind of colour vision can tell apart. Blue and
# orange are kept for signs.
ROLE_COLORS = np.array(
    [(0, 158, 115), (153, 153, 153), (204, 121, 167), (240, 228, 66)], dtype=np.uint8
)
_POSITIVE, _NEGATIVE, _ZERO = (0, 114, 178), (230, 97, 0), (221, 221, 221)
# Between zero and the strongest: finer steps cannot be told apart, and a table of all drawn
# shades is what lets a million edges be written fast.
_STEPS = 64
_NAN = 2 * _STEPS + 1

_SPACING = 40.0
_LEVEL_SPACING = 200.0
# Width to height of the whole picture that wide levels aim at.
_ASPECT = 1.5
_PIECE = 1024


def _shade_tables() -> tuple[np.ndarray, np.ndarray]:
    share = np.arange(-_STEPS, _STEPS + 1)[:, None] / _STEPS
    end = np.where(share > 0, _POSITIVE, _NEGATIVE)
    colors = _ZERO + np.abs(share) * (end - np.array(_ZERO))
    widths = 0.5 + 3.5 * np.abs(share[:, 0])
    # A number that is none is drawn black: it is not to be overlooked.
    colors, widths = np.vstack([colors, (0, 0, 0)]), np.append(widths, 4.0)
    return np.rint(colors).astype(np.uint8), np.round(widths, 2)


SHADE_COLORS, SHADE_WIDTHS = _shade_tables()
"""(130, 3) uint8 colours and (130,) widths that shades, as `Style.edge_shades` gives, stand for."""


def layout(graph: NeuronGraph) -> np.ndarray:
    """Positions in columns, one for each level, from left to right.

    A level's neurons stand below each other by id, the first on top (y points up), centred around
    y = 0. Narrow levels beside a wide one are spread out by the square root of the ratio, and
    columns keep a distance that fits their height, so that wide networks do not become a line.

    Args:
        graph: The wiring.

    Returns:
        (N, 2) float64: x and y.

    Example:
        >>> graph = graphnn.NeuronGraph([[0, 0, 1, 2], [1, 2, 3, 3]])
        >>> graphnn.layout.layout(graph).tolist()
        [[0.0, 0.0], [200.0, 20.0], [200.0, -20.0], [400.0, 0.0]]
    """
    level, width, spacing = _columns(graph)
    order = np.argsort(level, kind="stable")
    place = np.empty_like(level)
    place[order] = np.arange(level.size) - np.repeat(np.cumsum(width) - width, width)
    height = (width.max() - 1) * _SPACING
    step = max(_LEVEL_SPACING, round(_ASPECT * height / max(graph.num_levels - 1, 1)))
    y = ((width[level] - 1) / 2 - place) * spacing[level]
    # Adding 0 turns -0.0 into 0.0.
    return np.stack([level * step, np.round(y, 2) + 0.0], axis=1)


def _columns(graph: NeuronGraph) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Each neuron's level, and each level's number of neurons and the distance between them."""
    level = graph.to("cpu").level.numpy()
    width = np.bincount(level, minlength=graph.num_levels)
    return level, width, _SPACING * np.sqrt(width.max() / np.maximum(width, 1))


@dataclass(frozen=True, eq=False)
class Style:
    """How the neurons and edges of a network are drawn.

    Args:
        role: (N,) int64 places in `ROLES` and `SHAPES`. An input that is also an output is an
            input; an output that feeds other neurons is an output.
        sizes: (N,) float64 diameters, in the unit of `layout`; half of the distance between the
            neurons of a level at most.
        colors: (N, 3) uint8 red, green, blue.
        scale: The magnitude that is drawn strongest: the largest finite one of all edges.
    """

    role: np.ndarray
    sizes: np.ndarray
    colors: np.ndarray
    scale: float
    _source: np.ndarray
    _weight: Tensor
    _value: Tensor | None

    def edge_strength(self, edges: slice | np.ndarray) -> Tensor:
        """The signed number that an edge is drawn by: its contribution in a trace, else its weight.

        Args:
            edges: Edge ids, or a slice of them.

        Returns:
            (n,) on the CPU, in the network's dtype.
        """
        return _strength(self._source, self._weight, self._value, edges)

    def edge_shades(self, edges: slice | np.ndarray) -> np.ndarray:
        """The places of edges in `SHADE_COLORS` and `SHADE_WIDTHS`.

        Args:
            edges: Edge ids, or a slice of them.

        Returns:
            (n,) int64: 0 is the strongest negative, 64 zero, 128 the strongest positive, 129 NaN.
        """
        return shades(self.edge_strength(edges).double().numpy(), self.scale)

    def edge_colors(self, edges: slice | np.ndarray = slice(None)) -> np.ndarray:
        """(n, 3) uint8 colours of edges: blue positive, orange negative, pale where weak."""
        return SHADE_COLORS[self.edge_shades(edges)]

    def edge_widths(self, edges: slice | np.ndarray = slice(None)) -> np.ndarray:
        """(n,) float64 widths of edges, 0.5 ... 4."""
        return SHADE_WIDTHS[self.edge_shades(edges)]


def style(net: Network, trace: Trace | None = None, sample: int = 0) -> Style:
    """How to draw a network, or what it did with one sample.

    Blue is positive, orange negative, and the paler the weaker; the root of the magnitude is
    drawn, so that weak ones are still seen. Without a trace a neuron's colour is its role's and an
    edge is drawn by its weight. With one, a neuron's colour and size are its value's, compared
    with the largest on its level, and an edge is drawn by its contribution.

    Args:
        net: The network.
        trace: A trace of this network, or None.
        sample: The sample of the trace, counted over all leading dimensions.

    Returns:
        The `Style`.

    Raises:
        GraphError: The trace is of another graph, or has no such sample.

    Example:
        >>> graph = graphnn.NeuronGraph([[0, 1], [2, 2]])
        >>> net = graphnn.Network(graph, weight=[1.0, -1.0], bias=[0.0])
        >>> graphnn.layout.style(net).edge_colors().tolist()
        [[0, 114, 178], [230, 97, 0]]
    """
    graph = net.graph.to("cpu")
    role = neuron_roles(graph)
    level, _, spacing = _columns(graph)
    sizes, colors, value = spacing[level] / 2, ROLE_COLORS[role], None
    if trace is not None:
        value, _ = _sample(net, trace, sample)
        own = value.double().numpy()
        largest = np.zeros(graph.num_levels)
        np.maximum.at(largest, level, np.where(np.isfinite(own), np.abs(own), 0.0))
        places = shades(own, largest[level])
        colors = SHADE_COLORS[places]
        sizes = sizes * (0.5 + 0.5 * np.minimum(np.abs(places - _STEPS), _STEPS) / _STEPS)
    source = graph.edge_index[0].numpy()
    weight = (net.weight if trace is None else trace.weight).detach().cpu()
    return Style(
        role=role,
        sizes=np.round(sizes, 2),
        colors=colors,
        scale=_largest_strength(source, weight, value),
        _source=source,
        _weight=weight,
        _value=value,
    )


def _strength(
    source: np.ndarray, weight: Tensor, value: Tensor | None, edges: slice | np.ndarray
) -> Tensor:
    return weight[edges] if value is None else weight[edges] * value[source[edges]]


def _largest_strength(source: np.ndarray, weight: Tensor, value: Tensor | None) -> float:
    largest = 0.0
    # In pieces, so that a large network is not drawn out of a second array of its size.
    for start in range(0, source.size, _PIECE):
        strength = _strength(source, weight, value, slice(start, start + _PIECE)).double().numpy()
        finite = np.abs(strength[np.isfinite(strength)])
        largest = max(largest, float(finite.max(initial=0.0)))
    return largest


def neuron_roles(graph: NeuronGraph) -> np.ndarray:
    """(N,) int64 places in `ROLES`, as `Style.role`."""
    graph = graph.to("cpu")
    role = np.where(graph.fan_in.numpy() == 0, _CONSTANT, _HIDDEN)
    role[graph.output_ids.numpy()] = _OUTPUT
    role[graph.input_ids.numpy()] = _INPUT
    return role


def read_sample(net: Network, trace: Trace, sample: int) -> int:
    """A sample of a trace of this network, as a number from 0.

    Args:
        net: The network.
        trace: A trace.
        sample: Counted over all leading dimensions, from the end if negative.

    Returns:
        The sample in 0 ... B - 1.

    Raises:
        GraphError: The trace is of another graph, or has no such sample.
    """
    if not isinstance(trace, Trace):
        raise GraphError(f"trace must be what net.trace(x) returns (got {type(trace).__name__}).")
    if trace.graph != net.graph:
        raise GraphError(
            f"trace must be of this network's graph, {net.graph!r} (got one of {trace.graph!r}). "
            "Call net.trace again."
        )
    if isinstance(sample, bool) or not isinstance(sample, int | np.integer):
        raise GraphError(f"sample must be an integer (got {sample!r}).")
    count = math.prod(trace.values.shape[:-1])
    if count == 0:
        raise GraphError("trace must have at least one sample (got one of none).")
    if not -count <= sample < count:
        raise GraphError(
            f"sample must be in 0 ... {count - 1} (got {sample}); the trace has {count}."
        )
    return int(sample) % count


def _sample(net: Network, trace: Trace, sample: int) -> tuple[Tensor, Tensor]:
    """(N,) values and (N,) preactivations of one sample, on the CPU."""
    sample = read_sample(net, trace, sample)
    values = trace.values.detach().reshape(-1, net.graph.num_neurons)
    preactivations = trace.preactivations.detach().reshape(-1, net.graph.num_neurons)
    return values[sample].cpu(), preactivations[sample].cpu()


def shades(values: np.ndarray, scale: np.ndarray | float) -> np.ndarray:
    """The places of numbers in `SHADE_COLORS` and `SHADE_WIDTHS`.

    Args:
        values: (n,) float64 signed numbers.
        scale: The magnitude that is drawn strongest, for all or for each.

    Returns:
        (n,) int64: 0 is the strongest negative, 64 zero, 128 the strongest positive, 129 NaN.
    """
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.sqrt(np.minimum(np.abs(values) / scale, 1.0))
    # 0 / 0 where all is zero; an infinity beside zeros is still the strongest.
    share = np.where(np.isinf(values), 1.0, np.nan_to_num(share))
    shades = _STEPS + (np.sign(np.nan_to_num(values)) * np.rint(_STEPS * share)).astype(np.int64)
    return np.where(np.isnan(values), _NAN, shades)


def node_pieces(
    net: Network, drawn: Style, trace: Trace | None = None, sample: int = 0
) -> Iterator[dict[str, Sequence[Any]]]:
    """What a graph format says of the neurons, some thousand at a time.

    Args:
        net: The network.
        drawn: Its `style`.
        trace: As given to `style`.
        sample: As given to `style`.

    Returns:
        An iterator over dicts of attribute name -> plain Python values, one a neuron, in order;
        None where a neuron does not have the attribute.
    """
    graph = net.graph.to("cpu")
    state = None if trace is None else _sample(net, trace, sample)
    position = layout(graph)
    bias_neurons, bias = graph.bias_neurons.numpy(), net.bias.detach().cpu()
    for start in range(0, graph.num_neurons, _PIECE):
        stop = min(start + _PIECE, graph.num_neurons)
        own = slice(start, stop)
        role, colors = drawn.role[own].tolist(), drawn.colors[own].tolist()
        names = range(start, stop) if graph.names is None else graph.names[own]
        first, last = np.searchsorted(bias_neurons, (start, stop))
        biases: list[float | None] = [None] * (stop - start)
        for neuron, value in zip(
            bias_neurons[first:last].tolist(), bias[first:last].tolist(), strict=True
        ):
            biases[neuron - start] = value
        piece: dict[str, Sequence[Any]] = {
            "index": range(start, stop),
            "level": graph.level[own].tolist(),
            "role": [ROLES[code] for code in role],
            "activation": graph.activation[own],
            "bias": biases,
            "label": [str(name) for name in names],
            "x": position[own, 0].tolist(),
            "y": position[own, 1].tolist(),
            "size": drawn.sizes[own].tolist(),
            "color": [_hex(*color) for color in colors],
            "r": [color[0] for color in colors],
            "g": [color[1] for color in colors],
            "b": [color[2] for color in colors],
            "shape_type": [SHAPES[code] for code in role],
        }
        if state is not None:
            piece["value"], piece["preactivation"] = (column[own].tolist() for column in state)
        yield piece


@dataclass(frozen=True, eq=False)
class EdgePiece:
    """What a graph format says of some consecutive edges, as plain Python values.

    Args:
        index: The edges' ids.
        source: Neuron ids.
        target: Neuron ids.
        weight: The network's weights.
        shade: Places in `SHADE_COLORS` and `SHADE_WIDTHS`.
        contribution: Weight times source value in the trace's sample, or None without a trace.
    """

    index: range
    source: list[int]
    target: list[int]
    weight: list[float]
    shade: list[int]
    contribution: list[float] | None


def edge_pieces(net: Network, drawn: Style, trace: Trace | None = None) -> Iterator[EdgePiece]:
    """What a graph format says of the edges, some thousand at a time and in order.

    Args:
        net: The network.
        drawn: Its `style`.
        trace: As given to `style`.

    Returns:
        An iterator over `EdgePiece`.
    """
    source, target = net.graph.to("cpu").edge_index.numpy()
    weight = net.weight.detach().cpu()
    for start in range(0, net.graph.num_edges, _PIECE):
        own = slice(start, min(start + _PIECE, net.graph.num_edges))
        yield EdgePiece(
            index=range(own.start, own.stop),
            source=source[own].tolist(),
            target=target[own].tolist(),
            weight=weight[own].tolist(),
            shade=drawn.edge_shades(own).tolist(),
            contribution=None if trace is None else drawn.edge_strength(own).tolist(),
        )


def _hex(r: int, g: int, b: int) -> str:
    return f"#{r:02x}{g:02x}{b:02x}"


def shade_attributes() -> list[dict[str, Any]]:
    """For each shade, the drawing attributes of an edge: color, r, g, b and width."""
    return [
        {"color": _hex(r, g, b), "r": r, "g": g, "b": b, "width": width}
        for (r, g, b), width in zip(SHADE_COLORS.tolist(), SHADE_WIDTHS.tolist(), strict=True)
    ]
