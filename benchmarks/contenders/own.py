"""graphnn's backends, and what `to_module` makes of a network."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import graphnn
from benchmarks.contenders.levels import (
    MESSAGE_BYTES,
    Levels,
    level_bytes,
)
from benchmarks.contenders.memory import too_large
from benchmarks.problem import Problem


class Auto:
    """The backend that "auto" takes, on the problem as a user has it: weights in edge order."""

    backend = "auto"

    def __init__(self, problem: Problem) -> None:
        activation: Any = problem.activation
        if problem.output_activation != problem.activation:
            names = np.full(problem.num_neurons, problem.activation, object)
            names[problem.outputs] = problem.output_activation
            names[problem.inputs] = "identity"
            activation = names.tolist()
        edge_index = torch.from_numpy(np.stack([problem.source, problem.target]).astype(np.int64))
        weight, bias = torch.tensor(problem.weight), torch.tensor(problem.bias)
        start = time.perf_counter()
        graph = graphnn.NeuronGraph(
            edge_index,
            num_neurons=problem.num_neurons,
            inputs=problem.inputs.tolist(),
            outputs=problem.outputs.tolist(),
            activation=activation,
        )
        self.net = graphnn.Network(graph, weight, bias, backend=self.backend)
        graphnn.build_plan(graph)
        self.build_seconds = time.perf_counter() - start

    @classmethod
    def unsupported(cls, problem: Problem, mode: str, samples: int) -> str | None:
        """Runs everything."""
        return None

    @classmethod
    def most_samples(cls, problem: Problem) -> int:
        """As many as one likes."""
        return problem.x.shape[0]

    def arranged(self, samples: Tensor) -> Tensor:
        """As they are."""
        return samples

    def forward(self, x: Tensor) -> Tensor:
        """Runs the network."""
        return self.net(x)

    def gradients(self, x: Tensor, seed: Tensor) -> Sequence[Tensor]:
        """By `weight` and `bias`."""
        return torch.autograd.grad(self.net(x), [self.net.weight, self.net.bias], seed)

    def outputs(self, found: Tensor) -> np.ndarray:
        """(B, n_out)."""
        return found.numpy()

    def in_graph_order(self, gradients: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """As they are."""
        return gradients[0].numpy(), gradients[1].numpy()

    def describe(self, x: Tensor) -> str:
        """The backend that runs, and on how many levels as a matrix product."""
        report = self.net.backend_report(x)
        blocks = sum(how == "matrix product" for *_, how in report.levels)
        return f"{report.backend}, {blocks} of {len(report.levels)} levels as matrix products"


class Scatter(Auto):
    """The backend "scatter"."""

    backend = "scatter"

    @classmethod
    def most_samples(cls, problem: Problem) -> int:
        """As many as keep the messages of a level from filling the memory."""
        return min(problem.x.shape[0], max(1, MESSAGE_BYTES // level_bytes(problem)))


class Reference(Scatter):
    """The backend "reference", and in float64 what all contenders are checked against."""

    backend = "reference"

    def expected(
        self, x: np.ndarray, seed: np.ndarray | None
    ) -> tuple[np.ndarray, np.ndarray | None, np.ndarray | None]:
        """Outputs, and gradients by weight and bias where there is a seed, in float64."""
        weight, bias = self.net.weight.detach().double(), self.net.bias.detach().double()
        net = graphnn.Network(self.net.graph, weight, bias, backend="reference")
        with torch.set_grad_enabled(seed is not None):
            outputs = net(torch.from_numpy(x).double())
        if seed is None:
            return outputs.numpy(), None, None
        by_weight, by_bias = torch.autograd.grad(
            outputs, [net.weight, net.bias], torch.from_numpy(seed).double()
        )
        return outputs.detach().numpy(), by_weight.numpy(), by_bias.numpy()


class ToModule(Auto):
    """`graphnn.to_module`: an nn.Linear over the sources that a level reads."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.problem, self.module = problem, graphnn.to_module(self.net)
        linears = [part for part in self.module.modules() if isinstance(part, nn.Linear)]
        self.parameters = [x.weight for x in linears] + [x.bias for x in linears]

    @classmethod
    def unsupported(cls, problem: Problem, mode: str, samples: int) -> str | None:
        """Weights and gradients are dense."""
        return too_large(2 * 4 * sum(n * pool for n, pool in problem.dense_shapes()), "matrices")

    def forward(self, x: Tensor) -> Tensor:
        """Runs the module."""
        return self.module(x)

    def gradients(self, x: Tensor, seed: Tensor) -> Sequence[Tensor]:
        """By every level's weights, then by every level's biases."""
        return torch.autograd.grad(self.forward(x), self.parameters, seed)

    def in_graph_order(self, gradients: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """The entries that are edges; a column is a source, by level, then by id."""
        problem, layout = self.problem, Levels(self.problem)
        by_edge = []
        for level, gradient in zip(layout.levels, gradients, strict=False):
            source = problem.source[level.edges].astype(np.int64)
            key = problem.level[source] * problem.num_neurons + source
            _, column = np.unique(key, return_inverse=True)
            by_edge.append(gradient[torch.from_numpy(level.row), torch.from_numpy(column)])
        return layout.in_graph_order([*by_edge, *gradients[len(by_edge) :]])

    def describe(self, x: Tensor) -> str:
        """Nothing that its name does not say."""
        return ""


class Compiled(ToModule):
    """torch.compile of it."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        self.module = torch.compile(self.module, fullgraph=True, dynamic=False)

    def outputs(self, found: Tensor) -> np.ndarray:
        """(B, n_out)."""
        return found.detach().numpy()
