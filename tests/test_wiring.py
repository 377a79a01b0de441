"""Reading and checking a graph's arguments: what is accepted, and what is refused."""

# A gradient is None before the backward pass, a parametrization is a module that looks like a
# tensor to the type checker, and wrong types are given on purpose.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportIndexIssue=false, reportOptionalIterable=false

import math
import re

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import graphnn

DIAMOND = [[0, 0, 1, 2], [1, 2, 3, 3]]


def refuses(message, *args, **kwargs):
    with pytest.raises(graphnn.GraphError, match=message):
        graphnn.NeuronGraph(*args, **kwargs)


@pytest.mark.parametrize(
    "edges",
    [
        DIAMOND,
        tuple(map(tuple, DIAMOND)),
        [torch.tensor(row) for row in DIAMOND],
        np.array(DIAMOND),
        np.asfortranarray(DIAMOND),
        np.array(DIAMOND, dtype=np.uint8),
        np.array(DIAMOND, dtype=np.int32),
        np.array(DIAMOND, dtype=np.uint64),
        [list(map(np.int16, row)) for row in DIAMOND],
        torch.tensor(DIAMOND, dtype=torch.uint8),
        torch.tensor(DIAMOND, dtype=torch.int32),
        torch.tensor(DIAMOND).t().contiguous().t(),
        torch.tensor(DIAMOND).repeat_interleave(2, 1)[:, ::2],
    ],
)
def test_edges_in_any_form(edges):
    graph = graphnn.NeuronGraph(edges)
    assert graph == graphnn.NeuronGraph(DIAMOND)
    assert graph.edge_index.dtype == torch.int64


def test_edges_from_pyg():
    from torch_geometric import EdgeIndex

    graph = graphnn.NeuronGraph(EdgeIndex(DIAMOND, sparse_size=(4, 4), sort_order="row"))
    assert graph == graphnn.NeuronGraph(DIAMOND)
    assert type(graph.edge_index) is torch.Tensor


@pytest.mark.parametrize(
    "empty", [[[], []], np.zeros((2, 0)), torch.zeros(2, 0, dtype=torch.int32)]
)
def test_no_edges(empty):
    graph = graphnn.NeuronGraph(empty, 2)
    assert (graph.num_edges, graph.num_levels, graph.density) == (0, 1, 1.0)
    assert graph.inputs["input"].tolist() == graph.outputs["output"].tolist() == [0, 1]


@pytest.mark.parametrize(
    ("expected", "arguments"),
    [
        (4, {}),
        (6, {"num_neurons": 6}),
        (6, {"num_neurons": np.int32(6)}),
        (5, {"names": "abcde"}),
        (5, {"activation": ["identity"] * 5, "inputs": [0, 4]}),
        (5, {"bias": [False, True, True, True, False]}),
        (5, {"bias": np.array([False, True, True, True, True]), "inputs": [0]}),
        (8, {"inputs": [0, 7]}),
        (8, {"inputs": {"a": [0], "b": (7,)}}),
        (9, {"outputs": torch.tensor([3, 8])}),
    ],
)
def test_num_neurons_follows_from_the_arguments(expected, arguments):
    assert graphnn.NeuronGraph(DIAMOND, **arguments).num_neurons == expected


@pytest.mark.parametrize(
    "ids",
    [
        [1, 0],
        (1, 0),
        range(1, -1, -1),
        np.array([1, 0], np.uint8),
        [np.int64(1), np.int8(0)],
        torch.tensor([1, 0], dtype=torch.int16),
        torch.tensor([1, 9, 0])[::2],
    ],
)
def test_groups_in_any_form(ids):
    edges = [[0, 1], [2, 2]]
    for graph in (graphnn.NeuronGraph(edges, inputs=ids), graphnn.NeuronGraph(edges, 3, ids, ids)):
        assert graph.inputs["input"].tolist() == [1, 0]
    assert graph.outputs["output"].tolist() == [1, 0]
    assert graphnn.NeuronGraph(edges, inputs=iter([1, 0])).inputs["input"].tolist() == [1, 0]
    assert graphnn.NeuronGraph(edges, inputs={0, 1}).inputs["input"].tolist() == [0, 1]


