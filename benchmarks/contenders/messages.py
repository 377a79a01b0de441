"""A message for every edge and sample, added up at its target."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from benchmarks.contenders.levels import MESSAGE_BYTES, Walk, level_bytes
from benchmarks.problem import Problem


class EagerScatter(Walk):
    """Neuron-major ``index_add`` of gathered values times weights, under torch's autograd."""

    axis = 0

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.rows = [torch.from_numpy(level.row) for level in self.levels]
        self.columns = [torch.from_numpy(level.column) for level in self.levels]
        self.weights = [
            self.values(index)[:, None].requires_grad_() for index in range(len(self.levels))
        ]
        self.biases = [bias[:, None].requires_grad_() for bias in self.biases]

    @classmethod
    def most_samples(cls, problem: Problem) -> int:
        """As many as keep the messages of a level from filling the memory."""
        return min(problem.x.shape[0], max(1, MESSAGE_BYTES // level_bytes(problem)))

    def messages(self, index: int, pool: Tensor) -> Tensor:
        """(E_l, B)."""
        return pool.index_select(0, self.columns[index]) * self.weights[index]

    def product(self, index: int, pool: Tensor) -> Tensor:
        """The preactivations of a level, from its joined pool."""
        start = self.biases[index].expand(-1, pool.shape[1])
        return start.index_add(0, self.rows[index], self.messages(index, pool))

    def by_edge(self, index: int, gradient: Tensor) -> Tensor:
        """(E_l,)."""
        return gradient.flatten()


class TorchScatter(EagerScatter):
    """torch_scatter's sums over sorted targets."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.row_ptr = [torch.from_numpy(level.row_ptr).long() for level in self.levels]

    def product(self, index: int, pool: Tensor) -> Tensor:
        """The preactivations of a level, from its joined pool."""
        from torch_scatter import segment_csr  # pyright: ignore[reportMissingImports]

        messages = self.messages(index, pool)
        return segment_csr(messages, self.row_ptr[index], reduce="sum") + self.biases[index]


class Pyg(EagerScatter):
    """PyTorch Geometric's MessagePassing, the samples as a node's features."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.layer = _weighted_sum()
        self.edge_index = [
            torch.stack([column, row]) for column, row in zip(self.columns, self.rows, strict=True)
        ]

    def product(self, index: int, pool: Tensor) -> Tensor:
        """The preactivations of a level, from its joined pool."""
        rows, columns = self.levels[index].shape
        size = (columns, rows)
        found = self.layer(self.edge_index[index], pool, self.weights[index], size)
        return found + self.biases[index]


def _weighted_sum() -> Any:
    from torch_geometric.nn import MessagePassing
    from torch_geometric.typing import Size

    class WeightedSum(MessagePassing):
        """Sums of weight times source value."""

        def __init__(self) -> None:
            super().__init__(aggr="sum")

        def forward(self, edge_index: Tensor, pool: Tensor, weight: Tensor, size: Size) -> Tensor:
            return self.propagate(edge_index, x=(pool, None), weight=weight, size=size)

        def message(self, x_j: Tensor, weight: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            return x_j * weight

    return WeightedSum()
