"""What a picture shows: the strongest edges, their neurons, and the numbers of some samples."""

from __future__ import annotations

import math
import numbers
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from graphnn.edited import check_network
from graphnn.errors import GraphError
from graphnn.graph import NeuronGraph
from graphnn.layout import neuron_roles, read_sample, shades
from graphnn.network import Network
from graphnn.trace import Trace, largest
from graphnn.viz.places import HEIGHT, Places, place

By = str | Tensor | np.ndarray | None
ImageShape = tuple[int, int] | Mapping[str, tuple[int, int]] | None

# A level of no more neurons is shown whole, also those without a shown edge...
_WHOLE_LEVEL = 100
# ... unless there are so many of such levels that nothing would be left out.
_MOST_WHOLE = 2_000
# An edge that skips levels bows, for the neurons between its ends may lie on the straight line.
_BOW = 0.11 * HEIGHT
# What a picture holds of other dtypes is float32.
_DIGITS = {torch.float64: np.float64}


@dataclass(frozen=True, eq=False)
class Scene:
    """What is shown: n neurons and m edges, the strongest first, with s samples.

    Args:
        graph: The wiring, with all that is not shown.
        places: Where neurons stand.
        neurons: (n,) ids, ascending.
        roles: (n,) places in `graphnn.layout.ROLES`.
        edges: (m,) ids.
        source: (m,) places in `neurons`.
        target: (m,) places in `neurons`.
        bend: (m,) how far the middle of an edge is drawn upwards.
        weight: (m,) weights.
        bias: (n,) biases, NaN where a neuron has none.
        samples: (s,) the samples of the trace; empty without one.
        num_samples: How many the trace has.
        values: (s, n) values.
        preactivations: (s, n) preactivations.
        scores: (s, m), or (1, m) for all samples, what edges are drawn by; None: by `by`.
        by: "weight", "contribution" or "score".
        least: The magnitude that the weakest edge must have.
        scale: The magnitude of an edge that is drawn strongest.
        reach: (n,) the magnitude of a value that is drawn strongest.
    """

    graph: NeuronGraph
    places: Places
    neurons: np.ndarray
    roles: np.ndarray
    edges: np.ndarray
    source: np.ndarray
    target: np.ndarray
    bend: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    samples: np.ndarray
    num_samples: int
    values: np.ndarray
    preactivations: np.ndarray
    scores: np.ndarray | None
    by: str
    least: float
    scale: float
    reach: np.ndarray

    @property
    def x(self) -> np.ndarray:
        """(n,) positions of the neurons."""
        return self.places.x[self.neurons]

    @property
    def y(self) -> np.ndarray:
        """(n,) positions of the neurons, pointing up."""
        return self.places.y[self.neurons]

    @cached_property
    def is_single(self) -> np.ndarray:
        """(n,) bool: the neurons that are no pixel of an image."""
        single = np.ones(self.neurons.size, bool)
        for image in self.places.images:
            single &= ~np.isin(self.neurons, image.neurons)
        return single

    @property
    def is_biased(self) -> np.ndarray:
        """(n,) bool: the neurons that have a bias."""
        return np.isin(self.neurons, self.graph.bias_neurons.numpy())

    def strength(self, sample: int) -> np.ndarray:
        """(m,) float64: the signed numbers that edges are drawn by in one of the s samples."""
        if self.scores is not None:
            return self.scores[min(sample, self.scores.shape[0] - 1)].astype(np.float64)
        weight = self.weight.astype(np.float64)
        return weight if self.by == "weight" else weight * self.values[sample, self.source]

    def edge_shades(self, sample: int) -> np.ndarray:
        """(m,) places in `graphnn.layout.SHADE_COLORS`."""
        return shades(self.strength(sample), self.scale)

    def neuron_shades(self, sample: int) -> np.ndarray:
        """(n,) places in `graphnn.layout.SHADE_COLORS`, by value; for a scene with samples."""
        return shades(self.values[sample].astype(np.float64), self.reach)


