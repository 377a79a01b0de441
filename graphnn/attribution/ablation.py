"""Networks some of whose neurons are held at a value, or taken out."""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphnn import edit, edited
from graphnn.activation import apply
from graphnn.errors import GraphError
from graphnn.graph import Ids, NeuronGraph
from graphnn.network import Network
from graphnn.trace import Trace

Value = float | Sequence[float] | Tensor | Trace


def ablate(net: Network, neurons: Ids, value: Value = 0.0, remove: bool = False) -> Network:
    """A network in which the values of some neurons are held, whatever finite inputs come.

    Neurons, edges, ids and groups stay; only numbers change:

    - A held computed neuron's incoming edges get the weight 0, its bias becomes the held value, and
      its activation "identity", unless that gives the value back, as relu does from 0 on. Its
      outgoing edges carry that value. Where no activation changes the graph is that of `net`.
    - A held input is still passed in, and still shows in traces, but its outgoing edges get the
      weight 0, and ``weight * held value`` goes into the biases of their targets. Where it is an
      output too, a constant neuron, appended after the others, takes its place there.

    With ``remove=True`` exactly the removed neurons' incoming and outgoing edges go, and the
    neurons with them; the others are numbered anew. All edges between other neurons stay, also
    those that no output depends on any more. The outputs are those of holding at 0.

    What holds a neuron are parameters: training the new network may move them, where `net`'s were
    trained. And a weight of 0 keeps out finite values only: over such an edge an infinite or NaN
    value gives NaN, since 0 * inf is NaN. ``remove=True`` takes the edges themselves out.

    Args:
        net: The network; left as it is.
        neurons: Distinct neuron ids; with ``remove=True`` neither inputs nor outputs.
        value: A number; one number for each of `neurons`; or a `Trace` of the same graph, whose
            mean values over its samples are taken. An output is held before the output transform.
        remove: Whether to take the neurons out; then `value` is 0.

    Returns:
        A new network with plain parameters; n_in and n_out stay.

    Raises:
        GraphError: An id is out of range or occurs twice, `value` has another shape, is a trace of
            another graph or of no sample, or an input, an output or a neuron with a value other
            than 0 were to be removed.

    Example:
        >>> edges = [("x", "h", 2.0), ("h", "y", 3.0), ("x", "y", -1.0)]
        >>> net = graphnn.from_edges(edges, bias=False)
        >>> x = torch.tensor([[1.0], [2.0]])
        >>> hidden = net.graph.ids(["h"])
        >>> graphnn.attribution.ablate(net, hidden)(x).flatten().tolist()
        [-1.0, -2.0]
        >>> graphnn.attribution.ablate(net, hidden, value=net.trace(x))(x).flatten().tolist()
        [8.0, 7.0]
    """
    edited.check_network(net)
    ids = edited.read_distinct(neurons, "neurons", net.graph.num_neurons, "neuron")
    held = _read_value(value, torch.from_numpy(ids), net)
    if remove:
        _check_removable(net.graph.to("cpu"), ids, held)
        return edit.remove_neurons(net, ids)
    return _hold(net, torch.from_numpy(ids), held)


def _read_value(value: Any, ids: Tensor, net: Network) -> Tensor:
    """(n,) float64 held values, on the CPU."""
    if isinstance(value, Trace):
        return _means(value, net.graph)[ids]
    if isinstance(value, numbers.Real) and not isinstance(value, bool):
        return torch.full((ids.numel(),), float(value), dtype=torch.float64, device="cpu")
    try:
        given = torch.as_tensor(value, device="cpu").detach()
    except (TypeError, ValueError, RuntimeError) as error:
        raise GraphError(
            f"value must be a number, one number for each of neurons, or a Trace ({error})."
        ) from None
    if given.is_complex() or given.dtype == torch.bool:
        raise GraphError(f"value must hold real numbers (got {given.dtype}).")
    read = given.to(torch.float64)
    if read.dim() == 0:
        return read.expand(ids.numel())
    if tuple(read.shape) != (ids.numel(),):
        raise GraphError(
            f"value must be a number, or one number for each of the {ids.numel()} neurons "
            f"(got shape {tuple(read.shape)})."
        )
    return read


def _means(trace: Trace, graph: NeuronGraph) -> Tensor:
    if trace.graph != graph:
        raise GraphError(
            f"value must be a trace of the network's graph, {graph!r} (got a trace of "
            f"{trace.graph!r}). Trace this network."
        )
    values = trace.values.detach().reshape(-1, graph.num_neurons)
    if values.shape[0] == 0:
        raise GraphError("value must be a trace of at least one sample (got one of none).")
    return values.to(torch.float64).mean(0).cpu()


