"""Derivatives of a score by every neuron or edge, from one backward."""

from __future__ import annotations

from typing import Any, Literal

import torch
from torch import Tensor

from graphnn.attribution.derivatives import (
    Derivatives,
    Frozen,
    check_wrt,
    differentiate,
    differentiate_all,
)
from graphnn.attribution.pullback import by_value
from graphnn.attribution.samples import read_samples
from graphnn.attribution.target import Score, Target, read_target
from graphnn.network import Network

By = Literal["preactivation", "value", "edge"]
_ALL = ("preactivation", "value", "edge")


@torch.inference_mode(False)
def gradient(net: Network, x: Any, target: Target, wrt: By = "preactivation") -> Tensor:
    """Derivatives of a score by all neurons or all edges, in one backward for the whole batch.

    ``d score / d preactivation``; or ``d score / d value = sum of weight * d score /
    d preactivation(target)`` over the outgoing edges, and what the score reads itself; or by an
    edge's message ``weight * value(source)``, which is the derivative at its target.

    Args:
        net: The network, in any mode; run in eval mode and left as it is.
        x: (B, n_in) samples, B at least 1; of several input groups a sequence in declared order or
            a dict by name.
        target: The score: the index of a neuron in the one output group; B of them, one a sample;
            or a callable on the outputs, before the output transform, that gives (B,) scores, each
            of its own sample.
        wrt: "preactivation", "value" or "edge". An input's preactivation is its value.

    Returns:
        (B, N), or (B, E) by edges.

    Raises:
        GraphError: `target` is out of range or no such function, x has no sample or does not fit
            the network, or `wrt` is unknown.

    Source:
        Captum's LayerGradientXActivation with ``multiply_by_inputs=False`` on an nn.Linear is the
        derivative by its preactivations.

    Example:
        >>> net = graphnn.from_edges(
        ...     [("x", "h", 2.0), ("h", "y", 3.0), ("x", "y", -1.0)], bias=False
        ... )
        >>> graphnn.attribution.gradient(net, torch.tensor([[1.0], [-1.0]]), target=0)
        tensor([[ 5.,  3.,  1.],
                [-1.,  0.,  1.]])
        >>> graphnn.attribution.gradient(net, torch.tensor([[-1.0]]), target=0, wrt="value")
        tensor([[-1.,  3.,  1.]])
    """
    check_wrt(wrt, _ALL)
    own, inputs, score = _read(net, x, target)
    return _derivative(own, differentiate(own, inputs, score), wrt)


@torch.inference_mode(False)
def gradient_x_value(net: Network, x: Any, target: Target, wrt: By = "value") -> Tensor:
    """The derivative of a score times what it is the derivative by.

    ``value * d score / d value``, ``preactivation * d score / d preactivation``, or for an edge
    ``weight * value(source) * d score / d preactivation(target)``.

    Args:
        net: As in `gradient`.
        x: As in `gradient`.
        target: As in `gradient`.
        wrt: "preactivation", "value" or "edge".

    Returns:
        (B, N), or (B, E) by edges.

    Raises:
        GraphError: As `gradient`.

    Source:
        Captum's LayerGradientXActivation: on an nn.Linear by preactivations, on its activation by
        values.

    Example:
        >>> net = graphnn.from_edges([("x", "h", 2.0), ("h", "y", 3.0)], bias=False)
        >>> graphnn.attribution.gradient_x_value(net, torch.tensor([[1.0]]), 0, wrt="edge")
        tensor([[6., 6.]])
    """
    check_wrt(wrt, _ALL)
    own, inputs, score = _read(net, x, target)
    found, states = differentiate_all(own, inputs, score)
    if wrt == "edge":
        source = own.graph.to(inputs.device).edge_index[0]
        at = states.values.index_select(1, source).mul_(own.weight)
    else:
        at = states.values if wrt == "value" else states.preactivations
    return _derivative(own, found, wrt) * at


def _read(net: Network, x: Any, target: Target) -> tuple[Frozen, Tensor, Score]:
    own = Frozen.of(net)
    inputs = read_samples(x, own)
    return own, inputs, read_target(target, own.graph, inputs.shape[0])


def _derivative(net: Frozen, found: Derivatives, wrt: By) -> Tensor:
    if wrt == "value":
        return by_value(net, found)
    if wrt == "preactivation":
        return found.by_preactivation
    target = net.graph.to(found.by_preactivation.device).edge_index[1]
    return found.by_preactivation.index_select(1, target)
