"""Networks from tuples, ids, frames and files."""

from fractions import Fraction
from pathlib import Path

import networkx as nx
import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import torch
from scipy import sparse

from graphnn import FormatError, GraphError, from_edges

# x and y feed h; h and y feed o: y -> o skips a level.
ROWS = [("x", "h", 2.0), ("y", "h", -1.0), ("h", "o", 3.0), ("y", "o", 0.5)]


def names_of(net):
    assert net.graph.names is not None
    return net.graph.names


def edge_list(net):
    return net.graph.edge_index.t().tolist()


def same(one, other):
    return (
        one.graph == other.graph
        and torch.equal(one.weight, other.weight)
        and torch.equal(one.bias, other.bias)
    )


def write(path, text):
    path.write_bytes(text.encode())
    return path


# Rows


def test_labels_get_ids_by_first_appearance_source_first():
    net = from_edges([("c", "b"), ("a", "b"), ("c", "a")])
    assert names_of(net) == ("c", "b", "a")
    assert edge_list(net) == [[0, 1], [2, 1], [0, 2]]


def test_a_small_net_computes_what_one_computes_by_hand():
    net = from_edges(ROWS, bias={"h": -1.0, "o": 0.25})
    x = torch.tensor([[1.0, 3.0], [4.0, 1.0]])
    # h = relu(2x - y - 1), o = 3h + y/2 + 1/4
    assert net(x).tolist() == [[0.0 + 1.5 + 0.25], [3 * 6.0 + 0.5 + 0.25]]
    assert net.weight.tolist() == [2.0, -1.0, 3.0, 0.5]


def test_integers_in_rows_are_labels():
    net = from_edges([(30, 10), (10, 20)])
    assert names_of(net) == (30, 10, 20)
    assert net.graph.num_neurons == 3


def test_one_and_its_text_are_two_labels():
    net = from_edges([(1, "1"), ("1", 2)])
    assert names_of(net) == (1, "1", 2)


@pytest.mark.parametrize("label", [("layer", 3), frozenset({1}), b"a", 1.5, True, Fraction(1, 3)])
def test_any_hashable_label(label):
    net = from_edges([("x", label), (label, "y")])
    assert names_of(net) == ("x", label, "y")


def test_numpy_scalars_become_plain_python_values():
    rows = [(np.str_("a"), np.int32(5), np.float32(0.5)), (np.int64(5), "b", np.int8(2))]
    net = from_edges(rows)
    assert names_of(net) == ("a", 5, "b")
    assert [type(name) for name in names_of(net)] == [str, int, str]
    assert net.weight.tolist() == [0.5, 2.0]


def test_a_generator_is_consumed_once():
    drawn = []

    def edges():
        for row in ROWS:
            drawn.append(row)
            yield row

    assert same(from_edges(edges(), bias=False), from_edges(ROWS, bias=False))
    assert drawn == ROWS


def test_lists_zips_and_views_are_rows_too():
    expected = from_edges(ROWS, bias=False)
    assert same(from_edges([list(row) for row in ROWS], bias=False), expected)
    assert same(from_edges(zip(*zip(*ROWS, strict=True), strict=True), bias=False), expected)
    graph = nx.DiGraph()
    graph.add_weighted_edges_from(ROWS)
    by_name = from_edges(graph.edges(data="weight"), bias=False)
    assert set(names_of(by_name)) == set("xyho")


def test_the_edges_of_a_networkx_graph_are_rows():
    graph = nx.DiGraph([("x", "h"), ("h", "y"), ("x", "y")])
    listed = from_edges(list(graph.edges))
    for edges in (graph.edges, graph.edges(), nx.MultiDiGraph(graph).edges()):
        assert from_edges(edges).graph == listed.graph


def test_the_keys_of_a_multigraph_are_no_weights():
    with pytest.raises(GraphError, match=r"a key, which is no weight .*data='weight'"):
        from_edges(nx.MultiDiGraph([("x", "y")]).edges)


def test_a_list_of_pairs_is_rows_even_where_it_could_be_an_edge_index():
    net = from_edges([[0, 1], [1, 2]])
    assert edge_list(net) == [[0, 1], [1, 2]]
    assert names_of(net) == (0, 1, 2)


