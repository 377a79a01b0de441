"""Networks to GraphML files and back, and how other programs read and write them."""

import math
import os
import tracemalloc
import xml.etree.ElementTree as ElementTree

import networkx as nx
import pytest
import torch

import graphnn

EDGES = [[3, 0, 4, 2, 0, 5], [2, 2, 1, 1, 1, 2]]
BITS = {2: torch.int16, 4: torch.int32, 8: torch.int64}
Y = "{http://www.yworks.com/xml/graphml}"


def small(names=None, dtype=torch.float32, **more):
    """Two input groups, a skip edge, a constant (4), an input that is an output, mixed biases."""
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
        assert torch.equal(
            a.detach().view(BITS[a.dtype.itemsize]), b.detach().view(BITS[a.dtype.itemsize])
        )
    assert list(map(type, one.graph.names or ())) == list(map(type, other.graph.names or ()))


NAMES = {
    "none": None,
    "str": list("abcdefg"),
    "odd str": ["", " a ", "<b>&amp;", "\t", "\"'", "ü\n\r\u2028", "\U0001f600"],
    "int": [10, -3, 5, 7, 1, 0, 2**70],
    "range": list(range(7)),
    "mixed": ["a", 1, "b", 2, "x", -1, "c"],
    "same text": ["a", 1, "1", 2, "x", -1, "-1"],
    "digits": list("6543210"),
}


@pytest.mark.parametrize("names", NAMES.values(), ids=NAMES)
def test_round_trip(tmp_path, names):
    net = small(names, output_transform="softmax")
    graphnn.write_graphml(net, tmp_path / "net.graphml")
    assert_same(graphnn.read_graphml(tmp_path / "net.graphml"), net)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16])
def test_every_number_comes_back(tmp_path, rng, dtype):
    finite = torch.finfo(dtype)
    extreme = [
        finite.max,
        finite.tiny,
        finite.smallest_normal / 2,
        -0.0,
        math.inf,
        -math.inf,
        math.nan,
    ]
    weight = torch.cat(
        [torch.tensor(extreme, dtype=dtype), torch.randn(993, generator=rng).to(dtype)]
    )
    graph = graphnn.NeuronGraph([range(1000), [1000] * 1000])
    net = graphnn.Network(graph, weight, torch.tensor([-math.nan], dtype=dtype))
    graphnn.write_graphml(net, str(tmp_path / "net.graphml"))
    assert_same(graphnn.read_graphml(str(tmp_path / "net.graphml")), net)


def test_several_pieces_keep_a_shuffled_order(tmp_path, rng):
    source, target = torch.meshgrid(torch.arange(90), torch.arange(90, 190), indexing="ij")
    edges = torch.stack([source.flatten(), target.flatten()])
    edges = edges[:, torch.randperm(edges.shape[1], generator=rng)]
    net = graphnn.Network(graphnn.NeuronGraph(edges), generator=rng)
    graphnn.write_graphml(net, tmp_path / "net.graphml")
    assert_same(graphnn.read_graphml(tmp_path / "net.graphml"), net)


def test_more_neurons_than_one_piece_and_no_edges(tmp_path):
    net = graphnn.Network(
        graphnn.NeuronGraph(torch.empty(2, 0, dtype=torch.int64), num_neurons=5000)
    )
    graphnn.write_graphml(net, tmp_path / "net.graphml")
    assert_same(graphnn.read_graphml(tmp_path / "net.graphml"), net)


def test_arguments_of_the_reader(tmp_path):
    graphnn.write_graphml(small(), tmp_path / "net.graphml")
    net = graphnn.read_graphml(tmp_path / "net.graphml", backend="reference", dtype=torch.float64)
    assert net.backend == "reference"
    assert net.weight.dtype == torch.float64
    assert graphnn.read_graphml(tmp_path / "net.graphml", device="meta").weight.is_meta
    with pytest.raises(graphnn.BackendError, match="nonsense"):
        graphnn.read_graphml(tmp_path / "net.graphml", backend="nonsense")
    with pytest.raises(FileNotFoundError):
        graphnn.read_graphml(tmp_path / "missing.graphml")


def test_equal_networks_give_equal_bytes(tmp_path):
    one, other = tmp_path / "one.graphml", tmp_path / "other.graphml"
    net = small(list("abcdefg"))
    trace = net.trace(torch.ones(1, 1), torch.ones(1, 3))
    graphnn.write_graphml(net, one, trace)
    graphnn.write_graphml(small(list("abcdefg")), other, trace)
    assert one.read_bytes() == other.read_bytes()


