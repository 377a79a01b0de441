"""The wiring: what it accepts, what it refuses, and what it knows."""

# A gradient is None before the backward pass, a parametrization is a module that looks like a
# tensor to the type checker, and wrong types are given on purpose.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportIndexIssue=false, reportOptionalIterable=false

import copy
import pickle
import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphnn

DIAMOND = [[0, 0, 1, 2], [1, 2, 3, 3]]


def test_defaults():
    graph = graphnn.NeuronGraph(DIAMOND)
    assert torch.equal(graph.edge_index, torch.tensor(DIAMOND))
    assert (graph.num_neurons, graph.num_edges, graph.num_levels) == (4, 4, 3)
    assert graph.level.tolist() == [0, 1, 1, 2]
    assert {name: ids.tolist() for name, ids in graph.inputs.items()} == {"input": [0]}
    assert {name: ids.tolist() for name, ids in graph.outputs.items()} == {"output": [3]}
    assert graph.activation == ("identity",) * 4
    assert graph.bias_neurons.tolist() == [1, 2, 3]
    assert graph.fan_in.tolist() == [0, 1, 1, 2]
    assert graph.names is None
    assert graph.density == 1


@st.composite
def wirings(draw):
    """(edges, N, inputs) of a random DAG with permuted ids and shuffled edges."""
    n = draw(st.integers(1, 12))
    pairs = [(a, b) for b in range(n) for a in range(b)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=30)) if pairs else []
    ids = draw(st.permutations(range(n)))
    edges = [(ids[a], ids[b]) for a, b in chosen]
    free = sorted(set(range(n)) - {target for _, target in edges})
    inputs = [neuron for neuron in free if draw(st.booleans())]
    return edges, n, inputs


@settings(deadline=None)
@given(wirings())
def test_levels_by_brute_force(wiring):
    edges, n, inputs = wiring

    def level(neuron):
        if neuron in inputs:
            return 0
        return 1 + max((level(source) for source, target in edges if target == neuron), default=0)

    graph = graphnn.NeuronGraph(np.array(edges, dtype=int).reshape(-1, 2).T, n, inputs, range(n))
    assert graph.level.tolist() == [level(neuron) for neuron in range(n)]
    assert graph.num_levels == 1 + max(level(neuron) for neuron in range(n))
    targets = [target for _, target in edges]
    assert graph.fan_in.tolist() == [targets.count(neuron) for neuron in range(n)]
    for index in range(graph.num_levels):
        own = [i for i, target in enumerate(targets) if level(target) == index]
        assert graph.edges_of_level(index).tolist() == own
    shuffled = list(reversed(edges))
    found = graph.edge_ids([s for s, _ in shuffled], [t for _, t in shuffled])
    assert found.tolist() == list(reversed(range(len(edges))))


@pytest.mark.parametrize("order", ["ascending", "descending", "shuffled"])
def test_a_chain_of_a_million_levels(order, rng):
    ids = torch.arange(1_000_000)
    if order == "descending":
        ids = ids.flip(0)
    if order == "shuffled":
        ids = torch.randperm(1_000_000, generator=rng)
    edges = torch.stack([ids[:-1], ids[1:]])
    graphnn.NeuronGraph(DIAMOND)
    start = time.perf_counter()
    graph = graphnn.NeuronGraph(edges)
    # A Python loop over the levels would take many times as long on any machine.
    assert time.perf_counter() - start < 5
    assert graph.num_levels == 1_000_000
    assert torch.equal(graph.level[ids], torch.arange(1_000_000))
    assert graph.edges_of_level(999_999).tolist() == [999_998]


def test_density():
    # 2 x 2 with one edge missing, and a skip edge from level 0 to level 2 of size 1.
    graph = graphnn.NeuronGraph([[0, 0, 1, 2, 3, 0], [2, 3, 3, 4, 4, 4]])
    assert graph.density == pytest.approx(6 / (4 + 2 + 2))


def test_edges_of_level_refuses():
    graph = graphnn.NeuronGraph(DIAMOND)
    assert graph.edges_of_level(0).tolist() == []
    assert graph.edges_of_level(np.int64(2)).tolist() == [2, 3]
    for level in (-1, 3, 1.0, "1", None):
        with pytest.raises(graphnn.GraphError, match=r"level must be an integer in 0 \.\.\. 2"):
            graph.edges_of_level(level)


def test_ids_of_labels():
    graph = graphnn.NeuronGraph(DIAMOND, names=["in", ("tuple", 1), 7, "out"])
    assert graph.ids(["out", 7, ("tuple", 1), 7]).tolist() == [3, 2, 1, 2]
    numbered = graphnn.NeuronGraph(DIAMOND, names=[9, 8, 7, 6])
    assert numbered.ids(torch.tensor([6, 9])).tolist() == [3, 0]
    assert graph.ids([]).tolist() == []
    assert graph.ids([]).dtype == torch.int64
    assert graphnn.NeuronGraph(DIAMOND).ids([3, 0]).tolist() == [3, 0]


