"""The command line: what it prints, writes and refuses."""

import csv
import io
import math
import os
import re
import subprocess
import sys
from itertools import pairwise

import pytest
import torch

import graphnn
from graphnn import activation
from graphnn.cli import main

EDGES = "source,target,weight\nx,h,2.0\nz,h,-1.0\nh,y,3.0\nx,y,-0.5\n"


@pytest.fixture
def net(rng):
    """Two input groups, a skip edge, biases, three activations and a softmax."""
    graph = graphnn.NeuronGraph(
        [[0, 1, 2, 3, 0], [2, 3, 4, 4, 5]],
        inputs={"left": [0], "right": [1]},
        outputs=[4, 5],
        activation=["identity", "identity", "tanh", "leaky_relu(0.2)", "identity", "identity"],
        bias=[False, False, True, False, True, True],
        names=["a", "b", "c", "d", "e", "f"],
    )
    return graphnn.Network(graph, output_transform="softmax", generator=rng)


@pytest.fixture
def saved(net, tmp_path):
    path = tmp_path / "net.safetensors"
    graphnn.save(net, path)
    return path


@pytest.fixture
def edges(tmp_path):
    path = tmp_path / "edges.csv"
    path.write_text(EDGES)
    return path


def table(text, **options):
    return list(csv.DictReader(io.StringIO(text), **options))


def refused(capsys, *arguments):
    """The one line on standard error of a command that must fail."""
    try:
        status = main([str(argument) for argument in arguments])
    except SystemExit as ended:
        status = ended.code
    said = capsys.readouterr()
    assert status == 2
    assert said.err.count("\n") == 1
    assert "Traceback" not in said.err
    return said.err


def test_info_describes_the_network(saved, capsys):
    assert main(["info", str(saved)]) == 0
    said = capsys.readouterr().out
    facts = dict(line.split("  ", 1) for line in said.splitlines()[2:] if "  " in line)
    facts = {name: value.strip() for name, value in facts.items()}
    assert facts["neurons"] == "6: 2 inputs, 2 hidden, 2 outputs"
    assert facts["edges"].startswith("5, of which 0 skip")
    assert facts["levels"] == "3"
    assert facts["activations"] == "identity 2, tanh 1, leaky_relu(0.2) 1"
    assert facts["inputs"] == "left (1), right (1)"
    assert facts["outputs"] == "output (2)"
    assert facts["transform"] == "softmax over each output group"
    assert facts["names"] == "a, b, c, d, ..."
    assert facts["parameters"] == "8: 5 weights, 3 biases, float32 on cpu"
    assert facts["memory"].startswith("32 bytes of parameters")
    assert len(said.splitlines()) < 25


def test_info_counts_levels_neurons_and_edges(edges, capsys):
    assert main(["info", str(edges)]) == 0
    said = capsys.readouterr()
    assert "4, of which 1 skip a level" in said.out
    assert [line.split() for line in said.out.splitlines()[-3:]] == [
        ["0", "2", "0", "0"],
        ["1", "1", "2", "2"],
        ["2", "1", "2", "2"],
    ]
    assert said.err == ""


