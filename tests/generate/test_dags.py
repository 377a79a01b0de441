"""Wirings whose edges may skip levels."""

import pytest
import torch

from graphnn import generate


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def spans(graph):
    source, target = graph.edge_index
    return graph.level[target] - graph.level[source]


@pytest.mark.parametrize("span", [None, 1, 3])
def test_depth_holds_exactly_and_every_neuron_reads_the_level_below(span):
    graph = generate.random_dag(10, 203, 5, fan_in=8, depth=20, span=span, generator=seeded())
    sizes = [10, *[11] * 3, *[10] * 17, 5]
    assert graph.level.bincount().tolist() == sizes
    assert (graph.fan_in[10:] == 8).all()
    just_below = graph.edge_index[1][spans(graph) == 1]
    assert just_below.unique().tolist() == list(range(10, 218))
    assert spans(graph).max() == (21 if span is None else span)


def test_a_dag_of_one_neuron_a_level_is_what_it_must_be():
    graph = generate.random_dag(1, 4, 1, fan_in=3, depth=4, generator=seeded())
    assert graph.level.tolist() == [0, 1, 2, 3, 4, 5]
    assert graph.fan_in.tolist() == [0, 1, 2, 3, 3, 3]


def test_span_one_is_random_sparse():
    graph = generate.random_dag(6, 12, 4, fan_in=20, depth=2, span=1, generator=seeded())
    assert graph == generate.layered([6, 6, 6, 4])


def test_sources_are_drawn_uniformly_beside_the_one_just_below():
    graph = generate.random_dag(4, 4, 20_000, fan_in=3, depth=1, generator=seeded())
    from_outputs = graph.edge_index[0][graph.edge_index[1] >= 8]
    counts = from_outputs.bincount(minlength=8).double() / 20_000
    # One of 4 hidden neurons for sure, and 2 of the other 7.
    expected = torch.tensor([2 / 7] * 4 + [1 / 4 + 3 / 4 * 2 / 7] * 4, dtype=torch.float64)
    assert (counts - expected).abs().max() < 0.02


def test_every_possible_edge_exists_at_probability_one():
    graph = generate.erdos_renyi(3, 4, 2, 1.0)
    assert graph.fan_in.tolist() == [0, 0, 0, 3, 4, 5, 6, 7, 7]
    assert graph.num_levels == 6


def test_every_edge_is_as_likely():
    hits = torch.zeros(8, 8)
    generator = seeded()
    for _ in range(1000):
        source, target = generate.erdos_renyi(2, 4, 2, 0.3, generator=generator).edge_index
        hits[source, target] += 1 / 1000
    possible = torch.zeros(8, 8, dtype=torch.bool)
    for target in range(2, 8):
        possible[: min(target, 6), target] = True
    assert (hits[~possible] == 0).all()
    assert (hits[possible] - 0.3).abs().max() < 0.06


def test_no_edges_at_probability_zero():
    graph = generate.erdos_renyi(3, 4, 2, 0.0)
    assert graph.num_edges == 0
    assert graph.level.tolist() == [0] * 3 + [1] * 6


def test_scale_free_neurons_read_their_number_of_earlier_ones():
    graph = generate.scale_free(3, 500, 7, fan_in=6, generator=seeded())
    assert graph.fan_in.tolist() == [0, 0, 0, 3, 4, 5, *[6] * 504]
    assert int(graph.edge_index[0].max()) < 503


def test_fan_outs_of_a_scale_free_wiring_are_drawn_in_proportion_to_what_is_there():
    # Neuron 2 reads one of the two inputs; 3 reads it again with probability (1 + 1) / (2 + 1 + 1).
    again = 0
    generator = seeded()
    for _ in range(1500):
        first, second = generate.scale_free(2, 1, 1, 1, generator=generator).edge_index[0].tolist()
        again += first == second
    assert abs(again / 1500 - 0.5) < 0.05


def test_a_scale_free_wiring_has_hubs():
    free = generate.scale_free(10, 5000, 10, fan_in=5, generator=seeded())
    even = generate.random_dag(10, 5000, 10, fan_in=5, depth=1, generator=seeded())
    assert free.edge_index[0].bincount().max() > 150
    assert even.num_levels == 3
