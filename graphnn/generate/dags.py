"""Wirings whose edges may skip levels."""

from __future__ import annotations

import numpy as np
import torch

from graphnn.errors import GraphError
from graphnn.generate.arguments import assemble, check_count, check_probability
from graphnn.generate.rows import Rows, offsets, seeded
from graphnn.graph import NeuronGraph


def random_dag(
    n_in: int,
    n_hidden: int,
    n_out: int,
    fan_in: int,
    depth: int,
    span: int | None = None,
    activation: str = "relu",
    output_activation: str = "identity",
    bias: bool = True,
    generator: torch.Generator | None = None,
) -> NeuronGraph:
    """Hidden neurons on `depth` levels, each reading neurons of several lower levels at random.

    A neuron reads one neuron of the level just below its own, drawn uniformly, so that it stays on
    its level, and `fan_in - 1` others, drawn uniformly from the `span` levels below. Hidden levels
    are equally large, the first ones by one neuron larger where `depth` does not divide `n_hidden`;
    the outputs are on a level of their own.

    Args:
        n_in: Inputs, level 0.
        n_hidden: Hidden neurons, levels 1 ... depth; at least `depth`.
        n_out: Outputs, level depth + 1.
        fan_in: Incoming edges of every computed neuron; all of the levels that it may read where
            they have fewer neurons.
        depth: Hidden levels.
        span: How many levels down an edge may reach: 1 is the level just below; default: all.
        activation: Of hidden neurons.
        output_activation: Of outputs.
        bias: Whether computed neurons have a bias.
        generator: Draws the edges; default: torch's global one.

    Returns:
        The wiring, with depth + 2 levels.

    Raises:
        GraphError: An argument is out of range.

    Example:
        >>> graph = graphnn.generate.random_dag(10, 200, 5, fan_in=8, depth=20)
        >>> graph.num_neurons, graph.num_edges, graph.num_levels
        (215, 1640, 22)
    """
    count_in, count_out = check_count(n_in, "n_in"), check_count(n_out, "n_out")
    num_levels = check_count(depth, "depth")
    hidden = check_count(n_hidden, "n_hidden")
    if hidden < num_levels:
        raise GraphError(
            f"n_hidden must be at least depth, one neuron a level (got n_hidden={hidden} and "
            f"depth={num_levels})."
        )
    reach = num_levels + 1 if span is None else check_count(span, "span")
    wanted = check_count(fan_in, "fan_in")
    rng = seeded(generator)
    own = np.full(num_levels, hidden // num_levels)
    own[: hidden % num_levels] += 1
    size = np.array([count_in, *own, count_out])
    start = offsets(size)
    level = np.repeat(np.arange(1, size.size), size[1:])
    first = start[np.maximum(level - reach, 0)]
    rows = Rows(count_in, first, start[level] - first)
    # Edge r of these is row r's from the level just below.
    steady = start[level - 1] + rng.integers(0, size[level - 1])
    count = np.minimum(wanted, rows.width)
    edges = rows.drawn(count, rng, kept=(np.arange(level.size + 1), steady))
    return assemble(edges, count_in, hidden, count_out, activation, output_activation, bias)


def erdos_renyi(
    n_in: int,
    n_hidden: int,
    n_out: int,
    probability: float,
    activation: str = "relu",
    output_activation: str = "identity",
    bias: bool = True,
    generator: torch.Generator | None = None,
) -> NeuronGraph:
    """Every possible edge from a lower to a higher id exists with one probability.

    Hidden neurons read inputs and earlier hidden neurons, outputs read inputs and hidden neurons. A
    computed neuron may be left without incoming edges, a constant.

    Args:
        n_in: Inputs.
        n_hidden: Hidden neurons; may be 0.
        n_out: Outputs.
        probability: Of every edge, in 0 ... 1.
        activation: Of hidden neurons.
        output_activation: Of outputs.
        bias: Whether computed neurons have a bias.
        generator: Draws the edges; default: torch's global one.

    Returns:
        The wiring.

    Raises:
        GraphError: An argument is out of range.

    Source: P. Erdős, A. Rényi, "On random graphs I", 1959; E. N. Gilbert, "Random graphs", 1959;
        directed by id as in S. Xie et al., "Exploring randomly wired neural networks for image
        recognition", ICCV 2019.

    Example:
        >>> graph = graphnn.generate.erdos_renyi(4, 16, 2, probability=1.0)
        >>> graph.num_neurons, graph.num_edges, graph.num_levels
        (22, 224, 18)
    """
    counts = _check_counts(n_in, n_hidden, n_out)
    share = check_probability(probability, "probability")
    rng = seeded(generator)
    width = _earlier(*counts)
    rows = Rows(counts[0], np.zeros_like(width), width)
    edges = rows.drawn(rng.binomial(width, share), rng)
    return assemble(edges, *counts, activation, output_activation, bias)


def scale_free(
    n_in: int,
    n_hidden: int,
    n_out: int,
    fan_in: int,
    activation: str = "relu",
    output_activation: str = "identity",
    bias: bool = True,
    generator: torch.Generator | None = None,
) -> NeuronGraph:
    """Neurons come one by one and read earlier ones, those most that are read most already.

    A neuron's distinct sources are drawn one after the other from the earlier inputs and hidden
    neurons, each with a probability in proportion to its number of outgoing edges + 1. Fan-outs
    then follow a power law: few hubs, many neurons that are read rarely or never.

    Args:
        n_in: Inputs.
        n_hidden: Hidden neurons; may be 0.
        n_out: Outputs.
        fan_in: Incoming edges of every computed neuron; all earlier neurons where there are fewer.
        activation: Of hidden neurons.
        output_activation: Of outputs.
        bias: Whether computed neurons have a bias.
        generator: Draws the edges; default: torch's global one.

    Returns:
        The wiring.

    Raises:
        GraphError: An argument is out of range.

    Source: D. Price, "A general theory of bibliometric and other cumulative advantage processes",
        JASIS 27, 1976; A.-L. Barabási, R. Albert, Science 286, 1999.

    Example:
        >>> graphnn.generate.scale_free(8, 1000, 4, fan_in=8).fan_in.unique()
        tensor([0, 8])
    """
    from graphnn.generate import kernels

    counts = _check_counts(n_in, n_hidden, n_out)
    wanted = check_count(fan_in, "fan_in")
    rng = seeded(generator)
    count = np.minimum(wanted, _earlier(*counts))
    ptr = offsets(count)
    edges = np.empty((2, int(ptr[-1])), np.int64)
    edges[1] = np.repeat(np.arange(counts[0], sum(counts)), count)
    kernels.draw_preferential(counts[0], counts[1], ptr, edges[0], rng)
    return assemble(edges, *counts, activation, output_activation, bias)


def _check_counts(n_in: object, n_hidden: object, n_out: object) -> tuple[int, int, int]:
    return (
        check_count(n_in, "n_in"),
        check_count(n_hidden, "n_hidden", at_least=0),
        check_count(n_out, "n_out"),
    )


def _earlier(n_in: int, n_hidden: int, n_out: int) -> np.ndarray:
    """(n_hidden + n_out,) how many neurons each computed one may read: those before it."""
    return np.minimum(np.arange(n_in, n_in + n_hidden + n_out), n_in + n_hidden)
