"""The networks of the Sparse DNN Graph Challenge."""

import math

import pytest
import torch

import graphnn
from graphnn import generate


def feeds(size, layer, permutation):
    """The (in, out) adjacency of a layer, counted from 1, straight from the definition."""
    period = size // 16
    num_steps = int(math.log2(period))
    step = 2 ** ((layer - 1) % num_steps)
    adjacency = torch.zeros(size, size, dtype=torch.bool)
    for i in range(size):
        r = permutation[i] % period
        for j in range(size):
            adjacency[i, j] = j % period in (r, (r - step) % period)
    return adjacency


def adjacency_of(graph, size, layer):
    source, target = graph.edge_index
    chosen = target // size == layer
    matrix = torch.zeros(size, size, dtype=torch.bool)
    matrix[source[chosen] - (layer - 1) * size, target[chosen] - layer * size] = True
    return matrix


def test_the_first_block_is_the_formula_with_the_identity():
    graph = generate.radixnet(128, 3)
    for layer in (1, 2, 3):
        expected = feeds(128, layer, list(range(128)))
        assert torch.equal(adjacency_of(graph, 128, layer), expected)


def test_a_later_block_is_the_formula_with_one_permutation():
    size, period = 64, 4
    graph = generate.radixnet(size, 6, generator=torch.Generator().manual_seed(0))
    for block in (1, 2):
        one, other = (adjacency_of(graph, size, 2 * block + k) for k in (1, 2))
        # Both layers of the block together tell each neuron's residue: it feeds r and r - 1, then r
        # and r - 2.
        residue = [
            next(r for r in range(period) if one[i, r] and one[i, (r - 1) % period]
                 and other[i, r] and other[i, (r - 2) % period])
            for i in range(size)
        ]  # fmt: skip
        assert residue != [i % period for i in range(size)]
        assert torch.tensor(residue).bincount().tolist() == [16] * period
        for k, matrix in ((1, one), (2, other)):
            assert torch.equal(matrix, feeds(size, 2 * block + k, residue))


def test_fan_in_and_fan_out_are_32():
    graph = generate.radixnet(1024, 14, generator=torch.Generator().manual_seed(0))
    assert graph.num_edges == 32 * 1024 * 14
    assert (graph.fan_in[1024:] == 32).all()
    assert (graph.edge_index[0].bincount() == 32).all()
    assert set(graph.activation[1024:-1024]) == {"relu"}
    assert set(graph.activation[-1024:]) == {"identity"}


@pytest.mark.parametrize(("size", "bias"), [(1024, -0.3), (4096, -0.35)])
def test_the_challenge_network_computes_its_recurrence(size, bias):
    graph = generate.radixnet(size, 3, "clamp(0, 32)", "clamp(0, 32)")
    net = graphnn.Network(graph, *generate.radixnet_parameters(graph), backend="reference")
    images = (torch.rand(4, size, generator=torch.Generator().manual_seed(0)) < 0.3).float()
    expected = images
    for layer in (1, 2, 3):
        z = expected @ (adjacency_of(graph, size, layer).float() / 16) + bias
        expected = z.clamp(0, 32)
    assert expected.abs().sum() > 0
    torch.testing.assert_close(net(images), expected)


def test_parameters_take_a_dtype():
    graph = generate.radixnet(1024, 1)
    weight, bias = generate.radixnet_parameters(graph, dtype=torch.float64)
    assert weight.dtype == bias.dtype == torch.float64
    assert bias.unique().tolist() == [-0.3]
