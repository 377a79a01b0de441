"""Attributions along a path from a baseline to the samples, and how far their sums are off."""

from __future__ import annotations

import numbers
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from graphnn.attribution.derivatives import (
    Derivatives,
    Frozen,
    States,
    check_wrt,
    differentiate,
    differentiate_all,
)
from graphnn.attribution.pullback import by_value
from graphnn.attribution.samples import read_baseline, read_samples
from graphnn.attribution.target import Score, Target, read_target
from graphnn.errors import GraphError
from graphnn.graph import NeuronGraph
from graphnn.network import Network


@torch.inference_mode(False)
def integrated_gradients(
    net: Network,
    x: Any,
    target: Target,
    baseline: Any = 0.0,
    steps: int = 50,
    levels: Sequence[int] | None = None,
) -> Tensor:
    """Integrated gradients of every neuron, level by level.

    ``(p - p') * integral of d score / d p`` over the straight line from p' to p, the preactivations
    of a level at the baseline and at x, by Gauss-Legendre quadrature. All neurons of the level move
    together; what goes around the level stays as it is at x. On level 0 these are the integrated
    gradients of the inputs.

    Args:
        net: As in `gradient`.
        x: As in `gradient`.
        target: As in `gradient`.
        baseline: A number for all inputs, or in the form of x, each tensor of a shape that can be
            expanded to that input's.
        steps: Points on each line, at least 1. One forward and backward for each level and point.
        levels: Which levels, or None for all.

    Returns:
        (B, N); NaN for the neurons of levels that are not asked for.

    Raises:
        GraphError: As `gradient`; or the baseline does not fit x, `steps` is below 1, or there is
            no such level.

    Source:
        Sundararajan, Taly and Yan, Axiomatic Attribution for Deep Networks (2017); captum's
        IntegratedGradients (level 0) and LayerIntegratedGradients on an nn.Linear.

    Example:
        >>> net = graphnn.from_edges([("x", "h", 1.0), ("h", "y", 3.0)], bias={"h": -1.0, "y": 0.0})
        >>> graphnn.attribution.integrated_gradients(net, torch.tensor([[2.0]]), target=0)
        tensor([[3.0..., 3.0..., 3.0...]])
    """
    call = _read(net, x, target, baseline)
    graph = call.net.graph
    if levels is None:
        levels = range(graph.num_levels)
    elif not isinstance(levels, Iterable):
        raise GraphError(f"levels must be a sequence of levels, such as [1] (got {levels!r}).")
    neurons_of = [_neurons_of(graph, level).to(call.inputs.device) for level in levels]
    _, end = call.states_at(1.0)
    _, start = call.states_at(0.0)
    change = end.preactivations - start.preactivations
    scores = torch.full_like(change, torch.nan)
    points, shares = _quadrature(steps)
    for neurons in neurons_of:
        mean = torch.zeros_like(change[:, neurons])
        for point, share in zip(points, shares, strict=True):
            offset = torch.zeros_like(change)
            # The lower levels are as they are at x, so this moves the level to the point.
            offset[:, neurons] = (point - 1) * change[:, neurons]
            mean += share * call.at(1.0, offset).by_preactivation[:, neurons]
        scores[:, neurons] = mean * change[:, neurons]
    return scores


@torch.inference_mode(False)
def conductance(
    net: Network,
    x: Any,
    target: Target,
    baseline: Any = 0.0,
    steps: int = 50,
    wrt: Literal["preactivation", "value"] = "preactivation",
) -> Tensor:
    """Conductance of every neuron: what of the score's change passes through it.

    ``sum over i of d score / d p (i) * (p(i + 1) - p(i))``, p the neuron's preactivation, or value,
    at steps + 1 Gauss-Legendre points of the straight line from the baseline to x.

    Args:
        net: As in `gradient`.
        x: As in `gradient`.
        target: As in `gradient`.
        baseline: As in `integrated_gradients`.
        steps: At least 1. One forward and backward for each of steps + 1 points.
        wrt: "preactivation" or "value".

    Returns:
        (B, N).

    Raises:
        GraphError: As `integrated_gradients`.

    Source:
        Dhamdhere, Sundararajan and Yan, How Important Is a Neuron? (2018); the sum is that of
        captum's LayerConductance: on an nn.Linear by preactivations, on its activation by values.

    Example:
        >>> net = graphnn.from_edges([("x", "h", 1.0), ("h", "y", 3.0)], bias=False)
        >>> scores = graphnn.attribution.conductance(net, torch.tensor([[2.0]]), 0, steps=500)
        >>> [round(score, 3) for score in scores[0].tolist()]
        [6.0, 6.0, 6.0]
    """
    check_wrt(wrt, ("preactivation", "value"))
    call = _read(net, x, target, baseline)
    points, _ = _quadrature(steps, more=1)
    total = before = None
    for point in points:
        found, states = call.states_at(point)
        here = states.values if wrt == "value" else states.preactivations
        if before is not None:
            at_before, by_before = before
            moved = by_before * (here - at_before)
            total = moved if total is None else total.add_(moved)
        by = by_value(call.net, found) if wrt == "value" else found.by_preactivation
        before = here, by
    assert total is not None
    return total


