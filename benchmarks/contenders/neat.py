"""neat-python's feed-forward network: a Python loop over neurons and links, sample by sample."""

from __future__ import annotations

from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.contenders.levels import cut
from benchmarks.problem import FORWARD, Problem


class NeatPython:
    """One `activate` a sample."""

    def __init__(self, problem: Problem) -> None:
        import neat

        activations = {"relu": lambda z: max(z, 0.0), "identity": lambda z: z}
        order = np.lexsort((problem.source, problem.target))
        source, weight = problem.source[order].tolist(), problem.weight[order].tolist()
        starts = np.searchsorted(problem.target[order], np.arange(problem.num_neurons + 1))
        bias = np.zeros(problem.num_neurons)
        bias[problem.level > 0] = problem.bias
        evaluations = []
        for level in cut(problem):
            activation = activations[level.activation]
            for neuron in level.neurons.tolist():
                links = slice(starts[neuron], starts[neuron + 1])
                reads = list(zip(source[links], weight[links], strict=True))
                evaluations.append((neuron, activation, sum, float(bias[neuron]), 1.0, reads))
        self.net = neat.nn.FeedForwardNetwork(
            problem.inputs.tolist(), problem.outputs.tolist(), evaluations
        )

    @classmethod
    def unsupported(cls, problem: Problem, mode: str, samples: int) -> str | None:
        """No gradients."""
        return None if mode == FORWARD else "has no gradients"

    @classmethod
    def most_samples(cls, problem: Problem) -> int:
        """Its time is that of one sample, times the samples."""
        return min(problem.x.shape[0], 64)

    def arranged(self, samples: Tensor) -> list[list[float]]:
        """Lists of Python's numbers."""
        return samples.tolist()

    def forward(self, x: list[list[float]]) -> list[list[float]]:
        """Runs the network for one sample after the other."""
        return [self.net.activate(sample) for sample in x]

    def outputs(self, found: list[list[float]]) -> np.ndarray:
        """(B, n_out)."""
        return np.array(found)

    def gradients(self, x: Any, seed: Any) -> Any:
        """None: `unsupported` refuses those cases."""
        raise TypeError("neat-python has no gradients.")

    def in_graph_order(self, gradients: Any) -> tuple[np.ndarray, np.ndarray]:
        """None: `unsupported` refuses those cases."""
        raise TypeError("neat-python has no gradients.")