def shown(capsys, path):
    """The lines of `graphnn info`, which must fit a terminal of 80 x 24 with its next prompt."""
    assert main(["info", str(path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) <= 23
    assert max(map(len, lines[1:])) <= 80
    return lines


def test_info_of_a_deep_network_fits_on_a_screen(tmp_path, capsys):
    chain = graphnn.NeuronGraph(torch.stack([torch.arange(500), torch.arange(1, 501)]))
    graphnn.save(graphnn.Network(chain), tmp_path / "deep.safetensors")
    lines = shown(capsys, tmp_path / "deep.safetensors")
    assert lines[-1].split()[:2] == ["500", "1"]
    assert any(line.strip() == "..." for line in lines)


def test_info_of_many_groups_names_and_activations_fits_on_a_screen(tmp_path, capsys):
    functions = sorted(graphnn.activation.built_in() - {"clamp"})
    count = len(functions)
    graph = graphnn.NeuronGraph(
        [range(count), range(count, 2 * count)],
        inputs={f"group_number_{i}": [i] for i in range(count)},
        activation=["identity"] * count + functions,
        names=[f"{i}\n" + "long " * 20 for i in range(2 * count)],
    )
    graphnn.save(graphnn.Network(graph), tmp_path / "n.safetensors")
    lines = shown(capsys, tmp_path / "n.safetensors")
    for start in ("activations  abs 1, celu 1, ", "inputs       group_number_0 (1), group_"):
        (line,) = (line for line in lines if line.startswith(start))
        assert line.endswith("), ..." if "group" in start else " 1, ...")
    (line,) = (line for line in lines if line.startswith("names"))
    assert line.startswith("names        0\\nlong long")


def test_info_of_a_hierarchy_fits_on_a_screen(tmp_path, capsys):
    # Like a hierarchy of pathways turned round: twelve levels, wide below, narrow above.
    widths = (600, 300, 150, 80, 40, 20, 10, 6, 4, 3, 2, 1)
    rows = []
    for level, (below, above) in enumerate(pairwise(widths)):
        rows += [(f"P{level}-{i}", f"P{level + 1}-{i % above}") for i in range(below)]
    rows += [(f"P0-{i}", f"P5-{i}") for i in range(20)]
    net = graphnn.from_edges(rows, activation="tanh")
    net(torch.ones(2, 600)).sum().backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()
    graphnn.write_graphml(net, tmp_path / "n.graphml")
    again = graphnn.read_graphml(tmp_path / "n.graphml")
    assert again.graph == net.graph
    assert torch.equal(again.weight, net.weight)
    assert torch.equal(again.bias, net.bias)
    lines = shown(capsys, tmp_path / "n.graphml")
    assert "neurons      1,216: 600 inputs, 615 hidden, 1 outputs" in lines
    assert "edges        1,235, of which 20 skip a level" in lines
    assert "levels       12" in lines
    assert [line.split()[0] for line in lines[-8:]] == ["0", "1", "2", "3", "4", "...", "10", "11"]


def test_info_counts_weights_that_are_not_finite(tmp_path, capsys):
    graph = graphnn.NeuronGraph([[0, 1, 2], [3, 3, 3]])
    for weight, text in (
        ([math.nan, 2.0, 0.0], "from 0 to 2, 1 of them 0, 1 not finite"),
        ([math.nan, math.inf, -math.inf], "3, none of them finite"),
    ):
        graphnn.save(graphnn.Network(graph, weight), tmp_path / "n.safetensors")
        assert f"weights      {text}" in shown(capsys, tmp_path / "n.safetensors")


def test_info_of_a_network_without_edges(tmp_path, capsys):
    graphnn.save(graphnn.Network(graphnn.NeuronGraph([[], []], 2)), tmp_path / "n.safetensors")
    assert main(["info", str(tmp_path / "n.safetensors")]) == 0
    assert "0: 0 weights, 0 biases" in capsys.readouterr().out


@pytest.mark.parametrize("suffix", [".graphml", ".safetensors"])
def test_convert_keeps_everything(saved, net, tmp_path, suffix, capsys):
    out = tmp_path / f"out{suffix}"
    assert main(["convert", str(saved), str(out)]) == 0
    said = capsys.readouterr()
    assert f"wrote {out}: 6 neurons, 5 edges" in said.out
    assert said.err == ""
    again = {".graphml": graphnn.read_graphml, ".safetensors": graphnn.load}[suffix](out)
    assert again.graph == net.graph
    assert again.output_transform == "softmax"
    assert torch.equal(again.weight, net.weight)
    assert torch.equal(again.bias, net.bias)


def test_convert_goes_by_way_of_onnx(edges, tmp_path, capsys):
    pytest.importorskip("onnx")
    for source, target in ((edges, "n.onnx"), (tmp_path / "n.onnx", "n.safetensors")):
        assert main(["convert", str(source), str(tmp_path / target)]) == 0
    again, net = graphnn.load(tmp_path / "n.safetensors"), graphnn.from_edges(edges, bias=False)
    assert again.graph == net.graph
    assert torch.equal(again.weight, net.weight)


@pytest.mark.parametrize("suffix", [".csv", ".tsv"])
def test_convert_to_edges_says_what_is_lost(saved, net, tmp_path, suffix, capsys):
    out = tmp_path / f"out{suffix}"
    assert main(["convert", str(saved), str(out)]) == 0
    lost = capsys.readouterr().err
    assert lost.count("\n") == 1
    for what in ("3 biases", "tanh 1", "input groups left, right", "output transform softmax"):
        assert what in lost
    again = graphnn.from_edges(out, bias=False)
    assert again.graph.names == ("a", "c", "b", "d", "e", "f")
    assert torch.equal(again.weight, net.weight)


def test_convert_to_edges_names_lost_order_neurons_and_dtype(tmp_path, capsys):
    graph = graphnn.NeuronGraph([[1], [2]], 4, inputs=[3, 1], outputs=[2], bias=False)
    graphnn.save(graphnn.Network(graph, dtype=torch.float64), tmp_path / "n.safetensors")
    assert main(["convert", str(tmp_path / "n.safetensors"), str(tmp_path / "n.csv")]) == 0
    lost = capsys.readouterr().err
    assert "2 neurons without edges" in lost
    assert "choice and order of the inputs" in lost
    assert "choice and order of the outputs" not in lost
    assert "dtype float64" in lost


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_edges_keep_the_bits_of_weights(tmp_path, rng, dtype, capsys):
    weight = torch.randn(300, generator=rng, dtype=dtype) * 10.0 ** torch.randint(
        -30, 30, (300,), generator=rng
    ).to(dtype)
    graph = graphnn.NeuronGraph([list(range(300)), [300] * 300], bias=False)
    graphnn.save(graphnn.Network(graph, weight=weight), tmp_path / "n.safetensors")
    assert main(["convert", str(tmp_path / "n.safetensors"), str(tmp_path / "n.tsv")]) == 0
    again = graphnn.from_edges(tmp_path / "n.tsv", bias=False, dtype=dtype)
    assert torch.equal(again.weight, weight)


def test_an_edge_list_that_holds_all_loses_nothing(edges, tmp_path, capsys):
    assert main(["convert", str(edges), str(tmp_path / "again.csv")]) == 0
    assert capsys.readouterr().err == ""
    assert graphnn.from_edges(tmp_path / "again.csv", bias=False).graph == (
        graphnn.from_edges(edges, bias=False).graph
    )


def test_edge_list_takes_activations(edges, tmp_path, capsys):
    out = tmp_path / "out.safetensors"
    main(
        ["convert", str(edges), str(out), "--activation", "elu(0.5)", "--output-activation", "sin"]
    )
    assert graphnn.load(out).graph.activation == ("identity", "elu(0.5)", "identity", "sin")


def test_missing_weights_are_drawn_from_the_seed_and_said(tmp_path, capsys):
    path = tmp_path / "bare.csv"
    path.write_text("source,target\na,b\nb,c\n")
    weights = []
    for number, seed in enumerate((1, 1, 2)):
        out = tmp_path / f"{number}.safetensors"
        assert main(["convert", str(path), str(out), "--seed", str(seed)]) == 0
        assert f"weights are drawn, from --seed {seed}" in capsys.readouterr().err
        weights.append(graphnn.load(out).weight)
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_weights_of_a_list_with_tabs_are_not_drawn(tmp_path, capsys):
    path = tmp_path / "tabs.csv"
    path.write_text(EDGES.replace(",", "\t"))
    assert main(["convert", str(path), str(tmp_path / "n.safetensors")]) == 0
    assert capsys.readouterr().err == ""
    assert graphnn.load(tmp_path / "n.safetensors").weight.tolist() == [2.0, -1.0, 3.0, -0.5]


def test_a_list_without_a_header_is_read_by_places(tmp_path, capsys):
    path, out = tmp_path / "bare.tsv", tmp_path / "n.safetensors"
    path.write_text("a\t7\tb\nb\t9\tc\n")
    error = refused(capsys, "info", path)
    assert "Name others in --columns; --columns 0,1 reads a file without a header" in error
    assert main(["convert", str(path), str(out), "--columns", "0,2,1"]) == 0
    assert capsys.readouterr().err == ""
    net = graphnn.load(out)
    assert net.graph.names == ("a", "b", "c")
    assert net.weight.tolist() == [7.0, 9.0]
    assert main(["info", str(path), "--columns", "0,2"]) == 0
    assert "--columns has no weight: the weights are drawn" in capsys.readouterr().err


def test_columns_are_named(tmp_path, capsys):
    path, out = tmp_path / "named.csv", tmp_path / "n.safetensors"
    path.write_text('"from, or pre",to,w\na,b,2\n')
    assert main(["convert", str(path), str(out), "--columns", '"from, or pre",to,w']) == 0
    assert graphnn.load(out).weight.tolist() == [2.0]
    assert "--columns must name two or three" in refused(capsys, "info", path, "--columns", "to")
    assert "--columns: must be names" in refused(capsys, "info", path, "--columns", "a\nb,c")
    assert "header must name one column each for a, to" in refused(
        capsys, "info", path, "--columns", "a,to"
    )


def test_errors_speak_of_options(edges, tmp_path, capsys):
    edges.write_text(EDGES + "x,h,0.5\n")
    error = refused(capsys, "info", edges)
    assert "pass --coalesce sum to add duplicates up" in error
    edges.write_text(EDGES)
    error = refused(capsys, "info", edges, "--activation", "rellu")
    assert error.endswith("Did you mean 'relu' or 'relu6' or 'elu'?\n")
    half = tmp_path / "half.safetensors"
    graphnn.save(graphnn.from_edges([("a", "b")], dtype=torch.bfloat16), half)
    error = refused(capsys, "convert", half, tmp_path / "half.onnx")
    assert error.endswith("(got torch.bfloat16). Write .safetensors instead.\n")
    error = refused(capsys, "draw", edges, "-o", tmp_path / "net.html", "--max-edges", "-1")
    assert error.endswith("--max-edges must be an integer of at least 0 (got -1).\n")


def test_activations_of_ones_own_are_read_in_python(tmp_path, capsys, monkeypatch):
    path = tmp_path / "own.safetensors"
    graphnn.register_activation("test_cli_cube", lambda x: x**3)
    graphnn.save(graphnn.from_edges([("a", "b")], output_activation="test_cli_cube"), path)
    # As in another process, which does not know it.
    monkeypatch.delitem(activation._RULES, "test_cli_cube")
    activation._resolve.cache_clear()
    error = refused(capsys, "info", path)
    assert "A network with activations of its own is read in Python." in error
    assert "register" not in error


def test_duplicates_of_a_list_are_added_up_on_request(tmp_path, capsys):
    path = tmp_path / "twice.csv"
    path.write_text(EDGES + "x,h,0.5\n")
    assert "line 2 and line 6" in refused(capsys, "info", path)
    assert main(["convert", str(path), str(tmp_path / "n.graphml"), "--coalesce", "sum"]) == 0
    assert graphnn.read_graphml(tmp_path / "n.graphml").weight.tolist() == [2.5, -1.0, 3.0, -0.5]


@pytest.mark.parametrize(
    "option",
    [
        ("--activation", "relu"),
        ("--output-activation", "sin"),
        ("--seed", "0"),
        ("--columns", "0,1"),
    ],
)
def test_options_of_edge_lists_are_refused_elsewhere(saved, option, capsys):
    error = refused(capsys, "info", saved, *option)
    assert f"{option[0]} must go with an edge list" in error


def test_edges_that_are_not_finite_are_called_lost(tmp_path, capsys):
    graph = graphnn.NeuronGraph([[0, 1], [2, 2]], bias=False)
    graphnn.save(graphnn.Network(graph, [math.nan, 1.0]), tmp_path / "n.safetensors")
    assert main(["convert", str(tmp_path / "n.safetensors"), str(tmp_path / "n.csv")]) == 0
    assert "lost: 1 weights that are not finite" in capsys.readouterr().err


def test_names_that_no_file_of_text_can_hold_are_refused(tmp_path, capsys):
    graph = graphnn.NeuronGraph([[0], [1]], names=["\ud800", "y"])
    graphnn.save(graphnn.Network(graph), tmp_path / "n.safetensors")
    error = refused(capsys, "convert", tmp_path / "n.safetensors", tmp_path / "n.csv")
    assert r"got '\ud800' in" in error
    assert not (tmp_path / "n.csv").exists()


def test_names_equal_as_text_are_refused(tmp_path, capsys):
    graph = graphnn.NeuronGraph([[0, 1], [2, 2]], names=[1, "1", "y"])
    graphnn.save(graphnn.Network(graph), tmp_path / "n.safetensors")
    error = refused(capsys, "convert", tmp_path / "n.safetensors", tmp_path / "n.csv")
    assert "must differ as text" in error
    assert "'1'" in error
    assert not (tmp_path / "n.csv").exists()


def test_triplets_of_every_sample_and_edge(edges, tmp_path, capsys):
    samples = tmp_path / "x.csv"
    samples.write_text("1,1\n0.5,3\n")
    assert main(["triplets", str(edges), "--input", str(samples)]) == 0
    rows = table(capsys.readouterr().out)
    net = graphnn.from_edges(edges, bias=False)
    trace = net.trace(torch.tensor([[1.0, 1.0], [0.5, 3.0]]))
    assert len(rows) == 8
    assert [row["sample"] for row in rows] == ["0"] * 4 + ["1"] * 4
    assert [row["edge"] for row in rows[:4]] == ["0", "1", "2", "3"]
    assert [row["level"] for row in rows[:4]] == ["1", "1", "2", "2"]
    assert [(row["source"], row["target"]) for row in rows[:2]] == [("x", "h"), ("z", "h")]
    found = [
        [float(row[name]) for name in ("source_value", "weight", "target_value")] for row in rows
    ]
    expected = torch.cat(trace.triplets(), dim=1).reshape(-1, 3)
    torch.testing.assert_close(torch.tensor(found), expected)


def test_triplets_take_several_groups_and_preactivations(saved, net, tmp_path, capsys):
    samples, out = tmp_path / "x.csv", tmp_path / "t.tsv"
    samples.write_text("0.25,-2\n")
    arguments = ["triplets", str(saved), "--input", str(samples), "-o", str(out)]
    assert main([*arguments, "--target", "preactivation"]) == 0
    assert f"wrote {out}: 5 triplets of 1 samples" in capsys.readouterr().out
    rows = table(out.read_text(), delimiter="\t")
    trace = net.trace(left=torch.tensor([0.25]), right=torch.tensor([-2.0]))
    by_edge = {int(row["edge"]): float(row["target_preactivation"]) for row in rows}
    for edge, target in enumerate(net.graph.edge_index[1].tolist()):
        assert by_edge[edge] == pytest.approx(trace.preactivations[target].item(), rel=1e-6)


def test_a_header_is_matched_by_name(edges, tmp_path, capsys):
    texts = []
    for name, text in (("a", "x,z\n1,5\n"), ("b", "z,x\n5,1\n"), ("c", "one,two\n1,5\n")):
        (tmp_path / f"{name}.csv").write_text(text)
        assert main(["triplets", str(edges), "--input", str(tmp_path / f"{name}.csv")]) == 0
        texts.append(capsys.readouterr().out)
    assert texts[0] == texts[1] == texts[2]


def test_no_samples_give_a_header_alone(edges, tmp_path, capsys):
    (tmp_path / "x.csv").write_text("x,z\n")
    assert main(["triplets", str(edges), "--input", str(tmp_path / "x.csv")]) == 0
    assert capsys.readouterr().out.count("\n") == 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("1,2\n1\n", r"line 2: a row must have 2 columns"),
        ("1,2\n3,four\n", r"line 2, column 2: must be a number, .*got 'four'"),
        ("x,w\n1,2\n", r"line 1: a header must name every input neuron once, but 'z' is missing"),
        ("x,x\n1,2\n", r"line 1: a header must name every input neuron once, but 'z' is missing"),
        ("x,z,x\n1,2,3\n", r"line 1: a row must have 2 columns.*\(got 3\)"),
        ("1,2,3\n", r"line 1: a row must have 2 columns"),
        ("1;2\n", r"line 1: a row must have 2 columns.*\(got 1\)\. Commas separate"),
        ("1,2\n3,nan\n", r"line 2, column 2: must be a number, finite .*got 'nan'"),
        ("1,-inf\n", r"line 1, column 2: must be a number, finite .*got '-inf'"),
        ("1e39,2\n", r"line 1, column 1: must be a number, finite in torch\.float32 .*'1e39'"),
        ("1,\n", r"line 1, column 2: must be a number.*got ''"),
        ("1,two\n3,4\n", r"line 1, column 2: must be a number, .*got 'two'"),
    ],
)
def test_bad_samples_are_refused(edges, tmp_path, capsys, text, message):
    path, out = tmp_path / "x.csv", tmp_path / "out.csv"
    path.write_text(text)
    error = refused(capsys, "triplets", edges, "--input", path, "-o", out)
    assert error.startswith(f"graphnn: error: {path}, line")
    assert re.search(message, error)
    assert sorted(tmp_path.iterdir()) == sorted([edges, path])


