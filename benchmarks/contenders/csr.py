"""torch.sparse CSR (MKL) with neuron-major values and int32 indices."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.contenders.levels import Level, Walk
from benchmarks.contenders.memory import too_large
from benchmarks.problem import FORWARD, Problem


class TorchCsr(Walk):
    """``matrix @ values`` under torch's own autograd, which fills a dense gradient."""

    axis = 0

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.weights = [
            Matrix(level).with_values(self.values(index)).requires_grad_()
            for index, level in enumerate(self.levels)
        ]
        self.biases = [bias[:, None].requires_grad_() for bias in self.biases]

    @classmethod
    def unsupported(cls, problem: Problem, mode: str, samples: int) -> str | None:
        """A gradient is as large as the dense matrix, and all levels' are held."""
        if mode == FORWARD:
            return None
        return too_large(4 * sum(n * pool for n, pool in problem.dense_shapes()), "dense gradients")

    @classmethod
    def most_samples(cls, problem: Problem) -> int:
        """Larger pieces of a batch are slower: their values leave the cache."""
        return min(problem.x.shape[0], 256)

    def product(self, index: int, pool: Tensor) -> Tensor:
        """The preactivations of a level, from its joined pool."""
        product = self.weights[index] @ pool
        bias = self.biases[index]
        return product + bias if torch.is_grad_enabled() else product.add_(bias)

    def by_edge(self, index: int, gradient: Tensor) -> Tensor:
        """The entries that are edges."""
        level = self.levels[index]
        return gradient[torch.from_numpy(level.row), torch.from_numpy(level.column)]


class CachedTranspose(Walk):
    """The same products, with a gradient made of MKL's, over a transpose prepared once."""

    axis = 0

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.matrices = [Matrix(level) for level in self.levels]
        self.weights = [self.values(index).requires_grad_() for index in range(len(self.levels))]
        self.biases = [bias[:, None].requires_grad_() for bias in self.biases]

    @classmethod
    def most_samples(cls, problem: Problem) -> int:
        """Larger pieces of a batch are slower: their values leave the cache."""
        return min(problem.x.shape[0], 256)

    def product(self, index: int, pool: Tensor) -> Tensor:
        """The preactivations of a level, from its joined pool."""
        matrix, values, bias = self.matrices[index], self.weights[index], self.biases[index]
        if not torch.is_grad_enabled():
            return (matrix.with_values(values) @ pool).add_(bias)
        return _Product.apply(matrix, values, pool) + bias  # pyright: ignore[reportOperatorIssue]


class Matrix:
    """The places of a CSR matrix and of its transpose."""

    def __init__(self, level: Level) -> None:
        self.shape = level.shape
        self.rows = torch.from_numpy(level.row_ptr)
        self.columns = torch.from_numpy(level.column.astype(np.int32))
        order = np.lexsort((level.row, level.column))
        counts = np.bincount(level.column, minlength=level.shape[1])
        self.order = torch.from_numpy(order)
        self.back_rows = torch.from_numpy(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
        self.back_columns = torch.from_numpy(level.row[order].astype(np.int32))

    def with_values(self, values: Tensor) -> Tensor:
        """The matrix that holds these (E_l,) values."""
        return torch.sparse_csr_tensor(
            self.rows, self.columns, values, self.shape, check_invariants=False
        )

    def transposed(self, values: Tensor) -> Tensor:
        """Its transpose."""
        return torch.sparse_csr_tensor(
            self.back_rows, self.back_columns, values.index_select(0, self.order),
            self.shape[::-1], check_invariants=False,
        )  # fmt: skip


class _Product(torch.autograd.Function):
    """A sparse matrix times a dense one."""

    @staticmethod
    def forward(ctx: Any, matrix: Matrix, values: Tensor, pool: Tensor) -> Tensor:
        ctx.matrix = matrix
        ctx.save_for_backward(values, pool)
        return matrix.with_values(values) @ pool

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        values, pool = ctx.saved_tensors
        own = ctx.matrix.with_values(values)
        by_values = torch.sparse.sampled_addmm(own, gradients[0], pool.t(), beta=0).values()
        by_pool = None
        if ctx.needs_input_grad[2]:
            by_pool = ctx.matrix.transposed(values) @ gradients[0]
        return None, by_values, by_pool
