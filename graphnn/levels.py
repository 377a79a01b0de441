"""A plan cut into levels: what a backend reads that runs one level after the other."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphnn import algorithms
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
        places: (columns, rows) of a level that is no block: (E_l,) int64 each, as the properties of
            those names say.
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
    places: tuple[Tensor, Tensor] | None
    row_ptr: Tensor
    neurons: Tensor
    biased: Tensor | None
    bias: slice | Tensor
    activations: tuple[tuple[Activation, Tensor | None], ...]
    activation_order: Tensor | None

    @property
    def columns(self) -> Tensor:
        """(E_l,) int64 place of each edge's source in the pool."""
        if self.places is not None:
            return self.places[0]
        columns = self.block_columns
        if columns is None:
            columns = torch.arange(self.pool_size, device=self.neurons.device)
        return columns.repeat(self.size)

    @property
    def rows(self) -> Tensor:
        """(E_l,) int64 place of each edge's target in the level."""
        if self.places is not None:
            return self.places[1]
        rows = torch.arange(self.size, device=self.neurons.device)
        return rows.repeat_interleave(self.pool_size)

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
    """Cuts a plan into levels, where the plan is; the tables' tensors are then on `device`."""
    cutter = _LevelCutter(plan, device)
    levels = cutter.levels()
    last_reader = list(range(plan.num_levels))
    for level in levels:
        for source in level.pool_levels:
            last_reader[source] = level.index
    rows, order = cutter.outputs()
    columns = plan.input_position.argsort(stable=True)
    return LevelTables(
        levels=levels,
        last_reader=tuple(last_reader),
        input_columns=None if _counts_up(columns) else cutter.tensor(columns),
        output_rows=rows,
        output_order=order,
        is_ordered=_counts_up(plan.neuron_order),
        input_neurons=cutter.tensor(plan.neuron_order[: columns.numel()]),
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


def _counts_up(ids: Tensor) -> bool:
    return torch.equal(ids, torch.arange(ids.numel(), device=ids.device))


class _LevelCutter:
    """Cuts a plan's flat arrays into levels; lives as long as that takes.

    What is asked of every level is asked of all at once, because each answer from an accelerator
    is a wait for it.
    """

    def __init__(self, plan: ExecutionPlan, device: torch.device) -> None:
        self.plan, self.device = plan, device
        own = algorithms.on(plan.device)
        pool_ptr, self.pool_source, self.edge_column = own.level_pools(
            plan.level_ptr, plan.row_ptr, plan.edge_source
        )
        self.level_ptr: list[int] = plan.level_ptr.tolist()
        self.edge_ptr: list[int] = plan.row_ptr[plan.level_ptr].tolist()
        self.pool_ptr: list[int] = pool_ptr.tolist()
        self.width: list[int] = plan.block_width.tolist()
        self.biased = (plan.bias_slot >= 0).nonzero().flatten()
        self.bias_ptr: list[int] = torch.searchsorted(self.biased, plan.level_ptr).tolist()
        self.index = range(1, plan.num_levels)
        levels = torch.arange(plan.num_levels, device=plan.device)
        self.level = levels.repeat_interleave(plan.level_ptr.diff(), output_size=plan.num_neurons)
        self.rows = self._rows()
        self.pieces = self._pieces()
        self.codes = self._codes()

    def tensor(self, ids: Tensor) -> Tensor:
        # A copy: a view would keep what it was cut from.
        return ids.to(self.device, torch.int64, copy=True)

    def _by_level(self, values: Tensor, ptr: list[int]) -> list[Tensor]:
        return [values[ptr[level] : ptr[level + 1]] for level in self.index]

    def _slices_or_ids(self, ids: Tensor, ptr: list[int]) -> list[slice | Tensor]:
        """The levels' ids, as slices where they are consecutive."""
        found: list[slice | Tensor] = []
        by_level = self._by_level(ids, ptr)
        consecutive = _answers([(own.diff() == 1).all() for own in by_level])
        firsts = _answers([own[0] if own.numel() else own.sum() for own in by_level])
        for own, is_slice, first in zip(by_level, consecutive, firsts, strict=True):
            found.append(slice(first, first + own.numel()) if is_slice else self.tensor(own))
        return found

    def _rows(self) -> Tensor:
        """(E,) each edge's target as a place in its level."""
        plan = self.plan
        places = torch.arange(plan.num_neurons, device=plan.device)
        places -= plan.level_ptr[self.level]
        small = places.to(plan.edge_source.dtype)
        return small.repeat_interleave(plan.row_ptr.diff(), output_size=plan.num_edges)

    def _level_of(self, positions: Tensor) -> Tensor:
        return torch.searchsorted(self.plan.level_ptr, positions, right=True) - 1

    def _pieces(self) -> list[list[tuple[int, int]]]:
        """For each level, (lower level, number of its neurons that are read), ascending."""
        num_levels = self.plan.num_levels
        sizes = torch.tensor(self.pool_ptr, device=self.plan.device).diff()
        levels = torch.arange(num_levels, device=self.plan.device)
        reader = torch.repeat_interleave(levels, sizes, output_size=self.pool_source.numel())
        keys = reader * num_levels + self._level_of(self.pool_source.long())
        return _grouped(keys, num_levels, num_levels)

    def _codes(self) -> list[list[tuple[int, int]]]:
        """For each level, (place in the activation table, number of neurons), ascending."""
        plan, num_codes = self.plan, len(self.plan.activation_table)
        keys = (self.level * num_codes + plan.activation_code).sort().values
        return _grouped(keys, plan.num_levels, num_codes)

    def _pool(self, level: int) -> tuple[tuple[int, ...], tuple[Tensor | None, ...]]:
        start = self.pool_ptr[level]
        rows: list[Tensor | None] = []
        for lower, count in self.pieces[level]:
            first, end = self.level_ptr[lower : lower + 2]
            own = self.pool_source[start : start + count]
            rows.append(None if count == end - first else self.tensor(own - first))
            start += count
        return tuple(lower for lower, _ in self.pieces[level]), tuple(rows)

    def _activations(self, level: int) -> tuple[tuple[Activation, Tensor | None], ...]:
        table, used = self.plan.activation_table, [code for code, _ in self.codes[level]]
        if len(used) == 1:
            return ((table[used[0]], None),)
        codes = self.plan.activation_code[self.level_ptr[level] : self.level_ptr[level + 1]]
        return tuple((table[c], self.tensor((codes == c).nonzero().flatten())) for c in used)

    def outputs(self) -> tuple[tuple[tuple[int, Tensor | None], ...], Tensor | None]:
        position = self.plan.output_position
        level = self._level_of(position)
        rows = []
        for index in level.unique().tolist():
            start, end = self.level_ptr[index : index + 2]
            own = position[level == index] - start
            everything = own.numel() == end - start and _counts_up(own)
            rows.append((index, None if everything else self.tensor(own)))
        place = level.argsort(stable=True).argsort()
        return tuple(rows), None if _counts_up(place) else self.tensor(place)

    def levels(self) -> tuple[Level, ...]:
        plan = self.plan
        edges = self._slices_or_ids(plan.edge_order, self.edge_ptr)
        bias = self._slices_or_ids(plan.bias_slot[self.biased], self.bias_ptr)
        columns = [
            self.edge_column[self.edge_ptr[level] : self.edge_ptr[level] + self.width[level]]
            for level in self.index
        ]
        in_order = _answers([(own.diff() > 0).all() for own in columns])
        return tuple(
            self._level(level, edges[i], bias[i], None if in_order[i] else self.tensor(columns[i]))
            for i, level in enumerate(self.index)
        )

    def _level(
        self,
        level: int,
        edges: slice | Tensor,
        bias: slice | Tensor,
        block_columns: Tensor | None,
    ) -> Level:
        plan = self.plan
        top, end = self.level_ptr[level : level + 2]
        first, last = self.edge_ptr[level : level + 2]
        size = end - top
        row_ptr = plan.row_ptr[top : end + 1] - first
        biased = self.biased[self.bias_ptr[level] : self.bias_ptr[level + 1]]
        pool_levels, pool_rows = self._pool(level)
        activations = self._activations(level)
        places = [place for _, place in activations if place is not None]
        return Level(
            index=level,
            pool_levels=pool_levels,
            pool_rows=pool_rows,
            pool_size=self.pool_ptr[level + 1] - self.pool_ptr[level],
            size=size,
            is_block=self.width[level] > 0,
            block_columns=block_columns,
            edges=edges,
            # A block's follow from its shape, and are as many as its weights.
            places=None
            if self.width[level] > 0
            else (self.tensor(self.edge_column[first:last]), self.tensor(self.rows[first:last])),
            row_ptr=self.tensor(row_ptr),
            neurons=self.tensor(plan.neuron_order[top:end]),
            biased=None if biased.numel() == size else self.tensor(biased - top),
            bias=bias,
            activations=activations,
            activation_order=torch.cat(places).argsort() if places else None,
        )


def _answers(asked: list[Tensor]) -> list[Any]:
    """Numbers of one element each, fetched together."""
    return torch.stack(asked).tolist() if asked else []


def _grouped(keys: Tensor, num_levels: int, divisor: int) -> list[list[tuple[int, int]]]:
    """For each level, (what, how often) of ascending keys level * divisor + what."""
    found: list[list[tuple[int, int]]] = [[] for _ in range(num_levels)]
    distinct, counts = keys.unique_consecutive(return_counts=True)
    for key, count in torch.stack([distinct, counts], 1).tolist():
        level, what = divmod(key, divisor)
        found[level].append((what, count))
    return found