def compose(
    net: Network,
    trace: Trace | None,
    samples: Sequence[int],
    max_edges: int,
    by: By,
    threshold: float,
    image_shape: ImageShape,
) -> Scene:
    """Chooses what to show of a network.

    Args:
        net: The network.
        trace: A trace of it, or None.
        samples: Which of the trace's samples; not empty if there is a trace.
        max_edges: How many edges at most.
        by: "weight", "contribution", (E,) scores or (*, E) scores of the trace's samples; None:
            "contribution" with a trace, else "weight". Edges are chosen by the mean magnitude
            over the samples.
        threshold: The least such magnitude.
        image_shape: (height, width) of the only input group, or group name -> (height, width).

    Returns:
        The `Scene`.

    Raises:
        GraphError: An argument does not fit.
    """
    graph = net.graph.to("cpu")
    check_numbers(max_edges, threshold)
    shapes = _image_shapes(graph, image_shape)
    rows = np.array(
        [] if trace is None else [read_sample(net, trace, own) for own in samples], np.int64
    )
    states = None if trace is None else _states(trace, rows)
    kind, scores = _read_by(by, net, trace, rows)
    weight = (net.weight if trace is None else trace.weight).detach()
    rank = _rank(graph, weight, kind, scores, states)
    strong = int((rank >= threshold).sum()) if threshold > 0 else rank.numel()
    edges = largest(rank, min(max_edges, strong)).cpu().numpy()
    neurons = np.flatnonzero(_shown(graph, edges, shapes))
    shown = np.zeros(graph.num_neurons, bool)
    shown[neurons] = True
    places = place(graph, shown, shapes)
    number = _DIGITS.get(weight.dtype, np.float32)
    values = preactivations = np.zeros((0, neurons.size), number)
    if states is not None:
        values, preactivations = (_columns(state, neurons, number) for state in states)
    source, target = np.searchsorted(neurons, graph.edge_index.numpy()[:, edges])
    bias = np.full(graph.num_neurons, np.nan)
    bias[graph.bias_neurons.numpy()] = net.bias.detach().double().cpu().numpy()
    own_weight = weight[torch.from_numpy(edges).to(weight.device)].double().cpu().numpy()
    own_scores = None if scores is None else _columns(scores, edges, number)
    return Scene(
        graph=graph,
        places=places,
        neurons=neurons,
        roles=neuron_roles(graph)[neurons],
        edges=edges,
        source=source,
        target=target,
        bend=_bends(graph, places, edges),
        weight=own_weight.astype(number),
        bias=bias[neurons],
        samples=rows,
        num_samples=0 if trace is None else trace.values[..., 0].numel(),
        values=values,
        preactivations=preactivations,
        scores=own_scores,
        by=kind,
        least=threshold,
        scale=_scale(own_weight, own_scores, kind, values, source),
        reach=_reach(graph.level.numpy()[neurons], values),
    )


def check_trace(net: Network, trace: Trace | None, sample: int) -> int:
    """The number of samples to choose from, 0 without a trace; refuses a `sample` that is none."""
    check_network(net)
    if trace is None:
        if sample != 0:
            raise GraphError(f"sample must be 0 where no trace is given (got {sample!r}).")
        return 0
    read_sample(net, trace, sample)
    return trace.values[..., 0].numel()


def check_numbers(max_edges: int, threshold: float) -> None:
    """Refuses what does not say how many edges to show, or how strong ones."""
    whole = isinstance(max_edges, numbers.Integral) and not isinstance(max_edges, bool)
    if not whole or max_edges < 0:
        raise GraphError(
            f"max_edges must be an integer of at least 0 (got {max_edges!r}). For all edges give "
            "graph.num_edges."
        )
    if not isinstance(threshold, numbers.Real) or not 0 <= float(threshold) < math.inf:
        raise GraphError(f"threshold must be a finite magnitude of at least 0 (got {threshold!r}).")


def _image_shapes(graph: NeuronGraph, shape: ImageShape) -> dict[str, tuple[int, int]]:
    if shape is None:
        return {}
    if not isinstance(shape, Mapping):
        if len(graph.inputs) != 1:
            raise GraphError(
                "image_shape must be a dict of input group -> (height, width) where there are "
                f"several groups, {', '.join(map(repr, graph.inputs))} (got {shape!r})."
            )
        shape = {next(iter(graph.inputs)): shape}
    shapes = {}
    for name, size in shape.items():
        if name not in graph.inputs:
            raise GraphError(
                f"image_shape must name input groups, {', '.join(map(repr, graph.inputs))} "
                f"(got {name!r})."
            )
        count = graph.inputs[name].numel()
        sizes: list[int] = list(size) if isinstance(size, Sequence) else []
        good = len(sizes) == 2 and all(isinstance(n, numbers.Integral) and n > 0 for n in sizes)
        if not good or count == 0 or count % math.prod(sizes):
            raise GraphError(
                f"image_shape must be (height, width) of images that {count} neurons, those of "
                f"the input group {name!r}, fill (got {size!r})."
            )
        shapes[name] = (int(sizes[0]), int(sizes[1]))
    return shapes


def _states(trace: Trace, rows: np.ndarray) -> tuple[Tensor, Tensor]:
    index = torch.from_numpy(rows).to(trace.values.device)
    values, preactivations = (
        state.detach().reshape(-1, state.shape[-1])[index]
        for state in (trace.values, trace.preactivations)
    )
    return values, preactivations