@pytest.mark.parametrize("traced", [False, True])
@pytest.mark.parametrize("names", ["none", "str", "odd str", "int", "range", "mixed"])
def test_networkx_reads_the_file_back_equal(tmp_path, names, traced, rng):
    net = graphnn.Network(small(NAMES[names]).graph, generator=rng)
    trace = net.trace(*(torch.randn(2, n, generator=rng) for n in (1, 3))) if traced else None
    graphnn.write_graphml(net, tmp_path / "net.graphml", trace, sample=1)
    written = graphnn.to_networkx(net, trace, sample=1)
    written = nx.relabel_nodes(written, {key: str(key) for key in written})
    read = nx.read_graphml(tmp_path / "net.graphml")
    assert type(read) is nx.DiGraph
    assert list(read.nodes(data=True)) == list(written.nodes(data=True))
    assert list(read.edges(data=True)) == list(written.edges(data=True))
    assert read.graph == {"node_default": {}, "edge_default": {}, **written.graph}


@pytest.mark.parametrize("names", ["none", "str", "int", "range", "mixed", "same text", "digits"])
def test_by_way_of_networkx_nothing_is_lost(tmp_path, names):
    net = small(NAMES[names], output_transform="log_softmax")
    ours, theirs = tmp_path / "ours.graphml", tmp_path / "theirs.graphml"
    graphnn.write_graphml(net, ours)
    assert_same(graphnn.from_networkx(nx.read_graphml(ours)), net)
    if names != "same text":  # which networkx writes as one node
        nx.write_graphml(graphnn.to_networkx(net), theirs)
        assert_same(graphnn.read_graphml(theirs), net)


def test_gephi_finds_its_columns(tmp_path):
    graphnn.write_graphml(small(), tmp_path / "net.graphml")
    keys = {}
    for _, element in ElementTree.iterparse(tmp_path / "net.graphml"):
        if element.tag.endswith("}key") and "attr.name" in element.attrib:
            keys[element.attrib["for"], element.attrib["attr.name"]] = element.attrib["attr.type"]
    for name in ("x", "y", "size"):
        assert keys["node", name] == "double"
    for name in ("r", "g", "b"):
        assert keys["node", name] == keys["edge", name] == "int"
    assert keys["node", "label"] == "string"
    assert keys["edge", "weight"] == "double"


def test_yed_finds_its_picture(tmp_path):
    net = small(["<a>", *"bcdefg"])
    graphnn.write_graphml(net, tmp_path / "net.graphml")
    root = ElementTree.parse(tmp_path / "net.graphml").getroot()
    graph = graphnn.to_networkx(net)
    shapes = root.findall(f".//{Y}ShapeNode")
    assert len(shapes) == 7
    for shape, (name, data) in zip(shapes, graph.nodes(data=True), strict=True):
        place = {key: float(value) for key, value in shape.find(f"{Y}Geometry").attrib.items()}  # pyright: ignore[reportOptionalMemberAccess]
        assert place["x"] + place["width"] / 2 == pytest.approx(data["x"])
        assert place["y"] + place["height"] / 2 == pytest.approx(-data["y"])
        assert place["width"] == data["size"]
        assert shape.find(f"{Y}Fill").attrib["color"] == data["color"]  # pyright: ignore[reportOptionalMemberAccess]
        assert shape.findtext(f"{Y}NodeLabel") == name
        assert shape.find(f"{Y}Shape").attrib["type"] == data["shape_type"]  # pyright: ignore[reportOptionalMemberAccess]
    lines = root.findall(f".//{Y}LineStyle")
    drawn = sorted(
        (data["index"], data["color"], data["width"]) for *_, data in graph.edges(data=True)
    )
    assert [(line.get("color"), float(line.get("width", "nan"))) for line in lines] == [
        (color, width) for _, color, width in drawn
    ]


def test_memory_does_not_grow_with_the_edges(tmp_path):
    def peak(width):
        source, target = (
            torch.arange(200).repeat(width),
            torch.arange(width).repeat_interleave(200) + 200,
        )
        net = graphnn.Network(
            graphnn.NeuronGraph(torch.stack([source, target])), backend="reference"
        )
        tracemalloc.start()
        graphnn.write_graphml(net, tmp_path / "net.graphml")
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        return peak

    few, many = peak(100), peak(400)
    assert (many - few) / 60_000 < 24


