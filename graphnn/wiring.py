"""Reading and checking the arguments of a `NeuronGraph`, one function each."""

from __future__ import annotations

import difflib
import keyword
import numbers
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphnn.activation import Activation, resolve
from graphnn.errors import GraphError

Names = Sequence[Hashable] | None
Groups = Mapping[str, np.ndarray]
_CYCLE_EDGES_SHOWN = 1000
# An id beyond both implies so many isolated neurons that it is a label rather than a number.
_IDS_ALWAYS_FIT, _IDS_PER_GIVEN = 2**24, 100


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


def _integers(value: Any, name: str) -> np.ndarray:
    """`value` as an int64 array of its own shape; the caller owns no part of it."""
    if isinstance(value, Tensor):
        if value.layout != torch.strided:
            raise GraphError(f"{name} must be a dense tensor (got layout {value.layout}).")
        value = value.detach().as_subclass(Tensor)
        if value.dtype.is_floating_point or value.dtype.is_complex or value.dtype == torch.bool:
            raise GraphError(f"{name} must hold integers (got {_shape_of(value)}).")
        return value.to("cpu", torch.int64, copy=True).contiguous().numpy()
    try:
        array = np.asarray(value)
    except (ValueError, TypeError) as error:
        raise GraphError(f"{name} must be a rectangular array of integers ({error}).") from None
    if array.size == 0 and array.dtype == np.float64:
        array = array.astype(np.int64)
    if array.dtype.kind not in "iu":
        raise GraphError(f"{name} must hold integers (got {_shape_of(array)}).")
    if array.dtype == np.uint64 and array.size and array.max() > np.iinfo(np.int64).max:
        raise GraphError(f"{name} must fit into int64 (got {array.max()}).")
    return np.array(array, dtype=np.int64, order="C")


def read_edge_index(edge_index: Any) -> Tensor:
    """`edge_index` as an own (2, E) int64 tensor on the CPU."""
    edges = _integers(edge_index, "edge_index")
    if edges.ndim != 2 or edges.shape[0] != 2:
        hint = " Transpose it." if edges.ndim == 2 and edges.shape[1] == 2 else ""
        raise GraphError(
            f"edge_index must have shape (2, E), row 0 the sources and row 1 the targets "
            f"(got {_shape_of(edges)}).{hint}"
        )
    return torch.from_numpy(edges)


def read_ids(ids: Any, name: str, count: int, kind: str = "neuron") -> Tensor:
    """`ids` as an own (n,) int64 tensor of neuron or edge ids below `count`."""
    array = _id_array(ids, name, kind)
    _check_ids(array, name, count, kind)
    return torch.from_numpy(array)


def _id_array(ids: Any, name: str, kind: str) -> np.ndarray:
    if not isinstance(ids, Tensor | np.ndarray | Sequence):
        if not isinstance(ids, Iterable):
            raise GraphError(f"{name} must be a sequence of {kind} ids (got {ids!r}).")
        ids = list(ids)
    array = _integers(ids, name)
    if array.ndim != 1:
        raise GraphError(f"{name} must be one-dimensional (got {_shape_of(array)}).")
    return array


