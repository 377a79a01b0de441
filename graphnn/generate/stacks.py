"""Wirings whose neurons come in levels of given sizes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import numpy as np
import torch

from graphnn.errors import GraphError
from graphnn.generate.arguments import (
    assemble_levels,
    check_count,
    check_probability,
    check_sizes,
)
from graphnn.generate.rows import Rows, offsets, seeded, share_out
from graphnn.graph import NeuronGraph


def layered(
    sizes: Sequence[int],
    activation: str = "relu",
    output_activation: str = "identity",
    bias: bool = True,
    generator: torch.Generator | None = None,
) -> NeuronGraph:
    """Every neuron reads the whole level just below its own, as in a stack of nn.Linear.

    Args:
        sizes: Neurons of each level, inputs first, outputs last.
        activation: Of hidden neurons.
        output_activation: Of outputs.
        bias: Whether computed neurons have a bias.
        generator: Not drawn from: taken so that all generators are called alike.

    Returns:
        The wiring, with sizes[l - 1] * sizes[l] edges into level l, row-major over (out, in).

    Raises:
        GraphError: An argument is out of range.

    Example:
        >>> graph = graphnn.generate.layered([784, 300, 10])
        >>> graph.num_neurons, graph.num_edges, graph.num_levels
        (1094, 238200, 3)
    """
    levels = check_sizes(sizes)
    edges = Rows.between(levels).all()
    return assemble_levels(edges, levels, activation, output_activation, bias)


def random_sparse(
    sizes: Sequence[int],
    density: float | None = None,
    fan_in: int | None = None,
    activation: str = "relu",
    output_activation: str = "identity",
    bias: bool = True,
    generator: torch.Generator | None = None,
) -> NeuronGraph:
    """Every neuron reads some neurons of the level just below its own, drawn at random.

    By `density` every choice of round(density * n_in * n_out) edges between two levels is as likely
    as any other; a neuron may then be left without incoming edges, a constant. By `fan_in` every
    choice of that many sources is as likely as any other, for each neuron by itself.

    Args:
        sizes: Neurons of each level, inputs first, outputs last.
        density: The share of possible edges that exist, in 0 ... 1.
        fan_in: Incoming edges of every neuron; all of the level below where that has fewer neurons.
            Either `density` or `fan_in` must be given.
        activation: Of hidden neurons.
        output_activation: Of outputs.
        bias: Whether computed neurons have a bias.
        generator: Draws the edges; default: torch's global one.

    Returns:
        The wiring.

    Raises:
        GraphError: An argument is out of range, or `density` leaves no edge between two levels.

    Example:
        >>> graph = graphnn.generate.random_sparse([784, 300, 10], density=0.1)
        >>> graph.num_neurons, graph.num_edges, graph.num_levels
        (1094, 23820, 3)
    """
    levels = check_sizes(sizes)
    if (density is None) == (fan_in is None):
        raise GraphError(
            "exactly one of density and fan_in must be given "
            f"(got density={density!r} and fan_in={fan_in!r})."
        )
    rng = seeded(generator)
    rows = Rows.between(levels)
    if fan_in is not None:
        count = np.minimum(check_count(fan_in, "fan_in"), rows.width)
    else:
        share = check_probability(density, "density")
        pieces = [
            share_out(_num_edges(share, below, above), above, below, rng)
            for below, above in pairwise(levels)
        ]
        count = np.concatenate(pieces)
    return assemble_levels(rows.drawn(count, rng), levels, activation, output_activation, bias)


def _num_edges(density: float, below: int, above: int) -> int:
    total = round(density * below * above)
    if total == 0:
        raise GraphError(
            f"density must leave at least one edge between every two levels, but {density!r} of "
            f"{below} x {above} edges is none."
        )
    return total


def block_diagonal(
    sizes: Sequence[int],
    num_blocks: int,
    activation: str = "relu",
    output_activation: str = "identity",
    bias: bool = True,
    generator: torch.Generator | None = None,
) -> NeuronGraph:
    """Separate stacks side by side: block b of a level reads block b of the level below.

    A level of n neurons is cut at b * n // num_blocks, so that blocks differ by at most one neuron.

    Args:
        sizes: Neurons of each level, inputs first, outputs last; at least `num_blocks` each.
        num_blocks: Blocks of each level.
        activation: Of hidden neurons.
        output_activation: Of outputs.
        bias: Whether computed neurons have a bias.
        generator: Not drawn from: taken so that all generators are called alike.

    Returns:
        The wiring.

    Raises:
        GraphError: An argument is out of range.

    Example:
        >>> graphnn.generate.block_diagonal([4, 6, 2], num_blocks=2).fan_in
        tensor([0, 0, 0, 0, 2, 2, 2, 2, 2, 2, 3, 3])
    """
    levels = check_sizes(sizes)
    blocks = check_count(num_blocks, "num_blocks")
    for level, size in enumerate(levels):
        if size < blocks:
            raise GraphError(
                f"num_blocks must be at most the size of every level (got {blocks}, but "
                f"sizes[{level}] is {size})."
            )
    first, width, start = [], [], 0
    for below, above in pairwise(levels):
        bounds = np.arange(blocks + 1) * below // blocks
        rows = np.diff(np.arange(blocks + 1) * above // blocks)
        first.append(start + np.repeat(bounds[:-1], rows))
        width.append(np.repeat(np.diff(bounds), rows))
        start += below
    edges = Rows(levels[0], np.concatenate(first), np.concatenate(width)).all()
    return assemble_levels(edges, levels, activation, output_activation, bias)


def local(
    sizes: Sequence[int],
    fan_in: int,
    activation: str = "relu",
    output_activation: str = "identity",
    bias: bool = True,
    generator: torch.Generator | None = None,
) -> NeuronGraph:
    """Every neuron reads a window of consecutive neurons of the level just below its own.

    Both levels are laid along one line: the window of neuron i of n is centred at (i + 1/2) / n of
    the level below and pushed inwards at the ends, so that every neuron reads `fan_in` neurons.

    Args:
        sizes: Neurons of each level, inputs first, outputs last.
        fan_in: Width of the window; the whole level below where that has fewer neurons.
        activation: Of hidden neurons.
        output_activation: Of outputs.
        bias: Whether computed neurons have a bias.
        generator: Not drawn from: taken so that all generators are called alike.

    Returns:
        The wiring.

    Raises:
        GraphError: An argument is out of range.

    Example:
        >>> graphnn.generate.local([4, 4], fan_in=3).edge_index
        tensor([[0, 1, 2, 0, 1, 2, 1, 2, 3, 1, 2, 3],
                [4, 4, 4, 5, 5, 5, 6, 6, 6, 7, 7, 7]])
    """
    levels = check_sizes(sizes)
    edges = _windows(levels, check_count(fan_in, "fan_in")).all()
    return assemble_levels(edges, levels, activation, output_activation, bias)


def _windows(levels: tuple[int, ...], fan_in: int) -> Rows:
    """Each neuron's window on the level below."""
    first, start = [], 0
    for below, above in pairwise(levels):
        width = min(fan_in, below)
        # Integers throughout: (i + 1/2) / above * below - width / 2, rounded down.
        centred = ((2 * np.arange(above) + 1) * below - width * above) // (2 * above)
        first.append(start + np.clip(centred, 0, below - width))
        start += below
    below_own = Rows.between(levels)
    return Rows(levels[0], np.concatenate(first), np.minimum(fan_in, below_own.width))


