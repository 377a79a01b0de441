"""Networks to networkx graphs and back."""

import math

import networkx as nx
import numpy as np
import pytest
import torch

import graphnn
from graphnn.layout import layout

EDGES = [[3, 0, 4, 2, 0, 5], [2, 2, 1, 1, 1, 2]]


def small(names=None, dtype=torch.float32, **more):
    """Two input groups, a skip edge, a constant (4), an isolated input (6), mixed biases."""
    graph = graphnn.NeuronGraph(
        EDGES,
        num_neurons=7,
        inputs={"left": [3], "right": [5, 0, 6]},
        outputs={"main": [1, 2, 1], "echo": [3]},
        activation=[
            "identity",
            "leaky_relu(0.2)",
            "tanh",
            "identity",
            "relu",
            "identity",
            "identity",
        ],
        bias=[False, True, False, False, True, False, False],
        names=names,
    )
    weight = torch.tensor([1 / 3, -0.0, 1e-7, math.inf, -math.inf, math.pi], dtype=dtype)
    return graphnn.Network(graph, weight, torch.tensor([0.1, -0.0], dtype=dtype), **more)


def assert_same(one, other):
    assert one.graph == other.graph
    assert one.output_transform == other.output_transform
    for a, b in ((one.weight, other.weight), (one.bias, other.bias)):
        assert a.dtype == b.dtype
        bits = {2: torch.int16, 4: torch.int32, 8: torch.int64}[a.dtype.itemsize]
        assert torch.equal(a.detach().view(bits), b.detach().view(bits))
    # == holds between 1 and True, and 1 and 1.0.
    assert list(map(type, one.graph.names or ())) == list(map(type, other.graph.names or ()))