def _check_ids(array: np.ndarray, name: str, count: int, kind: str) -> None:
    if array.size and (array.min() < 0 or array.max() >= count):
        place = int(np.argmax((array < 0) | (array >= count)))
        raise GraphError(
            f"{name} must be {kind} ids in 0 ... {count - 1}, but {name}[{place}] is "
            f"{array[place]}."
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
            highest = max(highest, int(ids.max(initial=-1)))
            num_given += ids.size
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


def check_range(edges: Tensor, num_neurons: int) -> None:
    """Refuses edges to or from neurons that do not exist."""
    if edges.numel() == 0:
        return
    low, high = edges.aminmax()
    if low >= 0 and high < num_neurons:
        return
    array = edges.numpy()
    edge = int(np.argmax(((array < 0) | (array >= num_neurons)).any(axis=0)))
    raise GraphError(
        f"edge_index must hold neuron ids in 0 ... {num_neurons - 1}, but edge {edge} is "
        f"{array[0, edge]} -> {array[1, edge]}."
    )


@dataclass(frozen=True)
class SortedEdges:
    """The edges sorted by (target, source), without duplicates or self-loops.

    Args:
        ptr: (N + 1,) int64 offsets of each neuron's incoming edges.
        source: (E,) source ids in sorted order; int32 where ids fit, else int64.
        order: (E,) edge ids in sorted order, of the same dtype.
        ascends: Whether every source id is below its target id.
    """

    ptr: np.ndarray
    source: np.ndarray
    order: np.ndarray
    ascends: bool

    @classmethod
    def of(cls, edges: Tensor, num_neurons: int, names: Names) -> SortedEdges:
        """Sorts (2, E) edges; refuses self-loops and duplicate pairs."""
        from graphnn import topology

        source, target = edges.numpy()
        dtype = np.int32 if max(num_neurons, source.size) < 2**31 else np.int64
        is_sorted, ascends, self_loop = topology.scan_edges(source, target)
        if self_loop >= 0:
            raise GraphError(
                f"an edge must join two different neurons, but edge {self_loop} goes from "
                f"{describe(source[self_loop], names)} to itself. Remove it."
            )
        try:
            ptr = topology.row_pointers(target, num_neurons)
        except (MemoryError, ValueError):
            raise GraphError(f"a graph must fit into memory (got {num_neurons} neurons).") from None
        if is_sorted:
            return cls(ptr, source.astype(dtype), np.arange(source.size, dtype=dtype), ascends)
        order, sorted_source = np.empty(source.size, dtype), np.empty(source.size, dtype)
        source_ptr = topology.row_pointers(source, num_neurons)
        topology.sort_by_target(source, target, source_ptr, ptr, order, sorted_source)
        first, later = topology.first_duplicate(ptr, sorted_source, order)
        if later >= 0:
            raise GraphError(
                f"no two edges may have the same source and target, but edges {first} and {later} "
                f"both go from {describe(source[first], names)} to "
                f"{describe(target[first], names)}. Remove one, or build with "
                "graphnn.from_edges(..., coalesce='sum')."
            )
        return cls(ptr, sorted_source, order, ascends)

    def levels(self, is_input: np.ndarray, names: Names) -> np.ndarray:
        """(N,) int64 level of every neuron; refuses cycles."""
        from graphnn import topology

        if self.ascends:
            return topology.ascending_levels(self.ptr, self.source, is_input)
        level, cycle = topology.levels_or_cycle(self.ptr, self.source, is_input)
        if cycle.size:
            raise GraphError(self._describe_cycle(cycle[::-1], names))
        return level

    def _describe_cycle(self, places: np.ndarray, names: Names) -> str:
        sources = self.source[places].tolist()
        edges = self.order[places].tolist()
        labels = [str(s) if names is None else repr(names[s]) for s in (*sources, sources[0])]
        shown = _CYCLE_EDGES_SHOWN
        if len(edges) > shown:
            left_out = f"... ({len(edges) - shown} more) ..."
            labels = [*labels[: shown // 2], left_out, *labels[-shown // 2 :]]
            edges = [*edges[: shown // 2], left_out, *edges[-shown // 2 :]]
        return (
            f"edge_index must describe an acyclic graph, but it contains the cycle "
            f"{' -> '.join(labels)} (edges {', '.join(map(str, edges))}). Remove one of these "
            "edges."
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


def read_groups(groups: Any, role: str) -> Groups | None:
    """Input or output groups as name -> (n,) int64 ids of unchecked range; None if not given."""
    if groups is None:
        return None
    if not isinstance(groups, Mapping):
        groups = {role: groups}
    if not groups:
        raise GraphError(f"{role}s must have at least one group (got an empty dict).")
    for name in groups:
        _check_group_name(name, role)
    return {name: _id_array(ids, _place(name, role), "neuron") for name, ids in groups.items()}


def check_groups(groups: Groups, role: str, num_neurons: int) -> dict[str, Tensor]:
    """The groups as tensors; refuses ids that no neuron has, and empty output groups."""
    for name, ids in groups.items():
        _check_ids(ids, _place(name, role), num_neurons, "neuron")
        if role == "output" and ids.size == 0:
            raise GraphError(
                f"an output group must have at least one neuron, but {name!r} is empty."
            )
    return {name: torch.from_numpy(ids) for name, ids in groups.items()}


def check_inputs(groups: dict[str, Tensor], edges: SortedEdges, names: Names) -> np.ndarray:
    """(N,) bool: which neurons are inputs; refuses repeated inputs and edges into them."""
    ids = torch.cat(list(groups.values())).numpy()
    num_neurons = edges.ptr.size - 1
    times = np.bincount(ids, minlength=num_neurons)
    if ids.size and times.max() > 1:
        neuron = next(i for i in ids.tolist() if times[i] > 1)
        raise GraphError(
            f"a neuron may be an input once, but {describe(neuron, names)} occurs "
            f"{times[neuron]} times."
        )
    entered = ids[np.diff(edges.ptr)[ids] > 0]
    if entered.size:
        place = edges.ptr[entered[0]]
        raise GraphError(
            f"an input must have no incoming edges, but edge {edges.order[place]} goes from "
            f"{describe(edges.source[place], names)} to the input {describe(entered[0], names)}."
        )
    return times.astype(bool)


def _activation_names(activation: Any) -> list[str]:
    names = list(activation) if isinstance(activation, Iterable) else [activation]
    for name in names:
        if not isinstance(name, str):
            # Refuses it, as it refuses a name that it does not know.
            resolve(name)
    return names


def read_activation(
    activation: Any, is_input: np.ndarray
) -> tuple[tuple[Activation, ...], np.ndarray]:
    """The distinct activations by first occurrence, and each neuron's place (N,) among them."""
    if isinstance(activation, str):
        activation = [activation]
        codes = np.where(is_input, 0, 1)
        given = (resolve("identity"), resolve(activation[0]))
    else:
        names = _activation_names(activation)
        if len(names) != is_input.size:
            raise GraphError(
                f"activation must be one name or one per neuron, {is_input.size} in all "
                f"(got {len(names)})."
            )
        place = {name: i for i, name in enumerate(dict.fromkeys(names))}
        codes = np.fromiter(map(place.__getitem__, names), np.int64, len(names))
        given = tuple(resolve(name) for name in place)
    # Different spellings of one function share one entry.
    distinct = {entry: i for i, entry in reversed(list(enumerate(given)))}
    codes = np.array([distinct[entry] for entry in given], np.int64)[codes]
    used, first = np.unique(codes, return_index=True)
    used = used[np.argsort(first)]
    place_of = np.zeros(len(given), np.int64)
    place_of[used] = np.arange(used.size)
    table, codes = tuple(given[i] for i in used), place_of[codes]
    wrong = is_input & (
        codes != (table.index(resolve("identity")) if resolve("identity") in table else -1)
    )
    if wrong.any():
        neuron = int(np.argmax(wrong))
        raise GraphError(
            f"an input's activation must be 'identity', but neuron {neuron}'s is "
            f"{table[codes[neuron]].name!r}."
        )
    return table, codes


def read_bias(bias: Any, is_input: np.ndarray) -> np.ndarray:
    """(N,) bool: which neurons have a bias."""
    if isinstance(bias, bool | np.bool_):
        return ~is_input if bias else np.zeros_like(is_input)
    if isinstance(bias, Tensor):
        bias = bias.detach().cpu().numpy()
    array = np.asarray(bias)
    if array.dtype != np.bool_ or array.shape != is_input.shape:
        raise GraphError(
            f"bias must be one bool or one per neuron, {is_input.size} in all "
            f"(got {_shape_of(array)}). A network's bias values are an argument of graphnn.Network."
        )
    if (array & is_input).any():
        neuron = int(np.argmax(array & is_input))
        raise GraphError(f"an input must have no bias, but bias[{neuron}] is True.")
    return array.copy()
