"""The networks that backends are measured on, named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import torch
from torch import nn

import graphnn


@dataclass(frozen=True)
class Case:
    """A network and the batch sizes to run it with.

    Args:
        name: Of the case.
        make: Builds the network, float32.
        batches: Batch sizes.
    """

    name: str
    make: Callable[[], graphnn.Network]
    batches: tuple[int, ...]


def trained(graph: graphnn.NeuronGraph) -> graphnn.Network:
    """Weights that about keep the values' size from level to level.

    A little less than quite: else a thousand levels of relu would make an error of rounding grow
    until no two contenders agree.
    """
    generator = torch.Generator().manual_seed(0)
    fan_in = graph.fan_in[graph.edge_index[1]].float()
    weight = torch.randn(graph.num_edges, generator=generator) * 0.97 * (2 / fan_in).sqrt()
    bias = 0.1 * torch.randn(graph.bias_neurons.numel(), generator=generator)
    return graphnn.Network(graph, weight, bias)


def layered(sizes: list[int], rows: Callable[[int, int, np.random.Generator], np.ndarray]
            ) -> graphnn.Network:  # fmt: skip
    """Levels of these sizes; rows(inputs, outputs, rng) is the (outputs, inputs) mask's nonzeros.

    Hidden neurons are relu, outputs identity; edges are row-major over each mask.
    """
    rng = np.random.default_rng(0)
    pieces, start = [], 0
    for below, above in pairwise(sizes):
        target, source = rows(below, above, rng)
        pieces.append(np.stack([source + start, target + start + below]))
        start += below
    hidden = sum(sizes[1:-1])
    activation = ["identity"] * sizes[0] + ["relu"] * hidden + ["identity"] * sizes[-1]
    first, last = range(sizes[0]), range(start, start + sizes[-1])
    graph = graphnn.NeuronGraph(
        torch.from_numpy(np.concatenate(pieces, axis=1)),
        num_neurons=sum(sizes),
        inputs=first,
        outputs=last,
        activation=activation,
    )
    return trained(graph)


def by_density(sizes: list[int], density: float) -> graphnn.Network:
    """Every edge is there with probability `density`, and each neuron reads at least one source."""

    def rows(below: int, above: int, rng: np.random.Generator) -> np.ndarray:
        mask = rng.random((above, below), np.float32) < density
        mask[np.arange(above), rng.integers(0, below, above)] = True
        return np.stack(np.nonzero(mask))

    return layered(sizes, rows)


def by_fan_in(sizes: list[int], fan_in: int) -> graphnn.Network:
    """Every neuron reads `fan_in` neurons of the level below, drawn at random."""

    def rows(below: int, above: int, rng: np.random.Generator) -> np.ndarray:
        source = np.stack([np.sort(rng.permutation(below)[:fan_in]) for _ in range(above)])
        return np.stack([np.repeat(np.arange(above), fan_in), source.reshape(-1)])

    return layered(sizes, rows)


def random_dag(inputs: int, computed: int, outputs: int, fan_in: int) -> graphnn.Network:
    """Every neuron reads `fan_in` lower ones, drawn at random; all relu, ids in no order."""
    rng = np.random.default_rng(0)
    count = inputs + computed
    source = np.concatenate([rng.permutation(i)[:fan_in] for i in range(inputs, count)])
    target = np.repeat(np.arange(inputs, count), fan_in)
    ids = rng.permutation(count)
    shuffled = rng.permutation(source.size)
    graph = graphnn.NeuronGraph(
        torch.from_numpy(ids[np.stack([source, target])[:, shuffled]]),
        num_neurons=count,
        inputs=ids[:inputs],
        outputs=ids[count - outputs :],
        activation="relu",
    )
    return trained(graph)


def dense(sizes: list[int]) -> graphnn.Network:
    """A converted nn.Sequential."""
    layers = [layer for i, o in pairwise(sizes) for layer in (nn.Linear(i, o), nn.ReLU())]
    return trained(graphnn.from_sequential(nn.Sequential(*layers[:-1])).graph)


CASES = (
    *(
        Case(
            f"784-4096-4096-10, {density:.0%} of the edges",
            lambda density=density: by_density([784, 4096, 4096, 10], density),
            (256,),
        )
        for density in (0.01, 0.05, 0.1, 0.25)
    ),
    Case("4 levels of 1024, fan-in 32", lambda: by_fan_in([1024] * 4, 32), (256,)),
    Case("4 levels of 4096, fan-in 32", lambda: by_fan_in([4096] * 4, 32), (256,)),
    Case("2 levels of 16384, fan-in 32", lambda: by_fan_in([16384] * 2, 32), (64,)),
    Case("1000 levels of 64, fan-in 16", lambda: by_fan_in([64] * 1000, 16), (64,)),
    Case("200 levels of 64, fan-in 8", lambda: by_fan_in([64] * 200, 8), (256,)),
    Case("random DAG of 532, fan-in 8", lambda: random_dag(32, 500, 10, 8), (1, 64, 1024)),
    Case("dense 784-512-512-10", lambda: dense([784, 512, 512, 10]), (256,)),
)  # fmt: skip