@pytest.mark.parametrize(
    "weight",
    [Fraction(1, 2), torch.tensor(0.5), np.float64(0.5), torch.tensor([0.5], requires_grad=True)],
)
def test_whatever_is_a_number_is_a_weight(weight):
    net = from_edges([("a", "b", weight), ("b", "c", 1)])
    assert net.weight.tolist() == [0.5, 1.0]


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        ([], "at least one edge .got an empty list"),
        (iter([]), "at least one edge"),
        (None, r"edges must be an iterable .* \(got NoneType\)"),
        (5, r"\(got int\)"),
        ({("a", "b"): 0.5}, r"\(got dict\)"),
        (b"ab", "row 0 is the int 97"),
        (["ab", "bc"], "row 0 is the str 'ab'"),
        (("a", "b"), "row 0 is the str 'a'"),
        ([("a", "b"), {"b", "c"}], "row 1 is the set"),
        ([("a", "b"), None], "row 1 is the NoneType None"),
        ([("a", "b"), ("b",)], "row 1 has 1 elements: the tuple"),
        ([("a", "b"), ("b", "c", 1.0, 2.0)], "row 1 has 4 elements"),
        ([("a", "b"), ()], "row 1 has 0 elements"),
        ([[0, 0, 1, 2], [1, 2, 3, 3]], r"pass torch.tensor\(edges\)"),
        ([torch.tensor([0, 1]), torch.tensor([1, 2])], r"torch.stack\(\[sources, targets\]\)"),
        ([("a", "b", 1.0), ("b", "c")], "row 0 has one and row 1 has none"),
        ([("a", "b"), ("b", "c", 1.0)], "row 1 has one and row 0 has none"),
        ([("a", "b"), ("b", None)], "target of row 1 is the NoneType None"),
        ([("a", "b"), (float("nan"), "c")], "source of row 1 is the float nan"),
        ([("a", pd.NA)], "target of row 0 is the NAType"),
        ([("a", "b"), ("b", ["c"])], r"hashable, but the target of row 1 is the list \['c'\]"),
        ([(torch.tensor(0), torch.tensor(1))], r"source of row 0 is the Tensor .*label.item\(\)"),
        ([("a", "b", 1.0), ("b", "c", float("nan"))], "that of row 1 is nan"),
        ([("a", "b", 1.0), ("b", "c", -float("inf"))], "that of row 1 is -inf"),
        ([("a", "b", 1e300)], r"finite in torch.float32, but that of row 0 is 1e\+300"),
        ([("a", "b", 1.0), ("b", "c", "0.5")], "that of row 1 is the str '0.5'"),
        ([("a", "b", None)], "that of row 0 is the NoneType None"),
        ([("a", "b", True)], "that of row 0 is the bool True"),
        ([("a", "b", 1j)], "that of row 0 is the complex 1j"),
        ([("a", "b", {"weight": 1.0})], "that of row 0 is the dict"),
        ([("a", "b", [1.0, 2.0])], r"that of row 0 is the list \[1.0, 2.0\]"),
        ([("a", "b", torch.ones(2))], "that of row 0 is the Tensor"),
        ([("a", "b"), ("b", "c"), ("a", "b")], r"row 0 and row 2 both go from 'a' .* to 'b'"),
        ([("a", "b"), ("b", "b")], r"edge 1 goes from 'b' \(neuron 1\) to itself"),
        ([("a", "b"), ("b", "c"), ("c", "b")], "the cycle 'b' -> 'c' -> 'b'"),
    ],
)
def test_bad_rows_are_refused(edges, message):
    with pytest.raises(GraphError, match=message):
        from_edges(edges)


def test_a_weight_too_large_for_float32_fits_float64():
    assert from_edges([("a", "b", 1e300)], dtype=torch.float64).weight.item() == 1e300


# Ids


@pytest.mark.parametrize("dtype", [torch.int64, torch.int32, torch.uint8])
def test_a_tensor_holds_ids_and_gives_no_names(dtype):
    net = from_edges(torch.tensor([[0, 0, 3], [3, 1, 1]], dtype=dtype))
    assert net.graph.names is None
    assert edge_list(net) == [[0, 3], [0, 1], [3, 1]]
    # Neuron 2 has no edges: an input that is an output as well.
    assert net.graph.inputs["input"].tolist() == [0, 2]
    assert net.graph.outputs["output"].tolist() == [1, 2]


def test_an_array_and_an_edge_index_are_ids_too():
    from torch_geometric import EdgeIndex

    edges = [[0, 0, 1], [1, 2, 2]]
    expected = from_edges(torch.tensor(edges)).graph
    assert from_edges(np.array(edges)).graph == expected
    assert from_edges(EdgeIndex(torch.tensor(edges))).graph == expected


def test_a_tensor_is_copied():
    edges = torch.tensor([[0, 1], [1, 2]])
    net = from_edges(edges)
    edges.fill_(0)
    assert edge_list(net) == [[0, 1], [1, 2]]


def test_groups_and_dicts_are_by_id():
    net = from_edges(
        torch.tensor([[0, 1, 2], [2, 2, 3]]),
        inputs={"b": [1], "a": torch.tensor([0])},
        outputs=np.array([3, 2]),
        activation={2: "tanh"},
        output_activation="sigmoid",
        bias={3: 0.5},
    )
    assert {name: ids.tolist() for name, ids in net.graph.inputs.items()} == {"b": [1], "a": [0]}
    assert net.graph.outputs["output"].tolist() == [3, 2]
    assert net.graph.activation == ("identity", "identity", "tanh", "sigmoid")
    assert net.bias.tolist() == [0.0, 0.5]


def test_no_edges_but_inputs_is_a_network():
    net = from_edges(torch.empty(2, 0, dtype=torch.int64), inputs=[2, 0], outputs=[1, 2], bias={})
    assert net(torch.tensor([[5.0, 6.0]])).tolist() == [[0.0, 5.0]]


def test_a_group_may_hold_an_id_that_no_edge_has():
    net = from_edges(torch.tensor([[0], [1]]), inputs=[0, 4])
    assert net.graph.num_neurons == 5


