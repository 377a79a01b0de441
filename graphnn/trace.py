"""Everything that one call of a network computed, neuron by neuron and edge by edge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from torch import Tensor

from graphnn.graph import NeuronGraph


@dataclass(frozen=True, eq=False)
class Trace:
    values: Tensor
    preactivations: Tensor
    outputs: Any
    graph: NeuronGraph
    weight: Tensor