def small_world(
    sizes: Sequence[int],
    fan_in: int,
    rewire: float,
    activation: str = "relu",
    output_activation: str = "identity",
    bias: bool = True,
    generator: torch.Generator | None = None,
) -> NeuronGraph:
    """A `local` wiring some of whose edges are moved to far sources, across levels too.

    Every edge but the middle one of each window gets, with probability `rewire`, another source,
    drawn uniformly from all neurons of lower levels that the target does not read. The middle edges
    stay, so that every neuron stays on its level.

    Args:
        sizes: Neurons of each level, inputs first, outputs last.
        fan_in: Incoming edges of every neuron; the size of the level below where that is less.
        rewire: Probability that an edge is moved, in 0 ... 1.
        activation: Of hidden neurons.
        output_activation: Of outputs.
        bias: Whether computed neurons have a bias.
        generator: Draws; default: torch's global one.

    Returns:
        The wiring.

    Raises:
        GraphError: An argument is out of range.

    Source: D. Simard, L. Nadeau, H. Kröger, "Fastest learning in small-world neural networks",
        Physics Letters A 336, 2005; after D. Watts, S. Strogatz, Nature 393, 1998.

    Example:
        >>> graph = graphnn.generate.small_world([64] * 5, fan_in=8, rewire=0.1)
        >>> graph.num_neurons, graph.num_edges, graph.num_levels
        (320, 2048, 5)
    """
    levels = check_sizes(sizes)
    windows = _windows(levels, check_count(fan_in, "fan_in"))
    probability = check_probability(rewire, "rewire")
    rng = seeded(generator)
    edges, ptr = windows.all(), offsets(windows.width)
    stays = rng.random(edges.shape[1]) >= probability
    stays[ptr[:-1] + windows.width // 2] = True
    kept = offsets(np.add.reduceat(stays, ptr[:-1])), edges[0][stays]
    above = np.cumsum(levels)[:-1]
    lower = Rows(levels[0], np.zeros_like(windows.width), np.repeat(above, levels[1:]))
    drawn = lower.drawn(windows.width, rng, kept)
    return assemble_levels(drawn, levels, activation, output_activation, bias)
