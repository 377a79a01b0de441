"""Reading and checking the arguments of a `NeuronGraph`, one function each."""

from __future__ import annotations

import difflib
import keyword
import numbers
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphnn.activation import Activation, resolve
from graphnn.errors import GraphError

if TYPE_CHECKING:
    from graphnn.sorted_edges import SortedEdges

Names = Sequence[Hashable] | None
Groups = Mapping[str, Tensor]
# An id beyond both implies so many isolated neurons that it is a label rather than a number.
_IDS_ALWAYS_FIT, _IDS_PER_GIVEN = 2**24, 100
# What to do with labels where ids are asked for: of a graph that is there, or only to be made.
_LABELS_OF_A_GRAPH = " Where the graph has names, net.graph.ids(labels) gives their ids."
_LABELS_OF_EDGES = " Labels go to graphnn.from_edges."


def describe(neuron: Any, names: Names) -> str:
    """A neuron as messages name it: its id, after its name where it has one."""
    return (
        f"neuron {int(neuron)}"
        if names is None
        else f"{names[int(neuron)]!r} (neuron {int(neuron)})"
    )


def near_label(label: object, names: Sequence[Hashable]) -> str:
    """A hint of labels that look like `label`, or the empty string."""
    if not isinstance(label, str) or len(names) > 100_000:
        return ""
    near = difflib.get_close_matches(label, [n for n in names if isinstance(n, str)], n=3)
    return f" Did you mean {' or '.join(map(repr, near))}?" if near else ""


def _shape_of(value: Any) -> str:
    shape = getattr(value, "shape", None)
    dtype = getattr(value, "dtype", None)
    return type(value).__name__ if shape is None else f"shape {tuple(shape)}, {dtype}"


def _read_shape(read: Tensor) -> str:
    """The shape of what was read, whatever it was read from."""
    return f"shape {tuple(read.shape)}, {str(read.dtype).removeprefix('torch.')}"


def _integers(value: Any, name: str, device: torch.device | None, for_labels: str = "") -> Tensor:
    """`value` as an own int64 tensor of its shape, on `device` or where it is.

    `for_labels` is what the error says to do with strings.
    """
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            raise GraphError(f"{name} must be a dense tensor (got layout {value.layout}).")
        if value.is_meta:
            raise GraphError(f"{name} must hold numbers (got a tensor on the meta device).")
        value = value.detach().as_subclass(Tensor)
        if value.dtype.is_floating_point or value.dtype.is_complex or value.dtype == torch.bool:
            raise GraphError(f"{name} must hold integers (got {_shape_of(value)}).")
        return value.to(device or value.device, torch.int64, copy=True).contiguous()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise GraphError(f"{name} must be a rectangular array of integers ({error}).") from None
    if array.size == 0 and array.dtype == np.float64:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        has_labels = array.dtype.kind in "OUT" and any(isinstance(own, str) for own in array.flat)
        hint = for_labels if has_labels else ""
        raise GraphError(f"{name} must hold integers (got {_shape_of(array)}).{hint}")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise GraphError(f"{name} must fit into int64 (got {array.max()}).")
    own = torch.from_numpy(np.array(array, dtype=np.int64, order="C"))
    return own if device is None else own.to(device)


def read_edge_index(edge_index: Any, for_labels: str = _LABELS_OF_EDGES) -> Tensor:
    """`edge_index` as an own (2, E) int64 tensor, where it is; arrays and lists on the CPU."""
    edges = _integers(edge_index, "edge_index", None, for_labels)
    if edges.dim() != 2 or edges.shape[0] != 2:
        hint = " Transpose it." if edges.dim() == 2 and edges.shape[1] == 2 else ""
        raise GraphError(
            f"edge_index must have shape (2, E), row 0 the sources and row 1 the targets "
            f"(got {_read_shape(edges)}).{hint}"
        )
    return edges


