"""The networks of the Sparse DNN Graph Challenge."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from graphnn.errors import GraphError
from graphnn.generate.arguments import assemble_levels, check_count
from graphnn.generate.rows import seeded
from graphnn.graph import NeuronGraph

_COPIES = 16
_WEIGHT = 1 / 16
_BIAS = {1024: -0.30, 4096: -0.35, 16384: -0.40, 65536: -0.45}


def radixnet(
    num_neurons: int,
    num_layers: int,
    activation: str = "relu",
    output_activation: str = "identity",
    bias: bool = True,
    generator: torch.Generator | None = None,
) -> NeuronGraph:
    """A RadiX-Net: every neuron reads 32 neurons of the level below and feeds 32 of the one above.

    With N = `num_neurons`, N' = N / 16 and K = log2(N'), layer l = 1 ... L belongs to block
    b = (l - 1) // K and has the step 2^k, k = (l - 1) mod K. Neuron i feeds neuron j iff j mod N'
    is r or (r - 2^k) mod N', where r = p_b(i) mod N'. p_0 is the identity, every later p_b a random
    permutation.

    Args:
        num_neurons: N, of every level: 16 times a power of two, at least 32. The challenge has
            1024, 4096, 16384 and 65536.
        num_layers: L. The challenge has 120, 480 and 1920.
        activation: Of hidden neurons. The challenge has "clamp(0, 32)" for all.
        output_activation: Of outputs.
        bias: Whether computed neurons have a bias.
        generator: Draws the permutations; default: torch's global one.

    Returns:
        The wiring, with 32 * N * L edges; `radixnet_parameters` gives the challenge's numbers.

    Raises:
        GraphError: An argument is out of range.

    Source: J. Kepner, R. Robinett, "RadiX-Net: structured sparse matrices for deep neural
        networks", 2019; J. Kepner et al., "Sparse Deep Neural Network Graph Challenge", 2019.

    Example:
        >>> graph = graphnn.generate.radixnet(1024, 120, "clamp(0, 32)", "clamp(0, 32)")
        >>> net = graphnn.Network(graph, *graphnn.generate.radixnet_parameters(graph))
        >>> net.weight[0].item(), round(net.bias[0].item(), 2)
        (0.0625, -0.3)
    """
    size, depth = check_count(num_neurons, "num_neurons"), check_count(num_layers, "num_layers")
    period = size // _COPIES
    if size % _COPIES or period < 2 or period & (period - 1):
        raise GraphError(
            "num_neurons must be 16 times a power of two and at least 32, such as 1024 "
            f"(got {size})."
        )
    rng = seeded(generator)
    num_steps = period.bit_length() - 1
    residue = np.arange(size) % period
    # int32 where ids fit: the largest networks have hundreds of millions of edges.
    dtype = np.int32 if size * (depth + 1) < 2**31 else np.int64
    edges = np.empty((2, depth, size, 2 * _COPIES), dtype)
    for layer in range(depth):
        block, k = divmod(layer, num_steps)
        if block > 0 and k == 0:
            residue = rng.permutation(size) % period
        # (N', 16): the neurons of each residue, ascending.
        of_residue = np.argsort(residue, kind="stable").reshape(period, _COPIES)
        stepped = np.roll(of_residue, -(2**k), axis=0)
        sources = np.sort(np.concatenate([of_residue, stepped], axis=1), axis=1)
        first = layer * size
        edges[0, layer].reshape(_COPIES, period, -1)[:] = sources + first
        edges[1, layer] = np.arange(first + size, first + 2 * size)[:, None]
    return assemble_levels(
        edges.reshape(2, -1), (size,) * (depth + 1), activation, output_activation, bias
    )


def radixnet_parameters(
    graph: NeuronGraph, dtype: torch.dtype | None = None
) -> tuple[Tensor, Tensor]:
    """The weights and biases that the Sparse DNN Graph Challenge gives a `radixnet`.

    Every weight is 1/16. Every bias is -0.30, -0.35, -0.40 or -0.45 at 1024, 4096, 16384 or 65536
    neurons a level.

    Args:
        graph: A `radixnet` of one of these sizes.
        dtype: Of both; default: torch's default.

    Returns:
        (weight (E,), bias (K,)), as `graphnn.Network` takes them.

    Raises:
        GraphError: The challenge has no networks with this many inputs.

    Source: https://graphchallenge.mit.edu/challenges

    Example:
        >>> graph = graphnn.generate.radixnet(4096, 2)
        >>> weight, bias = graphnn.generate.radixnet_parameters(graph)
        >>> weight.shape, bias.unique()
        (torch.Size([262144]), tensor([-0.3500]))
    """
    size = graph.input_ids.numel()
    if size not in _BIAS:
        raise GraphError(
            f"graph must have {', '.join(map(str, _BIAS))} inputs, as the challenge's networks do "
            f"(got {size})."
        )
    num_biases = graph.bias_neurons.numel()
    return (
        torch.full((graph.num_edges,), _WEIGHT, dtype=dtype),
        torch.full((num_biases,), _BIAS[size], dtype=dtype),
    )
