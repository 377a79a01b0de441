"""Networks from and to GraphML files.

Written files hold what `graphnn.to_networkx` gives, attribute by attribute, and networkx reads them
as such. Gephi takes x, y, size, r, g, b, label and weight from there, Cytoscape makes columns of
them all, and for yEd the same picture stands beside them in its own elements.
"""

from __future__ import annotations

import os
from collections.abc import Hashable, Iterator, Mapping, Sequence
from typing import Any, TextIO

import torch

from graphnn import edited
from graphnn.errors import ConversionError, FormatError, GraphError
from graphnn.io.atomic import replacing
from graphnn.io.graphml_parser import parse
from graphnn.io.xml_text import escaped, in_quotes, name_texts, number
from graphnn.layout import Style, edge_pieces, node_pieces, shade_attributes, style
from graphnn.network import Network
from graphnn.record import Header
from graphnn.trace import Trace

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<graphml xmlns="http://graphml.graphdrawing.org/xmlns" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xmlns:y="http://www.yworks.com/xml/graphml" \
xsi:schemaLocation="http://graphml.graphdrawing.org/xmlns \
http://graphml.graphdrawing.org/xmlns/1.0/graphml.xsd">
"""
_NODE_TYPES = {
    "index": "long",
    "level": "long",
    "role": "string",
    "activation": "string",
    "bias": "double",
    "label": "string",
    "x": "double",
    "y": "double",
    "size": "double",
    "color": "string",
    "r": "int",
    "g": "int",
    "b": "int",
    "shape_type": "string",
    "value": "double",
    "preactivation": "double",
}
_EDGE_TYPES = {
    "index": "long",
    "weight": "double",
    "color": "string",
    "r": "int",
    "g": "int",
    "b": "int",
    "width": "double",
    "contribution": "double",
}
# yEd's picture of an edge is as long as the rest of it, and yEd draws no more edges than this.
_DRAWN_EDGES = 50_000


def write_graphml(
    net: Network, path: str | os.PathLike[str], trace: Trace | None = None, sample: int = 0
) -> None:
    """Writes a network as a GraphML file, for `read_graphml`, networkx, Gephi, yEd and Cytoscape.

    The file holds the attributes of `graphnn.to_networkx`. A node's id is its neuron's name as
    text, or its index where two names are the same text; its label is always the name. Equal
    arguments give equal bytes. Every number comes back bit for bit; of NaN, which is none, its
    sign. Edges are written piece by piece, so memory does not grow with their number.

    Args:
        net: The network.
        path: The file; replaced as a whole or not at all.
        trace: A trace of this network, or None. With one, neurons carry their value and
            preactivation in one sample, and edges their contribution.
        sample: The sample of the trace, counted over all leading dimensions.

    Raises:
        ConversionError: A name is neither a str nor an int, or holds a character that XML cannot.
        GraphError: `net` is no Network, or the trace is of another graph or has no such sample.
        OSError: The file cannot be written.

    Example:
        >>> path = getfixture("tmp_path") / "net.graphml"
        >>> net = graphnn.from_edges([("a", "b", 2.0), ("b", "c", -1.0)])
        >>> graphnn.write_graphml(net, path)
        >>> graphnn.read_graphml(path).graph == net.graph
        True
    """
    edited.check_network(net)
    header = Header.of(net)
    ids = _node_ids(net.graph.names)
    drawn = style(net, trace, sample)
    nodes = {name: f"n{i}" for i, name in enumerate(_NODE_TYPES)}
    edges = {name: f"e{i}" for i, name in enumerate(_EDGE_TYPES)}
    if trace is None:
        del nodes["value"], nodes["preactivation"], edges["contribution"]
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(_HEAD)
        file.write('<key id="g0" for="graph" attr.name="graphnn" attr.type="string"/>\n')
        for scope, keys, types in (("node", nodes, _NODE_TYPES), ("edge", edges, _EDGE_TYPES)):
            file.write(f'<key id="{scope[0]}y" for="{scope}" yfiles.type="{scope}graphics"/>\n')
            for name, key in keys.items():
                declared = f'attr.name="{name}" attr.type="{types[name]}"'
                file.write(f'<key id="{key}" for="{scope}" {declared}/>\n')
        file.write('<graph edgedefault="directed">\n')
        file.write(f'<data key="g0">{escaped(header.to_json())}</data>\n')
        _write_nodes(file, net, drawn, trace, sample, ids, nodes)
        for text in _edge_texts(net, drawn, trace, ids, edges):
            file.write(text)
        file.write("</graph>\n</graphml>\n")


def read_graphml(
    path: str | os.PathLike[str],
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Network:
    """Reads a GraphML file: what `write_graphml` wrote, or any directed acyclic graph.

    Another program's file is read as `graphnn.from_networkx` reads a graph: node ids become names,
    the edge attribute called "weight" the weights, the node attributes "bias" and "activation"
    what they say. No document type, entity or other file is ever followed.

    Args:
        path: The file.
        backend: Of the network.
        dtype: Default: as stored, else torch's default dtype.
        device: Default: torch's default device.

    Returns:
        The network.

    Raises:
        FormatError: The file is not such a GraphML file; the message names the file and the place.
        OSError: The file cannot be read.

    Example:
        >>> path = getfixture("tmp_path") / "net.graphml"
        >>> net = graphnn.from_edges([("a", "b", 2.0), ("b", "c", -1.0)])
        >>> graphnn.write_graphml(net, path)
        >>> graphnn.read_graphml(path).weight.tolist()
        [2.0, -1.0]
    """
    labelled = parse(path)
    try:
        record = labelled.record()
        # Validated here, where the file can be blamed.
        _ = record.graph
    except (ConversionError, GraphError) as error:
        raise FormatError(f"{os.fspath(path)}: {error}") from error
    return record.network(backend, dtype, device)


def _node_ids(names: Sequence[Hashable] | None) -> Sequence[str] | None:
    """Escaped node ids, or None for the neurons' own ids."""
    if names is None:
        return None
    texts = name_texts(names)
    if len(set(texts)) < len(texts):
        return None
    return [in_quotes(text) for text in texts]