@pytest.mark.parametrize(
    ("edges", "message"),
    [
        (torch.empty(2, 0, dtype=torch.int64), "at least one edge"),
        (torch.rand(2, 3), r"must hold integers \(got shape \(2, 3\), torch.float32\)"),
        (torch.ones(2, 3, dtype=torch.bool), "must hold integers"),
        (torch.tensor([[0, 1], [1, 2], [2, 3]]), r"got shape \(3, 2\), int64\). Transpose it"),
        (torch.tensor([0, 1]), r"must have shape \(2, E\)"),
        (torch.tensor([[0, 1], [-1, 2]]), "edge 0 is 0 -> -1"),
        (np.array([["a", "b"], ["b", "c"]]), "Labels and weights are given as rows"),
        (np.array([[0, "b"], [1, "c"]], dtype=object), "must hold integers"),
        (torch.tensor([[0, 1, 0], [1, 2, 1]]), "edges 0 and 2 both go from neuron 0 to neuron 1"),
        (torch.tensor([[0, 1, 2], [1, 2, 1]]), "the cycle 1 -> 2 -> 1|the cycle 2 -> 1 -> 2"),
    ],
)
def test_bad_ids_are_refused(edges, message):
    with pytest.raises(GraphError, match=message):
        from_edges(edges)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": [-1]}, r"inputs\[0\] is -1"),
        ({"outputs": {"o": [0.5]}}, "must hold integers"),
        ({"activation": {7: "tanh"}}, r"the keys of activation must be neuron ids in 0 ... 2"),
        ({"bias": {"a": 1.0}}, "the keys of bias must hold integers"),
    ],
)
def test_bad_ids_in_arguments_are_refused(arguments, message):
    edges = torch.tensor([[0, 1], [1, 2]])
    with pytest.raises(GraphError, match=message):
        from_edges(edges, **arguments)


# Frames


def frame_of(rows, **dtypes):
    columns = ["source", "target", "weight"][: len(rows[0])]
    return pd.DataFrame(rows, columns=columns).astype(dtypes)


@pytest.mark.parametrize(
    "dtype",
    [
        object,
        "str",
        "string",
        "string[pyarrow]",
        "category",
        pd.ArrowDtype(pa.string()),
        pd.ArrowDtype(pa.large_string()),
        pd.ArrowDtype(pa.dictionary(pa.int32(), pa.string())),
    ],
    ids=str,
)
def test_a_frame_of_strings_equals_its_rows(dtype):
    frame = frame_of(ROWS, source=dtype, target=dtype)
    assert same(from_edges(frame, bias={"o": 1.0}), from_edges(ROWS, bias={"o": 1.0}))


@pytest.mark.parametrize("dtype", ["int64", "int32", "Int64", "int64[pyarrow]", object])
def test_integers_in_a_frame_are_labels(dtype):
    net = from_edges(frame_of([(30, 10), (10, 20)], source=dtype, target=dtype))
    assert names_of(net) == (30, 10, 20)
    assert {type(name) for name in names_of(net)} == {int}


@pytest.mark.parametrize("dtype", ["float32", "Float64", "double[pyarrow]", object])
def test_weights_of_any_numeric_column(dtype):
    assert same(from_edges(frame_of(ROWS, weight=dtype), bias=False), from_edges(ROWS, bias=False))


def test_a_mixed_column_keeps_its_objects():
    net = from_edges(frame_of([(1, "1"), ("1", 2), (("t", 1), 2)], source=object, target=object))
    assert names_of(net) == (1, "1", 2, ("t", 1))


def test_columns_of_different_dtypes_keep_their_labels():
    large = 2**53 + 1
    frame = pd.DataFrame({"source": [large, 7], "target": ["a", "b"]})
    assert names_of(from_edges(frame)) == (large, "a", 7, "b")
    frame = pd.DataFrame({"source": [large, 7], "target": [0.5, 1.5]})
    assert names_of(from_edges(frame)) == (large, 0.5, 7, 1.5)


def test_index_order_and_other_columns_of_a_frame_do_not_matter():
    frame = frame_of(ROWS)[["weight", "target", "source"]].assign(note="n", id=7)
    frame.index = [5, 5, 2, 9]
    assert same(from_edges(frame, bias=False), from_edges(ROWS, bias=False))


def test_random_frames_tuples_and_files_agree(rng, tmp_path):
    pairs = torch.randint(0, 40, (300, 2), generator=rng)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]].unique(dim=0)
    pairs = pairs[torch.randperm(len(pairs), generator=rng)]
    weights = torch.rand(len(pairs), generator=rng).tolist()
    rows = [(f"n{s}", f"n{t}", w) for (s, t), w in zip(pairs.tolist(), weights, strict=True)]
    expected = from_edges(rows, bias=False)
    names = names_of(expected)
    assert names == tuple(dict.fromkeys(label for s, t, _ in rows for label in (s, t)))
    ends = [(names[s], names[t]) for s, t in edge_list(expected)]
    assert ends == [row[:2] for row in rows]
    frame = pd.DataFrame(rows, columns=["source", "target", "weight"])
    assert same(from_edges(frame, bias=False), expected)
    frame.to_csv(tmp_path / "edges.csv", index=False)
    assert same(from_edges(tmp_path / "edges.csv", bias=False), expected)


