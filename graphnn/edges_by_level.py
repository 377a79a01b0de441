"""What a graph's edges are, level by level."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from graphnn import algorithms

if TYPE_CHECKING:
    from graphnn.graph import NeuronGraph

# Edges that are counted at a time: of all at once, the pairs of levels would take much memory.
_PIECE = 1 << 24


def order(graph: NeuronGraph) -> tuple[list[int], Tensor]:
    """The edges by their target's level, then by id: L + 1 offsets, and edge ids (E,) int64."""
    own, level = algorithms.on(graph.device), graph.level.to(torch.int32)
    of_edge = level.index_select(0, graph.edge_index[1])
    ptr = own.row_pointers(of_edge, graph.num_levels)
    return ptr.tolist(), own.stable_order(of_edge, ptr, torch.int64)


def density(graph: NeuronGraph) -> float:
    """The share of edges that exist, of those between two levels that at least one edge joins."""
    if graph.num_edges == 0:
        return 1.0
    # Numbers of pairs in half the memory, and found twice as fast, where they fit.
    count, found = graph.num_levels, []
    level = graph.level.to(torch.int32 if count < 2**15 else torch.int64)
    for source, target in graph.edge_index.split(_PIECE, 1):
        pairs = level.index_select(0, source) * count + level.index_select(0, target)
        found.append(pairs.unique().long())
    pairs = torch.cat(found).unique()
    size = level.bincount(minlength=count)
    # No product of matrices: a GPU has none of integers.
    possible = size[pairs // count] * size[pairs % count]
    return graph.num_edges / float(possible.sum())
