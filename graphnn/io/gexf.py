"""Networks to GEXF files, Gephi's own format, as they are to be drawn."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from typing import Any

from graphnn import edited
from graphnn.io.atomic import replacing
from graphnn.io.xml_text import in_quotes, name_texts, number
from graphnn.layout import Style, edge_pieces, node_pieces, shade_attributes, style
from graphnn.network import Network
from graphnn.trace import Trace

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<gexf xmlns="http://gexf.net/1.3" xmlns:viz="http://gexf.net/1.3/viz" \
xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance" \
xsi:schemaLocation="http://gexf.net/1.3 http://gexf.net/1.3/gexf.xsd" version="1.3">
<graph defaultedgetype="directed" mode="static">
"""
_NODE_TYPES = {
    "level": "integer",
    "role": "string",
    "activation": "string",
    "bias": "double",
    "value": "double",
    "preactivation": "double",
}
_EDGE_TYPES = {"contribution": "double"}
# GEXF's words for the shapes of `graphnn.layout.SHAPES`; it has no hexagon.
_SHAPES = {"rectangle": "square", "ellipse": "disc", "hexagon": "diamond", "triangle": "triangle"}


def write_gexf(
    net: Network, path: str | os.PathLike[str], trace: Trace | None = None, sample: int = 0
) -> None:
    """Writes a network as a GEXF 1.3 file, for Gephi and networkx.

    Neurons have the positions, sizes, colours and shapes of `graphnn.to_networkx`, edges their
    colours and widths. A node's id is its neuron's, its label the name. The file is for looking at:
    it is not read back, as GraphML is. Equal arguments give equal bytes.

    Args:
        net: The network.
        path: The file; replaced as a whole or not at all.
        trace: A trace of this network, or None. With one, neurons carry their value and
            preactivation in one sample, and edges their contribution.
        sample: The sample of the trace, counted over all leading dimensions.

    Raises:
        ConversionError: A name holds a character that XML cannot.
        GraphError: `net` is no Network, or the trace is of another graph or has no such sample.
        OSError: The file cannot be written.

    Source:
        https://gexf.net/schema.html

    Example:
        >>> import networkx as nx
        >>> path = getfixture("tmp_path") / "net.gexf"
        >>> net = graphnn.from_edges([("a", "b", 2.0), ("b", "c", -1.0)])
        >>> graphnn.write_gexf(net, path)
        >>> nx.read_gexf(path).edges["1", "2"]["weight"]
        -1.0
    """
    edited.check_network(net)
    if net.graph.names is not None:
        name_texts(net.graph.names)
    drawn = style(net, trace, sample)
    with replacing(path) as temporary, open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.write(_HEAD)
        file.write(_declared("node", _NODE_TYPES, trace))
        file.write(_declared("edge", _EDGE_TYPES, trace))
        file.write("<nodes>\n")
        for piece in node_pieces(net, drawn, trace, sample):
            columns = zip(*piece.values(), strict=True)
            file.write("".join(_node(dict(zip(piece, row, strict=True))) for row in columns))
        file.write("</nodes>\n<edges>\n")
        for text in _edges(net, drawn, trace):
            file.write(text)
        file.write("</edges>\n</graph>\n</gexf>\n")


def _declared(scope: str, types: Mapping[str, str], trace: Trace | None) -> str:
    traced = ("value", "preactivation", "contribution")
    lines = [
        f'<attribute id="{name}" title="{name}" type="{kind}"/>\n'
        for name, kind in types.items()
        if trace is not None or name not in traced
    ]
    return f'<attributes class="{scope}">\n{"".join(lines)}</attributes>\n' if lines else ""


def _attvalue(name: str, value: Any) -> str:
    text = number(value) if isinstance(value, float) else in_quotes(str(value))
    return f'<attvalue for="{name}" value="{text}"/>'


def _node(node: Mapping[str, Any]) -> str:
    own = "".join(_attvalue(n, node[n]) for n in _NODE_TYPES if node.get(n) is not None)
    return (
        f'<node id="{node["index"]}" label="{in_quotes(node["label"])}">'
        f"<attvalues>{own}</attvalues>"
        f'<viz:color r="{node["r"]}" g="{node["g"]}" b="{node["b"]}"/>'
        f'<viz:position x="{node["x"]}" y="{node["y"]}" z="0.0"/>'
        f'<viz:size value="{node["size"]}"/>'
        f'<viz:shape value="{_SHAPES[node["shape_type"]]}"/></node>\n'
    )


def _edges(net: Network, drawn: Style, trace: Trace | None) -> Iterator[str]:
    drawings = [
        f'<viz:color r="{shade["r"]}" g="{shade["g"]}" b="{shade["b"]}"/>'
        f'<viz:thickness value="{shade["width"]}"/></edge>\n'
        for shade in shade_attributes()
    ]
    for piece in edge_pieces(net, drawn, trace):
        if piece.contribution is None:
            extra = [""] * len(piece.weight)
        else:
            extra = [
                f"<attvalues>{_attvalue('contribution', value)}</attvalues>"
                for value in piece.contribution
            ]
        yield "".join(
            f'<edge id="{index}" source="{source}" target="{target}" '
            f'weight="{number(weight)}">{more}{drawings[shade]}'
            for index, source, target, weight, shade, more in zip(
                piece.index, piece.source, piece.target, piece.weight, piece.shade, extra,
                strict=True,
            )
        )  # fmt: skip