@pytest.mark.parametrize(
    ("frame", "message"),
    [
        (pd.DataFrame({"from": ["a"], "to": ["b"]}), r"got the columns 'from', 'to'\).*rename"),
        (pd.DataFrame({"source": ["a"]}), "one column each for source, target"),
        (pd.DataFrame(), "got the columns none"),
        (pd.DataFrame([["a", "b", "c"]], columns=["source", "target", "target"]), "one column"),
        (pd.DataFrame({"source": [], "target": []}), "got an empty frame"),
        (frame_of([("a", "b"), (None, "c")]), "the source of row 1 is missing"),
        (frame_of([("a", np.nan), ("b", "c")]), "the target of row 0 is missing"),
        (frame_of([(1, 2), (2, None)], target="Int64"), "the target of row 1 is missing"),
        (frame_of([("a", ["b"])]), "the target of row 0 is the list"),
        (frame_of([("a", "b", 1.0), ("b", "c", None)]), "that of row 1 is nan"),
        (frame_of([("a", "b", 1.0), ("b", "c", np.inf)]), "that of row 1 is inf"),
        (frame_of([("a", "b", "0.5")]), "that of row 0 is the str '0.5'"),
        (frame_of([("a", "b", 1), ("b", "c", pd.NA)], weight="Int64"), "that of row 1 is nan"),
        (frame_of([("a", "b", True)]), "that of row 0 is the bool True"),
        (frame_of([("a", "b"), ("b", "c"), ("a", "b")]), "row 0 and row 2 both go from 'a'"),
    ],
)
def test_bad_frames_are_refused(frame, message):
    with pytest.raises(GraphError, match=message):
        from_edges(frame)


# Files


@pytest.mark.parametrize("kind", [str, Path])
def test_a_csv_file(tmp_path, kind):
    text = "source,target,weight\n" + "".join(f"{s},{t},{w}\n" for s, t, w in ROWS)
    path = write(tmp_path / "edges.csv", text)
    assert same(from_edges(kind(path), bias=False), from_edges(ROWS, bias=False))


@pytest.mark.parametrize("name", ["edges.tsv", "edges.txt", "edges.csv"])
def test_tabs_are_found_by_extension_or_content(tmp_path, name):
    path = write(tmp_path / name, "source\ttarget\na,1\tb\nb\tc\n")
    assert names_of(from_edges(path)) == ("a,1", "b", "c")


def test_a_single_column_tsv_stays_a_tsv(tmp_path):
    path = write(tmp_path / "edges.tsv", "source,target\na,b\n")
    with pytest.raises(FormatError, match=r"line 1: .* 'source,target'"):
        from_edges(path)


def test_quotes_line_ends_marks_blank_lines_and_other_columns(tmp_path):
    text = '\ufeffnote,target,source\r\n1,"b ""q"",\nx",a\r\n\r\n2,c,"b ""q"",\nx"\r\n\r\n'
    net = from_edges(write(tmp_path / "edges.csv", text))
    assert names_of(net) == ("a", 'b "q",\nx', "c")


def test_labels_of_a_file_are_strings_as_written(tmp_path):
    text = "source,target,weight\n007,NA,1e-3\nNA,nan,-2\n1, 1,+.5\n"
    net = from_edges(write(tmp_path / "edges.csv", text), dtype=torch.float64)
    assert names_of(net) == ("007", "NA", "nan", "1", " 1")
    assert net.weight.tolist() == [1e-3, -2.0, 0.5]


def test_a_number_for_a_files_label_is_answered_with_the_label(tmp_path):
    path = write(tmp_path / "edges.csv", "source,target\n0,1\n")
    with pytest.raises(GraphError, match=r"but 0 does not. Did you mean '0' \(str\)\?"):
        from_edges(path, inputs=[0])


@pytest.mark.parametrize("columns", [None, (0, 1)])
def test_commas_in_a_file_of_tabs_are_answered_with_tabs(tmp_path, columns):
    path = write(tmp_path / "edges.tsv", "source,target\na,b\n")
    with pytest.raises(
        FormatError, match=r"by tabs, as in every \.tsv file \(got 'source,target'\)"
    ):
        from_edges(path, columns=columns)


