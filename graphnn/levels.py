"""A plan cut into levels: what a backend reads that runs one level after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from graphnn.activation import Activation

if TYPE_CHECKING:
    from graphnn.plan import ExecutionPlan


@dataclass(frozen=True)
class Level:
    """What an eager backend needs to run one level; tensors on the plan's device.

    Args:
        index: The level's number, 1 ... L - 1.
        pool_levels: The lower levels that it reads, ascending.
        pool_rows: For each of them, the rows (int64) of its values that are read, or None for all.
        pool_size: S, the number of distinct sources.
        size: n, the number of neurons.
        is_block: Whether every neuron reads every source: the level is an nn.Linear.
        block_columns: For a block, the place in the pool of each weight column, or None where that
            is the order.
        edges: Ids (int64) of the level's edges, sorted by target, then source; a slice where the
            ids are consecutive.
        columns: (E_l,) int64 place of each edge's source in the pool.
        rows: (E_l,) int64 place of each edge's target in the level.
        row_ptr: (n + 1,) int64 offsets of the targets' edges.
        neurons: (n,) int64 neuron ids.
        biased: (n_b,) int64 places of the neurons with a bias, or None where all have one.
        bias: Slice or ids (int64) of their biases.
        activations: (activation, places (int64) or None for the whole level) for each distinct one.
        activation_order: (n,) each neuron's place when the activations' places are concatenated;
            None for a single activation.
    """

    index: int
    pool_levels: tuple[int, ...]
    pool_rows: tuple[Tensor | None, ...]
    pool_size: int
    size: int
    is_block: bool
    block_columns: Tensor | None
    edges: slice | Tensor
    columns: Tensor
    rows: Tensor
    row_ptr: Tensor
    neurons: Tensor
    biased: Tensor | None
    bias: slice | Tensor
    activations: tuple[tuple[Activation, Tensor | None], ...]
    activation_order: Tensor | None

    @cached_property
    def by_source(self) -> tuple[Tensor, Tensor]:
        """The transpose: (order, ptr), the edges' places sorted by column and (S + 1,) offsets."""
        order = torch.argsort(self.columns, stable=True)
        counts = torch.bincount(self.columns, minlength=self.pool_size)
        return order, torch.nn.functional.pad(counts.cumsum(0), (1, 0))


@dataclass(frozen=True)
class LevelTables:
    """All levels of a plan, and where its inputs and outputs are.

    Args:
        levels: Levels 1 ... L - 1.
        last_reader: (L,) the last level that reads each level; the level itself where none does.
        input_columns: (n_in,) the input column of each row of level 0, or None where in order.
        output_rows: For each level that holds outputs, ascending: (level, rows of its values, or
            None where all rows are outputs, in order).
        output_order: (n_out,) each output's place among `output_rows`, or None where in order.
        is_ordered: Whether positions are neuron ids.
        input_neurons: (n_in,) the neuron ids of level 0's rows.
        edge_sizes: The levels' numbers of edges, if their edges are all edges in order; else None.
        bias_sizes: The same of the biases.
    """

    levels: tuple[Level, ...]
    last_reader: tuple[int, ...]
    input_columns: Tensor | None
    output_rows: tuple[tuple[int, Tensor | None], ...]
    output_order: Tensor | None
    is_ordered: bool
    input_neurons: Tensor
    edge_sizes: tuple[int, ...] | None
    bias_sizes: tuple[int, ...] | None


def cut_levels(plan: ExecutionPlan, device: torch.device) -> LevelTables:
    """Cuts a plan into levels, with its tensors on `device`."""
    cutter = _LevelCutter(plan, device)
    levels = tuple(cutter.cut(level) for level in range(1, plan.num_levels))
    last_reader = list(range(plan.num_levels))
    for level in levels:
        for source in level.pool_levels:
            last_reader[source] = level.index
    rows, order = cutter.outputs()
    columns = np.argsort(cutter.input_position, kind="stable")
    neurons = cutter.neuron_order
    return LevelTables(
        levels=levels,
        last_reader=tuple(last_reader),
        input_columns=None if _counts_up(columns) else cutter.tensor(columns),
        output_rows=rows,
        output_order=order,
        is_ordered=_counts_up(neurons),
        input_neurons=cutter.tensor(neurons[: columns.size]),
        edge_sizes=_sizes_in_order([level.edges for level in levels]),
        bias_sizes=_sizes_in_order([level.bias for level in levels]),
    )


def _sizes_in_order(places: list[slice | Tensor]) -> tuple[int, ...] | None:
    sizes, end = [], 0
    for place in places:
        if not isinstance(place, slice) or (place.start != end and place.start != place.stop):
            return None
        sizes.append(place.stop - place.start)
        end += sizes[-1]
    # A split of no level at all has no parts to give.
    return tuple(sizes) if sizes else None