@torch.inference_mode(False)
def completeness_error(
    net: Network, x: Any, target: Target, scores: Tensor, baseline: Any = 0.0
) -> Tensor:
    """How far a level's attributions are from adding up to the change of the score.

    ``sum of the level's scores - (score at x - score at the baseline)``. Integrated gradients and
    conductance add up on every level that all that varies passes through, but for the error of the
    quadrature.

    Args:
        net: As in `gradient`.
        x: As in `gradient`.
        target: As in `gradient`.
        scores: (B, N) from `integrated_gradients` or `conductance`, of the same x and target.
        baseline: The same, too.

    Returns:
        (B, L); NaN for a level that is bypassed: where an edge leads over it, or an output lies
        below it, from a neuron that depends on an input. There the sum need not be the change.

    Raises:
        GraphError: As `integrated_gradients`; or `scores` has another shape than (B, N).

    Example:
        >>> net = graphnn.from_edges([("x", "h", 1.0), ("h", "y", 3.0)], bias=False)
        >>> x = torch.tensor([[2.0]])
        >>> scores = graphnn.attribution.integrated_gradients(net, x, target=0)
        >>> graphnn.attribution.completeness_error(net, x, 0, scores).abs().max() < 1e-5
        tensor(True)
    """
    call = _read(net, x, target, baseline)
    graph = call.net.graph
    change = call.at(1.0).scores - call.at(0.0).scores
    expected = (change.numel(), graph.num_neurons)
    given = isinstance(scores, Tensor) and scores.is_floating_point()
    if not given or tuple(scores.shape) != expected:
        shown = type(scores).__name__
        if isinstance(scores, Tensor):
            shown = f"{tuple(scores.shape)}, {scores.dtype}"
        raise GraphError(
            f"scores must be real numbers of shape {expected}, one row a sample and one column a "
            f"neuron (got {shown})."
        )
    error = scores.new_full((change.numel(), graph.num_levels), torch.nan)
    for level in (~_is_bypassed(graph)).nonzero().flatten().tolist():
        own = scores[:, _neurons_of(graph, level).to(scores.device)]
        error[:, level] = own.sum(1) - change
    return error


@dataclass(frozen=True, eq=False)
class _Call:
    """What is attributed, read once."""

    net: Frozen
    inputs: Tensor
    baseline: Tensor
    score: Score

    def at(self, share: float, offset: Tensor | None = None) -> Derivatives:
        """The derivatives at a point between the baseline, 0, and the samples, 1."""
        return differentiate(self.net, self._point(share), self.score, offset)

    def states_at(self, share: float) -> tuple[Derivatives, States]:
        """The same, and every neuron's numbers there."""
        return differentiate_all(self.net, self._point(share), self.score)

    def _point(self, share: float) -> Tensor:
        return torch.lerp(self.baseline, self.inputs, share)


def _read(net: Network, x: Any, target: Target, baseline: Any) -> _Call:
    own = Frozen.of(net)
    inputs = read_samples(x, own)
    score = read_target(target, own.graph, inputs.shape[0])
    return _Call(own, inputs, read_baseline(baseline, inputs, own.graph), score)


def _quadrature(steps: int, more: int = 0) -> tuple[list[float], list[float]]:
    """Gauss-Legendre points in (0, 1), steps + more, and weights that add up to 1."""
    if not isinstance(steps, numbers.Integral) or isinstance(steps, bool) or steps < 1:
        raise GraphError(f"steps must be an integer of at least 1 (got {steps!r}).")
    points, weights = np.polynomial.legendre.leggauss(int(steps) + more)
    return ((1 + points) / 2).tolist(), (weights / 2).tolist()


def _neurons_of(graph: NeuronGraph, level: int) -> Tensor:
    is_whole = isinstance(level, numbers.Integral) and not isinstance(level, bool)
    if not is_whole or not 0 <= level < graph.num_levels:
        raise GraphError(
            f"levels must hold integers in 0 ... {graph.num_levels - 1} (got {level!r})."
        )
    return (graph.level == int(level)).nonzero().flatten()


def _is_bypassed(graph: NeuronGraph) -> Tensor:
    """(L,) bool: whether something that varies with the inputs goes around a level."""
    from graphnn import reachability

    num_levels = graph.num_levels
    varies = torch.from_numpy(
        reachability.descendants(
            *graph.sorted_edges.arrays(), np.ones(graph.num_edges, bool),
            np.argsort(graph.level.numpy(), kind="stable"), graph.input_ids.numpy(),
        )
    )  # fmt: skip
    source, target = graph.edge_index
    moving = varies[source]
    outputs = graph.output_ids[varies[graph.output_ids]]
    # An edge goes around the levels strictly between its ends; an output around all above it.
    first = torch.cat([graph.level[source[moving]], graph.level[outputs]]) + 1
    end = torch.cat([graph.level[target[moving]], torch.full_like(outputs, num_levels)])
    count = torch.zeros(num_levels + 1, dtype=torch.int64, device="cpu")
    count.index_add_(0, first, torch.ones_like(first)).index_add_(0, end, -torch.ones_like(end))
    return count.cumsum(0)[:num_levels] > 0