def test_named_groups_keep_their_order():
    graph = graphnn.NeuronGraph(
        [[0, 1, 2], [3, 3, 4]],
        inputs={"b": [2, 0], "a": [1]},
        outputs={"y": [3], "x": [4, 3, 4, 0]},
    )
    assert list(graph.inputs) == ["b", "a"]
    assert list(graph.outputs) == ["y", "x"]
    assert graph.input_ids.tolist() == [2, 0, 1]
    assert graph.output_ids.tolist() == [3, 4, 3, 4, 0]


def test_inputs_may_be_none_at_all():
    graph = graphnn.NeuronGraph([[0], [1]], inputs=[])
    assert graph.level.tolist() == [1, 2]
    assert graph.bias_neurons.tolist() == [0, 1]


def test_a_neuron_without_incoming_edges_that_is_no_input_is_a_constant():
    graph = graphnn.NeuronGraph([[0, 1], [2, 2]], inputs=[0])
    assert graph.level.tolist() == [0, 1, 2]
    assert graph.bias_neurons.tolist() == [1, 2]


def test_activation_for_all_or_each():
    all_relu = graphnn.NeuronGraph(DIAMOND, activation="relu")
    assert all_relu.activation == ("identity", "relu", "relu", "relu")
    names = ["identity", "elu( 0.50 )", "elu(0.5)", "leaky_relu(0.01)"]
    for given_names in (names, tuple(names), np.array(names), iter(names)):
        graph = graphnn.NeuronGraph(DIAMOND, activation=given_names)
        assert graph.activation == ("identity", "elu(0.5)", "elu(0.5)", "leaky_relu")


def test_bias_for_all_or_each():
    assert graphnn.NeuronGraph(DIAMOND, bias=False).bias_neurons.numel() == 0
    assert graphnn.NeuronGraph(DIAMOND, bias=np.bool_(False)).bias_neurons.numel() == 0
    each = [False, True, False, True]
    for bias in (each, tuple(each), np.array(each), torch.tensor(each)):
        assert graphnn.NeuronGraph(DIAMOND, bias=bias).bias_neurons.tolist() == [1, 3]


def test_keeps_no_hold_of_its_arguments():
    edges, ids = torch.tensor(DIAMOND), np.array([0])
    bias, names = np.array([False, True, True, True]), list("abcd")
    graph = graphnn.NeuronGraph(edges, 4, ids, bias=bias, names=names)
    twin = graphnn.NeuronGraph(DIAMOND, 4, [0], bias=bias.copy(), names="abcd")
    edges.zero_()
    ids.fill(3)
    bias.fill(False)
    names.clear()
    assert graph == twin


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (
            [[0, 1], [1, 2], [2, 3]],
            r"must have shape \(2, E\).*got shape \(3, 2\), int64\)\. Trans",
        ),
        ([0, 1], r"must have shape \(2, E\).*got shape \(2,\)"),
        (torch.tensor(3), r"must have shape \(2, E\).*got shape \(\)"),
        (np.zeros((2, 2, 2), int), r"must have shape \(2, E\).*got shape \(2, 2, 2\)"),
        ([[0, 1], [1]], r"must be a rectangular array of integers"),
        (torch.tensor([[0.0], [1.0]]), r"must hold integers \(got shape \(2, 1\), torch\.float32"),
        (np.array([[0.5], [1.0]]), r"must hold integers \(got shape \(2, 1\), float64"),
        (torch.tensor([[False], [True]]), r"must hold integers \(got shape \(2, 1\), torch\.bool"),
        ([[False], [True]], r"must hold integers"),
        ([["a"], ["b"]], r"must hold integers"),
        ("ab", r"must hold integers"),
        (None, r"must hold integers"),
        ([[0], [2**70]], r"must hold integers"),
        (np.array([[0], [2**63]], np.uint64), r"must fit into int64 \(got 9223372036854775808\)"),
        (torch.tensor([[0, 1], [1, 2]]).to_sparse(), r"must be a dense tensor .*sparse_coo"),
    ],
)
def test_refuses_edges_of_a_wrong_kind(edges, message):
    refuses(f"edge_index {message}", edges)