HEADER = "source,target,weight\n"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"line 1: the header .* \(got nothing\)"),
        ("from,to\na,b\n", r"line 1: .*\(got 'from', 'to'\)"),
        ("a,b\nb,c\n", r"\(got 'a', 'b'\)"),
        ("source,target,source\na,b,c\n", "one column each"),
        ("source|target\na|b\n", "separated by tabs, commas or semicolons .got 'source|target'"),
        ("source, target\na,b\n", "' target'"),
        ("source,target\n", "got a header alone"),
        (HEADER + "a,b,1\nb,c\n", r"line 3: every row must have 3 fields.*\(got 2\)"),
        (HEADER + "a,b,1\n\nb,c,1,1\n", r"line 4: .*\(got 4\)"),
        (HEADER + "a,b,one\n", "line 2: a weight must be a number .got 'one'"),
        (HEADER + "a,b,1\nb,c,\n", "line 3: a weight must be a number .got ''"),
        (HEADER + "a,b,1\nb,c,nan\n", "that of line 3 is nan"),
        (HEADER + "a,b,1\n\nb,c,-inf\n", "that of line 4 is -inf"),
        (HEADER + "a,b,1e999\n", "that of line 2 is inf"),
        (HEADER + "a,b,1\nb,c,1e200\n", "finite in torch.float32, but that of line 3"),
        (HEADER + "a,b,1\n,c,1\n", "line 3: every edge must have labels, but the source is empty"),
        (HEADER + "a,,1\n", "line 2: .* the target is empty"),
        (HEADER + 'a,b,1\n"b,c,1\n', "line 3: unexpected end of data"),
        (HEADER + 'a,"b"x,1\n', "line 2: ',' expected after '\"'"),
        (HEADER + "a,b,1\nc,b,1\n\na,b,1\n", "line 2 and line 5 both go from 'a' .* to 'b'"),
        (HEADER + "a,a,1\n", "edge 0 goes from 'a' .* to itself"),
        (HEADER + "a,b,1\nb,a,1\n", "the cycle .*Edge 0 is on line 2"),
    ],
)
def test_bad_files_are_refused_by_name_and_line(tmp_path, text, message):
    path = write(tmp_path / "edges.csv", text)
    with pytest.raises(FormatError, match=message) as caught:
        from_edges(path)
    assert str(caught.value).startswith(str(path))


def test_a_file_that_is_not_text_is_refused(tmp_path):
    path = tmp_path / "edges.csv"
    path.write_bytes(b"source,target\na,b\n\xff\xfe,b\n")
    with pytest.raises(FormatError, match=r"edges.csv, line 3: the file must be UTF-8 text"):
        from_edges(path)


def test_a_files_wiring_is_fine_but_the_argument_is_not(tmp_path):
    path = write(tmp_path / "edges.csv", "source,target\na,b\nb,c\n")
    with pytest.raises(GraphError, match=r"edge 0 goes from 'a' .* to the input 'b'"):
        from_edges(path, inputs=["b"])


def test_a_missing_file_is_the_systems_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        from_edges(tmp_path / "none.csv")


def test_semicolons_separate_too(tmp_path):
    text = "source;target;weight\na,1;b;0.5\nb;c;2\n"
    net = from_edges(write(tmp_path / "edges.csv", text), bias=False)
    assert names_of(net) == ("a,1", "b", "c")
    assert net.weight.tolist() == [0.5, 2.0]


# Columns


def test_columns_of_a_file_by_name(tmp_path):
    path = write(tmp_path / "edges.csv", "w,to,from\n0.5,b,a\n2,c,b\n")
    net = from_edges(path, columns=("from", "to", "w"), bias=False)
    assert same(net, from_edges([("a", "b", 0.5), ("b", "c", 2)], bias=False))
    reverse = from_edges(path, columns=["to", "from"])
    assert names_of(reverse) == ("b", "a", "c")
    assert edge_list(reverse) == [[0, 1], [2, 0]]


@pytest.mark.parametrize("separator", [",", "\t", ";"])
def test_columns_of_a_file_without_a_header_by_place(tmp_path, separator):
    rows = [("a", "x", "b", "0.5"), ("b", "x", "c", "2")]
    text = "".join(separator.join(row) + "\n" for row in rows)
    path = write(tmp_path / "edges.txt", text)
    net = from_edges(path, columns=(0, 2, 3), bias=False)
    assert same(net, from_edges([("a", "b", 0.5), ("b", "c", 2)], bias=False))
    assert names_of(from_edges(path, columns=(2, 0))) == ("b", "a", "c")


def test_columns_of_a_frame(rng):
    frame = frame_of(ROWS).rename(columns={"source": "pre", "target": 7, "weight": "w"})
    net = from_edges(frame, columns=("pre", 7, "w"), bias=False)
    assert same(net, from_edges(ROWS, bias=False))
    unweighted = from_edges(frame, columns=("pre", 7), bias=False, generator=rng)
    assert unweighted.weight.tolist() != net.weight.tolist()


@pytest.mark.parametrize(
    ("columns", "error", "message"),
    [
        (("pre", "target"), FormatError, "line 1: .* for pre, target, .*'source', 'target'"),
        (("source", "target", "w"), FormatError, "one column each for source, target, w,"),
        ((0, 2), FormatError, "line 1: every row must have the fields 0, 2, counted from 0"),
        (("source", "source"), GraphError, "two or three different columns"),
        ("source", GraphError, r"\(got \('source',\)\)"),
        (("a", "b", "c", "d"), GraphError, "two or three different columns"),
        ((0, -1), GraphError, "places from 0 on"),
    ],
)
def test_columns_that_are_not_there(tmp_path, columns, error, message):
    path = write(tmp_path / "edges.csv", "source,target\na,b\n")
    with pytest.raises(error, match=message):
        from_edges(path, columns=columns)


def test_ragged_rows_without_a_header_are_named_by_line(tmp_path):
    path = write(tmp_path / "edges.csv", "a,b\nb,c\nc\n")
    with pytest.raises(FormatError, match=r"line 3: every row must have 2 fields.*\(got 1\)"):
        from_edges(path, columns=(0, 1))