def _columns(state: Tensor, columns: np.ndarray, number: type[np.floating]) -> np.ndarray:
    own = state[:, torch.from_numpy(columns).to(state.device)]
    return own.double().cpu().numpy().astype(number)


def _read_by(
    by: By, net: Network, trace: Trace | None, rows: np.ndarray
) -> tuple[str, Tensor | None]:
    if by is None:
        return ("weight" if trace is None else "contribution"), None
    if isinstance(by, str):
        if by not in ("weight", "contribution"):
            raise GraphError(
                f"by must be 'weight', 'contribution' or scores of the edges (got {by!r})."
            )
        if by == "contribution" and trace is None:
            raise GraphError("by 'contribution' needs a trace: net.trace(x).")
        return by, None
    is_array = isinstance(by, np.ndarray) and by.dtype.kind in "fiu"
    is_tensor = isinstance(by, Tensor) and not by.is_complex() and by.dtype != torch.bool
    if not is_array and not is_tensor:
        kind = f" of {by.dtype}" if isinstance(by, Tensor | np.ndarray) else ""
        raise GraphError(
            "by must be 'weight', 'contribution' or a tensor of scores of the edges, real numbers "
            f"(got {type(by).__name__}{kind})."
        )
    scores = by.detach() if isinstance(by, Tensor) else torch.as_tensor(by, device="cpu")
    edges = net.graph.num_edges
    if tuple(scores.shape) == (edges,):
        return "score", scores[None]
    leading = None if trace is None else tuple(trace.values.shape[:-1])
    if leading is None or tuple(scores.shape) != (*leading, edges):
        fitting = f"({edges},)" if leading is None else f"({edges},) or {(*leading, edges)}"
        raise GraphError(
            f"scores must have one number for each edge, shape {fitting} "
            f"(got {tuple(scores.shape)})."
        )
    return "score", scores.reshape(-1, edges)[torch.from_numpy(rows).to(scores.device)]


def _rank(
    graph: NeuronGraph,
    weight: Tensor,
    kind: str,
    scores: Tensor | None,
    states: tuple[Tensor, Tensor] | None,
) -> Tensor:
    """(E,) mean magnitudes over the samples; what is no number counts as infinite."""
    if scores is not None:
        rank = scores.double().abs().mean(0)
    elif kind == "weight" or states is None:
        rank = weight.abs()
    else:
        # The mean of |weight * value|, without an array of all samples and edges.
        mean = states[0].abs().mean(0)
        rank = weight.abs() * mean.index_select(0, graph.to(mean.device).edge_index[0])
    return rank.nan_to_num(nan=torch.inf, posinf=torch.inf)


def _shown(
    graph: NeuronGraph, edges: np.ndarray, shapes: Mapping[str, tuple[int, int]]
) -> np.ndarray:
    """(N,) bool: ends of shown edges, pixels of images, and the neurons of narrow levels."""
    level = graph.level.numpy()
    narrow = (np.bincount(level, minlength=graph.num_levels) <= _WHOLE_LEVEL)[level]
    shown = narrow if narrow.sum() <= _MOST_WHOLE else np.zeros(graph.num_neurons, bool)
    shown[graph.edge_index.numpy()[:, edges]] = True
    for name in shapes:
        shown[graph.inputs[name].numpy()] = True
    return shown


def _bends(graph: NeuronGraph, places: Places, edges: np.ndarray) -> np.ndarray:
    source, target = graph.edge_index.numpy()[:, edges]
    level = graph.level.numpy()
    span = level[target] - level[source]
    # Away from the middle, where most neurons are.
    side = np.where(places.y[source] + places.y[target] >= 0, 1.0, -1.0)
    return np.where(span > 1, side * _BOW * np.minimum(span - 1, 4), 0.0)


def _scale(
    weight: np.ndarray,
    scores: np.ndarray | None,
    kind: str,
    values: np.ndarray,
    source: np.ndarray,
) -> float:
    if scores is not None:
        magnitude = np.abs(scores.astype(np.float64))
    elif kind == "weight":
        magnitude = np.abs(weight)
    else:
        magnitude = np.abs(weight) * _largest_of(values)[source]
    return float(magnitude[np.isfinite(magnitude)].max(initial=0.0))


def _largest_of(values: np.ndarray) -> np.ndarray:
    """(n,) the largest finite magnitudes over samples."""
    finite = np.where(np.isfinite(values), np.abs(values), 0.0)
    return finite.max(0, initial=0.0).astype(np.float64)


def _reach(level: np.ndarray, values: np.ndarray) -> np.ndarray:
    largest_on = np.zeros(int(level.max(initial=0)) + 1)
    np.maximum.at(largest_on, level, _largest_of(values))
    return largest_on[level]
