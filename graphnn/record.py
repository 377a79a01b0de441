"""A network as flat columns: what every file format and every foreign graph object stores of it."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphnn.errors import ConversionError
from graphnn.graph import NeuronGraph
from graphnn.network import OUTPUT_TRANSFORMS, Network

VERSION = 1
_DTYPES = {
    "float32": torch.float32,
    "float64": torch.float64,
    "float16": torch.float16,
    "bfloat16": torch.bfloat16,
}


@dataclass(frozen=True, eq=False)
class Header:
    """The small facts of a network that belong to no single neuron or edge.

    Args:
        inputs: Group name -> neuron ids.
        outputs: Group name -> neuron ids.
        output_transform: None, "softmax" or "log_softmax".
        dtype: Of the parameters.
        names: How names are to be read from text: None (no names), "str", "int", or one letter a
            neuron, "s" or "i".
    """

    inputs: Mapping[str, list[int]]
    outputs: Mapping[str, list[int]]
    output_transform: str | None
    dtype: torch.dtype
    names: str | None = None

    @classmethod
    def of(cls, net: Network) -> Header:
        """The header of a network.

        Raises:
            ConversionError: A name is neither a str nor an int, or the dtypes of weight and bias
                differ.
        """
        graph = net.graph
        names = _storable(graph.names)
        if net.bias.dtype != net.weight.dtype:
            raise ConversionError(
                f"weight and bias must have one dtype to be stored (got {net.weight.dtype} and "
                f"{net.bias.dtype}). Convert the network with net.to(dtype)."
            )
        return cls(
            inputs={name: ids.tolist() for name, ids in graph.inputs.items()},
            outputs={name: ids.tolist() for name, ids in graph.outputs.items()},
            output_transform=net.output_transform,
            dtype=net.weight.dtype,
            names=None if names is None else _kinds(names),
        )

    def to_json(self) -> str:
        """The header as one line of JSON, for formats that store text."""
        return json.dumps(
            {
                "graphnn": VERSION,
                "inputs": self.inputs,
                "outputs": self.outputs,
                "output_transform": self.output_transform,
                "dtype": str(self.dtype).removeprefix("torch."),
                "names": self.names,
            },
            separators=(",", ":"),
        )

    @classmethod
    def from_json(cls, text: str) -> Header:
        """Reads what `to_json` wrote.

        Raises:
            ConversionError: The text is not such a header; the callers that read files turn this
                into a FormatError with the file and the place.
        """
        try:
            fields = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ConversionError(f"the graphnn header must be JSON ({error}).") from None
        if not isinstance(fields, dict) or not isinstance(fields.get("graphnn"), int):
            raise ConversionError(
                "the graphnn header must be a JSON object with a 'graphnn' version."
            )
        if fields["graphnn"] > VERSION:
            raise ConversionError(
                f"the graphnn header must be of version {VERSION} or lower (got "
                f"{fields['graphnn']}). Update graphnn."
            )
        for role in ("inputs", "outputs"):
            _check_groups(role, fields.get(role))
        transform, dtype = fields.get("output_transform"), fields.get("dtype")
        if transform not in OUTPUT_TRANSFORMS or not isinstance(dtype, str) or dtype not in _DTYPES:
            raise ConversionError(
                f"the graphnn header must hold an output_transform and a dtype that graphnn knows "
                f"(got {transform!r} and {dtype!r})."
            )
        names = fields.get("names")
        if not (names is None or names in ("str", "int") or is_letters(names)):
            raise ConversionError(
                f"the graphnn header's 'names' must be null, 'str', 'int' or letters s and i "
                f"(got {names!r})."
            )
        return cls(fields["inputs"], fields["outputs"], transform, _DTYPES[dtype], names)


def is_letters(names: Any) -> bool:
    """Whether a header's `names` has one letter a neuron."""
    return isinstance(names, str) and set(names) <= {"s", "i"}


def _kinds(names: Sequence[str | int]) -> str:
    letters = "".join("s" if isinstance(name, str) else "i" for name in names)
    return {"s": "str", "i": "int"}[letters[0]] if len(set(letters)) == 1 else letters


def _check_groups(role: str, groups: Any) -> None:
    valid = isinstance(groups, dict) and all(
        isinstance(ids, list) and all(type(i) is int for i in ids) for ids in groups.values()
    )
    if not valid:
        raise ConversionError(
            f"the graphnn header's {role!r} must map group names to lists of ids."
        )


@dataclass(frozen=True, eq=False)
class Record:
    """A network as columns, in neuron and edge order, on the CPU.

    Args:
        edge_index: (2, E) int64.
        weight: (E,) in the network's dtype.
        activation: N names.
        biased: (N,) bool: which neurons have a bias.
        bias: (K,) in the network's dtype.
        names: N labels, or None; each a str or an int in a record `of` a network.
        header: Groups, output transform and dtype.
    """

    edge_index: Tensor
    weight: Tensor
    activation: tuple[str, ...]
    biased: np.ndarray
    bias: Tensor
    names: tuple[Hashable, ...] | None
    header: Header

    @classmethod
    def of(cls, net: Network) -> Record:
        """The columns of a network.

        Raises:
            ConversionError: A name is neither a str nor an int, the two kinds that formats hold,
                or the dtypes of weight and bias differ.
        """
        graph = net.graph.to("cpu")
        biased = np.zeros(graph.num_neurons, bool)
        biased[graph.bias_neurons.numpy()] = True
        return cls(
            edge_index=graph.edge_index,
            weight=net.weight.detach().cpu(),
            activation=graph.activation,
            biased=biased,
            bias=net.bias.detach().cpu(),
            names=_storable(graph.names),
            header=Header.of(net),
        )

    @cached_property
    def graph(self) -> NeuronGraph:
        """The wiring; raises a GraphError where the columns do not make a valid one."""
        return NeuronGraph(
            self.edge_index,
            num_neurons=len(self.activation),
            inputs=self.header.inputs,
            outputs=self.header.outputs,
            activation=self.activation,
            bias=self.biased,
            names=self.names,
        )

    def network(
        self,
        backend: str = "auto",
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> Network:
        """The network again.

        Args:
            backend: Of the network.
            dtype: Default: as stored.
            device: Default: torch's default device.

        Raises:
            GraphError: The columns do not make a valid graph.
        """
        return Network(
            self.graph,
            self.weight,
            self.bias,
            backend=backend,
            output_transform=self.header.output_transform,
            dtype=self.header.dtype if dtype is None else dtype,
            # Not where the columns are, which is always the CPU.
            device=torch.get_default_device() if device is None else device,
        )


def _storable(names: tuple[Hashable, ...] | None) -> tuple[str | int, ...] | None:
    if names is None:
        return None
    for neuron, name in enumerate(names):
        # bool is an int to Python, but reads back as one only by accident.
        if isinstance(name, bool) or not isinstance(name, str | int):
            raise ConversionError(
                f"names must be str or int to be stored, but neuron {neuron} is called {name!r} "
                f"({type(name).__name__})."
            )
    return names  # pyright: ignore[reportReturnType]
