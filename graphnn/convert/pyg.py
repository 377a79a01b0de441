"""Networks from and to PyTorch Geometric's `Data`."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphnn import wiring
from graphnn.errors import ConversionError, GraphError
from graphnn.graph import NeuronGraph
from graphnn.network import Network
from graphnn.record import Header, Record

if TYPE_CHECKING:
    from torch_geometric.data import Data

# The codes of column 1 of `x`: the same in every network, so that batches and data sets agree.
# Append only; a registered activation has the code behind the last.
FEATURE_ACTIVATIONS = (
    "identity", "relu", "relu6", "leaky_relu", "elu", "selu", "celu", "gelu", "gelu_tanh", "silu",
    "mish", "softplus", "softsign", "sigmoid", "tanh", "clamp", "hardsigmoid", "hardswish", "sin",
    "gauss", "abs", "square",
)  # fmt: skip


def to_pyg(net: Network) -> Data:
    """Converts a network into a graph for PyTorch Geometric's models; `from_pyg` gives it back.

    The parts that models read:

    - ``edge_index`` (2, E) and ``edge_attr`` (E, 1), the weights, in graph order.
    - ``x`` (N, 4), one row a neuron: bias (0 without one), the activation's place in
      `FEATURE_ACTIVATIONS`, level, and role (1 for inputs + 2 for outputs). In the network's dtype,
      or in float32 where that is a half precision, which does not hold large levels.

    And, for the way back, ``bias``, ``has_bias``, ``activation_code`` and ``neuron_id`` (N,), the
    lists ``activation_table`` and ``names`` (empty without names) and the text ``graphnn`` (groups,
    output transform, dtype). All of them survive ``Batch.from_data_list`` and ``to_data_list``,
    also between networks of different sizes and dtypes.

    Args:
        net: The network; its names must be str or int. Of a parametrized one the effective weights
            and biases are taken.

    Returns:
        A `torch_geometric.data.Data` on the network's device that shares no memory with it.

    Raises:
        ConversionError: A name is neither a str nor an int, or weight and bias differ in dtype.
        GraphError: `net` is no Network.

    Example:
        >>> data = graphnn.to_pyg(graphnn.from_edges([("a", "y", 2.0), ("b", "y", 3.0)]))
        >>> data.edge_attr.flatten().tolist(), data.x[:, 2:].tolist()
        ([2.0, 3.0], [[0.0, 1.0], [1.0, 2.0], [0.0, 1.0]])
    """
    from torch_geometric.data import Data

    if not isinstance(net, Network):
        raise GraphError(f"net must be a graphnn.Network (got {type(net).__name__}).")
    record, graph, device = Record.of(net), net.graph.to("cpu"), net.weight.device
    bias = record.bias.new_zeros(graph.num_neurons)
    bias[graph.bias_neurons] = record.bias
    columns = {
        "x": _features(graph, bias),
        "edge_index": graph.edge_index,
        "edge_attr": record.weight[:, None],
        "bias": bias,
        "has_bias": torch.from_numpy(record.biased),
        "activation_code": graph.activation_code,
        "neuron_id": torch.arange(graph.num_neurons, device="cpu"),
    }
    return Data(
        **{name: column.to(device, copy=True) for name, column in columns.items()},
        activation_table=[entry.name for entry in graph.activation_table],
        names=list(record.names or ()),
        graphnn=record.header.to_json(),
    )


def from_pyg(
    data: Data,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    *,
    generator: torch.Generator | None = None,
) -> Network:
    """Converts a PyTorch Geometric graph into a network.

    A graph of `to_pyg` gives the same network again, bit for bit, with the weights and biases that
    ``edge_attr`` and ``bias`` hold now; ``x`` is not read.

    Any other graph gives neurons without names: those without incoming edges are the inputs, those
    without outgoing edges the outputs; outputs are "identity" and hidden neurons "relu". Weights
    are ``edge_weight``, else ``edge_attr`` of one column, else they are drawn, as biases are.

    Args:
        data: A `torch_geometric.data.Data` that holds one directed acyclic graph.
        backend: Of the network.
        dtype: Of the parameters; default: that of the network given to `to_pyg`, else that of the
            weights, else torch's default.
        device: Of the parameters; default: that of ``edge_index``.
        generator: Draws what the graph does not hold; default: torch's global one.

    Returns:
        The network; it shares no memory with `data`.

    Raises:
        ConversionError: `data` is no such graph, or its attributes do not fit together.
        GraphError: `dtype` is none that a network can have.
        BackendError: There is no such backend.

    Example:
        >>> from torch_geometric.data import Data
        >>> edge_index = torch.tensor([[0, 1], [2, 2]])
        >>> data = Data(edge_index=edge_index, edge_attr=torch.tensor([2.0, 3.0]))
        >>> graphnn.from_pyg(data).weight.tolist()
        [2.0, 3.0]
    """
    from torch_geometric.data import Batch, Data

    if not isinstance(data, Data):
        raise ConversionError(
            f"data must be a torch_geometric.data.Data (got {type(data).__name__})."
        )
    if isinstance(data, Batch):
        raise ConversionError(
            f"data must hold one graph (got a Batch of {data.num_graphs}). Convert each of "
            "data.to_data_list()."
        )
    edges = _read_edges(data)
    if device is None and isinstance(data.edge_index, Tensor):
        device = data.edge_index.device
    if "graphnn" in data:
        return _read_own(data, edges).network(backend, dtype, device)
    graph, weight = _read_foreign(data, edges)
    return Network(graph, weight, backend=backend, dtype=dtype, device=device, generator=generator)


def _features(graph: NeuronGraph, bias: Tensor) -> Tensor:
    dtype = bias.dtype if bias.dtype.itemsize >= 4 else torch.float32
    place = {name: code for code, name in enumerate(FEATURE_ACTIVATIONS)}
    table = [place.get(entry.function, len(place)) for entry in graph.activation_table]
    role = torch.zeros(graph.num_neurons, dtype=dtype, device="cpu")
    role[graph.input_ids] += 1
    role[graph.output_ids.unique()] += 2
    codes = torch.tensor(table, device="cpu")[graph.activation_code]
    return torch.stack([bias.to(dtype), codes.to(dtype), graph.level.to(dtype), role], 1)


def _read_edges(data: Data) -> Tensor:
    if data.edge_index is None:
        hint = " Convert data.adj_t with data.adj_t.coo()." if "adj_t" in data else ""
        raise ConversionError(f"data must have an edge_index (got none).{hint}")
    try:
        return wiring.read_edge_index(data.edge_index)
    except GraphError as error:
        raise ConversionError(f"data's edges cannot be read: {error}") from None


@contextmanager
def _checking(edges: Tensor) -> Iterator[None]:
    """Turns what is said against the graph into what is said against `data`."""
    try:
        yield
    except GraphError as error:
        source, target = edges.cpu().numpy()
        wide = int(edges.max()) + 1 if edges.numel() else 1
        both = np.isin(source * wide + target, target * wide + source).any()
        hint = " Undirected graphs hold each edge in both directions: keep one." if both else ""
        raise ConversionError(f"data is not a valid neuron graph: {error}{hint}") from None


def _read_own(data: Data, edges: Tensor) -> Record:
    header = Header.from_json(_attribute(data, "graphnn", str))
    neuron = _column(data, "neuron_id", None, torch.int64)
    num_neurons = neuron.numel()
    moved = neuron != torch.arange(num_neurons, device="cpu")
    if moved.any():
        place = int(moved.nonzero()[0])
        raise ConversionError(
            f"data's nodes must be those of the network in their order, but node {place} has "
            f"neuron_id {int(neuron[place])}: nodes were removed or reordered. Use graphnn.edit on "
            "the network instead, or delete data.graphnn to read the plain graph."
        )
    weight = _weights(data, "edge_attr", edges.shape[1])
    has_bias = _column(data, "has_bias", num_neurons, torch.bool)
    bias = _column(data, "bias", num_neurons, None)
    names = _attribute(data, "names", list)
    record = Record(
        edge_index=edges,
        weight=weight.cpu(),
        activation=_activations(data, num_neurons),
        biased=has_bias.numpy(),
        bias=bias[has_bias],
        names=tuple(names) or None,
        header=header,
    )
    with _checking(edges):
        _ = record.graph
    return record


def _activations(data: Data, num_neurons: int) -> tuple[str, ...]:
    code = _column(data, "activation_code", num_neurons, torch.int64)
    table = _attribute(data, "activation_table", list)
    strange = [entry for entry in table if not isinstance(entry, str)]
    if strange:
        raise ConversionError(f"data.activation_table must hold names (got {strange[0]!r}).")
    outside = (code < 0) | (code >= len(table))
    if outside.any():
        node = int(outside.nonzero()[0])
        raise ConversionError(
            f"data.activation_code must hold places in 0 ... {len(table) - 1} of "
            f"data.activation_table, but that of node {node} is {int(code[node])}."
        )
    return tuple(table[c] for c in code.tolist())


def _read_foreign(data: Data, edges: Tensor) -> tuple[NeuronGraph, Tensor | None]:
    num_neurons = _num_nodes(data)
    weight = None
    for name in ("edge_weight", "edge_attr"):
        if weight is None and data.get(name) is not None:
            weight = _weights(data, name, edges.shape[1])
    try:
        wiring.check_range(edges, num_neurons)
    except GraphError as error:
        raise ConversionError(f"data has {num_neurons} nodes, but {error}") from None
    source, target = edges.numpy()
    incoming, outgoing = (np.bincount(ends, minlength=num_neurons) for ends in (target, source))
    is_hidden = (incoming > 0) & (outgoing > 0)
    activation = np.where(is_hidden, "relu", "identity").tolist()
    with _checking(edges):
        graph = NeuronGraph(edges, num_neurons=num_neurons, activation=activation)
    return graph, weight


def _num_nodes(data: Data) -> int:
    with warnings.catch_warnings():
        # Where only edge_index tells the number, PyG warns that it may be too low.
        warnings.simplefilter("ignore", UserWarning)
        count = data.num_nodes
    if not count:
        raise ConversionError(f"data must have at least one node (got num_nodes {count}).")
    return int(count)


def _attribute(data: Data, name: str, kind: type) -> Any:
    value = data.get(name)
    if not isinstance(value, kind):
        raise ConversionError(
            f"data.{name} must be a {kind.__name__}, as graphnn.to_pyg writes it (got "
            f"{type(value).__name__})."
        )
    return value


def _column(data: Data, name: str, size: int | None, dtype: torch.dtype | None) -> Tensor:
    """One number a node, on the CPU; of any real floating dtype where `dtype` is None."""
    value = _attribute(data, name, Tensor).detach().cpu()
    right = value.is_floating_point() if dtype is None else value.dtype == dtype
    if value.dim() != 1 or size not in (None, value.shape[0]) or not right:
        raise ConversionError(
            f"data.{name} must hold one {dtype or 'floating-point number'} a node, shape "
            f"({'N' if size is None else size},) (got {value.dtype} of shape {tuple(value.shape)})."
        )
    return value


def _weights(data: Data, name: str, num_edges: int) -> Tensor:
    value = data.get(name)
    if not isinstance(value, Tensor) or tuple(value.shape) not in ((num_edges,), (num_edges, 1)):
        got = f"shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        many = isinstance(value, Tensor) and value.dim() == 2 and value.shape[0] == num_edges
        hint = " Put the column that is the weight into data.edge_weight." if many else ""
        raise ConversionError(
            f"data.{name} must hold one weight an edge, shape ({num_edges},) or ({num_edges}, 1) "
            f"(got {got}).{hint}"
        )
    if value.is_complex() or value.dtype == torch.bool:
        raise ConversionError(f"data.{name} must hold real numbers (got {value.dtype}).")
    return value.detach().reshape(num_edges)