def read_ids(
    ids: Any, name: str, count: int, kind: str = "neuron", device: torch.device | None = None
) -> Tensor:
    """`ids` as an own (n,) int64 tensor of ids below `count` on `device`, by default the CPU."""
    for_labels = _LABELS_OF_A_GRAPH if kind == "neuron" else ""
    read = _id_tensor(ids, name, kind, device or torch.device("cpu"), for_labels)
    _check_ids(read, name, count, kind)
    return read


def _id_tensor(ids: Any, name: str, kind: str, device: torch.device, for_labels: str) -> Tensor:
    if not isinstance(ids, Tensor | np.ndarray | Sequence):
        if not isinstance(ids, Iterable):
            raise GraphError(f"{name} must be a sequence of {kind} ids (got {ids!r}).")
        ids = list(ids)
    read = _integers(ids, name, device, for_labels)
    if read.dim() != 1:
        raise GraphError(f"{name} must be one-dimensional (got {_read_shape(read)}).")
    return read


def _check_ids(ids: Tensor, name: str, count: int, kind: str) -> None:
    if ids.numel() == 0:
        return
    low, high = torch.stack(ids.aminmax()).tolist()
    if low < 0 or high >= count:
        place = int(((ids < 0) | (ids >= count)).nonzero()[0])
        raise GraphError(
            f"{name} must be {kind} ids in 0 ... {count - 1}, but {name}[{place}] is "
            f"{int(ids[place])}."
        )


def count_neurons(
    num_neurons: Any,
    edges: Tensor,
    inputs: Groups | None,
    outputs: Groups | None,
    activation: Any,
    bias: Any,
    names: Names,
) -> int:
    """N, as given or as the other arguments imply it."""
    if num_neurons is not None:
        if isinstance(num_neurons, bool) or not isinstance(num_neurons, numbers.Integral):
            raise GraphError(f"num_neurons must be an integer (got {num_neurons!r}).")
        if num_neurons < 1:
            raise GraphError(f"num_neurons must be at least 1 (got {num_neurons}).")
        return int(num_neurons)
    if names is not None:
        return len(names)
    if not isinstance(activation, str) and isinstance(activation, Sequence):
        return len(activation)
    if hasattr(bias, "__len__") and getattr(bias, "ndim", 1) > 0:
        return len(bias)
    highest, num_given = int(edges.max()) if edges.numel() else -1, edges.numel()
    for groups in (inputs, outputs):
        for ids in (groups or {}).values():
            highest = max(highest, int(ids.max()) if ids.numel() else -1)
            num_given += ids.numel()
    if highest < 0:
        raise GraphError("a graph must have at least one neuron. Give num_neurons, or edges.")
    return implied_neurons(highest, num_given)


def implied_neurons(highest: int, num_given: int) -> int:
    """N, as the highest of the ids implies it; refuses ids too far apart to number neurons."""
    if highest >= max(_IDS_ALWAYS_FIT, _IDS_PER_GIVEN * num_given):
        raise GraphError(
            f"neuron ids must number the neurons from 0 on, but the highest of {num_given} given "
            f"ids is {highest}. Number them with torch.unique(ids, return_inverse=True)[1], or "
            "give them as labels, in rows (source, target), to graphnn.from_edges."
        )
    return highest + 1


def read_names(names: Any) -> tuple[Hashable, ...] | None:
    """`names` as an own tuple, or None."""
    if names is None:
        return None
    if not isinstance(names, Iterable):
        raise GraphError(f"names must be a sequence of labels, one per neuron (got {names!r}).")
    return tuple(names)


def is_label(label: Any) -> bool:
    """Whether a neuron can be found by `label` again: NaN, NaT and tensors equal nothing."""
    if isinstance(label, Tensor):
        return False
    try:
        return bool(label == label)
    except (TypeError, ValueError, RuntimeError):
        # pandas.NA answers no comparison.
        return False


