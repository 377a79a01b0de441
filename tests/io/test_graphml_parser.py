"""What a GraphML file may hold, and every refusal with its file and place."""

import re

import pytest
import torch

import graphnn

NAMESPACE = 'xmlns="http://graphml.graphdrawing.org/xmlns"'
KEYS = """<key id="w" for="edge" attr.name="weight" attr.type="double"/>
<key id="n" for="node" attr.name="note" attr.type="int"/>
<key id="b" for="node" attr.name="bias" attr.type="double"/>"""
NODES = '<node id="a"/><node id="b"/>'
EDGE = '<edge source="a" target="b"><data key="w">2</data></edge>'


def document(
    body=NODES + EDGE, keys=KEYS, graph='edgedefault="directed"', root=f"graphml {NAMESPACE}"
):
    return f"<{root}>\n{keys}\n<graph {graph}>\n{body}\n</graph>\n</{root.split()[0]}>\n"


@pytest.fixture
def read(tmp_path):
    def read(text, **more):
        path = tmp_path / "net.graphml"
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return graphnn.read_graphml(path, **more)

    return read


@pytest.fixture
def refused(read, tmp_path):
    """Asserts a FormatError that names the file, the line where there is one, and the reason."""

    def refused(text, message, line=None):
        with pytest.raises(graphnn.FormatError, match=message) as error:
            read(text)
        place = f"{tmp_path / 'net.graphml'}" + ("" if line is None else f", line {line}, column ")
        assert re.match(re.escape(place), str(error.value)), error.value

    return refused


def test_the_plain_document(read):
    net = read(document())
    assert net.graph.names == ("a", "b")
    assert (net.weight.tolist(), net.bias.tolist()) == ([2.0], [0.0])


@pytest.mark.parametrize(
    "text",
    [
        document(root="graphml"),  # without a namespace
        '<?xml version="1.0" encoding="UTF-8"?>' + document(),
        "\ufeff" + document(),
        ('<?xml version="1.0" encoding="UTF-16"?>' + document()).encode("utf-16"),
        re.sub(r"<(/?)(?=[a-z])", r"<\1g:", document()).replace("xmlns=", "xmlns:g="),
        document().replace(">2<", "> 2.0e0\n<"),
        document().replace(">2<", "><![CDATA[2]]><"),
        document().replace(">2<", ">&#50;<"),
        document().replace(">2<", "><!-- two -->2<"),
        document(EDGE + NODES),  # edges before their nodes
        document('<desc>a <b/> net</desc><node id="a"><desc/></node><node id="b"/>' + EDGE),
        document(keys=KEYS.replace('for="edge"', 'for="all"')),
        document(keys=KEYS.replace('attr.type="double"', 'attr.type="string"')),
        document(keys='<key id="w" for="edge" attr.name="weight"/>'),
        document().replace('target="b"', 'target="b" directed="true"'),
        document().replace("</graphml>", '<data key="yed"><y xmlns="y">x</y></data></graphml>'),
    ],
    ids=lambda text: None,
)
def test_other_ways_to_write_it(read, text):
    net = read(text)
    assert net.graph == read(document()).graph
    assert net.weight.tolist() == [2.0]


def test_a_default_stands_for_missing_data(read):
    keys = KEYS.replace(
        'attr.name="weight" attr.type="double"/>',
        'attr.name="weight" attr.type="double"><desc/><default>7</default></key>',
    )
    body = NODES + '<node id="c"/>' + EDGE + '<edge source="a" target="c"/>'
    assert read(document(body, keys)).weight.tolist() == [2.0, 7.0]


def test_without_any_weight_they_are_drawn(read):
    net = read(document(NODES + '<edge source="a" target="b"/>'))
    assert net.weight.abs().item() <= 1


def test_yed_elements_within_data_mean_nothing(read):
    keys = KEYS + '<key id="d6" for="node" yfiles.type="nodegraphics"/>'
    body = NODES.replace(
        '<node id="a"/>',
        '<node id="a"><data key="d6"><y:ShapeNode xmlns:y="http://www.yworks.com/xml/graphml">'
        '<y:Geometry x="1"/><y:NodeLabel>5<data/></y:NodeLabel></y:ShapeNode></data>'
        '<data key="b">0.0</data></node>',
    )
    assert read(document(body + EDGE, keys)).graph.names == ("a", "b")


def test_foreign_elements_anywhere_mean_nothing(read):
    body = NODES + EDGE.replace("<data", '<x:data xmlns:x="x"><node/></x:data><data')
    assert read(document('<x:y xmlns:x="x"/>' + body)).weight.tolist() == [2.0]


# Attacks.


