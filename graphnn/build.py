"""Networks from lists of edges."""

from __future__ import annotations

import math
import os
import sys
from collections.abc import Hashable, Iterable, Mapping, Sequence, Set
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, SupportsFloat

import numpy as np
import torch
from torch import Tensor

from graphnn import wiring
from graphnn.activation import resolve
from graphnn.edge_columns import Columns
from graphnn.edge_file import read_file
from graphnn.edge_frame import read_frame
from graphnn.edge_table import EdgeTable, read_ids, read_matrix, read_rows
from graphnn.errors import FormatError, GraphError
from graphnn.graph import NeuronGraph
from graphnn.network import Network

if TYPE_CHECKING:
    from pandas import DataFrame
    from scipy.sparse import sparray, spmatrix

    Matrix = sparray | spmatrix
    Edges = (
        Iterable[Sequence[Any]] | Tensor | np.ndarray | Matrix | DataFrame | str | os.PathLike[str]
    )
    Labels = Iterable[Hashable] | Tensor | np.ndarray


def from_edges(
    edges: Edges,
    inputs: Labels | Mapping[str, Labels] | None = None,
    outputs: Labels | Mapping[str, Labels] | None = None,
    activation: str | Mapping[Any, str] = "relu",
    output_activation: str = "identity",
    bias: bool | Mapping[Any, SupportsFloat] = True,
    coalesce: str | None = None,
    generator: torch.Generator | None = None,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
    columns: Sequence[Hashable] | None = None,
) -> Network:
    """Builds a network from its edges.

    An integer tensor or array holds neuron ids. Everywhere else sources and targets are labels,
    also where they are integers: they get ids by first appearance, row by row, source first, and
    become `net.graph.names`. 1 and "1" are two labels.

    Args:
        edges: One of
            rows (source, target) or (source, target, weight), tuples or lists with any hashable
            labels, in any iterable;
            a (2, E) integer tensor or array, or PyTorch Geometric's `EdgeIndex`: ids themselves;
            one of scipy's sparse matrices (N, N), whose stored entry [i, j], a zero too, is the
            weight of the edge i -> j, as in scipy.sparse.csgraph: ids again, in the order of
            `tocoo()`; a matrix of bools has no weights;
            a pandas DataFrame with the columns source, target and, optionally, weight;
            the path of a CSV or TSV file in UTF-8 with a header that names these columns, separated
            by tabs, commas or semicolons. Its labels are strings, exactly as written; it is read by
            Python's csv module.
        inputs: Labels (one group, called "input") or a dict of group name -> labels. Default: the
            neurons without incoming edges, by id.
        outputs: Likewise (one group, called "output"). Default: the neurons without outgoing edges.
        activation: One name, or a dict of label -> name, where absent neurons are "relu".
        output_activation: Of every output that is not an input and not named in that dict.
        bias: Whether computed neurons have a bias, drawn as nn.Linear does; or a dict of label ->
            starting value, where absent neurons start at 0.
        coalesce: None refuses duplicate pairs. "sum" keeps each where it first occurs and adds
            their weights up.
        generator: Draws what is not given; default: torch's global one.
        backend: "auto" or a name from `graphnn.backends()`.
        dtype: Of the parameters; default: torch's default.
        device: Of the parameters; default: the accelerator that `edges` is on, else torch's
            default. The graph of ids on an accelerator stays there.
        columns: Names of the two or three columns of a frame or file that hold sources, targets
            and weights; 0-based places in a file without a header.

    Returns:
        The network; weight i belongs to row i.

    Raises:
        GraphError: Edges or arguments break a rule; the first offender is named.
        FormatError: The file does not hold edges; file and line are named.
        OSError: The file cannot be opened.

    Example:
        >>> net = graphnn.from_edges([("x", "h", 2), ("x", "y", -1), ("h", "y", 3)], bias=False)
        >>> net.graph.names
        ('x', 'h', 'y')
        >>> net(torch.tensor([[1.0], [-1.0]])).flatten().tolist()
        [5.0, 1.0]
    """
    if coalesce not in (None, "sum"):
        raise GraphError(f"coalesce must be None or 'sum' (got {coalesce!r}).")
    table = _read_edges(edges, columns)
    if coalesce == "sum":
        table = table.coalesced()
    input_labels, output_labels = _read_groups(inputs, "input"), _read_groups(outputs, "output")
    neurons = _Neurons.of(table, input=input_labels, output=output_labels)
    input_ids = neurons.groups(input_labels, "input")
    output_ids = neurons.groups(output_labels, "output")
    is_input = neurons.marked(input_ids, table.edge_index[1])
    is_output = neurons.marked(output_ids, table.edge_index[0])
    graph = _build_graph(
        table,
        num_neurons=neurons.count,
        inputs=input_ids,
        outputs=output_ids,
        activation=_activations(neurons, activation, output_activation, is_input, is_output),
        bias=_has_bias(bias),
    )
    if device is None:
        # Ids were brought to an accelerator on purpose; on the CPU is where all begin.
        device = torch.get_default_device() if neurons.device.type == "cpu" else neurons.device
    net = Network(
        graph,
        None if table.weight is None else torch.from_numpy(table.weight),
        _starting_biases(neurons, bias, is_input) if isinstance(bias, Mapping) else None,
        backend=backend,
        dtype=torch.get_default_dtype() if dtype is None else dtype,
        device=device,
        generator=generator,
    )
    _check_overflow(table, net.weight.dtype)
    _check_biases_fit(bias, net.bias.dtype)
    return net