def _counts_up(ids: np.ndarray) -> bool:
    return np.array_equal(ids, np.arange(ids.size))


class _LevelCutter:
    """Cuts a plan's flat arrays into levels; lives as long as that takes."""

    def __init__(self, plan: ExecutionPlan, device: torch.device) -> None:
        from graphnn import topology

        self.device = device
        self.table = plan.activation_table
        self.level_ptr = plan.level_ptr.cpu().numpy()
        self.row_ptr = plan.row_ptr.cpu().numpy()
        self.edge_order = plan.edge_order.cpu().numpy()
        self.neuron_order = plan.neuron_order.cpu().numpy()
        self.bias_slot = plan.bias_slot.cpu().numpy()
        self.code = plan.activation_code.cpu().numpy()
        self.block_width = plan.block_width.cpu().numpy()
        self.input_position = plan.input_position.cpu().numpy()
        self.output_position = plan.output_position.cpu().numpy()
        self.pool_ptr, self.pool_source, self.edge_column = topology.level_pools(
            self.level_ptr, self.row_ptr, plan.edge_source.cpu().numpy()
        )

    def tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(array.astype(np.int64)).to(self.device)

    def slice_or_ids(self, ids: np.ndarray) -> slice | Tensor:
        consecutive = ids.size == 0 or bool((np.diff(ids) == 1).all())
        if consecutive:
            first = int(ids[0]) if ids.size else 0
            return slice(first, first + ids.size)
        return self.tensor(ids)

    def pool(self, level: int) -> tuple[tuple[int, ...], tuple[Tensor | None, ...]]:
        sources = self.pool_source[self.pool_ptr[level] : self.pool_ptr[level + 1]]
        of = np.searchsorted(self.level_ptr, sources, side="right") - 1
        levels, first = np.unique(of, return_index=True)
        pieces = np.split(sources, first[1:]) if levels.size else []
        rows: list[Tensor | None] = []
        for source_level, piece in zip(levels.tolist(), pieces, strict=True):
            start, end = self.level_ptr[source_level], self.level_ptr[source_level + 1]
            rows.append(None if piece.size == end - start else self.tensor(piece - start))
        return tuple(levels.tolist()), tuple(rows)

    def activations(self, codes: np.ndarray) -> tuple[tuple[Activation, Tensor | None], ...]:
        used = np.unique(codes)
        if used.size == 1:
            return ((self.table[used[0]], None),)
        return tuple((self.table[c], self.tensor(np.flatnonzero(codes == c))) for c in used)

    def outputs(self) -> tuple[tuple[tuple[int, Tensor | None], ...], Tensor | None]:
        position, ptr = self.output_position, self.level_ptr
        level = np.searchsorted(ptr, position, side="right") - 1
        rows = []
        for index in np.unique(level).tolist():
            own = position[level == index] - ptr[index]
            everything = own.size == ptr[index + 1] - ptr[index] and _counts_up(own)
            rows.append((index, None if everything else self.tensor(own)))
        place = np.empty(level.size, np.int64)
        place[np.argsort(level, kind="stable")] = np.arange(level.size)
        return tuple(rows), None if _counts_up(place) else self.tensor(place)

    def cut(self, level: int) -> Level:
        top, end = int(self.level_ptr[level]), int(self.level_ptr[level + 1])
        first, last = int(self.row_ptr[top]), int(self.row_ptr[end])
        row_ptr = self.row_ptr[top : end + 1] - first
        slots = self.bias_slot[top:end]
        biased = np.flatnonzero(slots >= 0)
        pool_levels, pool_rows = self.pool(level)
        activations = self.activations(self.code[top:end])
        places = [place for _, place in activations if place is not None]
        merged = torch.cat(places).argsort() if places else None
        is_block = bool(self.block_width[level] > 0)
        columns = self.edge_column[first : first + self.block_width[level]]
        in_order = not is_block or bool((np.diff(columns) > 0).all())
        return Level(
            index=level,
            pool_levels=pool_levels,
            pool_rows=pool_rows,
            pool_size=int(self.pool_ptr[level + 1] - self.pool_ptr[level]),
            size=end - top,
            is_block=is_block,
            block_columns=None if in_order else self.tensor(columns),
            edges=self.slice_or_ids(self.edge_order[first:last]),
            columns=self.tensor(self.edge_column[first:last]),
            rows=self.tensor(np.repeat(np.arange(end - top), np.diff(row_ptr))),
            row_ptr=self.tensor(row_ptr),
            neurons=self.tensor(self.neuron_order[top:end]),
            biased=None if biased.size == end - top else self.tensor(biased),
            bias=self.slice_or_ids(slots[biased]),
            activations=activations,
            activation_order=merged,
        )