def test_an_entity_bomb(refused):
    entities = "".join(
        f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">\n' if i else '<!ENTITY e0 "ha">\n'
        for i in range(10)
    )
    bomb = f"<!DOCTYPE graphml [\n{entities}]>\n" + document().replace(">2<", ">&e9;<")
    refused(bomb, r"must not declare a document type or entities \(got <!DOCTYPE graphml", line=1)


@pytest.mark.parametrize(
    "doctype",
    [
        '<!DOCTYPE graphml [<!ENTITY file SYSTEM "file:///etc/passwd">]>',
        '<!DOCTYPE graphml SYSTEM "http://graphml.graphdrawing.org/dtds/graphml.dtd">',
        '<!DOCTYPE graphml [<!ENTITY % p SYSTEM "p.dtd"> %p;]>',
        "<!DOCTYPE graphml>",
    ],
)
def test_external_entities_and_document_types(refused, doctype):
    refused("\n" + doctype + document().replace(">2<", ">&file;<"), "document type", line=2)


def test_an_undeclared_entity(refused):
    refused(document().replace(">2<", ">&file;<"), "undefined entity", line=6)


def test_deep_nesting_is_no_trouble(read):
    deep = "<q xmlns='q'>" * 50_000 + "</q>" * 50_000
    assert read(document(deep + NODES + EDGE)).weight.tolist() == [2.0]


def test_a_locator_is_not_followed(refused):
    refused(document(NODES + "<locator/>"), "not be located elsewhere", line=6)


# Not well-formed.


@pytest.mark.parametrize("cut", [0, 1, 30, 200, 350, -3, -20])
def test_a_truncated_file(refused, cut):
    refused(document()[:cut], r"well-formed XML \((no element found|unclosed token)\)", line=None)


def test_a_truncated_file_of_ours(tmp_path):
    graph = graphnn.NeuronGraph([[0, 1], [2, 2]])
    path = tmp_path / "net.graphml"
    graphnn.write_graphml(graphnn.Network(graph), path)
    whole = path.read_bytes()
    for cut in range(0, len(whole) - 1, 97):
        path.write_bytes(whole[:cut])
        with pytest.raises(graphnn.FormatError, match=r"net\.graphml, line \d+, column \d+: "):
            graphnn.read_graphml(path)


def test_broken_files(refused):
    refused("not xml", r"well-formed XML \(syntax error\)", line=1)
    refused(document() + "<more/>", "junk after document element", line=9)
    refused(document().replace("</graph>", ""), "mismatched tag", line=8)
    refused(document().encode().replace(b'"a"', b'"\xff"'), "invalid token", line=6)
    refused(b"PK\x03\x04\x00\x00", "well-formed", line=1)
    refused(document().replace("<node", "<y:node"), "unbound prefix", line=6)


def test_an_encoding_that_is_not_read(refused):
    for encoding in ("shift_jis", "no-such", "utf-7"):
        refused(
            f'<?xml version="1.0" encoding="{encoding}"?>' + document(), "encoded in UTF-8", line=1
        )


# Not GraphML.


@pytest.mark.parametrize(
    ("text", "message", "line"),
    [
        ("<html/>", "a GraphML file must not hold the element 'html'", 1),
        ('<graphml xmlns="other"/>', "a GraphML file must not hold the element 'graphml'", 1),
        (f"<graphml {NAMESPACE}></graphml>", "must hold a graph element", 1),
        (f"<gexf>{document()}</gexf>", "must not hold the element 'gexf'", 1),
        (document("<nodes/>"), "a graph element must not hold the element 'nodes'", 6),
        (document("<graph/>"), "a graph element must not hold the element 'graph'", 6),
        (document('<node id="a"><graph/></node>'), "a node element must not hold .* 'graph'", 6),
        (document('<node id="a"><port/></node>'), "a node must not have ports", 6),
        (document("<hyperedge/>"), "hyperedges", 6),
        (document(""), "at least one node", 9),
        (document(graph='edgedefault="undirected"'), "must be directed .*'undirected'", 5),
        (document(graph=""), "a graph element must have the attribute 'edgedefault'", 5),
        (document().replace("</graphml>", "<graph/></graphml>"), "one graph", 8),
        (document("<node/>"), "a node element must have the attribute 'id'", 6),
        (document(NODES + '\n<node id="a"/>'), "id of a node.*'a' occurs twice", 7),
        (document(NODES + '<edge target="b"/>'), "must have the attribute 'source'", 6),
        (document(NODES + '<edge source="b"/>'), "must have the attribute 'target'", 6),
        (document(NODES + '\n\n<edge source="a" target="c"/>'), "there is no node 'c'", 8),
        (document('<edge source="x" target="a"/>\n' + NODES), "there is no node 'x'", 6),
        (document(NODES + '<edge source="a" target="b" directed="false"/>'), "must be directed", 6),
        (document(NODES + '<edge source="a" target="b" sourceport="p"/>'), "not ports", 6),
        (
            document(NODES + EDGE.replace("<edge", '<edge id="1"') * 2),
            "id of an edge.*'1' occurs",
            6,
        ),
        (document(NODES + EDGE.replace('key="w"', 'key="v"')), "no edge key is called 'v'", 6),
        (document(NODES + EDGE.replace('key="w"', 'key="b"')), "no edge key is called 'b'", 6),
        (document(NODES + EDGE.replace('key="w"', "")), "must have the attribute 'key'", 6),
        (document('<data key="w">1</data>' + NODES), "no graph key is called 'w'", 6),
        (document(keys=KEYS + "<key/>"), "a key element must have the attribute 'id'", 4),
        (document(keys=KEYS + KEYS), "id of a key.*'w' occurs twice", 4),
    ],
)
def test_what_is_not_a_directed_graph(refused, text, message, line):
    refused(text, message, line)