def test_columns_are_of_frames_and_files_only():
    with pytest.raises(GraphError, match=r"columns must be given with a frame or a file only"):
        from_edges(ROWS, columns=("source", "target", "weight"))
    with pytest.raises(GraphError, match=r"a frame of edges .* for pre, post \(got the columns"):
        from_edges(frame_of(ROWS), columns=("pre", "post"))


# Matrices


def test_a_row_of_a_sparse_matrix_is_a_source():
    matrix = sparse.csr_array(np.array([[0, 2.0, -1.0], [0, 0, 3.0], [0, 0, 0]]))
    net = from_edges(matrix, bias=False)
    assert net.graph.names is None
    assert edge_list(net) == [[0, 1], [0, 2], [1, 2]]
    assert net.weight.tolist() == [2.0, -1.0, 3.0]
    graph = nx.from_scipy_sparse_array(matrix, create_using=nx.DiGraph)
    assert list(map(list, graph.edges)) == edge_list(net)


@pytest.mark.parametrize("kind", [sparse.coo_array, sparse.csc_matrix, sparse.lil_array])
def test_every_kind_of_sparse_matrix(kind):
    dense = np.triu(np.random.default_rng(0).random((6, 6)), 1)
    net = from_edges(kind(dense), dtype=torch.float64, bias=False)
    rebuilt = np.zeros((6, 6))
    rebuilt[tuple(net.graph.edge_index.numpy())] = net.weight.detach().numpy()
    assert (rebuilt == dense).all()


def test_entries_keep_their_order_zeros_and_isolated_neurons():
    matrix = sparse.coo_array(([5, 0, 7], ([1, 0, 0], [2, 2, 1])), shape=(5, 5))
    net = from_edges(matrix, inputs=[0, 3])
    assert edge_list(net) == [[1, 2], [0, 2], [0, 1]]
    assert net.weight.tolist() == [5.0, 0.0, 7.0]
    assert net.graph.num_neurons == 5


def test_a_matrix_of_bools_has_no_weights(rng):
    matrix = sparse.coo_array(([True, True], ([0, 1], [2, 2])), shape=(3, 3))
    drawn = from_edges(matrix, generator=rng).weight
    assert not set(drawn.tolist()) & {0.0, 1.0}


def test_duplicate_entries_are_added_up_when_told():
    matrix = sparse.coo_array(([1.0, 2.0, 4.0], ([0, 1, 0], [2, 2, 2])), shape=(3, 3))
    assert from_edges(matrix, coalesce="sum").weight.tolist() == [5.0, 2.0]
    with pytest.raises(GraphError, match="edges 0 and 2 both go from neuron 0 to neuron 2"):
        from_edges(matrix)


@pytest.mark.parametrize(
    ("matrix", "message"),
    [
        (sparse.coo_array((3, 4)), r"must be square.*\(got shape \(3, 4\)\).*from_masks"),
        (sparse.coo_array((0, 0)), "at least one neuron"),
        (sparse.coo_array(([1.0, np.nan], ([0, 1], [2, 2])), (3, 3)), "that of entry 1 is nan"),
        (sparse.coo_array(([1j], ([0], [1])), (2, 2)), "that of entry 0 is the complex128"),
        (sparse.coo_array(([1.0], ([1], [1])), (2, 2)), "edge 0 goes from neuron 1 to itself"),
    ],
)
def test_bad_matrices_are_refused(matrix, message):
    with pytest.raises(GraphError, match=message):
        from_edges(matrix)


# Labels that are too far apart, or nearly the same


@pytest.mark.parametrize("highest", [2**24, 2**40, 2**62])
def test_huge_ids_are_refused_before_memory_is_asked_for(highest):
    message = f"from 0 on, but the highest of 4 given ids is {highest}. Number them with"
    with pytest.raises(GraphError, match=message):
        from_edges(torch.tensor([[0, 1], [1, highest]]))
    with pytest.raises(GraphError, match=f"the highest of 3 given ids is {highest}"):
        from_edges(torch.tensor([[0], [1]]), inputs=[highest])


def test_huge_labels_are_labels():
    assert names_of(from_edges([(0, 2**40), (2**40, 2**62)])) == (0, 2**40, 2**62)


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [(1, 2), (2, 3), (True, 4)],
            "the source of row 2 is the bool True and elsewhere there is the int 1",
        ),
        (
            [(1, 2), (2.0, 3)],
            "the source of row 1 is the float 2.0 and elsewhere there is the int 2",
        ),
        (
            [(0.0, "a"), ("a", 0)],
            "the target of row 1 is the int 0 and elsewhere there is the float 0.0",
        ),
        ([(1, 2), (np.float64(2), 3)], r"the source of row 1 is the float64"),
    ],
)
def test_equal_labels_of_different_types_are_refused(rows, message):
    with pytest.raises(GraphError, match=message):
        from_edges(rows)
    frame = pd.DataFrame(rows, columns=["source", "target"], dtype=object)
    with pytest.raises(GraphError, match="labels of different types must not be equal"):
        from_edges(frame)


