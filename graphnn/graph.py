"""The wiring of a network: neurons, edges, groups and activations, without numbers."""

from __future__ import annotations

import numbers
from collections.abc import Hashable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphnn import algorithms, edges_by_level, summary, wiring
from graphnn.activation import Activation
from graphnn.errors import GraphError
from graphnn.exhausted import built_of_edges
from graphnn.placing import exact_device, untouched
from graphnn.sorted_edges import SortedEdges

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
    @built_of_edges
    def __init__(
        self,
        edge_index: Tensor | np.ndarray | Sequence[Sequence[int]],
        num_neurons: int | None = None,
        inputs: Ids | Mapping[str, Ids] | None = None,
        outputs: Ids | Mapping[str, Ids] | None = None,
        activation: str | Sequence[str] | wiring.CodedActivations = "identity",
        bias: bool | Sequence[bool] | Tensor | np.ndarray = True,
        names: Iterable[Hashable] | None = None,
    ) -> None:
        edges = wiring.read_edge_index(edge_index)
        device = edges.device
        labels = wiring.read_names(names)
        ins = wiring.read_groups(inputs, "input", device)
        outs = wiring.read_groups(outputs, "output", device)
        count = wiring.count_neurons(num_neurons, edges, ins, outs, activation, bias, labels)
        wiring.check_names(labels, count)
        wiring.check_range(edges, count)
        sorted_edges = SortedEdges.of(edges, count, labels)

        fan_in = sorted_edges.ptr.diff()
        ins = {"input": (fan_in == 0).nonzero().flatten()} if ins is None else dict(ins)
        wiring.check_groups(ins, "input", count)
        input_ids = torch.cat(list(ins.values()))
        is_input = wiring.check_inputs(input_ids, sorted_edges, labels)
        level = sorted_edges.levels(is_input, labels)
        # A cycle leaves no neuron without outgoing edges, so it is looked for before the outputs.
        if outs is None:
            sinks = edges[0].bincount(minlength=count) == 0
            outs = {"output": sinks.nonzero().flatten()}
        wiring.check_groups(outs, "output", count)
        table, code = wiring.read_activation(activation, is_input)
        has_bias = wiring.read_bias(bias, is_input)

        self._num_neurons = count
        self._num_levels = int(level.max()) + 1
        self._names = labels
        self._activation_table = table
        self._inputs, self._outputs = ins, dict(outs)
        self._sorted: SortedEdges | None = sorted_edges
        # Of a moved graph, the graph that it was moved from.
        self._origin: NeuronGraph | None = None
        self._tensors = {
            "edge_index": edges,
            "level": level,
            "input_ids": input_ids,
            "output_ids": torch.cat(list(outs.values())),
            "activation_code": code,
            "has_bias": has_bias,
            "bias_neurons": has_bias.nonzero().flatten(),
            "fan_in": fan_in,
        }
        # What later stages derive from the wiring (its plan on each device) and keep beside it;
        # never compared, copied or pickled.
        self.derived: dict[Any, Any] = {}

    @property
    def edge_index(self) -> Tensor:
        """(2, E) int64: row 0 the source, row 1 the target of every edge."""
        return self._tensors["edge_index"]

    @property
    def device(self) -> torch.device:
        """Where the graph's tensors are."""
        return self.edge_index.device

    @property
    def num_neurons(self) -> int:
        """N, inputs counted."""
        return self._num_neurons

    @property
    def num_edges(self) -> int:
        """E."""
        return self.edge_index.shape[1]

    @property
    def num_levels(self) -> int:
        """L, level 0 counted."""
        return self._num_levels

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
        return tuple(names[code] for code in self.activation_code.tolist())

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
        return edges_by_level.density(self)

    @cached_property
    def _level_order(self) -> tuple[list[int], Tensor]:
        """(ptr, order): the levels' L + 1 offsets in `edges_in_level_order`, and that."""
        if self._origin is None:
            return untouched(edges_by_level.order, self)
        ptr, order = self._origin._level_order
        return ptr, untouched(order.to, self.device)

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
        ptr, order = self._level_order
        return order[ptr[level] : ptr[level + 1]]

    @property
    def edges_in_level_order(self) -> Tensor:
        """(E,) int64: `edges_of_level` of every level, one after the other."""
        return self._level_order[1]

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
        if isinstance(labels, Tensor) and self._names is not None:
            # Tensors are equal only to themselves; the labels are their numbers.
            labels = labels.tolist()
        if isinstance(labels, str | bytes) or not isinstance(labels, Iterable):
            raise GraphError(f"labels must be a sequence of labels (got {labels!r}).")
        if self._names is None:
            return wiring.read_ids(labels, "labels", self._num_neurons, device=self.device)
        found = []
        for place, label in enumerate(labels):
            try:
                neuron = self._id_of.get(label)
            except TypeError:  # not hashable, so no name
                neuron = None
            if neuron is None:
                raise GraphError(
                    f"labels must be names of neurons, but labels[{place}] is {label!r}, which no "
                    f"neuron has.{wiring.near_label(label, self._names)}"
                )
            found.append(neuron)
        return torch.tensor(found, dtype=torch.int64, device=self.device)

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
        count, device = self._num_neurons, self.device
        source = wiring.read_ids(sources, "sources", count, device=device)
        target = wiring.read_ids(targets, "targets", count, device=device)
        if source.numel() != target.numel():
            raise GraphError(
                f"sources and targets must be equally long "
                f"(got {source.numel()} and {target.numel()})."
            )
        own = self.sorted_edges
        found = algorithms.on(device).find_edges(own.ptr, own.source, own.order, source, target)
        if (found < 0).any():
            i = int((found < 0).nonzero()[0])
            low, high = self.describe(int(source[i])), self.describe(int(target[i]))
            raise GraphError(
                f"every pair must be an edge, but there is none from {low} to {high} (pair {i})."
            )
        return found

    @property
    def sorted_edges(self) -> SortedEdges:
        """The edges sorted by (target, source)."""
        if self._sorted is None:
            assert self._origin is not None
            self._sorted = untouched(self._origin.sorted_edges.to, self.device)
        return self._sorted

    def to(self, device: torch.device | str) -> NeuronGraph:
        """The same graph with its tensors on `device`, moved once and kept.

        Args:
            device: Where to.

        Returns:
            An equal graph, or the graph itself where it is there already.

        Raises:
            GraphError: torch cannot use the device here.

        Example:
            >>> graph = graphnn.NeuronGraph([[0, 0, 1, 2], [1, 2, 3, 3]])
            >>> graph.to("cpu") is graph
            True
        """
        where = exact_device(device)
        if where == self.device:
            return self
        if ("graph", where) not in self.derived:
            moved = untouched(self._moved, where)
            self.derived.setdefault(("graph", where), moved)
        return self.derived["graph", where]

    def _moved(self, device: torch.device) -> NeuronGraph:
        moved = object.__new__(NeuronGraph)
        groups = {
            role: {name: ids.to(device) for name, ids in getattr(self, role).items()}
            for role in ("_inputs", "_outputs")
        }
        tensors = {name: own.to(device) for name, own in self._tensors.items()}
        # Orders of the edges follow when they are asked for: most readers have no use for them.
        later = {"_origin": self, "_sorted": None, "derived": {("graph", self.device): self}}
        moved.__dict__.update({**self.__dict__, **groups, **later, "_tensors": tensors})
        moved.__dict__.pop("_level_order", None)
        return moved

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
            "edge_index": self.edge_index,
            "num_neurons": self._num_neurons,
            "inputs": self.inputs,
            "outputs": self.outputs,
            "activation": self.activation,
            "bias": self._tensors["has_bias"],
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
            # Tables list activations by first occurrence, so equal assignments have equal tables.
            and self._activation_table == other._activation_table
            and all(
                _equal(self._tensors[name], other._tensors[name])
                for name in ("has_bias", "activation_code", "edge_index")
            )
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


def _equal(one: Tensor, other: Tensor) -> bool:
    return torch.equal(one, other.to(one.device))


def _equal_groups(one: dict[str, Tensor], other: dict[str, Tensor]) -> bool:
    return list(one) == list(other) and all(_equal(one[n], other[n]) for n in one)