def _read_edges(edges: Any, columns: Any) -> EdgeTable:
    if isinstance(edges, str | os.PathLike):
        return read_file(Path(os.fspath(edges)), Columns.read(columns))
    # Whoever holds a frame or a matrix has imported its package, so it need not be imported to
    # find out.
    pandas, sparse = sys.modules.get("pandas"), sys.modules.get("scipy.sparse")
    if pandas is not None and isinstance(edges, pandas.DataFrame):
        return read_frame(edges, Columns.read(columns))
    if columns is not None:
        raise GraphError(
            "columns must be given with a frame or a file only "
            f"(got columns={columns!r} with edges of type {type(edges).__name__})."
        )
    if isinstance(edges, Tensor | np.ndarray):
        return read_ids(edges)
    if sparse is not None and sparse.issparse(edges):
        return read_matrix(edges)
    return read_rows(edges)


@dataclass(frozen=True)
class _Neurons:
    """How the caller calls the neurons: by these names, or by their ids."""

    count: int
    names: tuple[Hashable, ...] | None
    device: torch.device

    @classmethod
    def of(cls, table: EdgeTable, **groups: dict[str, Any] | None) -> _Neurons:
        device = table.edge_index.device
        if table.names is not None:
            return cls(len(table.names), table.names, device)
        if table.num_neurons is not None:
            return cls(table.num_neurons, None, device)
        highest, num_given = _highest(table.edge_index), table.edge_index.numel()
        for role, group in groups.items():
            for name, ids in (group or {}).items():
                largest = torch.iinfo(torch.int64).max
                read = wiring.read_ids(ids, _called(role, name), largest, device=device)
                highest, num_given = max(highest, _highest(read)), num_given + read.numel()
        if highest < 0:
            raise GraphError("edges must hold at least one edge (got none, and no inputs either).")
        return cls(wiring.implied_neurons(highest, num_given), None, device)

    @cached_property
    def _id_of(self) -> dict[Hashable, int]:
        return {name: i for i, name in enumerate(self.names or ())}

    def ids(self, labels: Any, what: str) -> Tensor:
        """The int64 ids of these labels; `what` is how messages call the argument."""
        if self.names is None:
            return wiring.read_ids(labels, what, self.count, device=self.device)
        if isinstance(labels, Tensor | np.ndarray):
            labels = labels.tolist()
        found = np.empty(len(labels), np.int64)
        for place, label in enumerate(labels):
            try:
                found[place] = self._id_of[label]
            except (KeyError, TypeError):
                raise GraphError(
                    f"{what} must be labels that occur in edges, but {label!r} does not."
                    f"{self._near(label)}"
                ) from None
        return torch.from_numpy(found)

    def _near(self, label: Any) -> str:
        assert self.names is not None
        # The labels of a file are strings, so 1 where "1" is meant is the likeliest slip.
        twin = [name for name in self.names if str(name) == str(label)]
        if twin:
            return f" Did you mean {twin[0]!r} ({type(twin[0]).__name__})?"
        return wiring.near_label(label, self.names)

    def groups(self, groups: dict[str, Any] | None, role: str) -> dict[str, Tensor] | None:
        if groups is None:
            return None
        return {name: self.ids(labels, _called(role, name)) for name, labels in groups.items()}

    def marked(self, groups: dict[str, Tensor] | None, default: Tensor) -> Tensor:
        """(N,) bool: the members of the groups; without groups, all ids that `default` lacks."""
        marked = torch.full((self.count,), groups is None, device=self.device)
        for ids in [default] if groups is None else groups.values():
            marked[ids] = groups is not None
        return marked


def _highest(ids: Tensor) -> int:
    return int(ids.max()) if ids.numel() else -1


def _called(role: str, name: str) -> str:
    return f"{role}s" if name == role else f"{role}s[{name!r}]"


def _read_groups(groups: Any, role: str) -> dict[str, Any] | None:
    """Group name -> tensor, array or list of labels."""
    if groups is None:
        return None
    named = groups if isinstance(groups, Mapping) else {role: groups}
    read = {}
    for name, labels in named.items():
        # A set has no order, and the order is that of the network's columns.
        if not isinstance(labels, Iterable) or isinstance(labels, str | bytes | Set | Mapping):
            raise GraphError(
                f"{_called(role, name)} must be a sequence of labels "
                f"(got {type(labels).__name__}: {labels!r})."
            )
        read[name] = labels if isinstance(labels, Tensor | np.ndarray) else list(labels)
    return read