@pytest.mark.parametrize("value", ["", "two", "1_000", "0x10", "1,5", "None", "1 2"])
def test_a_string_where_a_number_belongs(refused, value):
    refused(
        document(NODES + "\n" + EDGE.replace(">2<", f">{value}<")),
        rf"attribute 'weight' must be a number \(got '{value}'\)",
        line=7,
    )


def test_a_string_where_a_number_belongs_elsewhere(refused):
    def node(key, value):
        return document(
            f'<node id="a"/><node id="b"><data key="{key}">{value}</data></node>' + EDGE
        )

    refused(node("b", "x"), "attribute 'bias' must be a number", line=6)
    refused(node("n", "1.5"), r"attribute 'note' must be an integer \(got '1\.5'\)", line=6)
    refused(node("n", ""), "attribute 'note' must be an integer", line=6)
    wrong = KEYS.replace('"weight" attr.type="double"/>', '"weight"><default>x</default></key>')
    refused(document(keys=wrong), "attribute 'weight' must be a number", line=2)


@pytest.mark.parametrize("index", ["-1", "1.0", "x", "9" * 30, "9" * 5000])
def test_an_index_that_cannot_be(refused, index):
    keys = KEYS + '<key id="i" for="node" attr.name="index" attr.type="long"/>'
    refused(
        document(f'<node id="a"><data key="i">{index}</data></node>', keys),
        "'index' must be an int",
        6,
    )


# Well-formed, and no network.


def test_wirings_that_cannot_be_name_the_file(refused):
    back = '<edge source="b" target="a"><data key="w">1</data></edge>'
    refused(document(NODES + EDGE + back), "acyclic graph, but it contains the cycle")
    refused(document(NODES + EDGE + EDGE), "no two edges.*'a'.*'b'")
    refused(document(NODES + EDGE.replace('"b"', '"a"')), "'a'.*to itself")
    bare = '<node id="c"/><edge source="a" target="c"/>'
    refused(document(NODES + EDGE + bare), "the edge 'a' -> 'c' has none")


def test_a_bad_activation_names_the_file_and_the_node(refused):
    keys = KEYS + '<key id="f" for="node" attr.name="activation" attr.type="string"/>'
    body = f'<node id="a"/><node id="b"><data key="f">rellu</data></node>{EDGE}'
    refused(document(body, keys), "node 'b': activation must be one of")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("&quot;", ""), "header must be JSON"),
        (('"graphnn":1', '"graphnn":2'), "version 1 or lower"),
        (('"input":[0,1]', '"input":[0,9]'), "no node has the index 9"),
        (('"input":[0,1]', '"class":[0,1]'), "identifier and not a keyword"),
        (('"input":[0,1]', '"input":[0,0]'), "may be an input once"),
        (('"input":[0,1]', '"input":[0,2]'), "input must have no"),
        (('"output":[2]', '"output":[]'), "at least one neuron"),
        (('"float32"', '"int8"'), "'int8'"),
        (('"output_transform":null', '"output_transform":"sum"'), "'sum'"),
    ],
)
def test_a_bad_header_names_the_file(refused, tmp_path, change, message):
    net = graphnn.Network(graphnn.NeuronGraph([[0, 1], [2, 2]]), bias=torch.ones(1))
    graphnn.write_graphml(net, tmp_path / "good.graphml")
    good = (tmp_path / "good.graphml").read_text()
    old, new = change if change[0] in good else ('{"graphnn"', "{'graphnn'")
    assert old in good
    refused(good.replace(old, new), message)