def check_names(names: Names, num_neurons: int) -> None:
    """Refuses names that are not one unique hashable label per neuron."""
    if names is None:
        return
    if len(names) != num_neurons:
        raise GraphError(
            f"names must hold one label per neuron, {num_neurons} in all (got {len(names)})."
        )
    first: dict[Hashable, int] = {}
    for neuron, name in enumerate(names):
        try:
            other = first.setdefault(name, neuron)
        except TypeError:
            raise GraphError(
                f"names must be hashable, but names[{neuron}] is a {type(name).__name__}."
            ) from None
        if other != neuron:
            raise GraphError(
                f"names must be unique, but neurons {other} and {neuron} are both {name!r}."
            )
        if type(name) not in (str, int) and not is_label(name):
            raise GraphError(
                "names must be values that equal themselves, such as strings or integers, but "
                f"names[{neuron}] is the {type(name).__name__} {name!r}. Use strings or numbers."
            )


def check_range(edges: Tensor, num_neurons: int) -> None:
    """Refuses edges to or from neurons that do not exist."""
    if edges.numel() == 0:
        return
    low, high = torch.stack(edges.aminmax()).tolist()
    if low >= 0 and high < num_neurons:
        return
    edge = int(((edges < 0) | (edges >= num_neurons)).any(0).nonzero()[0])
    source, target = edges[:, edge].tolist()
    raise GraphError(
        f"edge_index must hold neuron ids in 0 ... {num_neurons - 1}, but edge {edge} is "
        f"{source} -> {target}."
    )


def _check_group_name(name: object, role: str) -> None:
    if not isinstance(name, str) or not name.isidentifier() or keyword.iskeyword(name):
        raise GraphError(
            f"the name of an {role} group must be an identifier and not a keyword (got {name!r})."
        )
    # `offset` is an argument of Network.trace, beside the input groups.
    taken = name in ("self", "offset") if role == "input" else name == "self" or name[0] == "_"
    if taken:
        raise GraphError(
            f"an {role} group must not be called {name!r}: input groups are keyword arguments and "
            "output groups fields of a named tuple. Rename it."
        )


def _place(name: str, role: str) -> str:
    return f"{role}s" if name == role else f"{role}s[{name!r}]"


def read_groups(groups: Any, role: str, device: torch.device) -> Groups | None:
    """Input or output groups as name -> (n,) int64 ids of unchecked range; None if not given."""
    if groups is None:
        return None
    if not isinstance(groups, Mapping):
        groups = {role: groups}
    if not groups:
        raise GraphError(f"{role}s must have at least one group (got an empty dict).")
    for name in groups:
        _check_group_name(name, role)
    return {
        name: _id_tensor(ids, _place(name, role), "neuron", device, _LABELS_OF_EDGES)
        for name, ids in groups.items()
    }


def check_groups(groups: Groups, role: str, num_neurons: int) -> None:
    """Refuses ids that no neuron has, and empty output groups."""
    for name, ids in groups.items():
        _check_ids(ids, _place(name, role), num_neurons, "neuron")
        if role == "output" and ids.numel() == 0:
            raise GraphError(
                f"an output group must have at least one neuron, but {name!r} is empty."
            )


def check_inputs(ids: Tensor, edges: SortedEdges, names: Names) -> Tensor:
    """(N,) bool: which neurons are inputs; refuses repeated inputs and edges into them."""
    times = ids.bincount(minlength=edges.ptr.numel() - 1)
    entered = edges.ptr.diff().index_select(0, ids) > 0
    again = times.index_select(0, ids) > 1
    repeats, enters = torch.stack([again.any(), entered.any()]).tolist()
    if repeats:
        neuron = int(ids[again][0])
        raise GraphError(
            f"a neuron may be an input once, but {describe(neuron, names)} occurs "
            f"{int(times[neuron])} times."
        )
    if enters:
        neuron = int(ids[entered][0])
        place = edges.ptr[neuron]
        raise GraphError(
            f"an input must have no incoming edges, but edge {int(edges.order[place])} goes from "
            f"{describe(edges.source[place], names)} to the input {describe(neuron, names)}."
        )
    return times > 0


