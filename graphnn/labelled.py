"""A graph by labels, with facts left out, as foreign objects and files hold it."""

from __future__ import annotations

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphnn.activation import resolve
from graphnn.errors import ConversionError, GraphError
from graphnn.network import Network
from graphnn.record import Header, Record, is_letters
from graphnn.wiring import near_label


@dataclass(eq=False)
class Labelled:
    """A graph as foreign objects and files hold it: by labels, with facts left out.

    With a header it is a graph that this library wrote: neurons and edges are put in the order of
    their index attributes (those without one, which were added since, come last), and a neuron
    without a bias attribute has none. Without one, a missing bias is 0, a missing activation "relu"
    ("identity" at outputs), missing groups are the nodes of role "input" or "output", and where no
    node has such a role, those without incoming or outgoing edges.

    Args:
        labels: N unique labels.
        source: (E,) int64 places in `labels`.
        target: (E,) int64 places in `labels`.
        weight: (E,) float64.
        weighted: (E,) bool: which edges have a weight.
        edge_index: (E,) int64 index attributes, -1 where there is none.
        nodes: Attribute name -> N values, None where there is none, of "index" (int), "activation"
            (str), "bias" (float), "role" (str) and "label" (str).
        header: The text of `Header.to_json`, or None.
    """

    labels: Sequence[Hashable]
    source: np.ndarray
    target: np.ndarray
    weight: np.ndarray
    weighted: np.ndarray
    edge_index: np.ndarray
    nodes: Mapping[str, Sequence[Any]]
    header: str | None = None

    def record(self, inputs: Any = None, outputs: Any = None) -> Record:
        """The columns of the network that this graph describes.

        Args:
            inputs: Labels, or a dict of group name -> labels; default: see the class.
            outputs: Likewise.

        Returns:
            The `Record`; its graph is not checked yet. Weights are drawn where no edge has one.

        Raises:
            ConversionError: The header, an index, a weight, a bias, an activation or a label of
                `inputs` or `outputs` is not as it must be; the node or edge is named.
            GraphError: Weights are drawn and the graph is not valid.
        """
        header = None if self.header is None else Header.from_json(self.header)
        # Index attribute -> place in `labels`: the header's groups count by the former.
        own, place = (self, {}) if header is None else self._in_order()
        groups = {
            "input": own._groups("input", inputs, own.target, header and header.inputs, place),
            "output": own._groups("output", outputs, own.source, header and header.outputs, place),
        }
        is_input, is_output = (own._members(groups[role]) for role in ("input", "output"))
        biased, bias = own._biases(is_input, missing=0.0 if header is None else None)
        dtype = torch.get_default_dtype() if header is None else header.dtype
        record = Record(
            edge_index=torch.from_numpy(np.stack([own.source, own.target])),
            weight=_in_dtype(torch.from_numpy(own.weight), dtype),
            activation=own._activations(is_input, is_output),
            biased=biased,
            bias=_in_dtype(bias, dtype),
            names=own._names(header),
            header=Header(
                groups["input"],
                groups["output"],
                None if header is None else header.output_transform,
                dtype,
            ),
        )
        if own.weighted.all():
            return record
        if own.weighted.any():
            edge = int(np.argmin(own.weighted))
            raise ConversionError(
                f"all edges must have a weight, or none, but {own._edge(edge)} has none. "
                "Give it one."
            )
        return replace(record, weight=Network(record.graph, dtype=dtype).weight.detach().cpu())

    def _in_order(self) -> tuple[Labelled, dict[int, int]]:
        index = self.nodes["index"]
        place: dict[int, int] = {}
        for neuron, number in enumerate(index):
            if number is not None and place.setdefault(number, neuron) != neuron:
                raise ConversionError(
                    f"the index of a node must be its own, but {self.labels[place[number]]!r} and "
                    f"{self.labels[neuron]!r} both have {number}."
                )
        order = [place[number] for number in sorted(place)]
        order += [neuron for neuron, number in enumerate(index) if number is None]
        new = np.empty(len(order), np.int64)
        new[order] = np.arange(len(order))
        edges = np.argsort(
            np.where(self.edge_index < 0, np.iinfo(np.int64).max, self.edge_index), kind="stable"
        )
        given = self.edge_index[edges]
        twice = np.flatnonzero((given[1:] == given[:-1]) & (given[1:] >= 0))
        if twice.size:
            one, other = edges[twice[0] : twice[0] + 2].tolist()
            raise ConversionError(
                f"the index of an edge must be its own, but {self._edge(one)} and "
                f"{self._edge(other)} both have {self.edge_index[one]}."
            )
        ordered = Labelled(
            labels=[self.labels[neuron] for neuron in order],
            source=new[self.source[edges]],
            target=new[self.target[edges]],
            weight=self.weight[edges],
            weighted=self.weighted[edges],
            edge_index=given,
            nodes={name: [values[i] for i in order] for name, values in self.nodes.items()},
            header=self.header,
        )
        if not place:
            return ordered, {neuron: neuron for neuron in range(len(order))}
        return ordered, {number: int(new[neuron]) for number, neuron in place.items()}

    def _edge(self, edge: int) -> str:
        source, target = self.labels[self.source[edge]], self.labels[self.target[edge]]
        return f"the edge {source!r} -> {target!r}"

    def _groups(
        self,
        role: str,
        given: Any,
        ends: np.ndarray,
        stored: Mapping[str, list[int]] | None,
        place: Mapping[int, int],
    ) -> dict[str, list[int]]:
        if given is not None:
            by_name = given if isinstance(given, Mapping) else {role: given}
            return {name: self._find(role, labels) for name, labels in by_name.items()}
        if stored is not None:
            return {name: _placed(role, name, ids, place) for name, ids in stored.items()}
        marked = [neuron for neuron, own in enumerate(self.nodes["role"]) if own == role]
        free = np.bincount(ends, minlength=len(self.labels)) == 0
        return {role: marked or np.flatnonzero(free).tolist()}

    def _find(self, role: str, labels: Any) -> list[int]:
        if isinstance(labels, str | bytes) or not isinstance(labels, Iterable):
            raise ConversionError(f"{role}s must be a sequence of labels (got {labels!r}).")
        if isinstance(labels, Tensor | np.ndarray):
            labels = labels.tolist()
        found = []
        for label in labels:
            try:
                neuron = self._place_of.get(label)
            except TypeError:  # not hashable, so no label
                neuron = None
            if neuron is None:
                raise ConversionError(
                    f"{role}s must be nodes of the graph, but none is called {label!r}."
                    f"{near_label(label, self.labels)}"
                )
            found.append(neuron)
        return found

    @cached_property
    def _place_of(self) -> dict[Hashable, int]:
        return {label: neuron for neuron, label in enumerate(self.labels)}

    def _members(self, groups: Mapping[str, list[int]]) -> np.ndarray:
        members = np.zeros(len(self.labels), bool)
        members[[neuron for ids in groups.values() for neuron in ids]] = True
        return members

    def _activations(self, is_input: np.ndarray, is_output: np.ndarray) -> tuple[str, ...]:
        default = np.where(is_input | is_output, "identity", "relu").tolist()
        # Each name is parsed once, and one that cannot be is told with its first node.
        known: dict[Any, str] = {}
        names = []
        for neuron, name in enumerate(self.nodes["activation"]):
            if name is None or name == "":
                names.append(default[neuron])
                continue
            if name not in known:
                try:
                    known[name] = resolve(name).name
                except GraphError as error:
                    raise ConversionError(f"node {self.labels[neuron]!r}: {error}") from None
            if is_input[neuron] and known[name] != "identity":
                raise ConversionError(
                    f"an input's activation must be 'identity', but node {self.labels[neuron]!r} "
                    f"has {name!r}. Remove the attribute, or name the inputs in inputs=."
                )
            names.append(known[name])
        return tuple(names)

    def _biases(self, is_input: np.ndarray, missing: float | None) -> tuple[np.ndarray, Tensor]:
        values = [missing if value is None else value for value in self.nodes["bias"]]
        for neuron in np.flatnonzero(is_input).tolist():
            # Many tools give every node every attribute.
            if values[neuron] is not None and values[neuron] != 0:
                raise ConversionError(
                    f"an input must have no bias, but node {self.labels[neuron]!r} has "
                    f"{values[neuron]!r}. Remove the attribute, or name the inputs in inputs=."
                )
            values[neuron] = None
        biased = np.array([value is not None for value in values], bool)
        given = [value for value in values if value is not None]
        return biased, torch.tensor(given, dtype=torch.float64, device="cpu")

    def _names(self, header: Header | None) -> tuple[Hashable, ...] | None:
        labels = self.labels
        kinds = None if header is None else header.names
        if kinds is None:
            as_text = header is not None and all(isinstance(label, str) for label in labels)
            numbers = map(str, range(len(labels))) if as_text else range(len(labels))
            same = all(
                # True equals 1 and is not an id.
                label == number and type(label) is type(number)
                for label, number in zip(labels, numbers, strict=True)
            )
            return None if same else tuple(labels)
        if is_letters(kinds):
            # Names such as 1 and "1" are one text, so a text format has them in label attributes.
            texts = self.nodes["label"]
            if len(set(texts)) < len(texts) and all(isinstance(label, str) for label in labels):
                labels = texts
        letters = kinds if is_letters(kinds) else kinds[0] * len(labels)
        if len(letters) != len(labels):
            # Nodes were added or removed: what each was called cannot be told any more.
            return tuple(labels)
        return tuple(_name(label, letter) for label, letter in zip(labels, letters, strict=True))


def _placed(role: str, name: str, ids: list[int], place: Mapping[int, int]) -> list[int]:
    for number in ids:
        if number not in place:
            raise ConversionError(
                f"the {role} group {name!r} must consist of nodes of the graph, but no node has "
                f"the index {number}. Name the {role}s in {role}s=."
            )
    return [place[number] for number in ids]


def _in_dtype(values: Tensor, dtype: torch.dtype) -> Tensor:
    converted = values.to(dtype)
    nan = values.isnan()
    if dtype == torch.bfloat16 and nan.any():
        # torch converts many NaN to other bits than one.
        bits = torch.where(values[nan].signbit(), -0x40, 0x7FC0).to(torch.int16)
        converted[nan] = bits.view(torch.bfloat16)
    return converted


def _name(label: Hashable, letter: str) -> Hashable:
    if letter == "s" or not isinstance(label, str):
        return label
    try:
        return int(label)
    except ValueError:
        raise ConversionError(
            f"the name of a node must be an integer, as the graphnn header says (got {label!r})."
        ) from None
