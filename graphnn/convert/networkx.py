"""Networks from and to networkx graphs."""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from graphnn import edited
from graphnn.errors import ConversionError
from graphnn.labelled import Labelled
from graphnn.layout import edge_pieces, node_pieces, shade_attributes, style
from graphnn.network import Network
from graphnn.record import Header
from graphnn.trace import Trace

if TYPE_CHECKING:
    import networkx as nx

_EdgeColumns = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
Labels = Sequence[Hashable] | Mapping[str, Sequence[Hashable]]


def to_networkx(net: Network, trace: Trace | None = None, sample: int = 0) -> nx.DiGraph:
    """A networkx graph with everything that the network is, and how to draw it.

    A node is called by its neuron's name where the graph has names, else by its id. All
    attributes are plain Python values:

    - of a node: index, level, role ("input", "hidden", "output" or "constant"), activation, bias
      (where it has one), label, and for viewers x, y (up), size, color ("#rrggbb"), r, g, b and
      shape_type; with a trace also value and preactivation;
    - of an edge: index, weight, color, r, g, b and width; with a trace also contribution;
    - of the graph: graphnn, one line of JSON that holds groups, dtype and the rest, so that
      `from_networkx` gives the same network again, bit for bit. Of NaN, which is no number, only
      the sign is certain to come back.

    Args:
        net: The network.
        trace: A trace of this network, or None.
        sample: The sample of the trace, counted over all leading dimensions.

    Returns:
        A DiGraph with nodes and edges in the network's order.

    Raises:
        ConversionError: A name is neither a str nor an int.
        GraphError: `net` is no Network, or the trace is of another graph or has no such sample.

    Example:
        >>> net = graphnn.from_edges([("a", "b", 2.0), ("b", "c", -1.0)], bias=False)
        >>> graph = graphnn.to_networkx(net, net.trace(torch.tensor([[3.0]])))
        >>> graph.nodes["b"]["value"], graph.edges["b", "c"]["contribution"]
        (6.0, -6.0)
    """
    import networkx as nx

    edited.check_network(net)
    graph = nx.DiGraph(graphnn=Header.of(net).to_json())
    names = net.graph.names
    drawn = style(net, trace, sample)
    for nodes in node_pieces(net, drawn, trace, sample):
        keys = nodes["index"] if names is None else [names[i] for i in nodes["index"]]
        for key, *values in zip(keys, *nodes.values(), strict=True):
            attributes = zip(nodes, values, strict=True)
            graph.add_node(key, **{name: value for name, value in attributes if value is not None})
    shades = shade_attributes()
    for piece in edge_pieces(net, drawn, trace):
        ends = zip(piece.source, piece.target, strict=True)
        data = [
            {"index": index, "weight": weight, **shades[shade]}
            for index, weight, shade in zip(piece.index, piece.weight, piece.shade, strict=True)
        ]
        if piece.contribution is not None:
            for attributes, contribution in zip(data, piece.contribution, strict=True):
                attributes["contribution"] = contribution
        graph.add_edges_from(
            (source, target, attributes)
            if names is None
            else (names[source], names[target], attributes)
            for (source, target), attributes in zip(ends, data, strict=True)
        )
    return graph