@dataclass(frozen=True)
class CodedActivations:
    """One activation per neuron, as numbers that may be on a device.

    Args:
        names: Distinct or not, known or not.
        code: (N,) int64 each neuron's place in `names`.
    """

    names: tuple[str, ...]
    code: Tensor


def _activation_names(activation: Any) -> list[str]:
    names = list(activation) if isinstance(activation, Iterable) else [activation]
    for name in names:
        if not isinstance(name, str):
            # Refuses it, as it refuses a name that it does not know.
            resolve(name)
    return names


def read_activation(activation: Any, is_input: Tensor) -> tuple[tuple[Activation, ...], Tensor]:
    """The distinct activations by first occurrence, and each neuron's place (N,) among them."""
    count, device = is_input.numel(), is_input.device
    if isinstance(activation, str):
        given = (resolve("identity"), resolve(activation))
        codes = (~is_input).long()
    elif isinstance(activation, CodedActivations):
        given, codes = tuple(map(resolve, activation.names)), activation.code
    else:
        names = _activation_names(activation)
        if len(names) != count:
            raise GraphError(
                f"activation must be one name or one per neuron, {count} in all (got {len(names)})."
            )
        place = {name: i for i, name in enumerate(dict.fromkeys(names))}
        read = np.fromiter(map(place.__getitem__, names), np.int64, len(names))
        codes = torch.from_numpy(read).to(device)
        given = tuple(resolve(name) for name in place)
    neurons = torch.arange(count, device=device)
    first = torch.full((len(given),), count, device=device)
    first = first.scatter_reduce_(0, codes, neurons, "amin").tolist()
    # Different spellings of one function share one entry.
    occurs: dict[Activation, int] = {}
    for entry, neuron in zip(given, first, strict=True):
        if neuron < count:
            occurs[entry] = min(neuron, occurs.get(entry, count))
    table = tuple(sorted(occurs, key=occurs.__getitem__))
    new_code = {entry: i for i, entry in enumerate(table)}
    codes = torch.tensor([new_code.get(entry, -1) for entry in given], device=device)[codes]
    if not isinstance(activation, str):
        _check_input_activations(table, codes, is_input)
    return table, codes


def _check_input_activations(
    table: tuple[Activation, ...], codes: Tensor, is_input: Tensor
) -> None:
    identity = resolve("identity")
    wrong = is_input & (codes != (table.index(identity) if identity in table else -1))
    if wrong.any():
        neuron = int(wrong.nonzero()[0])
        raise GraphError(
            f"an input's activation must be 'identity', but neuron {neuron}'s is "
            f"{table[int(codes[neuron])].name!r}."
        )


def read_bias(bias: Any, is_input: Tensor) -> Tensor:
    """(N,) bool: which neurons have a bias."""
    if isinstance(bias, bool | np.bool_):
        return ~is_input if bias else torch.zeros_like(is_input)
    given = bias.detach() if isinstance(bias, Tensor) else np.asarray(bias)
    is_bool = given.dtype in ((torch.bool,) if isinstance(given, Tensor) else (np.dtype(bool),))
    if not is_bool or tuple(given.shape) != tuple(is_input.shape):
        shape = _read_shape(given) if isinstance(given, Tensor) else _shape_of(given)
        raise GraphError(
            f"bias must be one bool or one per neuron, {is_input.numel()} in all "
            f"(got {shape}). A network's bias values are an argument of graphnn.Network."
        )
    own = given if isinstance(given, Tensor) else torch.from_numpy(np.array(given))
    own = own.to(is_input.device, copy=True)
    wrong = own & is_input
    if wrong.any():
        neuron = int(wrong.nonzero()[0])
        raise GraphError(f"an input must have no bias, but bias[{neuron}] is True.")
    return own