def _build_graph(table: EdgeTable, **arguments: Any) -> NeuronGraph:
    try:
        return NeuronGraph(table.edge_index, names=table.names, **arguments)
    except GraphError as error:
        if table.names is None:
            raise
        table.check_duplicates()
        if table.path is None:
            raise
        _check_file_wiring(table, error)
        raise


def _check_file_wiring(table: EdgeTable, error: GraphError) -> None:
    """Raises a FormatError if the file's edges alone, whatever the arguments, are no wiring."""
    try:
        NeuronGraph(table.edge_index, names=table.names)
    except GraphError:
        raise FormatError(f"{table.path}: {error} (Edge 0 is on {table.place(0)}.)") from None


def _activations(
    neurons: _Neurons,
    activation: Any,
    output_activation: Any,
    is_input: Tensor,
    is_output: Tensor,
) -> wiring.CodedActivations:
    """The activations of all neurons."""
    if not isinstance(activation, str | Mapping):
        raise GraphError(
            "activation must be one name, or a dict of label -> name "
            f"(got {type(activation).__name__}: {activation!r})."
        )
    if not isinstance(output_activation, str):
        raise GraphError(
            "output_activation must be one name; name single outputs in activation "
            f"(got {type(output_activation).__name__}: {output_activation!r})."
        )
    named = activation if isinstance(activation, Mapping) else {}
    hidden = activation if isinstance(activation, str) else "relu"
    for label, name in (*named.items(), (None, hidden), (None, output_activation)):
        if not isinstance(name, str):
            raise GraphError(
                f"activation must hold names, but activation[{label!r}] is "
                f"{type(name).__name__}: {name!r}."
            )
        resolve(name)
    ids = neurons.ids(list(named), "the keys of activation")
    for neuron, at_input, name in zip(
        ids.tolist(), is_input[ids].tolist(), named.values(), strict=True
    ):
        if at_input and resolve(name).function != "identity":
            raise GraphError(
                f"an input's activation must be 'identity', but activation names {name!r} for the "
                f"input {wiring.describe(neuron, neurons.names)}."
            )
    code = is_output.long().masked_fill_(is_input, 2)
    code[ids] = torch.arange(3, 3 + len(named), device=neurons.device)
    return wiring.CodedActivations((hidden, output_activation, "identity", *named.values()), code)


def _has_bias(bias: Any) -> bool:
    if isinstance(bias, Mapping):
        return True
    if not isinstance(bias, bool):
        raise GraphError(
            "bias must be True, False, or a dict of label -> starting value "
            f"(got {type(bias).__name__}: {bias!r})."
        )
    return bias


def _starting_biases(neurons: _Neurons, bias: Mapping[Any, Any], is_input: Tensor) -> Tensor:
    """(K,) the values of `bias`, 0 where it has none."""
    given = []
    ids = neurons.ids(list(bias), "the keys of bias")
    for at_input, (label, value) in zip(is_input[ids].tolist(), bias.items(), strict=True):
        if at_input:
            raise GraphError(f"an input must have no bias, but bias names the input {label!r}.")
        try:
            number = math.nan if isinstance(value, str | bytes | bool) else float(value)
        except (TypeError, ValueError, RuntimeError):
            number = math.nan
        if not math.isfinite(number):
            raise GraphError(f"biases must be finite numbers, but bias[{label!r}] is {value!r}.")
        given.append(number)
    values = torch.zeros(neurons.count, dtype=torch.float64, device=neurons.device)
    values[ids] = torch.tensor(given, dtype=torch.float64, device=neurons.device)
    return values[~is_input]


def _check_overflow(table: EdgeTable, dtype: torch.dtype) -> None:
    """Refuses weights that are finite as given, but not in the network's dtype."""
    if table.weight is None:
        return
    too_large = ~(np.abs(table.weight) <= torch.finfo(dtype).max)
    if too_large.any():
        edge = int(np.argmax(too_large))
        table.refuse(
            f"weights must be finite in {dtype}, but that of {table.place(edge)} is "
            f"{table.weight[edge]}. Scale it, or choose a wider dtype."
        )


def _check_biases_fit(bias: bool | Mapping[Any, SupportsFloat], dtype: torch.dtype) -> None:
    """Refuses starting biases that are finite as given, but not in the network's dtype."""
    for label, value in bias.items() if isinstance(bias, Mapping) else ():
        if abs(float(value)) > torch.finfo(dtype).max:
            raise GraphError(
                f"biases must be finite in {dtype}, but bias[{label!r}] is {value!r}. Scale it, or "
                "choose a wider dtype."
            )