def test_labels_where_ids_are_asked_for():
    """The error says what makes ids of them; numbers that are none get no such hint."""
    net = graphnn.from_edges([("a", "b"), ("b", "c")])
    hint = r"integers \(got shape \(1,\), .*net\.graph\.ids\(labels\)"
    for labels in (["b"], np.array(["b"]), np.array(["b"], object)):
        with pytest.raises(graphnn.GraphError, match=f"neurons must hold {hint}"):
            graphnn.edit.remove_neurons(net, labels)
        with pytest.raises(graphnn.GraphError, match=f"sources must hold {hint}"):
            net.graph.edge_ids(labels, ["c"])
    with pytest.raises(graphnn.GraphError, match=r"float64\)\.$"):
        graphnn.edit.remove_neurons(net, [0.5])
    refuses(r"edge_index must hold .* Labels go to graphnn\.from_edges", [["a"], ["b"]])
    refuses(
        r"inputs must hold .* Labels go to graphnn\.from_edges", DIAMOND, inputs=["a"], names="abcd"
    )
    with pytest.raises(graphnn.GraphError) as refused:
        graphnn.from_edges(np.array([["a"], ["b"]]))
    assert str(refused.value).count("Labels") == 1


@pytest.mark.parametrize(
    ("edges", "num_neurons", "message"),
    [
        ([[0, 1, 5], [1, 3, 9]], 3, r"ids in 0 \.\.\. 2, but edge 1 is 1 -> 3"),
        ([[0, -1], [1, 0]], None, r"but edge 1 is -1 -> 0"),
        ([[0], [1]], 0, r"num_neurons must be at least 1 \(got 0\)"),
        ([[0], [1]], True, r"num_neurons must be an integer \(got True\)"),
        ([[0], [1]], 2.0, r"num_neurons must be an integer \(got 2\.0\)"),
        ([[], []], None, r"must have at least one neuron\. Give num_neurons"),
    ],
)
def test_refuses_ids_out_of_range(edges, num_neurons, message):
    refuses(message, edges, num_neurons)


def test_refuses_self_loops():
    refuses(r"edge 1 goes from neuron 2 to itself", [[0, 2, 1, 1], [1, 2, 1, 2]])
    refuses(r"edge 1 goes from 'c' \(neuron 2\) to itself", [[0, 2], [1, 2]], names="abc")


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([[0, 0, 1, 0], [1, 2, 2, 1]], r"edges 0 and 3 both go from neuron 0 to neuron 1"),
        # The pair that is complete first, not the pair that starts first.
        ([[0, 1, 1, 0], [2, 2, 2, 2]], r"edges 1 and 2 both go from neuron 1 to neuron 2"),
        ([[0, 0, 0], [1, 1, 1]], r"edges 0 and 1 both"),
    ],
)
def test_refuses_duplicates(edges, message):
    refuses(message + r".*coalesce='sum'", edges)


def test_refuses_duplicates_by_name():
    refuses(r"from 'a' \(neuron 0\) to 'b' \(neuron 1\)", [[0, 0], [1, 1]], names="ab")


def check_cycle(error, edges):
    """The message's cycle is one: every edge exists and leads to the next neuron, none repeats."""
    text = re.search(r"the cycle (.*) \(edges (.*)\)\. Remove", str(error))
    neurons = [int(neuron) for neuron in text[1].split(" -> ")]
    ids = [int(edge) for edge in text[2].split(", ")]
    assert neurons[0] == neurons[-1]
    assert len(set(neurons)) == len(ids) == len(neurons) - 1
    for edge, source, target in zip(ids, neurons[:-1], neurons[1:], strict=True):
        assert (edges[0][edge], edges[1][edge]) == (source, target)


