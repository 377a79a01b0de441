"""What `fused_cpu` derives from a plan once: runs, rows, products, fours, the way back."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphnn.backends import compiling, fused_cpu_fours
from graphnn.plan import ExecutionPlan

# Elements from which on a level's matrix is worth the price of a matrix product's call.
_LARGE_MATRIX = 16384
# Share of a level's (neurons, distinct sources) matrix that must be edges for the matrix product
# over zeros to be faster than the edges alone. Measured in training; in inference it is about 0.42.
_CROSSOVER = 0.32
# Rows of values in inference, and of gradients, that are kept apart rather than overwritten when
# they are no longer read.
_SMALL_STATE = 1 << 13
# The mask of a ring that no position goes round.
_ALL = (1 << 62) - 1


@dataclass(frozen=True, eq=False)
class Product:
    """A level that runs as a matrix product.

    Args:
        level: Its number.
        first_run: Its first run.
        end_run: One past its last.
        first: Its first position.
        end: One past its last.
        pool: (S,) positions of its distinct sources, in the order of their ids.
        edges: Ids of its edges in the plan's order; a slice where they are consecutive.
        bits: (n, words) the cells of the (neurons, sources) matrix, 64 to a word.
        start: (n, words) the place of each word's first edge among the level's.
    """

    level: int
    first_run: int
    end_run: int
    first: int
    end: int
    pool: np.ndarray
    edges: slice | Tensor
    bits: np.ndarray
    start: np.ndarray


@dataclass(frozen=True, eq=False)
class Rows:
    """Where a tile keeps its values.

    Args:
        count: Rows of a tile.
        value_shift: (R,) from a position to the row of its value.
        pre_shift: (R,) from a position to the row of its preactivation.
        source: (E',) rows of the values that the edges read.
        output: (n_out,) rows of the outputs.
    """

    count: int
    value_shift: np.ndarray
    pre_shift: np.ndarray
    source: np.ndarray
    output: np.ndarray


@dataclass(frozen=True, eq=False)
class WayBack:
    """How gradients reach the sources of the edges that the kernels walk, and where they are kept.

    Args:
        pushes: Whether targets push them; else sources pull them.
        count: Rows of a tile of gradients.
        shift: (R,) the row of a position's gradient is (position & mask) + shift.
        mask: A power of two less one.
        edge: (E',) the edges' ids in the order in which their weights are read; None where these
            are all, in order.
        out_ptr: (N + 1,) offsets of the positions' outgoing edges; or (0,) if pushed.
        target: (E',) rows of the gradients that the edges read; or (0,) if pushed.
        fours: Positions that feed the same targets; none if pushed.
    """

    pushes: bool
    count: int
    shift: np.ndarray
    mask: int
    edge: Tensor | None
    out_ptr: np.ndarray
    target: np.ndarray
    fours: fused_cpu_fours.Fours

    def first_edge(self, position: int) -> int:
        """The place of the first edge that is read if only positions from this one on are."""
        return 0 if self.pushes else int(self.out_ptr[position])


# What runs at a time: a range of runs (first, end), or a matrix product.
Step = tuple[int, int] | Product


class Schedule:
    """A plan as the kernels read it; E' counts the edges that are not in a `Product`.

    Args:
        plan: The plan, on the CPU.
    """

    def __init__(self, plan: ExecutionPlan) -> None:
        self.num_neurons, self.num_edges = plan.num_neurons, plan.num_edges
        self.num_levels = plan.num_levels
        # Products a sample, a neuron counting as one.
        self.work = self.num_edges + self.num_neurons
        self.level_ptr = plan.level_ptr.numpy()
        self.neuron_order = plan.neuron_order.numpy()
        slot = plan.bias_slot.numpy()
        biased = np.flatnonzero(slot >= 0)
        # The position of every bias; a slice where they follow one another.
        position = np.empty_like(biased)
        position[slot[biased]] = biased
        in_order = bool((np.diff(position) == 1).all())
        first = int(position[0]) if position.size else 0
        self.bias_position = slice(first, first + position.size) if in_order else position
        self._cut_runs(plan)
        inputs, outputs = plan.input_position.numpy(), plan.output_position.numpy()
        self.input_column = np.empty_like(inputs)
        self.input_column[inputs] = np.arange(inputs.size)
        self.output_position = outputs
        self.output_order = np.argsort(outputs, kind="stable")
        self.outputs_in_order = outputs[self.output_order]
        self.output_ptr = np.searchsorted(self.outputs_in_order, self.run_ptr[:-1])
        self._choose_products(plan)
        self._steps: dict[float, list[Step]] = {}
        # What need not be compiled any more, by the caller's own keys.
        self.compiled: set[Hashable] = set()

    def _cut_runs(self, plan: ExecutionPlan) -> None:
        code = plan.activation_code.numpy()
        # Every level begins a run, and so does every other activation.
        starts = np.union1d(np.flatnonzero(np.diff(code, prepend=-1)), self.level_ptr[1:-1])
        starts = starts[(starts == 0) | (starts >= self.level_ptr[1])]
        if self.level_ptr[1] == 0:
            starts = np.append(0, starts)
        self.run_ptr = np.append(starts, plan.num_neurons)
        # Without inputs, run 0 is empty.
        first = np.minimum(starts, max(0, plan.num_neurons - 1))
        self.activations = [plan.activation_table[c] for c in code[first]]
        self.run_of_level = np.searchsorted(self.run_ptr[:-1], self.level_ptr[:-1])
        self.run_of_level[0] = 0
        if self.level_ptr[1] == 0 and self.num_levels > 1:
            self.run_of_level[1] = 1
        self.run_of_level = np.append(self.run_of_level, starts.size)

    @property
    def num_runs(self) -> int:
        """R, run 0 counted."""
        return self.run_ptr.size - 1

    def _choose_products(self, plan: ExecutionPlan) -> None:
        from graphnn import topology

        row_ptr, source = plan.row_ptr.numpy(), plan.edge_source.numpy()
        num_sources = topology.pool_sizes(self.level_ptr, row_ptr, source)
        neurons = np.diff(self.level_ptr)
        edges = np.diff(row_ptr[self.level_ptr])
        area = neurons * num_sources
        share = edges / np.maximum(area, 1)
        chosen = (area >= _LARGE_MATRIX) & (share >= _CROSSOVER)
        self.products = tuple(self._product(plan, int(level)) for level in np.flatnonzero(chosen))
        self.is_product = np.zeros(self.num_runs, np.bool_)
        # Runs whose gradients a product adds to before the kernels do.
        self.is_seeded = np.zeros(self.num_runs, np.bool_)
        order = plan.edge_order
        in_order = plan.num_edges == 0 or bool((order.diff() == 1).all() and order[0] == 0)
        # (E',) ids of the edges that the kernels walk; None where these are all, in order.
        self.edge_ids = None if in_order else order
        self.source, self.row_ptr = source, row_ptr
        if self.products:
            walked = np.repeat(~chosen, edges)
            self.source, self.edge_ids = source[walked], order[torch.from_numpy(walked)]
            fan_in = np.diff(row_ptr) * np.repeat(~chosen, neurons)
            self.row_ptr = np.append(0, np.cumsum(fan_in))
        for product in self.products:
            self.is_product[product.first_run : product.end_run] = True
            runs = np.searchsorted(self.run_ptr, product.pool, side="right") - 1
            self.is_seeded[runs] = True
        self.level_edges, self.level_sources = np.where(chosen, 0, edges), num_sources

    def _product(self, plan: ExecutionPlan, level: int) -> Product:
        first, end = int(self.level_ptr[level]), int(self.level_ptr[level + 1])
        row_ptr = plan.row_ptr.numpy()[first : end + 1]
        span = slice(int(row_ptr[0]), int(row_ptr[-1]))
        source, ids = plan.edge_source.numpy()[span], plan.edge_order[span]
        # In the order of their ids, which is that of every row's edges.
        pool = np.unique(source).astype(np.int64)
        pool = pool[np.argsort(self.neuron_order[pool])]
        column = np.empty(plan.num_neurons, np.int64)
        column[pool] = np.arange(pool.size)
        bits = np.zeros((end - first, -(-pool.size // 64)), np.int64)
        start = np.empty(bits.shape, np.int32 if source.size < 1 << 31 else np.int64)
        compiling.matrix_kernels().mark(row_ptr - row_ptr[0], column[source], bits, start)
        of_view = bool((ids.diff() == 1).all())
        return Product(
            level=level,
            first_run=int(self.run_of_level[level]),
            end_run=int(self.run_of_level[level + 1]),
            first=first,
            end=end,
            pool=pool,
            edges=slice(int(ids[0]), int(ids[0]) + ids.numel()) if of_view else ids,
            bits=bits,
            start=start,
        )

    @cached_property
    def run_starts(self) -> list[int]:
        """`run_ptr`, which Python reads faster so."""
        return self.run_ptr.tolist()

    @cached_property
    def product_levels(self) -> frozenset[int]:
        """The levels that run as matrix products."""
        return frozenset(product.level for product in self.products)

    @cached_property
    def largest_level(self) -> int:
        """Edges of the level that has most."""
        return int(self.level_edges.max(initial=0))

    def is_one_level(self, first_run: int, end_run: int) -> bool:
        """Whether some runs are of one level: their neurons may be computed in any order."""
        levels = np.searchsorted(self.run_of_level, [first_run, end_run - 1], side="right")
        return bool(levels[0] == levels[1])

    def steps(self, heavy: float) -> list[Step]:
        """Everything in order: products, levels of at least `heavy` edges, and what is between."""
        if heavy not in self._steps:
            alone: dict[int, Step] = {p.first_run: p for p in self.products}
            for level in np.flatnonzero(self.level_edges >= heavy).tolist():
                first, end = self.run_of_level[level : level + 2].tolist()
                alone[first] = (first, end)
            # A product's runs still need their biases and activations, from the kernels.
            steps, run = [], 0
            for first in [*sorted(alone), self.num_runs]:
                if run < first:
                    steps.append((run, first))
                step = alone.get(first)
                run = first
                if step is not None:
                    steps.append(step)
                    run = first if isinstance(step, Product) else step[1]
            self._steps[heavy] = steps
        return self._steps[heavy]

    @cached_property
    def level_reads(self) -> np.ndarray:
        """(L,) rows that each level reads: one for each edge, or for four."""
        of_run = np.diff(self.row_ptr[self.run_ptr])
        in_fours = np.where(np.diff(self.fours.ptr) > 0, of_run, 0)
        cuts = np.append(0, np.cumsum(in_fours))[self.run_of_level]
        return self.level_edges - np.diff(cuts) * 3 // 4

    @cached_property
    def fours(self) -> fused_cpu_fours.Fours:
        """The runs whose neurons read the same sources, four by four."""
        return fused_cpu_fours.find(self.row_ptr, self.source, self.run_ptr)

    @cached_property
    def pulled(self) -> WayBack:
        """By the edges' transpose; gradients overwrite those that no lower level reads."""
        from graphnn import topology
        from graphnn.backends import fused_cpu_topology

        out_ptr = topology.row_pointers(self.source, self.num_neurons)
        target, edge = np.empty_like(self.source), np.empty_like(self.source)
        topology.transpose_rows(self.row_ptr, self.source, out_ptr, target, edge)
        places = torch.from_numpy(edge)
        ids = places if self.edge_ids is None else self.edge_ids.index_select(0, places)
        fours = fused_cpu_fours.find(out_ptr, target, self.run_ptr)
        count, shift = self.num_neurons, np.zeros(self.num_runs, np.int64)
        if not self._keeps_all_rows:
            # From the last level to the first.
            last_reader = self.num_levels - 1 - self._reach[1][::-1]
            sizes = np.ascontiguousarray(np.diff(self.level_ptr)[::-1])
            start, count = fused_cpu_topology.reuse_rows(sizes, last_reader)
            moved, shift = self._moved(start[::-1])
            target = moved[target]
        return WayBack(False, count, shift, _ALL, ids, out_ptr, target, fours)

    @cached_property
    def pushed(self) -> WayBack:
        """By the edges as they are; gradients use the rows of a ring in turn."""
        needed = int((self.run_ptr[1:] - self.lowest[:-1]).max(initial=1))
        count, mask = 1 << (needed - 1).bit_length(), _ALL
        if count < self.num_neurons:
            mask = count - 1
        none = np.zeros(self.num_runs, np.int64)
        return WayBack(
            True, min(count, self.num_neurons), none, mask, self.edge_ids, self.row_ptr[:0],
            self.source[:0], fused_cpu_fours.none(self.num_runs),
        )  # fmt: skip

    @cached_property
    def lowest(self) -> np.ndarray:
        """(R + 1,) the first position of the lowest level that a run or a later one reads.

        N at the end; where a run reads nothing, its own level counts.
        """
        own = np.repeat(self.level_ptr[self._reach[1]], np.diff(self.run_of_level))
        return np.minimum.accumulate(np.append(own, self.num_neurons)[::-1])[::-1].copy()

    @cached_property
    def _keeps_all_rows(self) -> bool:
        """Whether rows are never used twice: matrix products find values at their positions."""
        return self.num_neurons <= _SMALL_STATE or bool(self.products)

    @cached_property
    def _reach(self) -> tuple[np.ndarray, np.ndarray]:
        """(L,) the highest level that reads each level, and the lowest that each level reads."""
        from graphnn.backends import fused_cpu_topology

        return fused_cpu_topology.level_reach(self.level_ptr, self.row_ptr, self.source)

    def _moved(self, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The row of each position (N,), and the shift of each run (R,), by levels' first rows.

        Rows are given to whole levels, because threads may share a level's runs.
        """
        shift = start - self.level_ptr[:-1]
        position = np.arange(self.num_neurons)
        moved = position + np.repeat(shift, np.diff(self.level_ptr))
        return moved.astype(self.source.dtype), np.repeat(shift, np.diff(self.run_of_level))

    @cached_property
    def place_of_edge(self) -> np.ndarray:
        """(E,) the place of each edge id in `edge_ids`; -1 for the edges of products."""
        assert self.edge_ids is not None
        places = np.full(self.num_edges, -1, self.source.dtype)
        places[self.edge_ids.numpy()] = np.arange(self.edge_ids.numel(), dtype=places.dtype)
        return places

    @cached_property
    def training_rows(self) -> Rows:
        """Every value in a row of its own, and the preactivations that its slope needs."""
        from graphnn.backends.elementwise import slope_needs_preactivation

        needed = np.array(
            [slope_needs_preactivation(a.function, a.parameters) for a in self.activations]
        )
        for product in self.products:
            # It writes the preactivations of all of its runs as one block.
            own = slice(product.first_run, product.end_run)
            needed[own] = needed[own].any()
        shift, count = np.zeros(self.num_runs, np.int64), self.num_neurons
        for run in range(1, self.num_runs):
            if needed[run]:
                shift[run] = count - self.run_ptr[run]
                count += int(self.run_ptr[run + 1] - self.run_ptr[run])
        return Rows(count, np.zeros_like(shift), shift, self.source, self.output_position)

    @cached_property
    def inference_rows(self) -> Rows:
        """Values overwrite those that no later level reads, so that a tile stays in the cache."""
        from graphnn.backends import fused_cpu_topology

        if self._keeps_all_rows:
            same = np.zeros(self.num_runs, np.int64)
            return Rows(self.num_neurons, same, same, self.source, self.output_position)
        last_reader = self._reach[0].copy()
        output_level = np.searchsorted(self.level_ptr, self.output_position, side="right") - 1
        last_reader[output_level] = self.num_levels
        start, count = fused_cpu_topology.reuse_rows(np.diff(self.level_ptr), last_reader)
        moved, shift = self._moved(start)
        outputs = moved[self.output_position].astype(self.output_position.dtype)
        return Rows(count, shift, shift, moved[self.source], outputs)

    def run_tables(self, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
        """The runs' activation codes (R,) and parameters (R, 2)."""
        from graphnn.backends.elementwise import CODES

        parameters = np.zeros((self.num_runs, 2), dtype)
        for run, activation in enumerate(self.activations):
            parameters[run, : len(activation.parameters)] = activation.parameters
        codes = [CODES[activation.function] for activation in self.activations]
        return np.array(codes, np.int64), parameters


def schedule_of(plan: ExecutionPlan) -> Schedule:
    """The plan's schedule, made at first use."""
    own = plan.derived.get("fused_cpu")
    if own is None:
        own = plan.derived.setdefault("fused_cpu", Schedule(plan))
    return own
