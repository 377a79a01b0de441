"""Wirings in levels of given sizes."""

from itertools import combinations

import pytest
import torch
from torch import nn

import graphnn
from graphnn import generate


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def sources_of(graph, neuron):
    source, target = graph.edge_index
    return source[target == neuron].tolist()


def deviation(counts, expected):
    """Chi-square over its degrees of freedom: about 1 for counts that are as likely as expected."""
    return ((counts - expected) ** 2 / expected).sum().item() / (counts.numel() - 1)


def test_layered_is_the_wiring_of_linear_layers():
    model = nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3))
    assert generate.layered([4, 6, 3]) == graphnn.from_sequential(model).graph


@pytest.mark.parametrize("density", [0.004, 0.1, 0.37, 0.95, 1.0])
def test_density_is_exact_between_every_two_levels(density):
    graph = generate.random_sparse([40, 60, 25], density=density, generator=seeded())
    into = graph.edge_index[1]
    assert int((into < 100).sum()) == round(density * 40 * 60)
    assert int((into >= 100).sum()) == round(density * 60 * 25)


def test_by_density_every_choice_of_edges_is_as_likely():
    counts = dict.fromkeys(combinations(range(6), 3), 0)
    generator = seeded()
    for _ in range(2000):
        graph = generate.random_sparse([2, 3], density=0.5, generator=generator)
        source, target = graph.edge_index
        counts[tuple((source * 3 + target - 2).sort().values.tolist())] += 1
    drawn = torch.tensor(list(counts.values()), dtype=torch.float64)
    assert deviation(drawn, torch.full_like(drawn, 100)) < 2


def test_by_fan_in_every_choice_of_sources_is_as_likely():
    graph = generate.random_sparse([5, 30_000], fan_in=3, generator=seeded())
    chosen = graph.edge_index[0].view(-1, 3)
    codes = (chosen * torch.tensor([25, 5, 1])).sum(1)
    counts = codes.unique(return_counts=True)[1].double()
    assert counts.numel() == 10
    assert deviation(counts, torch.full_like(counts, 3000)) < 2


@pytest.mark.parametrize("fan_in", [1, 7, 20, 30])
def test_fan_in_holds_for_every_neuron_or_is_all_of_the_level_below(fan_in):
    graph = generate.random_sparse([20, 25, 9], fan_in=fan_in, generator=seeded())
    assert set(graph.fan_in[20:45].tolist()) == {min(fan_in, 20)}
    assert set(graph.fan_in[45:].tolist()) == {min(fan_in, 25)}
    assert graph.num_levels == 3
    assert torch.equal(graph.level[graph.edge_index[1]] - graph.level[graph.edge_index[0]],
                       torch.ones(graph.num_edges, dtype=torch.int64))  # fmt: skip


def test_neurons_without_edges_are_constants():
    graph = generate.random_sparse([3, 50, 2], density=0.04, generator=seeded())
    assert graph.num_edges == 6 + 4
    assert int((graph.fan_in[3:53] == 0).sum()) >= 44


def test_blocks_are_separate_stacks():
    graph = generate.block_diagonal([4, 6, 2], num_blocks=2)
    one = generate.layered([2, 3, 1])
    assert [sources_of(graph, n) for n in (4, 5, 6)] == [[0, 1]] * 3
    assert [sources_of(graph, n) for n in (7, 8, 9)] == [[2, 3]] * 3
    assert [sources_of(graph, n) for n in (10, 11)] == [[4, 5, 6], [7, 8, 9]]
    assert graph.num_edges == 2 * one.num_edges


def test_uneven_blocks_differ_by_one_neuron():
    graph = generate.block_diagonal([7, 5], num_blocks=3)
    assert [sources_of(graph, n) for n in range(7, 12)] == [
        [0, 1],
        [2, 3],
        [2, 3],
        [4, 5, 6],
        [4, 5, 6],
    ]


def test_windows_follow_the_line_and_stay_inside():
    graph = generate.local([8, 4, 8], fan_in=3)
    assert [sources_of(graph, n) for n in range(8, 12)] == [[0, 1, 2], [1, 2, 3], [3, 4, 5],
                                                            [5, 6, 7]]  # fmt: skip
    assert sources_of(graph, 12) == [8, 9, 10]
    assert sources_of(graph, 19) == [9, 10, 11]


def test_a_window_wider_than_the_level_is_all_of_it():
    assert generate.local([3, 5, 4], fan_in=9) == generate.layered([3, 5, 4])


def test_nothing_rewired_is_local():
    assert generate.small_world([30] * 3, 4, 0.0) == generate.local([30] * 3, 4)


@pytest.mark.parametrize("rewire", [0.1, 1.0])
def test_rewired_edges_reach_anywhere_below_and_levels_stay(rewire):
    sizes = [50] * 6
    graph = generate.small_world(sizes, 6, rewire, generator=seeded())
    assert graph.level.tolist() == [level for level in range(6) for _ in range(50)]
    assert set(graph.fan_in[50:].tolist()) == {6}
    source, target = graph.edge_index
    kept = generate.local(sizes, 6)
    own = set(map(tuple, kept.edge_index.t().tolist()))
    moved = [pair for pair in graph.edge_index.t().tolist() if tuple(pair) not in own]
    expected = rewire * 5 / 6 * graph.num_edges
    assert abs(len(moved) - expected) < 0.2 * expected
    assert (graph.level[target] - graph.level[source]).max() == 5


def test_a_full_small_world_has_nowhere_else_to_go_on_the_first_level():
    graph = generate.small_world([4, 4], fan_in=4, rewire=1.0, generator=seeded())
    assert graph == generate.layered([4, 4])