def from_networkx(
    G: nx.DiGraph,
    inputs: Labels | None = None,
    outputs: Labels | None = None,
    weight: str = "weight",
    bias: str = "bias",
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Network:
    """The network that a directed networkx graph describes.

    What `to_networkx` made comes back as it was, edited or not: neurons and edges in the order of
    their index attributes, those without one last. In any other graph a node's label becomes the
    neuron's name (labels 0 ... N - 1 in order are ids); the order is the graph's; a node attribute
    "activation" is used where there is one, else "relu", at outputs "identity"; a missing bias is
    0; weights are drawn if no edge has one.

    Args:
        G: A DiGraph without cycles.
        inputs: Labels (one group, called "input") or a dict of group name -> labels. Default: as
            stored; else the nodes whose attribute "role" is "input"; if there are none, those
            without incoming edges.
        outputs: Likewise, with "output" and outgoing.
        weight: The edge attribute that holds the weights.
        bias: The node attribute that holds the biases.
        backend: Of the network.
        dtype: Default: as stored, else torch's default dtype.
        device: Default: torch's default device.

    Returns:
        The network.

    Raises:
        ConversionError: The graph is undirected or a multigraph, or an attribute is not as it must
            be; the node or edge is named.
        GraphError: The graph has a cycle, or breaks another rule of `NeuronGraph`.

    Example:
        >>> import networkx as nx
        >>> graph = nx.DiGraph()
        >>> graph.add_weighted_edges_from([("a", "c", 2.0), ("b", "c", -1.0)])
        >>> graphnn.from_networkx(graph)(torch.tensor([[3.0, 1.0]])).item()
        5.0
    """
    import networkx as nx

    if not isinstance(G, nx.Graph):
        raise ConversionError(f"G must be a networkx.DiGraph (got {type(G).__name__}).")
    if not G.is_directed() or G.is_multigraph():
        raise ConversionError(
            f"G must be a networkx.DiGraph, whose edges have one direction and occur once (got "
            f"{type(G).__name__}). Convert it with networkx.DiGraph(G) if its edges allow it."
        )
    if len(G) == 0:
        raise ConversionError("G must have at least one node (got an empty graph).")
    header = G.graph.get("graphnn")
    if header is not None and not isinstance(header, str):
        raise ConversionError(
            f"the graph attribute 'graphnn' must be a text (got {type(header).__name__})."
        )
    ordered = header is not None
    labelled = Labelled(list(G), *_edges(G, weight, ordered), _nodes(G, bias, ordered), header)
    return labelled.record(inputs, outputs).network(backend, dtype, device)


def _nodes(graph: nx.DiGraph, bias: str, ordered: bool) -> dict[str, list[Any]]:
    columns: dict[str, list[Any]] = {
        name: [data.get(name) for _, data in graph.nodes(data=True)]
        for name in ("activation", "role", "label")
    }
    columns["bias"] = [
        None if value is None else _number(value, f"the attribute {bias!r} of node {node!r}")
        for node, value in graph.nodes(data=bias)
    ]
    # Elsewhere an attribute of this name may mean anything.
    columns["index"] = [
        _index(value, f"node {node!r}") if ordered and value is not None else None
        for node, value in graph.nodes(data="index")
    ]
    return columns


def _edges(graph: nx.DiGraph, weight: str, ordered: bool) -> _EdgeColumns:
    place = {label: i for i, label in enumerate(graph)}
    count = graph.number_of_edges()
    ends = np.empty((2, count), np.int64)
    weights, weighted = np.zeros(count), np.zeros(count, bool)
    index = np.full(count, -1, np.int64)
    for edge, (source, target, data) in enumerate(graph.edges(data=True)):
        ends[:, edge] = place[source], place[target]
        value = data.get(weight)
        if value is not None:
            what = f"the attribute {weight!r} of the edge {source!r} -> {target!r}"
            weights[edge], weighted[edge] = _number(value, what), True
        if ordered and data.get("index") is not None:
            index[edge] = _index(data["index"], f"the edge {source!r} -> {target!r}")
    return ends[0], ends[1], weights, weighted, index


def _number(value: Any, what: str) -> float:
    if isinstance(value, bool | np.bool_) or not isinstance(value, numbers.Real):
        raise ConversionError(f"{what} must be a real number (got {value!r}).")
    try:
        return float(value)
    except OverflowError:
        raise ConversionError(f"{what} must fit into a float64 (got {value!r}).") from None


def _index(value: Any, what: str) -> int:
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    if not whole or not 0 <= int(value) < 2**62:
        raise ConversionError(
            f"the index of {what} must be an integer of at least 0 (got {value!r})."
        )
    return int(value)
