"""GEXF files: what networkx reads from them, and what Gephi looks for."""

import math
import xml.etree.ElementTree as ElementTree

import networkx as nx
import pytest
import torch

import graphnn

GEXF, VIZ = "{http://gexf.net/1.3}", "{http://gexf.net/1.3/viz}"


@pytest.fixture
def net(rng):
    graph = graphnn.NeuronGraph(
        [[3, 0, 4, 2, 0], [2, 2, 1, 1, 1]],
        inputs=[3, 0],
        names=["a", 'q"uo<te>&', "tab\t\n", "ü\U0001f600", "  "],
        activation=["identity", "leaky_relu(0.2)", "tanh", "identity", "relu"],
        bias=[False, True, False, False, True],
    )
    return graphnn.Network(graph, backend="reference", generator=rng)


@pytest.mark.parametrize("traced", [False, True])
def test_networkx_reads_what_to_networkx_gives(net, tmp_path, rng, traced):
    trace = net.trace(torch.randn(3, 2, generator=rng)) if traced else None
    graphnn.write_gexf(net, tmp_path / "net.gexf", trace, sample=1)
    read = nx.read_gexf(tmp_path / "net.gexf")
    expected = nx.relabel_nodes(
        graphnn.to_networkx(net, trace, sample=1),
        {name: str(i) for i, name in enumerate(net.graph.names or ())},
    )
    assert type(read) is nx.DiGraph
    assert list(read) == list(expected)
    for node, data in read.nodes(data=True):
        own = expected.nodes[node]
        for name in ("label", "level", "role", "activation", "bias", "value", "preactivation"):
            assert data.get(name) == own.get(name), name
        assert data["viz"]["position"] == {"x": own["x"], "y": own["y"], "z": 0.0}
        assert data["viz"]["size"] == own["size"]
        assert [data["viz"]["color"][c] for c in "rgb"] == [own[c] for c in "rgb"]
    assert set(read.edges) == set(expected.edges)
    for source, target, data in read.edges(data=True):
        own = expected.edges[source, target]
        assert int(data["id"]) == own["index"]
        assert data["weight"] == own["weight"]
        assert data.get("contribution") == own.get("contribution")


def test_it_is_gexf_1_3_with_edges_to_draw(net, tmp_path):
    graphnn.write_gexf(net, tmp_path / "net.gexf")
    root = ElementTree.parse(tmp_path / "net.gexf").getroot()
    assert (root.tag, root.get("version")) == (f"{GEXF}gexf", "1.3")
    drawn = graphnn.to_networkx(net)
    widths = {data["index"]: (data["width"], data["r"]) for *_, data in drawn.edges(data=True)}
    for edge in root.iter(f"{GEXF}edge"):
        thickness, color = edge.find(f"{VIZ}thickness"), edge.find(f"{VIZ}color")
        assert thickness is not None
        assert color is not None
        found = (float(thickness.attrib["value"]), int(color.attrib["r"]))
        assert found == widths[int(edge.attrib["id"])]
    shapes = {shape.get("value") for shape in root.iter(f"{VIZ}shape")}
    assert shapes <= {"disc", "square", "triangle", "diamond"}
    declared = {own.get("id") for own in root.iter(f"{GEXF}attribute")}
    assert {own.get("for") for own in root.iter(f"{GEXF}attvalue")} <= declared


def test_numbers_come_back_bit_for_bit(tmp_path, rng):
    weight = torch.cat(
        [torch.randn(2000, generator=rng, dtype=torch.float64), torch.tensor([math.inf, -math.inf])]
    )
    graph = graphnn.NeuronGraph([range(2002), [2002] * 2002], bias=False)
    graphnn.write_gexf(graphnn.Network(graph, weight=weight), tmp_path / "net.gexf")
    read = nx.read_gexf(tmp_path / "net.gexf")
    assert [read.edges[str(i), "2002"]["weight"] for i in range(2002)] == weight.tolist()


def test_a_network_without_edges(tmp_path):
    net = graphnn.Network(graphnn.NeuronGraph([[], []], num_neurons=2))
    graphnn.write_gexf(net, tmp_path / "net.gexf")
    assert len(nx.read_gexf(tmp_path / "net.gexf")) == 2


@pytest.mark.parametrize("name", ["a\x00", "\ud800", "\ufffe"], ids=ascii)
def test_refused_names_leave_no_file(tmp_path, name):
    net = graphnn.from_edges([("a", name, 1.0)])
    with pytest.raises(graphnn.ConversionError, match="XML can hold, but neuron 1 is called"):
        graphnn.write_gexf(net, tmp_path / "net.gexf")
    assert list(tmp_path.iterdir()) == []


def test_what_is_no_network_is_refused(net, tmp_path):
    with pytest.raises(graphnn.GraphError, match=r"must be a graphnn\.Network"):
        graphnn.write_gexf(net.graph, tmp_path / "net.gexf")


def test_a_refused_sample_leaves_the_old_file(net, tmp_path):
    path = tmp_path / "net.gexf"
    path.write_text("old")
    with pytest.raises(graphnn.GraphError, match=r"sample must be in 0 \.\.\. 0 \(got 1\)"):
        graphnn.write_gexf(net, path, net.trace(torch.ones(1, 2)), sample=1)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]
