"""Checking what generators are given, and the graph that their edges make."""

from __future__ import annotations

import numbers
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch

from graphnn.activation import resolve
from graphnn.errors import GraphError
from graphnn.graph import NeuronGraph


def check_sizes(sizes: Any) -> tuple[int, ...]:
    """The numbers of neurons of at least two levels."""
    if isinstance(sizes, str) or not isinstance(sizes, Iterable):
        raise GraphError(
            f"sizes must be a sequence of numbers of neurons, one a level (got {sizes!r})."
        )
    read = tuple(sizes)
    if len(read) < 2:
        raise GraphError(
            f"sizes must have at least two levels, inputs and outputs (got {list(read)})."
        )
    return tuple(check_count(size, f"sizes[{level}]") for level, size in enumerate(read))


def check_count(value: Any, name: str, at_least: int = 1) -> int:
    """An integer that is large enough."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < at_least:
        raise GraphError(f"{name} must be an integer of at least {at_least} (got {value!r}).")
    return int(value)


def check_probability(value: Any, name: str) -> float:
    """A number in [0, 1]."""
    is_number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    if not is_number or not 0 <= float(value) <= 1:
        raise GraphError(f"{name} must be a number in 0 ... 1 (got {value!r}).")
    return float(value)


def assemble(
    edges: np.ndarray,
    num_inputs: int,
    num_hidden: int,
    num_outputs: int,
    activation: str,
    output_activation: str,
    bias: bool,
) -> NeuronGraph:
    """The graph with these (2, E) edges: inputs first, then hidden neurons, outputs last."""
    # Also where no neuron has it.
    for name in (activation, output_activation):
        resolve(name)
    num_sources = num_inputs + num_hidden
    return NeuronGraph(
        torch.from_numpy(edges),
        num_neurons=num_sources + num_outputs,
        inputs=np.arange(num_inputs),
        outputs=np.arange(num_sources, num_sources + num_outputs),
        activation=[
            *["identity"] * num_inputs,
            *[activation] * num_hidden,
            *[output_activation] * num_outputs,
        ],
        bias=bias,
    )


def assemble_levels(
    edges: np.ndarray,
    sizes: tuple[int, ...],
    activation: str,
    output_activation: str,
    bias: bool,
) -> NeuronGraph:
    """The graph with these (2, E) edges: inputs on the first level, outputs on the last."""
    return assemble(
        edges, sizes[0], sum(sizes[1:-1]), sizes[-1], activation, output_activation, bias
    )