def test_an_empty_table_is_refused(edges, tmp_path, capsys):
    (tmp_path / "x.csv").write_text("\n")
    error = refused(capsys, "triplets", edges, "--input", tmp_path / "x.csv")
    assert "x.csv: the table must have a row a sample" in error


def test_samples_that_are_not_text_are_refused(edges, tmp_path, capsys):
    (tmp_path / "x.csv").write_bytes(b"\xff\xfe\x00\x01")
    assert "must be text" in refused(capsys, "triplets", edges, "--input", tmp_path / "x.csv")


def test_a_missing_file_is_one_line(tmp_path, capsys):
    for name in ("none.graphml", "none.safetensors", "none.onnx", "none.csv"):
        error = refused(capsys, "info", tmp_path / name)
        assert str(tmp_path / name) in error


@pytest.mark.parametrize("name", ["net.xml", "net.txt", "net"])
def test_unknown_endings_are_refused(saved, tmp_path, capsys, name):
    assert ".graphml, .safetensors, .onnx, .csv or .tsv" in refused(capsys, "info", tmp_path / name)
    refused(capsys, "convert", saved, tmp_path / name)
    assert not (tmp_path / name).exists()


def test_broken_files_are_one_line(tmp_path, capsys):
    for name in ("n.graphml", "n.safetensors", "n.onnx", "n.csv"):
        (tmp_path / name).write_text("no network\n")
        assert name in refused(capsys, "info", tmp_path / name)