@pytest.mark.parametrize(
    "edges",
    [
        [[0, 1], [1, 0]],
        [[0, 1, 2, 3], [1, 2, 3, 1]],
        [[4, 0, 3, 1, 2, 1], [0, 1, 1, 2, 3, 4]],
        [[0, 1, 2, 3, 4, 5], [1, 2, 0, 4, 5, 3]],
    ],
)
def test_names_one_whole_cycle_with_its_edges(edges):
    with pytest.raises(graphnn.GraphError, match="must describe an acyclic graph") as caught:
        graphnn.NeuronGraph(edges)
    check_cycle(caught.value, edges)


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6)), unique=True, min_size=1))
def test_cyclic_or_not_by_brute_force(pairs):
    pairs = [(a, b) for a, b in pairs if a != b]
    reach = np.zeros((7, 7), bool)
    for a, b in pairs:
        reach[a, b] = True
    for middle in range(7):
        reach |= np.outer(reach[:, middle], reach[middle])
    edges = np.array(pairs, dtype=int).reshape(-1, 2).T
    if reach.diagonal().any():
        with pytest.raises(graphnn.GraphError, match="acyclic") as caught:
            graphnn.NeuronGraph(edges, 7)
        check_cycle(caught.value, edges)
    else:
        assert graphnn.NeuronGraph(edges, 7).num_edges == len(pairs)


def test_names_a_cycle_by_names():
    cycle = r"the cycle ('a' -> 'b' -> 'a'|'b' -> 'a' -> 'b') \(edges"
    refuses(cycle, [[0, 1], [1, 0]], names="ab")


def test_a_cycle_of_a_million_neurons_is_found_and_shortened():
    ids = torch.arange(1_000_000)
    with pytest.raises(graphnn.GraphError, match=r"\(999000 more\)") as caught:
        graphnn.NeuronGraph(torch.stack([ids, ids.roll(-1)]))
    assert len(str(caught.value)) < 30_000


def test_refuses_edges_into_inputs():
    refuses(
        r"edge 2 goes from 'a' \(neuron 0\) to the input 'c' \(neuron 2\)",
        [[0, 1, 0], [3, 3, 2]],
        inputs=[0, 1, 2],
        names="abcd",
    )


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": [0, 0]}, r"may be an input once, but neuron 0 occurs 2 times"),
        ({"inputs": {"a": [0], "b": [0]}}, r"may be an input once, but neuron 0 occurs 2 times"),
        (
            {"inputs": [0, 4], "num_neurons": 4},
            r"inputs must be .*0 \.\.\. 3, but inputs\[1\] is 4",
        ),
        ({"inputs": [-1], "num_neurons": 4}, r"but inputs\[0\] is -1"),
        (
            {"inputs": {"a": [7]}, "num_neurons": 4},
            r"inputs\['a'\] must be .* inputs\['a'\]\[0\] is 7",
        ),
        ({"outputs": [3, 9], "num_neurons": 4}, r"but outputs\[1\] is 9"),
        ({"inputs": 0}, r"inputs must be a sequence of neuron ids \(got 0\)"),
        ({"outputs": {"y": 3}}, r"outputs\['y'\] must be a sequence of neuron ids \(got 3\)"),
        ({"inputs": torch.tensor(0)}, r"inputs must be one-dimensional \(got shape \(\)"),
        ({"inputs": [[0]]}, r"inputs must be one-dimensional \(got shape \(1, 1\)"),
        ({"inputs": [0.0]}, r"inputs must hold integers"),
        ({"inputs": [True, False, False, False]}, r"inputs must hold integers"),
        ({"inputs": "abc"}, r"inputs must hold integers"),
        ({"inputs": {}}, r"inputs must have at least one group"),
        ({"outputs": {}}, r"outputs must have at least one group"),
        ({"outputs": []}, r"at least one neuron, but 'output' is empty"),
        ({"outputs": {"a": [3], "b": []}}, r"at least one neuron, but 'b' is empty"),
        ({"inputs": {"my input": [0]}}, r"identifier and not a keyword \(got 'my input'\)"),
        ({"inputs": {"lambda": [0]}}, r"identifier and not a keyword \(got 'lambda'\)"),
        ({"outputs": {1: [3]}}, r"identifier and not a keyword \(got 1\)"),
        ({"inputs": {"self": [0]}}, r"input group must not be called 'self'.*Rename"),
        ({"inputs": {"offset": [0]}}, r"input group must not be called 'offset'.*Rename"),
        ({"outputs": {"_y": [3]}}, r"output group must not be called '_y'.*Rename"),
    ],
)
def test_refuses_groups(arguments, message):
    refuses(message, DIAMOND, **arguments)