def test_equal_labels_of_one_type_are_one_label():
    assert names_of(from_edges([(1, 2), (np.int64(2), 3), (np.int32(1), 3)])) == (1, 2, 3)


def test_of_a_million_duplicates_the_first_is_named():
    rows = [
        ("a", "b"),
        *[("b", f"x{i}") for i in range(1000)],
        *[("b", "x7"), ("a", "b")] * 500_000,
    ]
    with pytest.raises(GraphError, match=r"row 8 and row 1001 both go from 'b' .* to 'x7'"):
        from_edges(rows)


# Groups


def test_groups_by_label_keep_their_order():
    net = from_edges(ROWS, inputs={"second": ["y"], "first": ["x"]}, outputs={"o": ["o", "h", "o"]})
    graph = net.graph
    assert {name: names_of(net)[ids[0]] for name, ids in graph.inputs.items()} == {
        "second": "y",
        "first": "x",
    }
    assert [names_of(net)[i] for i in graph.outputs["o"].tolist()] == ["o", "h", "o"]


@pytest.mark.parametrize(
    "labels", [(1, 2), np.array([1, 2]), torch.tensor([1, 2]), pd.Index([1, 2])]
)
def test_integer_labels_may_come_in_arrays(labels):
    net = from_edges([(2, 5), (1, 5)], inputs=labels)
    assert [names_of(net)[i] for i in net.graph.input_ids.tolist()] == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"inputs": "xy"}, r"inputs must be a sequence of labels \(got str: 'xy'\)"),
        ({"inputs": {"x", "y"}}, r"inputs must be a sequence of labels \(got set"),
        ({"outputs": 3}, r"outputs must be a sequence of labels \(got int: 3\)"),
        ({"outputs": {"a": "o"}}, r"outputs\['a'\] must be a sequence of labels"),
        ({"inputs": ["x", "z"]}, "inputs must be labels that occur in edges, but 'z' does not"),
        ({"inputs": [["x"]]}, r"but \['x'\] does not"),
        ({"inputs": {"a": ["x", "nope"]}}, r"inputs\['a'\] must be labels"),
        ({"inputs": ["x", "x"]}, "may be an input once"),
        ({"inputs": ["x", "h"]}, "to the input 'h'"),
        ({"inputs": {}}, "at least one group"),
        ({"inputs": {"not a name": ["x"]}}, "must be an identifier"),
        ({"outputs": []}, "at least one neuron"),
    ],
)
def test_bad_groups_are_refused(arguments, message):
    with pytest.raises(GraphError, match=message):
        from_edges(ROWS, **arguments)


def test_near_labels_are_suggested():
    with pytest.raises(GraphError, match=r"'hiden' does not. Did you mean 'hidden'\?"):
        from_edges([("x", "hidden"), ("hidden", "y")], outputs=["hiden"])


# Activations


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({}, "identity identity relu identity"),
        ({"activation": "tanh"}, "identity identity tanh identity"),
        ({"activation": {"h": "sin"}, "output_activation": "tanh"}, "identity identity sin tanh"),
        ({"activation": {"o": "abs"}, "output_activation": "tanh"}, "identity identity relu abs"),
        ({"activation": {}}, "identity identity relu identity"),
        ({"activation": {"x": "identity"}}, "identity identity relu identity"),
        (
            {"outputs": ["h", "x"], "output_activation": "elu(0.5)"},
            "identity identity elu(0.5) relu",
        ),
    ],
)
def test_activations_of_x_y_h_o(arguments, expected):
    net = from_edges(ROWS, **arguments)
    activation = dict(zip(names_of(net), net.graph.activation, strict=True))
    assert " ".join(activation[label] for label in "xyho") == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"activation": "rellu"}, "Did you mean 'relu'"),
        ({"activation": ["relu"] * 4}, r"activation must be one name, or a dict .* \(got list"),
        ({"activation": {"h": "rellu"}}, "Did you mean 'relu'"),
        ({"activation": {"h": ["relu"]}}, r"activation\['h'\] is list: \['relu'\]"),
        ({"activation": {"q": "relu"}}, "the keys of activation must be labels .* 'q' does not"),
        ({"activation": {"x": "relu"}}, "names 'relu' for the input 'x'"),
        ({"output_activation": "softmax"}, "activation must be one of"),
        ({"output_activation": {"o": "relu"}}, r"output_activation must be one name.*\(got dict"),
    ],
)
def test_bad_activations_are_refused(arguments, message):
    with pytest.raises(GraphError, match=message):
        from_edges(ROWS, **arguments)


# Biases and drawing


def test_biases_by_label():
    net = from_edges([*ROWS, ("h", "p", 1.0)], bias={"o": np.float32(0.5), "p": -2})
    labels = [names_of(net)[i] for i in net.graph.bias_neurons.tolist()]
    assert dict(zip(labels, net.bias.tolist(), strict=True)) == {"h": 0.0, "o": 0.5, "p": -2.0}


def test_no_biases():
    assert from_edges(ROWS, bias=False).bias.numel() == 0