@pytest.mark.parametrize(
    ("labels", "message"),
    [
        ([(["in"],)], r"labels\[0\] is \(\['in'\],\), which no neuron has"),
        (["in", "ouut"], r"labels\[1\] is 'ouut', which no neuron has\. Did you mean 'out'"),
        ([8], r"labels\[0\] is 8, which no neuron has"),
        ([["in"]], r"labels\[0\] is \['in'\], which no neuron has"),
        ("in", r"sequence of labels \(got 'in'\)"),
        (5, r"sequence of labels \(got 5\)"),
    ],
)
def test_ids_refuses(labels, message):
    graph = graphnn.NeuronGraph(DIAMOND, names=["in", ("tuple", 1), 7, "out"])
    with pytest.raises(graphnn.GraphError, match=message):
        graph.ids(labels)


@pytest.mark.parametrize(
    ("sources", "targets", "message"),
    [
        ([0, 1], [1, 2], r"none from 'b' \(neuron 1\) to 'c' \(neuron 2\) \(pair 1\)"),
        ([1], [0], r"none from 'b' \(neuron 1\) to 'a'"),
        ([0, 1], [1], r"equally long \(got 2 and 1\)"),
        ([9], [1], r"sources must be neuron ids in 0 \.\.\. 3, but sources\[0\] is 9"),
        ([0], ["b"], r"targets must hold integers"),
    ],
)
def test_edge_ids_refuses(sources, targets, message):
    graph = graphnn.NeuronGraph(DIAMOND, names="abcd")
    with pytest.raises(graphnn.GraphError, match=message):
        graph.edge_ids(sources, targets)


FULL = {
    "edge_index": [[0, 1, 2, 1], [2, 2, 3, 4]],
    "inputs": {"a": [1], "b": [0]},
    "outputs": {"y": [4, 3]},
    "activation": ["identity", "identity", "relu", "elu(0.5)", "tanh"],
    "bias": [False, False, True, False, True],
    "names": ["x0", "x1", "h", ("y", 0), 4],
}
CHANGES = {
    "edge_index": [[1, 0, 2, 1], [2, 2, 3, 4]],
    "num_neurons": 6,
    "inputs": {"b": [0], "a": [1]},
    "outputs": {"z": [4, 3]},
    "activation": ["identity", "identity", "relu", "elu(0.6)", "tanh"],
    "bias": [False, False, True, True, True],
    "names": ["x0", "x1", "h", ("y", 1), 4],
}


@pytest.mark.parametrize("argument", CHANGES)
def test_differs_by_any_argument(argument):
    graph = graphnn.NeuronGraph(**FULL)
    arguments = {**FULL, argument: CHANGES[argument]}
    if argument == "num_neurons":
        arguments = {"edge_index": FULL["edge_index"], "num_neurons": 6}
        graph = graphnn.NeuronGraph(FULL["edge_index"])
    assert graph != graphnn.NeuronGraph(**arguments)


def test_equal_graphs_have_equal_hashes():
    one, other = graphnn.NeuronGraph(**FULL), graphnn.NeuronGraph(**FULL)
    assert one == other
    assert len({one, other}) == 1
    assert one != "a graph"


def test_pickles_and_copies():
    graph = graphnn.NeuronGraph(**FULL)
    loaded = pickle.loads(pickle.dumps(graph))
    assert loaded == graph
    assert loaded.names == graph.names
    assert copy.copy(graph) is copy.deepcopy(graph) is graph


def test_is_immutable():
    graph = graphnn.NeuronGraph(**FULL)
    names = [n for n in dir(graph) if not n.startswith("_") and not callable(getattr(graph, n))]
    for name in set(names) - {"derived"}:
        with pytest.raises(AttributeError, match="immutable"):
            setattr(graph, name, 3)
    graph.inputs["new"] = torch.tensor([0])
    graph.outputs.clear()
    assert graph == graphnn.NeuronGraph(**FULL)


def test_repr():
    graph = graphnn.NeuronGraph(**FULL)
    assert repr(graph) == "NeuronGraph(5 neurons, 4 edges, 3 levels; a: 1, b: 1, y: 2)"


def test_a_default_device_does_not_reach_the_wiring():
    with torch.device("meta"):
        graph = graphnn.NeuronGraph(**FULL)
        tensors = [graph.level, graph.edge_index, graph.ids(["h"]), graph.edges_of_level(1)]
        tensors += [graph.edge_ids([0], [2]), graph.input_ids, graph.fan_in, graph.bias_neurons]
    assert {tensor.device.type for tensor in tensors} == {"cpu"}


def test_building_leaves_the_random_state_alone():
    before = torch.get_rng_state()
    graphnn.NeuronGraph(**FULL)
    assert torch.equal(before, torch.get_rng_state())
