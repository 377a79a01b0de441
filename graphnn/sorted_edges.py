"""A graph's edges sorted by (target, source): the order in which its structure is found."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from graphnn import algorithms, wiring
from graphnn.errors import GraphError

_CYCLE_EDGES_SHOWN = 1000


@dataclass(frozen=True)
class SortedEdges:
    """The edges sorted by (target, source), without duplicates or self-loops.

    Args:
        ptr: (N + 1,) int64 offsets of each neuron's incoming edges.
        source: (E,) source ids in sorted order; int32 where ids fit, else int64.
        order: (E,) edge ids in sorted order, of the same dtype.
        ascends: Whether every source id is below its target id.
    """

    ptr: Tensor
    source: Tensor
    order: Tensor
    ascends: bool

    @classmethod
    def of(cls, edges: Tensor, num_neurons: int, names: wiring.Names) -> SortedEdges:
        """Sorts (2, E) edges; refuses self-loops and duplicate pairs."""
        own = algorithms.on(edges.device)
        source, target = edges
        count = source.numel()
        dtype = torch.int32 if max(num_neurons, count) < 2**31 else torch.int64
        is_sorted, ascends, self_loop = own.scan_edges(source, target)
        if self_loop >= 0:
            raise GraphError(
                f"an edge must join two different neurons, but edge {self_loop} goes from "
                f"{wiring.describe(source[self_loop], names)} to itself. Remove it."
            )
        try:
            ptr = own.row_pointers(target, num_neurons)
        except MemoryError:
            raise GraphError(f"a graph must fit into memory (got {num_neurons} neurons).") from None
        if is_sorted:
            order = torch.arange(count, dtype=dtype, device=edges.device)
            return cls(ptr, source.to(dtype, copy=True), order, ascends)
        order, sorted_source = own.sort_by_target(source, target, ptr, dtype)
        first, later = own.first_duplicate(ptr, sorted_source, order)
        if later >= 0:
            raise GraphError(
                f"no two edges may have the same source and target, but edges {first} and {later} "
                f"both go from {wiring.describe(source[first], names)} to "
                f"{wiring.describe(target[first], names)}. Remove one, or build with "
                "graphnn.from_edges(..., coalesce='sum')."
            )
        return cls(ptr, sorted_source, order, ascends)

    def to(self, device: torch.device) -> SortedEdges:
        """The same on `device`."""
        return SortedEdges(
            self.ptr.to(device), self.source.to(device), self.order.to(device), self.ascends
        )

    def arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """(ptr, source, order) on the host, for compiled loops."""
        return self.ptr.cpu().numpy(), self.source.cpu().numpy(), self.order.cpu().numpy()

    def levels(self, is_input: Tensor, names: wiring.Names) -> Tensor:
        """(N,) int64 level of every neuron; refuses cycles."""
        own = algorithms.on(self.ptr.device)
        level = own.levels(self.ptr, self.source, is_input, self.ascends)
        if level is None:
            raise GraphError(self._describe_cycle(is_input, names))
        return level

    def _describe_cycle(self, is_input: Tensor, names: wiring.Names) -> str:
        from graphnn import topology

        ptr, source, order = self.arrays()
        places = topology.levels_or_cycle(ptr, source, is_input.cpu().numpy())[1][::-1]
        sources = source[places].tolist()
        edges = order[places].tolist()
        labels = [str(s) if names is None else repr(names[s]) for s in (*sources, sources[0])]
        shown = _CYCLE_EDGES_SHOWN
        if len(edges) > shown:
            left_out = f"... ({len(edges) - shown} more) ..."
            labels = [*labels[: shown // 2], left_out, *labels[-shown // 2 :]]
            edges = [*edges[: shown // 2], left_out, *edges[-shown // 2 :]]
        return (
            f"edge_index must describe an acyclic graph, but it contains the cycle "
            f"{' -> '.join(labels)} (edges {', '.join(map(str, edges))}). Remove one of these "
            "edges."
        )