# Writing that cannot be, and what it leaves behind.


@pytest.mark.parametrize("name", ["a\x00", "\x1b[0m", "\ud800", "\ufffe", "\x0b"], ids=ascii)
def test_characters_that_xml_cannot_hold_name_the_neuron(tmp_path, name):
    with pytest.raises(graphnn.ConversionError, match="XML can hold, but neuron 2 is called"):
        graphnn.write_graphml(small(["a", "b", name, *"defg"]), tmp_path / "net.graphml")
    assert os.listdir(tmp_path) == []


def test_names_that_are_neither_str_nor_int_are_refused(tmp_path):
    with pytest.raises(graphnn.ConversionError, match=r"names must be str or int.*neuron 1"):
        graphnn.write_graphml(small(["a", ("b",), *"cdefg"]), tmp_path / "net.graphml")
    assert os.listdir(tmp_path) == []


def test_what_is_no_network_is_refused(tmp_path):
    with pytest.raises(graphnn.GraphError, match=r"must be a graphnn\.Network"):
        graphnn.write_graphml(small().graph, tmp_path / "a")  # pyright: ignore[reportArgumentType]


def test_a_refused_trace_leaves_the_old_file(tmp_path):
    path = tmp_path / "net.graphml"
    path.write_text("old")
    net = small()
    with pytest.raises(graphnn.GraphError, match=r"sample must be in 0 \.\.\. 0 \(got 1\)"):
        graphnn.write_graphml(net, path, net.trace(torch.ones(1, 1), torch.ones(1, 3)), sample=1)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["net.graphml"]


def test_a_folder_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="missing"):
        graphnn.write_graphml(small(), tmp_path / "missing" / "net.graphml")


# Files of others.


def test_a_graph_that_networkx_wrote(tmp_path):
    graph = nx.DiGraph()
    graph.add_edge("x", "h", weight=2)
    graph.add_edge("y", "h", weight=-1)
    graph.add_edge("h", "z", weight=3)
    graph.nodes["h"].update(activation="tanh", bias=0.25, comment="<&>")
    nx.write_graphml(graph, tmp_path / "net.graphml")
    net = graphnn.read_graphml(tmp_path / "net.graphml")
    assert net.graph.names == ("x", "h", "y", "z")
    assert net.weight.tolist() == [2, 3, -1]
    assert net.graph.activation == ("identity", "tanh", "identity", "identity")
    assert net.bias.tolist() == [0.25, 0.0]


def test_a_graph_that_gephi_wrote(tmp_path):
    path = tmp_path / "net.graphml"
    path.write_text(
        """<?xml version="1.0" encoding="UTF-8"?><graphml xmlns="http://graphml.graphdrawing.org/xmlns">
<key attr.name="label" attr.type="string" for="node" id="label"/>
<key attr.name="Edge Label" attr.type="string" for="edge" id="edgelabel"/>
<key attr.name="weight" attr.type="double" for="edge" id="weight"/>
<key attr.name="r" attr.type="int" for="node" id="r"/>
<key attr.name="x" attr.type="float" for="node" id="x"/>
<key attr.name="role" attr.type="string" for="node" id="n2"/>
<key attr.name="bias" attr.type="double" for="node" id="n4"/>
<graph edgedefault="directed">
<node id="0"><data key="label">a</data><data key="n2">input</data><data key="r">153</data>
<data key="x">-1.5E2</data></node>
<node id="1"><data key="label">b</data><data key="n2">constant</data>
<data key="n4">0.5</data></node>
<node id="2"><data key="label">c</data><data key="n2">output</data></node>
<edge id="7" source="0" target="2"><data key="weight">0.5</data></edge>
<edge id="8" source="1" target="2"><data key="edgelabel">e</data>
<data key="weight">-2.0</data></edge>
</graph></graphml>"""
    )
    net = graphnn.read_graphml(path)
    assert net.graph.names == ("0", "1", "2")
    assert net.graph.inputs["input"].tolist() == [0]
    assert net.graph.activation == ("identity", "relu", "identity")
    assert (net.weight.tolist(), net.bias.tolist()) == ([0.5, -2.0], [0.5, 0.0])
