"""The wiring of a network: neurons, edges, groups and activations, without numbers."""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphnn import summary, wiring
from graphnn.activation import Activation
from graphnn.errors import GraphError

Ids = Sequence[int] | Tensor | np.ndarray


class NeuronGraph:
    """An acyclic wiring, validated once and immutable from then on.

    A neuron's value is ``activation(bias + sum of weight * value(source))`` over its incoming
    edges. The order of neurons and edges is the caller's and is kept. Tensors that a graph hands
    out are its own: read them, do not write to them.

    Args:
        edge_index: (2, E) integers, row 0 the sources, row 1 the targets; a tensor, an array or a
            PyTorch Geometric `EdgeIndex`. Copied.
        num_neurons: N. Default: the length of `names` or of a per-neuron `activation` or `bias`,
            else the highest id that occurs + 1.
        inputs: Neuron ids (one group, called "input") or a dict of group name -> ids. Default: the
            neurons without incoming edges, ascending. An id may occur once.
        outputs: Likewise (one group, called "output"). Default: the neurons without outgoing
            edges, ascending. An id may repeat, and may be an input.
        activation: One name for all computed neurons, or one per neuron ("identity" at inputs).
        bias: Whether computed neurons have a bias: True, False, or one bool per neuron (False at
            inputs).
        names: One unique hashable label per neuron, or None.

    Raises:
        GraphError: What arrives breaks a rule; the first offender is named.

    Example:
        >>> graph = graphnn.NeuronGraph([[0, 0, 1, 2], [1, 2, 3, 3]], activation="relu")
        >>> graph.level
        tensor([0, 1, 1, 2])
        >>> graph.edges_of_level(2)
        tensor([2, 3])
    """

    # Ids that were made under inference mode could not be saved for a backward pass later on.
    @torch.inference_mode(False)
    def __init__(
        self,
        edge_index: Tensor | np.ndarray | Sequence[Sequence[int]],
        num_neurons: int | None = None,
        inputs: Ids | Mapping[str, Ids] | None = None,
        outputs: Ids | Mapping[str, Ids] | None = None,
        activation: str | Sequence[str] = "identity",
        bias: bool | Sequence[bool] | Tensor | np.ndarray = True,
        names: Iterable[Hashable] | None = None,
    ) -> None:
        edges = wiring.read_edge_index(edge_index)
        labels = wiring.read_names(names)
        ins, outs = wiring.read_groups(inputs, "input"), wiring.read_groups(outputs, "output")
        count = wiring.count_neurons(num_neurons, edges, ins, outs, activation, bias, labels)
        wiring.check_names(labels, count)
        wiring.check_range(edges, count)
        sorted_edges = wiring.SortedEdges.of(edges, count, labels)

        sources = np.flatnonzero(np.diff(sorted_edges.ptr) == 0)
        ins = {"input": sources} if ins is None else ins
        self._inputs = wiring.check_groups(ins, "input", count)
        is_input = wiring.check_inputs(self._inputs, sorted_edges, labels)
        self._level = sorted_edges.levels(is_input, labels)
        # A cycle leaves no neuron without outgoing edges, so it is looked for before the outputs.
        sinks = np.flatnonzero(np.bincount(edges[0].numpy(), minlength=count) == 0)
        outs = {"output": sinks} if outs is None else outs
        self._outputs = wiring.check_groups(outs, "output", count)

        self._edge_index = edges
        self._num_neurons = count
        self._names = labels
        self._sorted = sorted_edges
        self._is_input = is_input
        self._activation_table, self._activation_code = wiring.read_activation(activation, is_input)
        self._has_bias = wiring.read_bias(bias, is_input)
        self._tensors = {
            "level": torch.from_numpy(self._level),
            "input_ids": torch.cat(list(self._inputs.values())),
            "output_ids": torch.cat(list(self._outputs.values())),
            "activation_code": torch.from_numpy(self._activation_code),
            "bias_neurons": torch.from_numpy(np.flatnonzero(self._has_bias)),
            "fan_in": torch.from_numpy(np.diff(sorted_edges.ptr)),
        }
        # What later stages derive from the wiring (its plan on each device) and keep beside it;
        # never compared, copied or pickled.
        self.derived: dict[Any, Any] = {}

    @property
    def edge_index(self) -> Tensor:
        """(2, E) int64: row 0 the source, row 1 the target of every edge."""
        return self._edge_index

    @property
    def num_neurons(self) -> int:
        """N, inputs counted."""
        return self._num_neurons

    @property
    def num_edges(self) -> int:
        """E."""
        return self._edge_index.shape[1]

    @cached_property
    def num_levels(self) -> int:
        """L, level 0 counted."""
        return int(self._level.max()) + 1

    @property
    def level(self) -> Tensor:
        """(N,) int64: 0 for an input, 1 for a constant, else 1 + the sources' highest level."""
        return self._tensors["level"]

    @property
    def inputs(self) -> dict[str, Tensor]:
        """Group name -> (n,) int64 neuron ids, in declared order."""
        return dict(self._inputs)

    @property
    def outputs(self) -> dict[str, Tensor]:
        """Group name -> (n,) int64 neuron ids, in declared order."""
        return dict(self._outputs)

    @property
    def input_ids(self) -> Tensor:
        """(n_in,) int64: the ids of all input groups, one after the other."""
        return self._tensors["input_ids"]

    @property
    def output_ids(self) -> Tensor:
        """(n_out,) int64: the ids of all output groups, one after the other."""
        return self._tensors["output_ids"]

    @cached_property
    def activation(self) -> tuple[str, ...]:
        """N canonical activation names."""
        names = [entry.name for entry in self._activation_table]
        return tuple(names[code] for code in self._activation_code.tolist())

    @property
    def activation_table(self) -> tuple[Activation, ...]:
        """The distinct activations, in the order in which they first occur."""
        return self._activation_table

    @property
    def activation_code(self) -> Tensor:
        """(N,) int64: each neuron's place in `activation_table`."""
        return self._tensors["activation_code"]

    @property
    def bias_neurons(self) -> Tensor:
        """(K,) int64: the ids of the neurons that have a bias, ascending."""
        return self._tensors["bias_neurons"]

    @property
    def names(self) -> tuple[Hashable, ...] | None:
        """N unique labels, or None."""
        return self._names

    @property
    def fan_in(self) -> Tensor:
        """(N,) int64: the number of incoming edges."""
        return self._tensors["fan_in"]

    @cached_property
    def density(self) -> float:
        """The share of possible edges that exist, in [0, 1].

        Possible are the edges between every two levels that at least one edge joins, so a stack of
        nn.Linear has density 1 and a mask's density is its share of ones. 1.0 without edges.
        """
        if self.num_edges == 0:
            return 1.0
        level = self._level
        source, target = self._edge_index.numpy()
        pairs = np.unique(level[source] * self.num_levels + level[target])
        size = np.bincount(level, minlength=self.num_levels)
        below, above = np.divmod(pairs, self.num_levels)
        return self.num_edges / float(size[below] @ size[above])

    @cached_property
    def _edges_by_level(self) -> tuple[np.ndarray, np.ndarray]:
        from graphnn import topology

        level = self._level[self._edge_index[1].numpy()]
        ptr = topology.row_pointers(level, self.num_levels)
        order = np.empty(self.num_edges, np.int64)
        topology.stable_order(level, ptr, order)
        return ptr, order

    def edges_of_level(self, level: int) -> Tensor:
        """The ids of the edges whose target is on `level`, ascending.

        Args:
            level: 0 ... L - 1. Level 0 has no edges.

        Returns:
            int64 ids, as many as the level has edges.

        Raises:
            GraphError: There is no such level.
        """
        if not isinstance(level, numbers.Integral) or not 0 <= level < self.num_levels:
            raise GraphError(
                f"level must be an integer in 0 ... {self.num_levels - 1} (got {level!r})."
            )
        level = int(level)
        ptr, order = self._edges_by_level
        return torch.from_numpy(order[ptr[level] : ptr[level + 1]])

    @property
    def edges_in_level_order(self) -> Tensor:
        """(E,) int64: `edges_of_level` of every level, one after the other."""
        return torch.from_numpy(self._edges_by_level[1])

    @cached_property
    def _id_of(self) -> dict[Hashable, int]:
        assert self._names is not None
        return {name: i for i, name in enumerate(self._names)}

    def ids(self, labels: Iterable[Hashable]) -> Tensor:
        """The ids of the neurons with these labels.

        Args:
            labels: Names, or ids where the graph has no names.

        Returns:
            int64 ids, one per label.

        Raises:
            GraphError: A label is unknown, or one string was given instead of a sequence.
        """
        if isinstance(labels, str | bytes) or not isinstance(labels, Iterable):
            raise GraphError(f"labels must be a sequence of labels (got {labels!r}).")
        if self._names is None:
            return wiring.read_ids(labels, "labels", self._num_neurons)
        found = []
        for place, label in enumerate(labels):
            if not isinstance(label, Hashable) or label not in self._id_of:
                raise GraphError(
                    f"labels must be names of neurons, but labels[{place}] is {label!r}, which no "
                    f"neuron has.{wiring.near_label(label, self._names)}"
                )
            found.append(self._id_of[label])
        return torch.from_numpy(np.array(found, dtype=np.int64))

    def edge_ids(self, sources: Ids, targets: Ids) -> Tensor:
        """The ids of the edges sources[i] -> targets[i].

        Args:
            sources: Neuron ids.
            targets: Neuron ids, as many.

        Returns:
            int64 edge ids, one per pair.

        Raises:
            GraphError: A pair is not an edge, an id is out of range, or the lengths differ.
        """
        from graphnn import topology

        source = wiring.read_ids(sources, "sources", self._num_neurons).numpy()
        target = wiring.read_ids(targets, "targets", self._num_neurons).numpy()
        if source.size != target.size:
            raise GraphError(
                f"sources and targets must be equally long (got {source.size} and {target.size})."
            )
        own = self._sorted
        found = topology.find_edges(own.ptr, own.source, own.order, source, target)
        if (found < 0).any():
            i = int(np.argmax(found < 0))
            raise GraphError(
                f"every pair must be an edge, but there is none from {self.describe(source[i])} to "
                f"{self.describe(target[i])} (pair {i})."
            )
        return torch.from_numpy(found)

    @property
    def sorted_edges(self) -> wiring.SortedEdges:
        """The edges sorted by (target, source), as numpy arrays."""
        return self._sorted

    def describe(self, neuron: int) -> str:
        """A neuron as messages name it: its id, after its name where it has one.

        Args:
            neuron: Its id.

        Returns:
            ``"neuron 3"`` or ``"'x' (neuron 3)"``.
        """
        return wiring.describe(neuron, self._names)

    def arguments(self) -> dict[str, Any]:
        """The constructor's arguments that give this graph again; the base of an edited copy."""
        return {
            "edge_index": self._edge_index,
            "num_neurons": self._num_neurons,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "activation": self.activation,
            "bias": self._has_bias,
            "names": self._names,
        }

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name != "derived":
            raise AttributeError(f"a NeuronGraph is immutable: {name!r} cannot be set.")
        super().__setattr__(name, value)

    def __eq__(self, other: object) -> bool:
        if self is other:
            return True
        if not isinstance(other, NeuronGraph):
            return NotImplemented
        return (
            self._num_neurons == other._num_neurons
            and self.num_edges == other.num_edges
            and self._names == other._names
            and _equal_groups(self._inputs, other._inputs)
            and _equal_groups(self._outputs, other._outputs)
            and np.array_equal(self._has_bias, other._has_bias)
            and self._equal_activations(other)
            and torch.equal(self._edge_index, other._edge_index)
        )

    def _equal_activations(self, other: NeuronGraph) -> bool:
        # Tables list activations by first occurrence, so equal assignments have equal tables.
        return self._activation_table == other._activation_table and np.array_equal(
            self._activation_code, other._activation_code
        )

    def __hash__(self) -> int:
        return hash((self._num_neurons, self.num_edges, tuple(self._inputs), tuple(self._outputs)))

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (self.arguments(),)

    def __copy__(self) -> NeuronGraph:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> NeuronGraph:
        # Immutable, so a copied network shares its wiring and with it the plan.
        return self

    def __str__(self) -> str:
        return summary.of_graph(self).text()

    def _repr_html_(self) -> str:
        return summary.of_graph(self).html()

    def __repr__(self) -> str:
        groups = ", ".join(
            f"{name}: {ids.numel()}"
            for name, ids in (*self._inputs.items(), *self._outputs.items())
        )
        return (
            f"NeuronGraph({self._num_neurons} neurons, {self.num_edges} edges, "
            f"{self.num_levels} levels; {groups})"
        )


def _rebuild(arguments: dict[str, Any]) -> NeuronGraph:
    return NeuronGraph(**arguments)


def _equal_groups(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(torch.equal(one[n], other[n]) for n in one)