def _datum(key: str, value: Any) -> str:
    text = number(value) if isinstance(value, float) else escaped(str(value))
    return f'<data key="{key}">{text}</data>'


def _write_nodes(
    file: TextIO,
    net: Network,
    drawn: Style,
    trace: Trace | None,
    sample: int,
    ids: Sequence[str] | None,
    keys: Mapping[str, str],
) -> None:
    for piece in node_pieces(net, drawn, trace, sample):
        for index, *values in zip(piece["index"], *piece.values(), strict=True):
            node = dict(zip(piece, values, strict=True))
            # yEd's elements come first: networkx takes x, y, label and shape from them, as text,
            # and the exact attributes after them must win.
            data = [_yed_node(node)]
            data += [_datum(keys[n], value) for n, value in node.items() if value is not None]
            name = index if ids is None else ids[index]
            file.write(f'<node id="{name}">{"".join(data)}</node>\n')


def _yed_node(node: Mapping[str, Any]) -> str:
    size = node["size"]
    # In yEd a node's place is its upper left corner, and y points down.
    x, y = node["x"] - size / 2, -node["y"] - size / 2
    return (
        f'<data key="ny"><y:ShapeNode><y:Geometry height="{size}" width="{size}" x="{x}" y="{y}"/>'
        f'<y:Fill color="{node["color"]}" transparent="false"/>'
        f"<y:NodeLabel>{escaped(node['label'])}</y:NodeLabel>"
        f'<y:Shape type="{node["shape_type"]}"/></y:ShapeNode></data>'
    )


def _yed_edge(shade: Mapping[str, Any]) -> str:
    return (
        f'<data key="ey"><y:PolyLineEdge><y:LineStyle color="{shade["color"]}" type="line" '
        f'width="{shade["width"]}"/><y:Arrows source="none" target="standard"/></y:PolyLineEdge>'
        "</data>"
    )


def _edge_texts(
    net: Network,
    drawn: Style,
    trace: Trace | None,
    ids: Sequence[str] | None,
    keys: Mapping[str, str],
) -> Iterator[str]:
    drawings = [
        (_yed_edge(shade) if net.graph.num_edges <= _DRAWN_EDGES else "")
        + "".join(_datum(keys[name], value) for name, value in shade.items())
        for shade in shade_attributes()
    ]
    line = (
        f'<edge source="%s" target="%s"><data key="{keys["index"]}">%d</data>'
        f'<data key="{keys["weight"]}">%s</data>%s%s</edge>\n'
    )
    for piece in edge_pieces(net, drawn, trace):
        sources, targets = (
            ends if ids is None else [ids[neuron] for neuron in ends]
            for ends in (piece.source, piece.target)
        )
        if piece.contribution is None:
            extra = [""] * len(piece.weight)
        else:
            extra = [_datum(keys["contribution"], value) for value in piece.contribution]
        yield "".join(
            line % (source, target, index, number(weight), drawings[shade], more)
            for source, target, index, weight, shade, more in zip(
                sources, targets, piece.index, piece.weight, piece.shade, extra, strict=True
            )
        )
