"""Circuits are the whole paths of the strongest edges, by enumeration."""

import pytest
import torch
from cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st

from graphnn import GraphError, Network, NeuronGraph
from graphnn.attribution import circuit_edges, gradient_x_value, top_circuit
from graphnn.edit import prune, subgraph


def random_net(seed):
    rng = torch.Generator().manual_seed(seed)
    count = 11
    pairs = torch.triu_indices(count, count, 1)
    pairs = pairs[:, torch.rand(pairs.shape[1], generator=rng) < 0.35]
    pairs = pairs[:, torch.randperm(pairs.shape[1], generator=rng)]
    edges = torch.randperm(count, generator=rng)[pairs]
    free = (torch.bincount(edges[1], minlength=count) == 0).nonzero().flatten()
    graph = NeuronGraph(
        edges,
        num_neurons=count,
        inputs=free[1:],
        outputs=torch.randperm(count, generator=rng)[:3],
        activation="tanh",
    )
    return Network(graph, dtype=torch.float64, generator=rng), rng


def whole_paths(graph, chosen, ends):
    """All edges on paths of chosen edges from a neuron without sources to one of `ends`."""
    readers = {n: [] for n in range(graph.num_neurons)}
    for edge in chosen:
        source, target = graph.edge_index[:, edge].tolist()
        readers[source].append((edge, target))
    found = set()

    def walk(neuron, path):
        if neuron in ends:
            found.update(path)
        for edge, target in readers[neuron]:
            walk(target, [*path, edge])

    for start in (graph.fan_in == 0).nonzero().flatten().tolist():
        walk(start, [])
    return sorted(found)


@settings(deadline=None, max_examples=60)
@given(st.integers(0, 10**6), st.integers(1, 25))
def test_agrees_with_enumeration(seed, num_edges):
    net, rng = random_net(seed)
    graph = net.graph
    x = torch.randn(6, net.in_features, dtype=torch.float64, generator=rng)
    strength = gradient_x_value(net, x, 1, wrt="edge").abs().mean(0)
    order = sorted(range(graph.num_edges), key=lambda e: (-strength[e], e))
    chosen = [e for e in order[:num_edges] if strength[e] > 0]
    expected = whole_paths(graph, chosen, {int(graph.output_ids[1])})
    found = circuit_edges(net, x, 1, num_edges)
    assert found.tolist() == expected
    circuit = top_circuit(net, x, 1, num_edges)
    assert circuit.graph == subgraph(net, found).graph
    assert torch.equal(circuit.weight, net.weight[found])
    # All that is left out of the network is what pruning leaves out.
    rest = [e for e in range(graph.num_edges) if e not in expected]
    kept = circuit.graph.input_ids.numel()
    assert circuit.out_features == net.out_features
    read = set(graph.edge_index[0][found].tolist()) | set(graph.output_ids.tolist())
    columns = [i for i, n in enumerate(graph.input_ids.tolist()) if n in read]
    assert kept == len(columns)
    torch.testing.assert_close(circuit(x[:, columns]), prune(net, rest)(x))


def test_all_edges_leave_out_what_the_target_does_not_read(rng):
    # 0 -> 2 -> 3 is the target's; 1 -> 4 the other output's; 5 is a dead end.
    graph = NeuronGraph([[0, 2, 1, 2], [2, 3, 4, 5]], outputs=[3, 4])
    net = Network(graph, [1.0, 2.0, 3.0, 4.0])
    x = torch.ones(2, 2)
    assert circuit_edges(net, x, 0, 100).tolist() == [0, 1]
    assert circuit_edges(net, x, 1, 100).tolist() == [2]
    both = circuit_edges(net, x, lambda outputs: outputs.sum(1), 100)
    assert both.tolist() == [0, 1, 2]
    assert circuit_edges(net, x, torch.tensor([0, 1]), 100).tolist() == [0, 1, 2]
    circuit = top_circuit(net, x, 0, 100)
    assert circuit.graph.num_edges == 2
    assert circuit.out_features == 2


def test_an_output_on_the_way_ends_no_path():
    # 0 -> 1 -> 2; 1 is an output that the score does not read, and 1 -> 2 is too weak.
    net = Network(NeuronGraph([[0, 1, 0], [1, 2, 2]], outputs=[1, 2]), [5.0, 0.1, 3.0], [0.0, 0.0])
    x = torch.ones(1, 1)
    assert circuit_edges(net, x, 1, 1).tolist() == [2]
    assert circuit_edges(net, x, 1, 2).tolist() == [2]
    assert circuit_edges(net, x, 1, 3).tolist() == [0, 1, 2]


def test_signs_do_not_cancel_over_samples():
    # Over x = 1 and x = -1 the mean of weight * value is 0.
    net = Network(NeuronGraph([[0, 1], [2, 2]], bias=False), [10.0, 1.0])
    x = torch.tensor([[1.0, 1.0], [-1.0, 1.0]])
    assert circuit_edges(net, x, 0, 1).tolist() == [0]


def test_ties_go_by_id_and_dead_edges_never():
    net = Network(NeuronGraph([[0, 1, 2, 3], [4, 4, 4, 4]], bias=False), [1.0, -1.0, 1.0, 0.0])
    assert circuit_edges(net, torch.ones(1, 4), 0, 2).tolist() == [0, 1]
    assert circuit_edges(net, torch.ones(1, 4), 0, 4).tolist() == [0, 1, 2]


def test_many_edges_are_scored_in_pieces(rng):
    net = Network(CASES["fan-in 10,000"](), generator=rng)
    x = torch.randn(400, net.in_features, generator=rng)
    strength = gradient_x_value(net, x, 0, wrt="edge").abs().mean(0)
    expected = strength.topk(50).indices.sort().values
    assert torch.equal(circuit_edges(net, x, 0, 50), expected)


@pytest.mark.parametrize("num_edges", [0, -1, 1.5, None])
def test_the_number_of_edges_is_checked(num_edges, rng):
    net = Network(CASES["dense"](), generator=rng)
    for function in (circuit_edges, top_circuit):
        with pytest.raises(GraphError, match="num_edges must be an integer of at least 1"):
            function(net, torch.ones(1, 7), 0, num_edges)
