"""Matrix products: nn.Sequential, and nn.Linear with zeros for the missing edges."""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.contenders.levels import Runner, Walk
from benchmarks.contenders.memory import too_large
from benchmarks.problem import Problem


class MaskedLinear(Walk):
    """F.linear with zeros for the missing edges; they stay zero because their gradient is masked.

    A weight that starts masked need not be masked again in every forward pass.
    """

    axis = 1

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.weights = []
        self.masks: list[Tensor] = []
        self.places = [
            (torch.from_numpy(level.row), torch.from_numpy(level.column)) for level in self.levels
        ]
        for index, level in enumerate(self.levels):
            matrix, mask = torch.zeros(level.shape), torch.zeros(level.shape)
            matrix[self.places[index]] = self.values(index)
            mask[self.places[index]] = 1
            self.weights.append(matrix.requires_grad_())
            self.masks.append(mask)
        self.biases = [bias.requires_grad_() for bias in self.biases]

    @classmethod
    def unsupported(cls, problem: Problem, mode: str, samples: int) -> str | None:
        """Weights, masks and gradients are dense."""
        return too_large(3 * 4 * sum(n * pool for n, pool in problem.dense_shapes()), "matrices")

    def product(self, index: int, pool: Tensor) -> Tensor:
        """The preactivations of a level, from its joined pool."""
        return F.linear(pool, self.weights[index], self.biases[index])

    def gradients(self, x: Tensor, seed: Tensor) -> Any:
        """By every level's weights, then by every level's biases."""
        found = super().gradients(x, seed)
        for gradient, mask in zip(found, self.masks, strict=False):
            gradient.mul_(mask)
        return found

    def by_edge(self, index: int, gradient: Tensor) -> Tensor:
        """The entries that are edges."""
        return gradient[self.places[index]]


class Sequential(Runner):
    """The nn.Sequential that a dense network is."""

    axis = 1

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        modules: list[nn.Module] = []
        for index, level in enumerate(self.levels):
            linear = nn.Linear(level.shape[1], level.shape[0])
            with torch.no_grad():
                linear.weight.copy_(self.values(index).view(level.shape))
                linear.bias.copy_(self.biases[index])
            modules.append(linear)
            if level.activation == "relu":
                modules.append(nn.ReLU())
        self.model = nn.Sequential(*modules)
        linears = [module for module in modules if isinstance(module, nn.Linear)]
        self.weights = [linear.weight for linear in linears]
        self.biases = [linear.bias for linear in linears]

    @classmethod
    def unsupported(cls, problem: Problem, mode: str, samples: int) -> str | None:
        """Complete levels only."""
        cells = sum(n * pool for n, pool in problem.dense_shapes())
        return None if cells == problem.num_edges else "not a stack of complete levels"

    def forward(self, x: Any) -> Any:
        """Runs the model."""
        return self.model(x)

    def by_edge(self, index: int, gradient: Tensor) -> Tensor:
        """Row-major."""
        return gradient.flatten()
