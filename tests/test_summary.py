"""Summaries of graphs: on one screen, escaped, and quick."""

import re

import torch

import graphnn


def facts(text):
    pairs = re.findall(r"^  (\w+) {2,}(.+)$", text, re.M)
    return {name: fact for name, fact in pairs if not name.isdigit() and name != "level"}


def test_a_graph_says_what_it_is():
    graph = graphnn.NeuronGraph(
        [[0, 1, 2, 0], [2, 2, 3, 3]],
        inputs={"left": [0], "right": [1]},
        activation=["identity", "identity", "tanh", "relu"],
        names=["a", "b", "c", "d"],
    )
    found = facts(str(graph))
    assert found["neurons"] == "4: 2 inputs, 1 hidden, 1 outputs"
    assert found["edges"] == "4, of which 1 skip a level"
    assert found["levels"] == "3"
    assert found["density"] == f"{graph.density:.3g}"
    assert found["activations"] == "tanh 1, relu 1"
    assert found["inputs"] == "left (1), right (1)"
    assert found["outputs"] == "output (1)"
    assert found["names"] == "a, b, c, d"
    rows = [line.split() for line in str(graph).splitlines()[-3:]]
    assert rows == [["0", "2", "0", "0"], ["1", "1", "2", "2"], ["2", "1", "2", "2"]]
    assert repr(graph).count("\n") == 0


def test_it_fits_a_screen(rng):
    chain = graphnn.NeuronGraph(
        [range(5000), range(1, 5001)], names=["x" * 500 + str(i) for i in range(5001)]
    )
    lines = str(chain).splitlines()
    assert len(lines) < 25
    assert max(map(len, lines)) <= 80
    assert lines[-1].split() == ["5000", "1", "1", "1"]
    assert any(set(line.split()) == {"..."} for line in lines)
    assert chain._repr_html_().count("<tr>") < 25


def test_the_smallest_graph():
    graph = graphnn.NeuronGraph([[], []], num_neurons=1)
    assert facts(str(graph))["activations"] == "none"
    assert "<table>" in graph._repr_html_()


def test_names_are_text_in_a_notebook_and_harmless_in_a_terminal():
    names = ["<script>alert(1)</script>", "\x1b[31mred\n", "\ud800", "&amp;"]
    graph = graphnn.NeuronGraph([[0, 1, 2], [3, 3, 3]], names=names)
    html = graph._repr_html_()
    assert "<script>" not in html
    assert "&lt;script&gt;" in html
    assert "&amp;amp;" in html
    assert not set(str(graph)) & {"\x1b", "\ud800"}
    str(graph).encode()
    html.encode()
    assert torch.equal(graph.edge_index, torch.tensor([[0, 1, 2], [3, 3, 3]]))
