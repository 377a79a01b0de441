"""Runs of plain edge lines are read as the parser would have read them, right or wrong."""

import re

import pytest
import torch

import graphnn

NUM_EDGES = 3000


def plain(names=None, seed=0):
    """A file of more edges than one block has, without the drawings that few edges have."""
    rng = torch.Generator().manual_seed(seed)
    source, target = torch.meshgrid(torch.arange(60), torch.arange(60, 110), indexing="ij")
    edges = torch.stack([source.flatten(), target.flatten()])
    edges = edges[:, torch.randperm(NUM_EDGES, generator=rng)]
    net = graphnn.Network(graphnn.NeuronGraph(edges, names=names), generator=rng)
    with torch.no_grad():
        net.weight[2000:2005] = torch.tensor([torch.inf, -torch.inf, -0.0, 1e-42, 3e38])
    return net


@pytest.fixture
def read_both(tmp_path):
    """Reads a text as it is, and with a space after each edge, which no run has."""

    def read_both(text):
        results = []
        for version in (text, text.replace("</edge>\n", "</edge> \n")):
            path = tmp_path / "net.graphml"
            path.write_text(version)
            try:
                net = graphnn.read_graphml(path)
                results.append((net.graph, net.weight.tolist(), net.bias.tolist()))
            except graphnn.FormatError as error:
                results.append(str(error))
        return results

    return read_both


@pytest.fixture
def text(tmp_path):
    path = tmp_path / "text.graphml"
    graphnn.write_graphml(plain(), path)
    text = re.sub('<data key="ey">.*?</data>', "", path.read_text())
    assert len(text) > 8 * 2**16
    return text


def swap(text, old, new, after=0.6):
    """The first `old` behind a share of the text becomes `new`."""
    place = text.index(old, int(after * len(text)))
    return text[:place] + new + text[place + len(old) :]


def test_runs_are_read_as_the_parser_reads(read_both, text):
    fast, slow = read_both(text)
    net = plain()
    assert fast == slow == (net.graph, net.weight.tolist(), net.bias.tolist())


@pytest.mark.parametrize(
    "names",
    [[f"n {i}" for i in range(110)], [f"é{i}" for i in range(110)], [f"<{i}" for i in range(110)]],
    ids=["plain", "beyond ASCII", "escaped"],
)
def test_names(tmp_path, names):
    net = plain(names)
    graphnn.write_graphml(net, tmp_path / "net.graphml")
    path = tmp_path / "net.graphml"
    path.write_text(re.sub('<data key="ey">.*?</data>', "", path.read_text()))
    again = graphnn.read_graphml(path)
    assert again.graph == net.graph
    assert torch.equal(again.weight, net.weight)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('<edge source="', '<edge source="x', "there is no node 'x"),
        ('<data key="e1">', '<data key="e1">x', "'weight' must be a number"),
        ('<data key="e1">', '<data key="e1">1_', "'weight' must be a number"),
        ('<data key="e0">', '<data key="e0">-', "'index' must be an integer of at least 0"),
        ('<data key="e0">', '<data key="e0">' + "9" * 20, "'index' must be an integer"),
        ('<data key="e3">', '<data key="e3">.', "'r' must be an integer"),
        ('<data key="e6">', '<data key="e6">e', "'width' must be a number"),
        ('<data key="e2">', '<data key="e2">&bomb;', "undefined entity"),
        ('<data key="e2">', '<data key="e2">]]>', "not well-formed"),
        ('<data key="e2">', '<data key="e2">\x00', "not well-formed"),
        ('<data key="e2">', '<data key="e22">', "no edge key is called 'e22'"),
        ("</edge>", "</node>", "mismatched tag"),
        ("<edge ", "<hyperedge/><edge ", "hyperedges"),
        ("<edge ", '<edge directed="false" ', "must be directed"),
        ("<edge ", '<node id="0"/><edge ', "id of a node"),
        ("<edge ", "<!DOCTYPE graphml><edge ", "not well-formed"),
        ("</edge>", '<data key="e1">1.0</data></edge>', None),
        ("<edge ", "<!-- <edge -->\n<edge ", None),
        ('<data key="e1">', '<data key="e1">+', None),
        ("</edge>\n", "</edge>", None),
        ("</edge>\n", "</edge>\r\n", None),
    ],
)
def test_what_stands_in_a_run(read_both, text, old, new, message):
    changed = swap(text, old, new) if old != '<data key="e1">' or new[-1] != "+" else text
    fast, slow = read_both(changed)
    if message is None:
        assert not isinstance(fast, str)
    else:
        assert re.search(message, fast)  # pyright: ignore[reportArgumentType, reportCallIssue]
        assert ", line " in fast
    assert fast == slow


@pytest.mark.parametrize("around", ["<!--{}-->", "<x:y xmlns:x='x'>{}</x:y>", "<desc>{}</desc>"])
def test_lines_that_only_look_like_edges_are_none(read_both, text, around):
    head, *lines, foot = re.split("(?=<edge )|(?=</graph>)", text)
    for first, last in ((1000, 2000), (1, 3000), (2999, 3000)):
        hidden = around.format("\n" + "".join(lines[first:last]))
        fast, slow = read_both(head + "".join([*lines[:first], hidden, "\n", *lines[last:]]) + foot)
        assert fast == slow
        assert len(fast[1]) == NUM_EDGES - (last - first)


def test_a_run_may_stand_before_its_nodes(read_both, text):
    head, nodes, edges, foot = re.split(
        '(?=<node id="0">)|(?=<edge )(?<=</node>\n)|(?=</graph>)', text
    )
    fast, slow = read_both(head + edges + nodes + foot)
    assert fast == slow
    assert len(fast[1]) == NUM_EDGES


def test_edges_of_another_kind_between_runs(read_both, text):
    place = text.index("<edge ", len(text) // 2)
    more = "".join(
        f'<node id="m{i}"/><edge source="1" target="m{i}"><data key="e1">{i}</data></edge>\n'
        for i in range(5)
    )
    fast, slow = read_both(text[:place] + more + text[place:])
    assert fast == slow
    assert len(fast[1]) == NUM_EDGES + 5


def test_any_damage_is_seen_alike(read_both, text):
    rng = torch.Generator().manual_seed(1)
    changes = ["<", ">", "&", '"', "/", "\n", " ", "e", "-", "0", ".", "", "é", "\x00", "]]>", "_"]
    start = len(text) // 2
    for _ in range(24):
        place = start + int(torch.randint(len(text) - start, (1,), generator=rng))
        change = changes[int(torch.randint(len(changes), (1,), generator=rng))]
        damaged = text[:place] + change + text[place + 1 :]
        fast, slow = read_both(damaged)
        assert fast == slow, (place, change)


def test_a_cut_anywhere_in_a_run_is_refused(tmp_path, text):
    path = tmp_path / "net.graphml"
    for cut in range(len(text) - 2, len(text) // 2, -50_021):
        path.write_text(text[:cut])
        with pytest.raises(graphnn.FormatError, match=r"line \d+, column \d+: .*well-formed"):
            graphnn.read_graphml(path)