@pytest.mark.parametrize("suffix", [".csv", ".graphml", ".safetensors", ".onnx"])
def test_a_folder_is_no_file(edges, tmp_path, suffix, capsys):
    path = tmp_path / f"net{suffix}"
    path.mkdir()
    for command in (("info", path), ("convert", edges, path)):
        error = refused(capsys, *command)
        assert error.startswith(f"graphnn: error: {path}: ")
    assert path.is_dir()
    assert not list(path.iterdir())


def test_the_table_must_be_a_table(edges, tmp_path, capsys):
    (tmp_path / "x.csv").write_text("1,2\n")
    arguments = ("triplets", edges, "--input", tmp_path / "x.csv", "-o", tmp_path / "out.xlsx")
    assert "must end in .csv or .tsv" in refused(capsys, *arguments)


@pytest.mark.parametrize("arguments", [[], ["draw"], ["info"], ["demo", "--epochs", "many"]])
def test_wrong_usage_is_one_line(arguments, capsys):
    assert "--help" in refused(capsys, *arguments)


def test_demo_refuses_no_epochs(tmp_path, capsys):
    assert "epochs must be at least 1" in refused(
        capsys, "demo", "--output", tmp_path / "d", "--epochs", "0"
    )


@pytest.mark.parametrize("command", [[], ["info"], ["convert"], ["triplets"], ["demo"]])
def test_help_is_there(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([*command, "--help"])
    assert ended.value.code == 0
    said = capsys.readouterr().out
    assert said.startswith("usage: graphnn")
    assert len(said.splitlines()) > 5


def test_the_version_is_said(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0
    assert re.fullmatch(r"graphnn \d+\.\d+\.\d+\n", capsys.readouterr().out)


def test_names_that_the_terminal_cannot_show_are_escaped(tmp_path):
    graph = graphnn.NeuronGraph([[0], [1]], names=["\u00e9", "\ud800"])
    graphnn.save(graphnn.Network(graph), tmp_path / "n.safetensors")
    (tmp_path / "x.csv").write_text("1\n")
    command = [sys.executable, "-m", "graphnn", "triplets", str(tmp_path / "n.safetensors")]
    command += ["--input", str(tmp_path / "x.csv")]
    environment = os.environ | {"PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, env=environment, check=True)
    assert rb"\xe9,\ud800" in done.stdout


def test_it_runs_as_a_module_and_survives_a_closed_pipe(edges, tmp_path):
    samples = tmp_path / "x.csv"
    samples.write_text("1,2\n" * 20_000)
    command = [sys.executable, "-m", "graphnn", "triplets", str(edges), "--input", str(samples)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline().startswith(b"sample,level,edge")
        process.stdout.close()
        assert process.stderr is not None
        assert process.stderr.read() == b""
        assert process.wait() == 0