def _check_removable(graph: NeuronGraph, ids: np.ndarray, held: Tensor) -> None:
    for role, own in (("input", graph.input_ids), ("output", graph.output_ids)):
        wrong = ids[np.isin(ids, own.numpy())]
        if wrong.size:
            raise GraphError(
                f"remove=True must name neither inputs nor outputs, which stay, but "
                f"{graph.describe(int(wrong[0]))} is an {role}. Hold it, without remove, or use "
                "graphnn.edit.remove_neurons."
            )
    if held.count_nonzero():
        place = int(held.nonzero()[0])
        raise GraphError(
            "value must be 0 with remove=True, as a neuron that is gone adds nothing, but it is "
            f"{held[place]:g} for {graph.describe(int(ids[place]))}. Leave one of the two out."
        )


def _hold(net: Network, ids: Tensor, value: Tensor) -> Network:
    graph = net.graph.to("cpu")
    count, (source, target) = graph.num_neurons, graph.edge_index
    is_input = torch.zeros(count, dtype=torch.bool, device="cpu")
    is_input[graph.input_ids] = True
    is_held = torch.zeros(count, dtype=torch.bool, device="cpu")
    is_held[ids] = True
    held_at = torch.zeros(count, dtype=torch.float64, device="cpu")
    held_at[ids] = value
    is_constant, is_muted = is_held & ~is_input, is_held & is_input

    weight, bias = net.weight.detach().clone(), net.bias.detach()
    weight[_incoming(graph, ids[~is_input[ids]]).to(weight.device)] = 0
    # An input that is held at 0 adds nothing, even over an infinite weight.
    shift = torch.zeros_like(held_at)
    if is_muted.any():
        folded = (is_muted & (held_at != 0))[source].nonzero().flatten()
        added = weight[folded.to(weight.device)].cpu().double() * held_at[source[folded]]
        shift.index_add_(0, target[folded], added)
        weight[is_muted[source].to(weight.device)] = 0

    full = torch.zeros(count, dtype=bias.dtype, device="cpu")
    full[graph.bias_neurons] = bias.cpu()
    moved = shift != 0
    full[moved] = (full[moved].double() + shift[moved]).to(bias.dtype)
    full[is_constant] = held_at[is_constant].to(bias.dtype)

    shown = ids[torch.isin(ids, graph.output_ids[is_muted[graph.output_ids]])]
    # Without a bias a neuron has 0.
    has_bias = moved | (is_constant & (full != 0))
    has_bias[graph.bias_neurons] = True
    new_bias = torch.cat([full[has_bias], held_at[shown].to(bias.dtype)])
    changed = is_constant.clone()
    changed[is_constant] = ~_gives_back(graph, is_constant.nonzero().flatten(), full)
    is_new = changed.any() or shown.numel() or int(has_bias.sum()) > graph.bias_neurons.numel()
    made = _rewire(graph, changed, has_bias, shown) if is_new else net.graph
    return edited.like(net, made, weight, new_bias.to(bias.device))


def _incoming(graph: NeuronGraph, neurons: Tensor) -> Tensor:
    """(n,) int64 ids of the edges into some neurons."""
    edges = graph.sorted_edges
    bounds = torch.stack([edges.ptr[neurons], edges.ptr[neurons + 1]], 1).tolist()
    pieces = [edges.order[start:end] for start, end in bounds]
    return torch.cat([edges.order[:0], *pieces]).long()


def _gives_back(graph: NeuronGraph, neurons: Tensor, values: Tensor) -> Tensor:
    """(n,) bool: whether the activations of some neurons make of their `values` (N,) the same."""
    codes, own = graph.activation_code[neurons], values[neurons]
    same = torch.zeros_like(neurons, dtype=torch.bool)
    for code in codes.unique().tolist():
        activation, rows = graph.activation_table[code], codes == code
        found = apply(activation.function, activation.parameters, own[rows])
        same[rows] = found == own[rows]
    return same


def _rewire(graph: NeuronGraph, changed: Tensor, has_bias: Tensor, shown: Tensor) -> NeuronGraph:
    """The graph with some neurons linear, and a new constant for each of the inputs `shown`.

    The new ones take the inputs' places among the outputs.
    """
    activation = [
        "identity" if is_linear else name
        for name, is_linear in zip(graph.activation, changed.tolist(), strict=True)
    ]
    count, num_new = graph.num_neurons, shown.numel()
    in_output = torch.arange(count, device="cpu")
    in_output[shown] = torch.arange(count, count + num_new, device="cpu")
    names = None
    if graph.names is not None:
        names = [*graph.names, *_new_names(graph.names, shown.tolist())]
    return NeuronGraph(
        graph.edge_index,
        num_neurons=count + num_new,
        inputs=graph.inputs,
        outputs={name: in_output[own] for name, own in graph.outputs.items()},
        activation=[*activation, *["identity"] * num_new],
        bias=torch.cat([has_bias, has_bias.new_ones(num_new)]),
        names=names,
    )


def _new_names(names: tuple[Hashable, ...], neurons: list[int]) -> list[str]:
    taken, new = set(names), []
    for neuron in neurons:
        name = f"{names[neuron]} held"
        while name in taken:
            name += "'"
        taken.add(name)
        new.append(name)
    return new
