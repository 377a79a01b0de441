"""connex: a DAG in JAX, one masked dense product for each level, jitted and vmapped."""

# The packages are of the extra graphnn[bench], which the type checker may not find.
# pyright: reportMissingImports=false, reportAttributeAccessIssue=false

from __future__ import annotations

import tempfile
import warnings
from pathlib import Path
from typing import Any

import networkx as nx
import numpy as np
from torch import Tensor

from benchmarks.contenders.levels import level_bytes
from benchmarks.contenders.memory import too_large
from benchmarks.problem import Problem


class Connex:
    """`connex.NeuralNetwork` with the problem's weights; gradients by its dense matrices."""

    def __init__(self, problem: Problem) -> None:
        # connex uses names of equinox that are to go.
        warnings.filterwarnings("ignore", module="connex")
        import connex
        import equinox as eqx
        import jax

        # XLA compiles a large network for minutes, and the same code for any number of threads.
        cache = Path(tempfile.gettempdir()) / "graphnn-benchmarks-jax"
        jax.config.update("jax_compilation_cache_dir", str(cache))
        self.jax, self.problem = jax, problem
        graph = nx.DiGraph()
        graph.add_nodes_from(np.argsort(problem.level, kind="stable").tolist())
        graph.add_edges_from(zip(problem.source.tolist(), problem.target.tolist(), strict=True))
        net = connex.NeuralNetwork(
            graph,
            problem.inputs.tolist(),
            problem.outputs.tolist(),
            hidden_activation=jax.nn.relu,
        )
        self._place(net)
        self.parameters = [jax.numpy.asarray(matrix) for matrix in self._matrices(net)]

        def outputs(parameters: Any, x: Any) -> Any:
            own = eqx.tree_at(lambda n: n._weights_and_biases, net, parameters)
            return jax.vmap(own)(x)

        def gradients(parameters: Any, x: Any, seed: Any) -> Any:
            return jax.vjp(lambda p: outputs(p, x), parameters)[1](seed)[0]

        self.run, self.run_back = jax.jit(outputs), jax.jit(gradients)

    def _place(self, net: Any) -> None:
        """Where each edge's weight and each neuron's bias are in connex's matrices."""
        problem = self.problem
        own = np.empty(problem.num_neurons, np.int64)
        for neuron, number in net._neuron_to_id.items():
            own[neuron] = number
        batch = np.full(problem.num_neurons, -1)
        row = np.zeros(problem.num_neurons, np.int64)
        for index, members in enumerate(net._topo_batches):
            batch[np.asarray(members)] = index
            row[np.asarray(members)] = np.arange(len(members))
        self.batch = batch[own[problem.target]]
        self.row = row[own[problem.target]]
        self.column = own[problem.source] - np.asarray(net._min_index)[self.batch]
        computed = own[np.flatnonzero(problem.level > 0)]
        self.bias_batch, self.bias_row = batch[computed], row[computed]

    def _matrices(self, net: Any) -> list[np.ndarray]:
        matrices = []
        for index, drawn in enumerate(net._weights_and_biases):
            matrix = np.zeros(drawn.shape, np.float32)
            own, biased = self.batch == index, self.bias_batch == index
            matrix[self.row[own], self.column[own]] = self.problem.weight[own]
            matrix[self.bias_row[biased], -1] = self.problem.bias[biased]
            matrices.append(matrix)
        return matrices

    @classmethod
    def unsupported(cls, problem: Problem, mode: str, samples: int) -> str | None:
        """Runs what is small enough to build."""
        return too_large(100 * level_bytes(problem), "matrices")

    @classmethod
    def most_samples(cls, problem: Problem) -> int:
        """As many as one likes."""
        return problem.x.shape[0]

    def arranged(self, samples: Tensor) -> Any:
        """An array of JAX's."""
        return self.jax.device_put(samples.numpy())

    def forward(self, x: Any) -> Any:
        """Runs the network."""
        return self.run(self.parameters, x).block_until_ready()

    def gradients(self, x: Any, seed: Any) -> Any:
        """By every matrix."""
        return self.jax.block_until_ready(self.run_back(self.parameters, x, seed))

    def outputs(self, found: Any) -> np.ndarray:
        """(B, n_out)."""
        return np.asarray(found)

    def in_graph_order(self, gradients: Any) -> tuple[np.ndarray, np.ndarray]:
        """The entries that are edges, and the columns that are biases."""
        weight = np.empty(self.problem.num_edges, np.float32)
        bias = np.empty(self.problem.bias.size, np.float32)
        for index, gradient in enumerate(map(np.asarray, gradients)):
            own, biased = self.batch == index, self.bias_batch == index
            weight[own] = gradient[self.row[own], self.column[own]]
            bias[biased] = gradient[self.bias_row[biased], -1]
        return weight, bias
