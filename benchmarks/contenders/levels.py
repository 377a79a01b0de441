"""A problem cut into levels, and the walk over them that torch's contenders share."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from benchmarks.problem import Problem

# Bytes that the messages of a level, one for each edge and sample, may take.
MESSAGE_BYTES = 1 << 28


@dataclass(frozen=True, eq=False)
class Level:
    """One level as a sparse matrix over whole lower levels.

    Args:
        pool: The consecutive lower levels that it reads.
        neurons: (n,) ids, ascending.
        edges: (E_l,) ids, by (row, column).
        row: (E_l,) place of the target in the level.
        column: (E_l,) place of the source in the joined pool.
        shape: (n, neurons of the pool).
        activation: Its activation's name.
    """

    pool: range
    neurons: np.ndarray
    edges: np.ndarray
    row: np.ndarray
    column: np.ndarray
    shape: tuple[int, int]
    activation: str

    @property
    def row_ptr(self) -> np.ndarray:
        """(n + 1,) int32 offsets of the rows."""
        return np.searchsorted(self.row, np.arange(self.shape[0] + 1)).astype(np.int32)


def positions(problem: Problem) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The ids by (level, id), inputs as they are fed; their inverse; the levels' offsets."""
    order = np.argsort(problem.level, kind="stable")
    order[: problem.inputs.size] = problem.inputs
    position = np.empty_like(order)
    position[order] = np.arange(order.size)
    starts = np.searchsorted(problem.level[order], np.arange(problem.num_levels + 1))
    return order, position, starts


def cut(problem: Problem) -> list[Level]:
    """Levels 1 ... L - 1."""
    ids, position, starts = positions(problem)
    row, column = position[problem.target], position[problem.source]
    key = row * problem.num_neurons + column
    edges = np.arange(key.size) if (key[1:] > key[:-1]).all() else np.argsort(key)
    row, column = row[edges], column[edges]
    ends = np.searchsorted(row, starts)
    levels = []
    for index in range(1, problem.num_levels):
        own = slice(ends[index], ends[index + 1])
        source_levels = problem.level[ids[column[own]]]
        pool = range(int(source_levels.min()), int(source_levels.max()) + 1)
        first = starts[pool.start]
        is_last = index == problem.num_levels - 1
        levels.append(
            Level(
                pool,
                ids[starts[index] : starts[index + 1]],
                edges[own],
                row[own] - starts[index],
                column[own] - first,
                (int(starts[index + 1] - starts[index]), int(starts[pool.stop] - first)),
                problem.output_activation if is_last else problem.activation,
            )
        )
    return levels


def bias_of(problem: Problem, neurons: np.ndarray) -> np.ndarray:
    """Places in the bias vector."""
    slot = np.cumsum(problem.level > 0) - 1
    return slot[neurons]


def level_bytes(problem: Problem) -> int:
    """Bytes of one sample's messages, on the level that has most."""
    return 4 * int(np.bincount(problem.level[problem.target]).max())


ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu,
    "identity": lambda z: z,
    "clamp(0, 32)": lambda z: z.clamp(0, 32),
}
# Where no gradient is asked for, the preactivations need not stay.
IN_PLACE: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": torch.relu_,
    "identity": lambda z: z,
    "clamp(0, 32)": lambda z: z.clamp_(0, 32),
}


class Levels:
    """A problem's levels, their parameters, and the order of the gradients."""

    biases: list[Tensor]

    def __init__(self, problem: Problem) -> None:
        self.problem, self.levels = problem, cut(problem)
        self.bias_slots = [bias_of(problem, level.neurons) for level in self.levels]
        self.biases = [torch.from_numpy(problem.bias[slots]) for slots in self.bias_slots]
        last = self.levels[-1].neurons
        place = np.searchsorted(last, problem.outputs)
        in_order = np.array_equal(last, problem.outputs)
        self.output_places = None if in_order else torch.from_numpy(place)

    def values(self, index: int) -> Tensor:
        """The weights of a level, in the order of its edges."""
        return torch.from_numpy(self.problem.weight[self.levels[index].edges])

    def by_edge(self, index: int, gradient: Tensor) -> Tensor:
        """A level's gradient as (E_l,)."""
        return gradient

    def in_graph_order(self, gradients: Sequence[Tensor]) -> tuple[np.ndarray, np.ndarray]:
        """(E,) and (K,)."""
        count = len(self.levels)
        weight = np.empty(self.problem.num_edges, np.float32)
        bias = np.empty(self.problem.bias.size, np.float32)
        for index, level in enumerate(self.levels):
            weight[level.edges] = self.by_edge(index, gradients[index])
            bias[self.bias_slots[index]] = gradients[count + index].flatten()
        return weight, bias


class Runner(Levels, ABC):
    """A contender that runs levels.

    A subclass has `axis`, along which neurons run in a state, and `forward`.
    """

    axis: int
    weights: list[Tensor]

    @classmethod
    def unsupported(cls, problem: Problem, mode: str, samples: int) -> str | None:
        """Runs everything."""
        return None

    @classmethod
    def most_samples(cls, problem: Problem) -> int:
        """As many as one likes."""
        return problem.x.shape[0]

    def arranged(self, samples: Tensor) -> Tensor:
        """(B, n), or neuron-major."""
        return samples.t().contiguous() if self.axis == 0 else samples

    @abstractmethod
    def forward(self, x: Any) -> Any:
        """The outputs, or states that hold them."""

    def gradients(self, x: Tensor, seed: Tensor) -> Any:
        """By every level's weights, then by every level's biases."""
        return torch.autograd.grad(self.forward(x), [*self.weights, *self.biases], seed)

    def outputs(self, found: Any) -> np.ndarray:
        """(B, n_out)."""
        return (found.t() if self.axis == 0 else found).numpy()


class Walk(Runner):
    """The walk over the levels; a subclass has `product`."""

    @abstractmethod
    def product(self, index: int, pool: Tensor) -> Tensor:
        """The preactivations of a level, from its joined pool."""

    def forward(self, x: Any) -> Any:
        """Runs the network level by level; a level's values go after their last reader."""
        states: dict[int, Tensor] = {0: x}
        activations = ACTIVATIONS if torch.is_grad_enabled() else IN_PLACE
        for index, level in enumerate(self.levels):
            for lower in range(min(states), level.pool.start):
                del states[lower]
            parts = [states[lower] for lower in level.pool]
            pool = parts[0] if len(parts) == 1 else torch.cat(parts, self.axis)
            states[index + 1] = activations[level.activation](self.product(index, pool))
        last = states[len(self.levels)]
        if self.output_places is None:
            return last
        return last.index_select(self.axis, self.output_places)
