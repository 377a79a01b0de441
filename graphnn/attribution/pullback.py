"""From derivatives by preactivations to derivatives by values: one step against all edges."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphnn.attribution.derivatives import Derivatives, Frozen
from graphnn.graph import NeuronGraph
from graphnn.levels import Level
from graphnn.network import Network
from graphnn.plan import build_plan


@dataclass(frozen=True, eq=False)
class _Reversed:
    """A graph's edges that are in no complete block, as a graph of their own, turned round.

    Args:
        graph: Neuron n of the original is its input n and its output n + N.
        edges: Original ids (int64) of its edges, on the CPU.
    """

    graph: NeuronGraph
    edges: Tensor


def by_value(net: Frozen, found: Derivatives) -> Tensor:
    """(B, N) derivative by every value: what its readers pass back, and what the score reads.

    Args:
        net: The network's numbers.
        found: The derivatives by preactivations and by outputs.
    """
    with torch.no_grad(), net.in_full():
        total = _along_sparse_edges(net, found.by_preactivation)
        for level in net.plan.levels:
            if level.is_block and level.pool_size:
                matrix = net.weight[level.edges].view(level.size, level.pool_size)
                arriving = found.by_preactivation.index_select(1, level.neurons).t()
                # Sources are distinct, so nothing is lost by not accumulating.
                total[_block_sources(net.graph, level)] += matrix.t() @ arriving
        # A loop, because outputs may repeat, and index_add does not give the same bits on a GPU.
        for column, neuron in enumerate(net.graph.output_ids.tolist()):
            total[neuron] += found.by_output[:, column]
    return total.t()


def _along_sparse_edges(net: Frozen, by_preactivation: Tensor) -> Tensor:
    """(N, B) sums of weight * derivative at the target, over edges that are in no block."""
    sparse = _reversed_edges(net.graph)
    if sparse.edges.numel() == 0:
        return by_preactivation.new_zeros(by_preactivation.shape[::-1])
    weight = net.weight[sparse.edges.to(net.weight.device)]
    step = Network(sparse.graph, weight, backend=net.backend)
    return step(by_preactivation).t().contiguous()


def _block_sources(graph: NeuronGraph, level: Level) -> Tensor:
    """The (S,) neuron ids of a block's weight columns."""
    edges = level.edges
    if isinstance(edges, slice):
        first = torch.arange(edges.start, edges.start + level.pool_size, device="cpu")
    else:
        first = edges[: level.pool_size].cpu()
    return graph.edge_index[0][first].to(level.neurons.device)


def _reversed_edges(graph: NeuronGraph) -> _Reversed:
    if "reversed" not in graph.derived:
        is_block = build_plan(graph, torch.device("cpu")).block_width > 0
        source, target = graph.edge_index
        edges = (~is_block[graph.level[target]]).nonzero().flatten()
        count = graph.num_neurons
        graph.derived["reversed"] = _Reversed(
            NeuronGraph(
                torch.stack([target[edges], source[edges] + count]),
                num_neurons=2 * count,
                inputs=torch.arange(count, device="cpu"),
                outputs=torch.arange(count, 2 * count, device="cpu"),
                bias=False,
            ),
            edges,
        )
    return graph.derived["reversed"]
