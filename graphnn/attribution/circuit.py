"""The part of a network that an output mostly comes from."""

from __future__ import annotations

import numbers
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphnn import edit
from graphnn.attribution.derivatives import Derivatives, Frozen, States, differentiate_all
from graphnn.attribution.samples import read_samples
from graphnn.attribution.target import Target, read_target
from graphnn.errors import GraphError
from graphnn.graph import NeuronGraph
from graphnn.network import Network

# Scores of (samples, edges) are made for so many edges at a time that they stay below this size.
_SCORE_ELEMENTS = 1 << 22


def top_circuit(net: Network, x: Any, target: Target, num_edges: int) -> Network:
    """The smallest sub-network that keeps the paths of the strongest edges to the target.

    `graphnn.edit.subgraph` of `circuit_edges`: all outputs stay, constants where nothing leads to
    them any more; an input that leads nowhere leaves its group.

    Args:
        net: As in `gradient`.
        x: As in `gradient`.
        target: As in `gradient`.
        num_edges: The number of strongest edges to choose from, at least 1.

    Returns:
        A new network. Its weights and biases are those of `net`.

    Raises:
        GraphError: As `gradient`; or `num_edges` is below 1.

    Example:
        >>> edges = [("x", "a", 2.0), ("x", "b", 1.0), ("a", "y", 3.0), ("b", "y", 0.1)]
        >>> net = graphnn.from_edges(edges, bias=False)
        >>> circuit = graphnn.attribution.top_circuit(net, torch.tensor([[1.0]]), 0, num_edges=2)
        >>> circuit.graph.names
        ('x', 'a', 'y')
    """
    return edit.subgraph(net, circuit_edges(net, x, target, num_edges))


@torch.inference_mode(False)
def circuit_edges(net: Network, x: Any, target: Target, num_edges: int) -> Tensor:
    """The strongest edges, as far as they make up whole paths to the target.

    An edge's strength is the mean over samples of ``|weight * value(source) * d score /
    d preactivation(edge's target)|``. Of the `num_edges` strongest, ties by id, edges of strength 0
    left out, those are kept that lie on a path of such edges that begins at an input or at a
    constant and ends at an output that the score reads.

    Args:
        net: As in `gradient`.
        x: As in `gradient`.
        target: As in `gradient`.
        num_edges: The number of strongest edges to choose from, at least 1.

    Returns:
        Ascending int64 edge ids, at most `num_edges`; none where no path is whole.

    Raises:
        GraphError: As `top_circuit`.

    Example:
        >>> edges = [("x", "a", 2.0), ("x", "b", 1.0), ("a", "y", 3.0), ("b", "y", 0.1)]
        >>> net = graphnn.from_edges(edges, bias=False)
        >>> graphnn.attribution.circuit_edges(net, torch.tensor([[1.0]]), 0, num_edges=3)
        tensor([0, 2])
    """
    if not isinstance(num_edges, numbers.Integral) or num_edges < 1:
        raise GraphError(f"num_edges must be an integer of at least 1 (got {num_edges!r}).")
    own = Frozen.of(net)
    graph = own.graph
    inputs = read_samples(x, own)
    score = read_target(target, graph, inputs.shape[0])
    found, states = differentiate_all(own, inputs, score)
    strength = _strength(own, found, states)
    chosen = strength.sort(descending=True, stable=True).indices[: int(num_edges)]
    is_chosen = torch.zeros(graph.num_edges, dtype=torch.bool, device="cpu")
    is_chosen[chosen[strength[chosen] > 0]] = True
    ends = graph.output_ids[(found.by_output != 0).any(0).cpu()]
    return torch.from_numpy(np.flatnonzero(_on_paths(graph, is_chosen.numpy(), ends.numpy())))


def _strength(net: Frozen, found: Derivatives, states: States) -> Tensor:
    """(E,) mean magnitudes, on the CPU; NaN counts as infinite."""
    # Neuron-major, so that an edge's samples lie side by side.
    value = states.values.abs().t().contiguous()
    derivative = found.by_preactivation.abs().t().contiguous()
    weight = net.weight.abs()
    pieces = []
    chunk = max(1, _SCORE_ELEMENTS // states.values.shape[0])
    edges = net.graph.to(weight.device).edge_index
    for (source, target), own in zip(edges.split(chunk, 1), weight.split(chunk), strict=True):
        pieces.append((value[source] * derivative[target]).mean(1) * own)
    return torch.cat(pieces).nan_to_num(nan=torch.inf, posinf=torch.inf).cpu()


def _on_paths(graph: NeuronGraph, is_kept: np.ndarray, ends: np.ndarray) -> np.ndarray:
    """(E,) which kept edges are on a path of kept edges from an input or constant to an end."""
    from graphnn import reachability

    own = graph.sorted_edges.arrays()
    starts = (graph.fan_in == 0).nonzero().flatten().numpy()
    by_level = np.argsort(graph.level.numpy(), kind="stable")
    after = reachability.descendants(*own, is_kept, by_level, starts)
    before = reachability.ancestors(*own, is_kept, ends)
    source, target = graph.edge_index.numpy()
    return is_kept & after[source] & before[target]