NAMES = {
    "none": None,
    "str": list("abcdefg"),
    "odd str": ["", " a ", "<b>", "&", '"', "ü\n", "7"],
    "int": [10, -3, 5, 7, 1, 0, 2**70],
    "range": list(range(7)),
    "mixed": ["a", 1, "1", 2, "x", -1, "-1"],
    "digits": list("0123456"),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_round_trip(names, dtype):
    net = small(names, dtype, output_transform="log_softmax")
    assert_same(graphnn.from_networkx(graphnn.to_networkx(net)), net)


def test_round_trip_of_a_drawn_network_without_edges_or_biases(rng):
    graph = graphnn.NeuronGraph(torch.empty(2, 0, dtype=torch.int64), num_neurons=3)
    net = graphnn.Network(graph)
    assert_same(graphnn.from_networkx(graphnn.to_networkx(net)), net)


def test_round_trip_over_several_pieces_keeps_a_shuffled_order(rng):
    source, target = torch.meshgrid(torch.arange(90), torch.arange(90, 190), indexing="ij")
    edges = torch.stack([source.flatten(), target.flatten()])
    edges = edges[:, torch.randperm(edges.shape[1], generator=rng)]
    net = graphnn.Network(graphnn.NeuronGraph(edges), generator=rng)
    assert_same(graphnn.from_networkx(graphnn.to_networkx(net)), net)


def test_attributes_are_plain_and_right():
    net = small()
    graph = graphnn.to_networkx(net)
    assert type(graph) is nx.DiGraph
    assert list(graph) == list(range(7))
    for _, data in graph.nodes(data=True):
        assert all(type(value) in (int, float, str) for value in data.values())
    for *_, data in graph.edges(data=True):
        assert all(type(value) in (int, float, str) for value in data.values())
    assert all(type(value) is str for value in graph.graph.values())

    node = graph.nodes[1]
    assert (node["index"], node["level"], node["role"]) == (1, 2, "output")
    assert (node["activation"], node["bias"]) == ("leaky_relu(0.2)", net.bias[0].item())
    assert "bias" not in graph.nodes[2]
    assert graph.nodes[4]["role"] == "constant"
    assert node["color"] == f"#{node['r']:02x}{node['g']:02x}{node['b']:02x}"
    assert node["label"] == "1"
    assert "value" not in node

    for edge, (source, target) in enumerate(zip(*EDGES, strict=True)):
        data = graph.edges[source, target]
        assert data["index"] == edge
        assert data["weight"] == net.weight[edge].item()
        assert data["color"] == f"#{data['r']:02x}{data['g']:02x}{data['b']:02x}"
        assert "contribution" not in data


def test_positions_are_the_layouts():
    net = small()
    drawn = [(data["x"], data["y"]) for _, data in graphnn.to_networkx(net).nodes(data=True)]
    assert drawn == [tuple(row) for row in layout(net.graph).tolist()]


@pytest.mark.parametrize("names", [None, list("abcdefg")])
def test_a_trace_gives_one_samples_numbers(names, rng):
    net = graphnn.Network(small(names).graph, generator=rng)
    left, right = (torch.randn(2, 3, n, generator=rng) for n in (1, 3))
    trace = net.trace(left, right)
    graph = graphnn.to_networkx(net, trace, sample=4)
    label = names or range(7)
    for neuron in range(7):
        data = graph.nodes[label[neuron]]
        assert data["value"] == trace.values[1, 1, neuron].item()
        assert data["preactivation"] == trace.preactivations[1, 1, neuron].item()
    contributions = trace.contributions()[1, 1]
    for edge, (source, target) in enumerate(zip(*EDGES, strict=True)):
        assert (
            graph.edges[label[source], label[target]]["contribution"] == contributions[edge].item()
        )
    assert_same(graphnn.from_networkx(graph), net)


def test_what_is_no_network_is_refused():
    with pytest.raises(graphnn.GraphError, match=r"must be a graphnn\.Network"):
        graphnn.to_networkx(small().graph)  # pyright: ignore[reportArgumentType]


def test_a_trace_of_another_graph_or_a_missing_sample_is_refused():
    net = small()
    trace = net.trace(torch.zeros(2, 1), torch.zeros(2, 3))
    with pytest.raises(graphnn.GraphError, match=r"sample must be in 0 \.\.\. 1 \(got 2\)"):
        graphnn.to_networkx(net, trace, sample=2)
    with pytest.raises(graphnn.GraphError, match="trace must be of this network's graph"):
        graphnn.to_networkx(small(list("abcdefg")), trace)


@pytest.mark.parametrize("name", [1.5, ("a", 1), None, True], ids=repr)
def test_names_that_formats_cannot_hold_are_refused(name):
    net = small(["a", "b", name, "d", "e", "f", "g"])
    with pytest.raises(
        graphnn.ConversionError, match=r"names must be str or int.*neuron 2 is called"
    ):
        graphnn.to_networkx(net)


def test_two_dtypes_in_one_network_are_refused():
    net = small()
    net.bias.data = net.bias.data.double()
    with pytest.raises(graphnn.ConversionError, match=r"one dtype.*float32 and torch\.float64"):
        graphnn.to_networkx(net)


def test_the_network_is_not_aliased():
    net = small()
    graph = graphnn.to_networkx(net)
    again = graphnn.from_networkx(graph)
    graph.edges[3, 2]["weight"] = 9.0
    assert again.weight[0] != 9
    assert net.weight[0] != 9
    with torch.no_grad():
        again.weight.fill_(5)
    assert net.weight[0] != 5


# What people do to such a graph in networkx, and then bring it back.


def test_an_edited_weight_and_bias_arrive():
    graph = graphnn.to_networkx(small())
    graph.edges[3, 2]["weight"] = 9
    graph.nodes[2]["bias"] = 4
    net = graphnn.from_networkx(graph)
    assert net.weight[0] == 9
    assert net.graph.bias_neurons.tolist() == [1, 2, 4]
    assert net.bias[1] == 4


def test_removed_and_added_edges_keep_the_order_of_the_others():
    graph = graphnn.to_networkx(small())
    graph.remove_edge(0, 2)
    graph.add_edge(6, 1, weight=8.0)
    net = graphnn.from_networkx(graph)
    assert net.graph.edge_index.tolist() == [[3, 4, 2, 0, 5, 6], [2, 1, 1, 1, 2, 1]]
    assert net.weight[-1] == 8
    assert list(net.graph.inputs) == ["left", "right"]


def test_removed_and_added_neurons():
    graph = graphnn.to_networkx(small(list("abcdefg")))
    graph.remove_node("e")
    graph.add_node("new", activation="sin")
    graph.add_edge("a", "new", weight=1.0)
    net = graphnn.from_networkx(graph)
    assert net.graph.names == ("a", "b", "c", "d", "f", "g", "new")
    assert net.graph.inputs["right"].tolist() == [4, 0, 5]
    assert net.graph.outputs["main"].tolist() == [1, 2, 1]
    assert net.graph.activation[-1] == "sin"

    graph = graphnn.to_networkx(small())
    graph.remove_node(4)
    assert graphnn.from_networkx(graph).graph.names == (0, 1, 2, 3, 5, 6)
    graph.remove_node(1)
    with pytest.raises(
        graphnn.ConversionError, match=r"output group 'main'.*no node has the index 1\. Name"
    ):
        graphnn.from_networkx(graph)
    # Label 2 is the second node left.
    assert graphnn.from_networkx(graph, outputs=[2]).graph.outputs["output"].tolist() == [1]


def test_a_copied_node_or_edge_shares_its_index_and_is_refused():
    graph = graphnn.to_networkx(small())
    graph.add_node("copy", **graph.nodes[2])
    with pytest.raises(graphnn.ConversionError, match=r"index of a node.*2 and 'copy' both have 2"):
        graphnn.from_networkx(graph)
    graph = graphnn.to_networkx(small())
    graph.add_edge(6, 1, **graph.edges[3, 2])
    with pytest.raises(graphnn.ConversionError, match=r"index of an edge.*6 -> 1 both have 0"):
        graphnn.from_networkx(graph)


def test_relabelled_nodes_give_new_names():
    graph = nx.relabel_nodes(graphnn.to_networkx(small(list("abcdefg"))), {"a": "A", "b": "B"})
    assert graphnn.from_networkx(graph).graph.names == ("A", "B", "c", "d", "e", "f", "g")


# Graphs that know nothing of this library.


def foreign():
    graph = nx.DiGraph()
    graph.add_edge("x", ("h", 1), weight=2)
    graph.add_edge("y", ("h", 1), weight=np.float32(-1.5))
    graph.add_edge(("h", 1), "z", weight=3.0)
    return graph


def test_foreign_labels_become_names():
    net = graphnn.from_networkx(foreign())
    assert net.graph.names == ("x", ("h", 1), "y", "z")
    assert net.graph.activation == ("identity", "relu", "identity", "identity")
    assert net.weight.tolist() == [2.0, 3.0, -1.5]
    assert net.bias.tolist() == [0.0, 0.0]
    assert net.graph.bias_neurons.tolist() == [1, 3]
    assert net(torch.tensor([[4.0, 2.0]])).item() == 15.0
    assert net.weight.dtype == torch.get_default_dtype()


def test_labels_that_count_up_are_ids():
    graph = nx.DiGraph([(0, 1), (1, 2)])
    assert graphnn.from_networkx(graph).graph.names is None
    assert graphnn.from_networkx(nx.DiGraph([(1, 0), (0, 2)])).graph.names == (1, 0, 2)
    assert graphnn.from_networkx(nx.DiGraph([(False, True)])).graph.names == (False, True)
    assert graphnn.from_networkx(nx.DiGraph([("0", "1")])).graph.names == ("0", "1")


def test_missing_weights_are_drawn():
    graph = nx.DiGraph([(i, 100) for i in range(100)])
    net = graphnn.from_networkx(graph)
    assert net.weight.abs().max() <= 0.1
    assert net.weight.unique().numel() > 50
    assert net.bias.tolist() == [0.0]


def test_attributes_of_other_names():
    graph = foreign()
    for *_, data in graph.edges(data=True):
        data["w"] = 7.0
    graph.nodes["z"]["b"] = 0.5
    graph.nodes["x"]["b"] = 0  # many tools give every node every attribute
    net = graphnn.from_networkx(graph, weight="w", bias="b")
    assert net.weight.tolist() == [7.0] * 3
    assert net.bias.tolist() == [0.0, 0.5]


def test_activation_and_role_are_read():
    graph = foreign()
    graph.nodes[("h", 1)].update(activation="softplus(2)")
    graph.nodes["x"]["role"] = "input"
    graph.nodes[("h", 1)]["role"] = "output"
    net = graphnn.from_networkx(graph)
    # y has no role and no incoming edges: a constant.
    assert net.graph.inputs["input"].tolist() == [0]
    assert net.graph.outputs["output"].tolist() == [1]
    assert net.graph.activation == ("identity", "softplus(2, 20)", "relu", "relu")


def test_inputs_and_outputs_by_label():
    net = graphnn.from_networkx(foreign(), inputs={"a": ["y"], "b": ["x"]}, outputs=["z", ("h", 1)])
    assert {name: ids.tolist() for name, ids in net.graph.inputs.items()} == {"a": [2], "b": [0]}
    assert net.graph.outputs["output"].tolist() == [3, 1]
    assert net.graph.activation[1] == "identity"


def test_backend_and_dtype():
    net = graphnn.from_networkx(foreign(), backend="reference", dtype=torch.float64)
    assert net.backend == "reference"
    assert net.weight.dtype == net.bias.dtype == torch.float64
    with pytest.raises(graphnn.BackendError, match="nonsense"):
        graphnn.from_networkx(foreign(), backend="nonsense")
    assert graphnn.from_networkx(foreign(), device="meta").weight.device.type == "meta"


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: nx.Graph([(0, 1)]), r"must be a networkx\.DiGraph, whose edges.*\(got Graph\)"),
        (lambda: nx.MultiDiGraph([(0, 1)]), r"\(got MultiDiGraph\)"),
        (lambda: [(0, 1)], r"must be a networkx\.DiGraph \(got list\)"),
        (nx.DiGraph, "at least one node"),
        (lambda: nx.DiGraph(graphnn=3), "at least one node"),
    ],
)
def test_what_is_not_a_directed_graph_is_refused(make, message):
    with pytest.raises(graphnn.ConversionError, match=message):
        graphnn.from_networkx(make())


