"""The networks of the ladder, drawn from fixed seeds."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import numpy as np
import torch

import graphnn
from benchmarks.problem import Problem

Edges = tuple[np.ndarray, np.ndarray]


def dense(sizes: list[int], batch: int) -> Problem:
    """A converted nn.Sequential: every neuron reads all of the level below."""

    def rows(below: int, above: int, _rng: np.random.Generator) -> Edges:
        return np.tile(np.arange(below), above), np.repeat(np.arange(above), below)

    return _layered(sizes, rows, batch)


def by_density(sizes: list[int], density: float, batch: int) -> Problem:
    """Every edge is there with probability `density`, and each neuron reads at least one source."""

    def rows(below: int, above: int, rng: np.random.Generator) -> Edges:
        mask = rng.random((above, below), np.float32) < density
        mask[np.arange(above), rng.integers(0, below, above)] = True
        target, source = np.nonzero(mask)
        return source, target

    return _layered(sizes, rows, batch)


def by_fan_in(sizes: list[int], fan_in: int, batch: int) -> Problem:
    """Every neuron reads `fan_in` neurons of the level below."""

    def rows(below: int, above: int, rng: np.random.Generator) -> Edges:
        source = _spread(rng, above, min(fan_in, below), below)
        return source.reshape(-1), np.repeat(np.arange(above), source.shape[1])

    return _layered(sizes, rows, batch)


def with_skips(sizes: list[int], fan_in: list[int], reach: int, batch: int) -> Problem:
    """Every neuron of computed level i reads `fan_in[i]` neurons of the `reach` levels below."""
    rng = np.random.default_rng(0)
    starts = np.concatenate([[0], np.cumsum(sizes)])
    sources, targets = [], []
    for index, reads in enumerate(fan_in, start=1):
        first, previous = starts[max(0, index - reach)], starts[index - 1]
        chosen = _window(rng, sizes[index], reads, int(previous - first), sizes[index - 1])
        sources.append((first + chosen).reshape(-1))
        targets.append(np.repeat(starts[index] + np.arange(sizes[index]), chosen.shape[1]))
    level = np.repeat(np.arange(len(sizes)), sizes)
    return _problem(rng, np.concatenate(sources), np.concatenate(targets), level, batch)


def shuffled(problem: Problem) -> Problem:
    """The same network with its neurons numbered, and its edges listed, in no order."""
    rng = np.random.default_rng(1)
    ids = rng.permutation(problem.num_neurons)
    order = rng.permutation(problem.num_edges)
    level = np.empty_like(problem.level)
    level[ids] = problem.level
    bias = np.zeros(problem.num_neurons, np.float32)
    bias[ids[problem.level > 0]] = problem.bias
    return replace(
        problem,
        source=ids[problem.source[order]].astype(np.int32),
        target=ids[problem.target[order]].astype(np.int32),
        level=level,
        inputs=ids[problem.inputs],
        outputs=ids[problem.outputs],
        weight=problem.weight[order],
        bias=bias[level > 0],
    )


def challenge(neurons: int, layers: int, batch: int) -> Problem:
    """A network of the Sparse DNN Graph Challenge, with 0/1 images.

    A tenth of the pixels are ones in the mean. In an eighth of the images so many are that the sums
    stay above the bias, and rows stay alive through all layers: a result is more than zeros.
    """
    graph = _radixnet(neurons, layers)
    weight, bias = graphnn.generate.radixnet_parameters(graph, torch.float32)
    rng = np.random.default_rng(0)
    # A neuron of the first layer has 2 * share + bias in the mean, which the later ones double.
    bright = 0.15 - float(bias[0])
    dark = (0.1 - bright / 8) / (7 / 8)
    share = np.where(np.arange(batch) % 8 == 0, bright, dark)
    images = (rng.random((batch, neurons), np.float32) < share[:, None]).astype(np.float32)
    return _of_radixnet(graph, weight.numpy(), bias.numpy(), images)


def challenge_probe(neurons: int, layers: int, batch: int) -> Problem:
    """The same wiring with drawn weights, biases and inputs.

    The challenge's own outputs are all 0 or 32, whichever neurons its edges join.
    """
    graph = _radixnet(neurons, layers)
    rng = np.random.default_rng(0)
    weight = 0.25 * rng.standard_normal(graph.num_edges, np.float32)
    bias = rng.standard_normal(graph.bias_neurons.numel(), np.float32)
    x = 4 * rng.standard_normal((batch, neurons), np.float32)
    return _of_radixnet(graph, weight, bias, x)


def _radixnet(neurons: int, layers: int) -> graphnn.NeuronGraph:
    generator = torch.Generator().manual_seed(0)
    return graphnn.generate.radixnet(
        neurons, layers, "clamp(0, 32)", "clamp(0, 32)", generator=generator
    )


def _of_radixnet(
    graph: graphnn.NeuronGraph,
    weight: np.ndarray,
    bias: np.ndarray,
    x: np.ndarray,
) -> Problem:
    source, target = graph.edge_index.numpy()
    return Problem(
        source=source.astype(np.int32),
        target=target.astype(np.int32),
        level=graph.level.numpy().astype(np.int32),
        inputs=graph.input_ids.numpy(),
        outputs=graph.output_ids.numpy(),
        weight=weight,
        bias=bias,
        x=x,
        # Nobody trains them, and 60,000 samples of drawn numbers take longer than all calls.
        seed=np.broadcast_to(np.float32(1), (x.shape[0], graph.output_ids.numel())),
        activation="clamp(0, 32)",
        output_activation="clamp(0, 32)",
    )


def scale(width: int, levels: int, batch: int) -> Problem:
    """Levels of one width, fan-in 32, relu throughout."""
    return replace(by_fan_in([width] * (levels + 1), 32, batch), output_activation="relu")


def _layered(
    sizes: list[int], rows: Callable[[int, int, np.random.Generator], Edges], batch: int
) -> Problem:
    """Levels of these sizes; edges target by target, sources ascending."""
    rng = np.random.default_rng(0)
    sources, targets, start = [], [], 0
    for below, above in pairwise(sizes):
        source, target = rows(below, above, rng)
        sources.append((start + source).astype(np.int32))
        targets.append((start + below + target).astype(np.int32))
        start += below
    level = np.repeat(np.arange(len(sizes)), sizes)
    return _problem(rng, np.concatenate(sources), np.concatenate(targets), level, batch)


def _problem(
    rng: np.random.Generator, source: np.ndarray, target: np.ndarray, level: np.ndarray, batch: int
) -> Problem:
    """Relu inside, identity at the last level, numbers about as large as a trained network's.

    The weights keep the values' size from level to level, or a little less: else a thousand levels
    of relu would make an error of rounding grow until no two contenders agree.
    """
    neurons, last = level.size, level.max()
    fan_in = np.bincount(target, minlength=neurons).astype(np.float32)
    inputs, outputs = np.flatnonzero(level == 0), np.flatnonzero(level == last)
    scale = 0.97 * np.sqrt(2 / np.maximum(fan_in, 1))
    weight = rng.standard_normal(source.size, np.float32)
    weight *= scale[target]
    return Problem(
        source=source.astype(np.int32),
        target=target.astype(np.int32),
        level=level.astype(np.int32),
        inputs=inputs,
        outputs=outputs,
        weight=weight,
        bias=0.1 * rng.standard_normal(neurons - inputs.size, np.float32),
        x=rng.standard_normal((batch, inputs.size), np.float32),
        seed=rng.standard_normal((batch, outputs.size), np.float32),
        activation="relu",
        output_activation="identity",
    )


def _spread(rng: np.random.Generator, rows: int, reads: int, pool: int) -> np.ndarray:
    """(rows, reads) distinct places in a pool, ascending: one from each of `reads` equal parts."""
    bounds = np.arange(reads + 1) * pool // reads
    return bounds[:-1] + rng.integers(0, np.diff(bounds), (rows, reads))


def _window(
    rng: np.random.Generator, rows: int, reads: int, below: int, previous: int
) -> np.ndarray:
    """Places in a window whose last `previous` are the level below, of which one is always read."""
    if below < reads - 1:
        return _spread(rng, rows, min(reads, below + previous), below + previous)
    skips = _spread(rng, rows, reads - 1, below)
    return np.concatenate([skips, below + rng.integers(0, previous, (rows, 1))], axis=1)