def test_what_is_not_given_is_drawn_as_linear_does():
    rows = [(f"x{i}", f"y{j}") for j in range(50) for i in range(16)]
    one = from_edges(rows, generator=torch.Generator().manual_seed(3))
    two = from_edges(rows, generator=torch.Generator().manual_seed(3))
    assert same(one, two)
    for drawn in (one.weight.detach(), one.bias.detach()):
        assert 0.15 < drawn.abs().max() <= 0.25
        assert drawn.std() == pytest.approx(0.25 / 3**0.5, rel=0.25)


def test_given_numbers_need_no_random_state():
    before = torch.get_rng_state()
    from_edges(ROWS, bias={})
    from_edges([row[:2] for row in ROWS], generator=torch.Generator())
    assert torch.equal(before, torch.get_rng_state())


@pytest.mark.parametrize(
    ("bias", "message"),
    [
        ("yes", r"bias must be True, False, or a dict .* \(got str: 'yes'\)"),
        ([0.5, 0.5], r"\(got list"),
        (0.5, r"\(got float: 0.5\)"),
        ({"x": 1.0}, "bias names the input 'x'"),
        ({"q": 1.0}, "the keys of bias must be labels .* 'q' does not"),
        ({"h": float("nan")}, r"bias\['h'\] is nan"),
        ({"h": "0.5"}, r"bias\['h'\] is '0.5'"),
        ({"h": None}, r"bias\['h'\] is None"),
        ({"h": 1e39}, r"finite in torch\.float32, but bias\['h'\] is 1e\+39"),
    ],
)
def test_bad_biases_are_refused(bias, message):
    with pytest.raises(GraphError, match=message):
        from_edges(ROWS, bias=bias)


# Duplicates


DUPLICATES = [("a", "c", 1.0), ("b", "c", 4.0), ("a", "c", 2.0), ("c", "d", 8.0), ("a", "c", -0.5)]


def test_duplicates_are_added_up_where_they_first_occur():
    net = from_edges(DUPLICATES, coalesce="sum")
    names = names_of(net)
    assert [(names[s], names[t]) for s, t in edge_list(net)] == [("a", "c"), ("b", "c"), ("c", "d")]
    assert net.weight.tolist() == [2.5, 4.0, 8.0]


def test_duplicates_without_weights_become_one_edge():
    net = from_edges([row[:2] for row in DUPLICATES], coalesce="sum")
    assert edge_list(net) == [[0, 1], [2, 1], [1, 3]]
    edges = torch.tensor([[5, 3, 5, 4], [6, 5, 6, 6]])
    assert from_edges(edges, coalesce="sum").graph.edge_index.tolist() == [[5, 3, 4], [6, 5, 6]]


def test_coalescing_keeps_what_is_already_single():
    assert same(from_edges(ROWS, coalesce="sum", bias=False), from_edges(ROWS, bias=False))
    empty = torch.empty(2, 0, dtype=torch.int64)
    assert from_edges(empty, inputs=[0], coalesce="sum").graph.num_edges == 0


def test_random_duplicates_add_up_as_a_dict_does(rng):
    pairs = torch.randint(0, 12, (400, 2), generator=rng)
    pairs = pairs[pairs[:, 0] < pairs[:, 1]].tolist()
    weights = torch.rand(len(pairs), generator=rng, dtype=torch.float64).tolist()
    total = {}
    for (s, t), w in zip(pairs, weights, strict=True):
        total[s, t] = total.get((s, t), 0.0) + w
    rows = [(s, t, w) for (s, t), w in zip(pairs, weights, strict=True)]
    net = from_edges(rows, coalesce="sum", dtype=torch.float64)
    names = names_of(net)
    assert [(names[s], names[t]) for s, t in edge_list(net)] == list(total)
    assert net.weight.tolist() == pytest.approx(list(total.values()), rel=1e-12)


def test_messages_after_adding_up_name_the_first_row(tmp_path):
    rows = [("a", "b", 1.0), ("a", "b", 1.0), ("b", "c", 3e38), ("b", "c", 3e38)]
    with pytest.raises(GraphError, match="that of row 2 is 6e"):
        from_edges(rows, coalesce="sum")
    path = tmp_path / "edges.csv"
    pd.DataFrame(rows, columns=["source", "target", "weight"]).to_csv(path, index=False)
    with pytest.raises(FormatError, match="that of line 4 is 6e"):
        from_edges(path, coalesce="sum")


def test_an_unknown_way_to_coalesce_is_refused():
    with pytest.raises(GraphError, match=r"None or 'sum' \(got 'mean'\)"):
        from_edges(ROWS, coalesce="mean")


# The network


def test_backend_dtype_and_device_reach_the_network():
    net = from_edges(ROWS, backend="reference", dtype=torch.float64, device="cpu")
    assert net.backend == "reference"
    assert net.weight.dtype == net.bias.dtype == torch.float64
    assert from_edges(ROWS).weight.dtype == torch.get_default_dtype()
    assert from_edges(ROWS, device="meta").weight.device.type == "meta"


def test_it_trains():
    net = from_edges(ROWS, bias={})
    x = torch.tensor([[1.0, 1.0]])
    net(x).sum().backward()
    assert net.weight.grad is not None
    # o = 3 relu(2x - y) + y/2
    assert net.weight.grad.tolist() == [3.0, 3.0, 1.0, 1.0]