@pytest.mark.parametrize("value", ["0.5", True, 1j, [1.0], 10**400, np.bool_(True)], ids=repr)
def test_a_weight_or_bias_that_is_no_number_is_refused(value):
    graph = foreign()
    graph.edges["y", ("h", 1)]["weight"] = value
    with pytest.raises(
        graphnn.ConversionError, match=r"'weight' of the edge 'y' -> \('h', 1\) must"
    ):
        graphnn.from_networkx(graph)
    graph = foreign()
    graph.nodes["z"]["bias"] = value
    with pytest.raises(graphnn.ConversionError, match=r"'bias' of node 'z' must"):
        graphnn.from_networkx(graph)


@pytest.mark.parametrize(
    "remove", [lambda data: data.pop("weight"), lambda data: data.update(weight=None)]
)
def test_a_missing_weight_names_the_edge(remove):
    graph = foreign()
    remove(graph.edges[("h", 1), "z"])
    with pytest.raises(graphnn.ConversionError, match=r"the edge \('h', 1\) -> 'z' has none"):
        graphnn.from_networkx(graph)


def test_node_attributes_that_cannot_be_name_the_node():
    graph = foreign()
    graph.nodes["z"]["activation"] = "rellu"
    with pytest.raises(graphnn.ConversionError, match=r"node 'z': activation must.*'relu'"):
        graphnn.from_networkx(graph)
    graph.nodes["z"]["activation"] = 3
    with pytest.raises(graphnn.ConversionError, match=r"node 'z': activation must be a name"):
        graphnn.from_networkx(graph)
    graph = foreign()
    graph.nodes["x"]["activation"] = "relu"
    with pytest.raises(graphnn.ConversionError, match=r"input's activation.*node 'x' has 'relu'"):
        graphnn.from_networkx(graph)
    graph = foreign()
    graph.nodes["x"]["bias"] = 1.0
    with pytest.raises(
        graphnn.ConversionError, match=r"input must have no bias, but node 'x' has 1\.0"
    ):
        graphnn.from_networkx(graph)