@pytest.mark.parametrize(
    ("activation", "message"),
    [
        ("rellu", r"got 'rellu'\)\. Did you mean 'relu'"),
        (["identity", "relu", "tahn", "relu"], r"got 'tahn'\)\. Did you mean 'tanh'"),
        (["relu"] * 3, r"ids in 0 \.\.\. 2, but edge 2"),
        (["relu"] * 4, r"an input's activation must be 'identity', but neuron 0's is 'relu'"),
        (5, r"must be a name, such as 'relu' \(got int: 5\)"),
        (None, r"must be a name, such as 'relu' \(got NoneType"),
        (["identity", "relu", 3, "relu"], r"must be a name, such as 'relu' \(got int: 3\)"),
        ([["relu"]] * 4, r"must be a name, such as 'relu' \(got list"),
    ],
)
def test_refuses_activations(activation, message):
    refuses(message, DIAMOND, activation=activation)


def test_refuses_activations_of_another_number():
    refuses(r"one per neuron, 4 in all \(got 5\)", DIAMOND, 4, activation=["identity"] * 5)


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ([True] * 4, r"an input must have no bias, but bias\[0\] is True"),
        ([0, 1, 1, 1], r"one bool or one per neuron, 4 in all \(got shape \(4,\), int64\)"),
        (None, r"one bool or one per neuron"),
        (1, r"one bool or one per neuron"),
        (torch.tensor(True), r"one bool or one per neuron, 4 in all \(got shape \(\), bool"),
        (torch.zeros(4), r"bias values are an argument of graphnn\.Network"),
    ],
)
def test_refuses_biases(bias, message):
    refuses(message, DIAMOND, bias=bias)


def test_refuses_biases_of_another_number():
    refuses(r"4 in all \(got shape \(5,\), bool\)", DIAMOND, 4, bias=[False] * 5)


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["a", "b", "a", "c"], r"must be unique, but neurons 0 and 2 are both 'a'"),
        ([1, "b", 1.0, True], r"must be unique, but neurons 0 and 2 are both 1"),
        (["a", ["b"], "c", "d"], r"hashable, but names\[1\] is a list"),
        (["a", math.nan, "c", "d"], r"equal themselves, .*names\[1\] is the float nan\. Use"),
        ([0, 1, 2, np.datetime64("NaT")], r"equal themselves, .*names\[3\] is the datetime64"),
        ([pd.NA, 1, 2, 3], r"equal themselves, .*names\[0\] is the NAType <NA>"),
        (torch.arange(4), r"equal themselves, .*names\[0\] is the Tensor tensor\(0\)"),
        (5, r"sequence of labels, one per neuron \(got 5\)"),
    ],
)
def test_refuses_names(names, message):
    refuses(message, DIAMOND, names=names)


def test_refuses_names_of_another_number():
    refuses(r"one label per neuron, 4 in all \(got 3\)", DIAMOND, 4, names="abc")


def test_ids_that_leave_most_neurons_out_are_refused():
    with pytest.raises(
        graphnn.GraphError, match=r"highest of 2 given ids is 1099511627776. Number them"
    ):
        graphnn.NeuronGraph(torch.tensor([[0], [2**40]]))
    assert graphnn.NeuronGraph(torch.tensor([[0], [2**16]])).num_neurons == 2**16 + 1


def test_a_graph_too_large_for_the_memory_is_refused():
    with pytest.raises(graphnn.GraphError, match=r"into memory \(got 1152921504606846976 neurons"):
        graphnn.NeuronGraph(torch.tensor([[0], [1]]), num_neurons=2**60)
