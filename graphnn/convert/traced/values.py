"""What the variables of a traced module hold, beside plain Python values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from graphnn.assembly.neurons import Neurons


@dataclass(frozen=True, eq=False)
class Trained:
    """A parameter of the module, or a part of one.

    Args:
        entries: (*) int64 entries.
    """

    entries: Tensor


@dataclass(frozen=True, eq=False)
class Transformed:
    """Outputs under a softmax, which no neuron can read.

    Args:
        neurons: What goes into it.
        transform: "softmax" or "log_softmax".
    """

    neurons: Neurons
    transform: str


Symbolic = Neurons | Trained | Transformed


def symbols(value: Any) -> list[Symbolic]:
    """All symbolic values in nested lists, tuples, dicts and slices."""
    found: list[Symbolic] = []
    replaced(value, found.append)
    return found


def replaced(value: Any, function: Callable[[Any], Any]) -> Any:
    """Nested lists, tuples and dicts with every symbolic value in them mapped."""
    if isinstance(value, Symbolic):
        return function(value)
    if isinstance(value, dict):
        return {key: replaced(item, function) for key, item in value.items()}
    if isinstance(value, list | tuple):
        items = [replaced(item, function) for item in value]
        is_named = hasattr(value, "_fields")
        return type(value)(*items) if is_named else type(value)(items)
    return value
