"""Networks out of networks: edges and neurons taken away or added, every other number kept.

Each function returns a new network and leaves the given one as it is. The new one shares no
parameter with it and keeps, bit for bit, every weight and bias that survives; likewise order,
names, activations, groups, backend, output transform, dtype, device, training mode and whether
weight and bias require gradients. A neuron that loses its last incoming edge becomes the constant
``activation(bias)``; an input stays an input.

Of a parametrized network the effective weights and biases are taken: the new network has plain
parameters. Hooks are not carried over.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphnn import edited, parameters, wiring
from graphnn.errors import GraphError
from graphnn.graph import Ids, NeuronGraph
from graphnn.network import Network


def prune(net: Network, edges: Ids) -> Network:
    """Removes edges; all neurons stay.

    Args:
        net: The network.
        edges: Distinct edge ids, in any order.

    Returns:
        A new network with the other edges, in their order.

    Raises:
        GraphError: An id is out of range, occurs twice or is no integer.

    Example:
        >>> net = graphnn.from_edges([("a", "c", 2.0), ("b", "c", 3.0)], bias=False)
        >>> graphnn.edit.prune(net, [0])(torch.tensor([[5.0, 7.0]])).tolist()
        [[21.0]]
    """
    edited.check_network(net)
    kept = np.ones(net.graph.num_edges, bool)
    kept[edited.read_distinct(edges, "edges", net.graph.num_edges, "edge")] = False
    return _restrict(net, np.ones(net.graph.num_neurons, bool), kept)


def remove_neurons(net: Network, neurons: Ids) -> Network:
    """Removes neurons and all their edges.

    The remaining neurons are numbered anew in ascending order of their old ids. Removed neurons
    leave their groups; an input group may become empty.

    Args:
        net: The network.
        neurons: Distinct neuron ids, in any order; inputs and outputs too.

    Returns:
        A new network with the other neurons and the edges between them.

    Raises:
        GraphError: An id is out of range, occurs twice or is no integer; or an output group would
            be left empty.

    Example:
        >>> edges = [("a", "h", 2.0), ("a", "y", 3.0), ("h", "y", 4.0)]
        >>> net = graphnn.from_edges(edges, bias=False)
        >>> smaller = graphnn.edit.remove_neurons(net, net.graph.ids(["h"]))
        >>> smaller.graph.names, smaller.weight.tolist()
        (('a', 'y'), [3.0])
    """
    edited.check_network(net)
    graph = net.graph.to("cpu")
    kept = np.ones(graph.num_neurons, bool)
    kept[edited.read_distinct(neurons, "neurons", graph.num_neurons, "neuron")] = False
    for name, ids in graph.outputs.items():
        if not kept[ids.numpy()].any():
            raise GraphError(
                f"an output group must keep at least one neuron, but all of {name!r} would be "
                f"removed, the first being {graph.describe(int(ids[0]))}. Leave one of them."
            )
    source, target = graph.edge_index.numpy()
    return _restrict(net, kept, kept[source] & kept[target])


def subgraph(net: Network, edges: Ids) -> Network:
    """Keeps only these edges, and of them only what the outputs depend on.

    All outputs stay. An input that no output depends on leaves its group, which stays even when it
    is empty; other neurons that no output depends on go too, and the rest is numbered anew in
    ascending order of the old ids.

    Args:
        net: The network.
        edges: Distinct edge ids, in any order.

    Returns:
        A new network. Its outputs are those of ``prune`` of all other edges.

    Raises:
        GraphError: An id is out of range, occurs twice or is no integer.

    Example:
        >>> edges = [("a", "y", 2.0), ("b", "h", 3.0), ("h", "y", 4.0)]
        >>> net = graphnn.from_edges(edges, bias=False)
        >>> circuit = graphnn.edit.subgraph(net, [0, 1])
        >>> circuit.graph.names, circuit.weight.tolist()
        (('a', 'y'), [2.0])
    """
    from graphnn import reachability

    edited.check_network(net)
    graph = net.graph.to("cpu")
    chosen = np.zeros(graph.num_edges, bool)
    chosen[edited.read_distinct(edges, "edges", graph.num_edges, "edge")] = True
    own = graph.sorted_edges.arrays()
    kept = reachability.ancestors(*own, chosen, graph.output_ids.numpy())
    return _restrict(net, kept, chosen & kept[graph.edge_index[1].numpy()])


def add_edges(
    net: Network,
    edge_index: Tensor | np.ndarray | list[list[int]],
    weight: Any = None,
    *,
    generator: torch.Generator | None = None,
) -> Network:
    """Adds edges between existing neurons.

    Args:
        net: The network.
        edge_index: (2, M) neuron ids, row 0 the sources, row 1 the targets.
        weight: (M,) their weights, or None to draw them from
            ``U(-1/sqrt(fan_in), 1/sqrt(fan_in))`` with the target's new fan-in, as nn.Linear does.
        generator: Draws them, on the network's device; default: torch's global one.

    Returns:
        A new network; its edges E ... E + M - 1 are the added ones, in their order. A constant that
        is now a target keeps its bias.

    Raises:
        GraphError: An id is out of range, an edge exists already or is given twice, goes into an
            input or closes a cycle, or an argument has the wrong shape or dtype. Edges are named
            by their ids in the new network.

    Example:
        >>> net = graphnn.from_edges([("a", "h", 2.0), ("h", "y", 3.0)], bias=False)
        >>> wider = graphnn.edit.add_edges(net, [[0], [2]], weight=[10.0])
        >>> wider(torch.tensor([[1.0]])).item()
        16.0
    """
    edited.check_network(net)
    old, first = net.graph, net.graph.num_edges
    added = wiring.read_edge_index(edge_index).to(old.device)
    given = None if weight is None else _read_weight(weight, added.shape[1])
    try:
        graph = NeuronGraph(
            **{**old.arguments(), "edge_index": torch.cat([old.edge_index, added], 1)}
        )
    except GraphError as error:
        raise GraphError(
            f"edges must be added without breaking the graph; the added edge_index[:, j] is edge "
            f"{first} + j below: {error}"
        ) from None
    own = net.weight.detach()
    parameters.check_generator(generator, own.device)
    if given is None:
        given = torch.empty(added.shape[1], dtype=own.dtype, device=own.device)
        given.uniform_(-1, 1, generator=generator)
        bound = graph.fan_in[added[1]].to(torch.float64).rsqrt()
        given.mul_(bound.to(own.device, own.dtype))
    return edited.like(net, graph, torch.cat([own, given.to(own.device, own.dtype)]), net.bias)


def _read_weight(weight: Any, count: int) -> Tensor:
    try:
        read = weight if isinstance(weight, Tensor) else torch.as_tensor(weight, device="cpu")
    except (TypeError, ValueError, RuntimeError) as error:
        raise GraphError(f"weight must be numbers, one for each added edge ({error}).") from None
    if tuple(read.shape) != (count,) or read.is_complex() or read.dtype == torch.bool:
        raise GraphError(
            f"weight must be real numbers of shape ({count},), one for each added edge (got shape "
            f"{tuple(read.shape)}, {read.dtype})."
        )
    return read.detach()


def _restrict(net: Network, is_kept: np.ndarray, edge_is_kept: np.ndarray) -> Network:
    """The network on some of its neurons (N,) and edges (E,), given as masks."""
    graph = net.graph.to("cpu")
    neurons, edges = np.flatnonzero(is_kept), torch.from_numpy(np.flatnonzero(edge_is_kept))
    new_id = torch.from_numpy(np.cumsum(is_kept) - 1)
    table, code = graph.activation_table, graph.activation_code.numpy()[neurons]
    biased = np.zeros(graph.num_neurons, bool)
    biased[graph.bias_neurons.numpy()] = True

    def shrink(groups: dict[str, Tensor]) -> dict[str, Tensor]:
        return {name: new_id[ids[is_kept[ids.numpy()]]] for name, ids in groups.items()}

    restricted = NeuronGraph(
        new_id[graph.edge_index[:, edges]],
        num_neurons=neurons.size,
        inputs=shrink(graph.inputs),
        outputs=shrink(graph.outputs),
        activation=[table[c].name for c in code.tolist()],
        bias=biased[neurons],
        names=None if graph.names is None else [graph.names[i] for i in neurons.tolist()],
    )
    weight, bias = net.weight.detach(), net.bias.detach()
    slots = torch.from_numpy(np.flatnonzero(is_kept[graph.bias_neurons.numpy()]))
    return edited.like(
        net,
        restricted,
        weight.index_select(0, edges.to(weight.device)),
        bias.index_select(0, slots.to(bias.device)),
    )