def test_unknown_inputs_and_outputs_are_refused():
    with pytest.raises(graphnn.ConversionError, match=r"inputs must be nodes.*'X'"):
        graphnn.from_networkx(foreign(), inputs=["X"])
    with pytest.raises(
        graphnn.ConversionError, match=r"outputs must be a sequence of labels \(got 'z'"
    ):
        graphnn.from_networkx(foreign(), outputs="z")
    with pytest.raises(graphnn.ConversionError, match=r"inputs must be nodes.*\['x'\]"):
        graphnn.from_networkx(foreign(), inputs=[("h", ["x"])])
    with pytest.raises(
        graphnn.ConversionError, match=r"outputs must be a sequence of labels \(got 3"
    ):
        graphnn.from_networkx(foreign(), outputs=3)  # pyright: ignore[reportArgumentType]
    with pytest.raises(graphnn.GraphError, match=r"input must have no incoming edges.*'z'"):
        graphnn.from_networkx(foreign(), inputs=["z"])


def test_wirings_that_cannot_be_name_labels():
    with pytest.raises(
        graphnn.GraphError, match=r"cycle 'a' -> 'b' -> 'a'|cycle 'b' -> 'a' -> 'b'"
    ):
        graphnn.from_networkx(nx.DiGraph([("a", "b"), ("b", "a")]))
    with pytest.raises(graphnn.GraphError, match=r"'a'.*to itself"):
        graphnn.from_networkx(nx.DiGraph([("a", "a")]))


@pytest.mark.parametrize(
    ("header", "message"),
    [
        (3, r"attribute 'graphnn' must be a text \(got int\)"),
        ("{", "must be JSON"),
        ("[]", "JSON object"),
        ('{"graphnn": 99}', "version 1 or lower"),
        ('{"graphnn": 1, "inputs": [0], "outputs": {}}', "'inputs' must map group names"),
        (
            '{"graphnn": 1, "inputs": {"i": [0]}, "outputs": {"o": [1]}, "output_transform": null, '
            '"dtype": "int8", "names": null}',
            "'int8'",
        ),
        (
            '{"graphnn": 1, "inputs": {"i": [0]}, "outputs": {"o": [1]}, "output_transform": null, '
            '"dtype": "float32", "names": "float"}',
            "'names' must be null",
        ),
        (
            '{"graphnn": 1, "inputs": {"i": [0]}, "outputs": {"o": [7]}, "output_transform": null, '
            '"dtype": "float32", "names": null}',
            "no node has the index 7",
        ),
        (
            '{"graphnn": 1, "inputs": {"i": [0]}, "outputs": {"o": [1]}, "output_transform": null, '
            '"dtype": "float32", "names": "int"}',
            "must be an integer, as the graphnn header says",
        ),
    ],
)
def test_a_header_that_cannot_be_is_refused(header, message):
    graph = nx.DiGraph([("a", "b")], graphnn=header)
    with pytest.raises(graphnn.ConversionError, match=message):
        graphnn.from_networkx(graph)


@pytest.mark.parametrize("index", ["0", -1, 1.5, True, 2**80], ids=repr)
def test_an_index_that_is_none_is_refused(index):
    graph = graphnn.to_networkx(small())
    graph.nodes[3]["index"] = index
    with pytest.raises(graphnn.ConversionError, match="index of node 3 must be an integer"):
        graphnn.from_networkx(graph)
    graph = graphnn.to_networkx(small())
    graph.edges[3, 2]["index"] = index
    with pytest.raises(
        graphnn.ConversionError, match="index of the edge 3 -> 2 must be an integer"
    ):
        graphnn.from_networkx(graph)


def test_a_foreign_index_means_nothing():
    graph = foreign()
    graph.nodes["x"]["index"] = "first"
    assert graphnn.from_networkx(graph).graph.names is not None
