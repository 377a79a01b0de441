"""The schedule of a network: flat integer arrays derived from the wiring."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from torch import Tensor

from graphnn.activation import Activation
from graphnn.graph import NeuronGraph


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


@dataclass(frozen=True, eq=False)
class ExecutionPlan:
    """A graph's schedule. Positions number the neurons by (level, id).

    Args:
        num_neurons: N.
        num_edges: E.
        num_levels: L, level 0 counted.
        level_ptr: (L + 1,) int64 offsets of the levels' positions.
        neuron_order: (N,) int64 neuron id at each position.
        neuron_position: (N,) int64 position of each neuron id.
        row_ptr: (N + 1,) int64 offsets of each position's incoming edges.
        edge_source: (E,) int32 or int64 source positions, sorted by (target position, source id).
        edge_order: (E,) edge ids in that order, of the same dtype.
        bias_slot: (N,) int64 place of each position's bias in the bias vector, or -1.
        activation_code: (N,) int64 place of each position's activation in `activation_table`.
        activation_table: The distinct activations.
        block_width: (L,) int64 number of sources that every neuron of the level reads; 0 where the
            level is not a complete bipartite block.
        block_first_edge: (L,) int64 id of a block's first edge where its edges are consecutive ids
            in sorted order, so that the block's nn.Linear weight is a view; -1 elsewhere.
        input_position: (n_in,) int64 positions of the inputs, groups one after the other.
        output_position: (n_out,) int64 positions of the outputs.
        device: Where the tensors are.
    """

    num_neurons: int
    num_edges: int
    num_levels: int
    level_ptr: Tensor
    neuron_order: Tensor
    neuron_position: Tensor
    row_ptr: Tensor
    edge_source: Tensor
    edge_order: Tensor
    bias_slot: Tensor
    activation_code: Tensor
    activation_table: tuple[Activation, ...]
    block_width: Tensor
    block_first_edge: Tensor
    input_position: Tensor
    output_position: Tensor
    device: torch.device

    def to(self, device: torch.device) -> ExecutionPlan:
        """The same plan with its tensors on `device`."""
        if device == self.device:
            return self
        moved = {
            name: value.to(device) if isinstance(value, Tensor) else value
            for name, value in self.__dict__.items()
            if name in self.__dataclass_fields__
        }
        return ExecutionPlan(**{**moved, "device": device})

    @cached_property
    def levels(self) -> tuple[Level, ...]:
        """Levels 1 ... L - 1 as an eager backend runs them."""
        cutter = _LevelCutter(self)
        return tuple(cutter.cut(level) for level in range(1, self.num_levels))

    @cached_property
    def is_ordered(self) -> bool:
        """Whether positions are neuron ids."""
        return torch.equal(self.neuron_order.cpu(), torch.arange(self.num_neurons))

    @cached_property
    def input_columns(self) -> Tensor | None:
        """(n_in,) the input column of each position on level 0; None where that is the order."""
        columns = torch.argsort(self.input_position)
        ordered = torch.equal(columns.cpu(), torch.arange(columns.numel()))
        return None if ordered else columns

    @cached_property
    def last_reader(self) -> tuple[int, ...]:
        """(L,) the last level that reads each level; the level itself where none does."""
        last = list(range(self.num_levels))
        for level in self.levels:
            for source in level.pool_levels:
                last[source] = level.index
        return tuple(last)

    @cached_property
    def output_rows(self) -> dict[int, Tensor | None]:
        """Level -> the rows of its values that are outputs; None where they are all, in order."""
        ptr = self.level_ptr.cpu().numpy()
        position = self.output_position.cpu().numpy()
        level = np.searchsorted(ptr, position, side="right") - 1
        rows: dict[int, Tensor | None] = {}
        for index in np.unique(level).tolist():
            row = position[level == index] - ptr[index]
            everything = np.array_equal(row, np.arange(ptr[index + 1] - ptr[index]))
            rows[index] = None if everything else torch.from_numpy(row).to(self.device)
        return rows

    @cached_property
    def output_order(self) -> Tensor | None:
        """(n_out,) each output's place among `output_rows`; None where that is the order."""
        ptr = self.level_ptr.cpu().numpy()
        level = np.searchsorted(ptr, self.output_position.cpu().numpy(), side="right") - 1
        if (np.diff(level) >= 0).all():
            return None
        place = np.empty(level.size, np.int64)
        place[np.argsort(level, kind="stable")] = np.arange(level.size)
        return torch.from_numpy(place).to(self.device)


class _LevelCutter:
    """Cuts a plan's flat arrays into levels; lives as long as that takes."""

    def __init__(self, plan: ExecutionPlan) -> None:
        from graphnn import topology

        self.device = plan.device
        self.table = plan.activation_table
        self.level_ptr = plan.level_ptr.cpu().numpy()
        self.row_ptr = plan.row_ptr.cpu().numpy()
        self.edge_order = plan.edge_order.cpu().numpy()
        self.neuron_order = plan.neuron_order.cpu().numpy()
        self.bias_slot = plan.bias_slot.cpu().numpy()
        self.code = plan.activation_code.cpu().numpy()
        self.block_width = plan.block_width.cpu().numpy()
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

    def cut(self, level: int) -> Level:
        top, end = int(self.level_ptr[level]), int(self.level_ptr[level + 1])
        first, last = int(self.row_ptr[top]), int(self.row_ptr[end])
        row_ptr = self.row_ptr[top : end + 1] - first
        slots = self.bias_slot[top:end]
        biased = np.flatnonzero(slots >= 0)
        pool_levels, pool_rows = self.pool(level)
        activations = self.activations(self.code[top:end])
        merged = None if len(activations) == 1 else torch.cat([p for _, p in activations]).argsort()
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


def build_plan(graph: NeuronGraph, device: torch.device | str | None = None) -> ExecutionPlan:
    """The execution plan of a graph on a device, built once and kept beside the graph.

    Args:
        graph: The wiring.
        device: Where the plan's tensors live; the CPU by default.

    Returns:
        The plan. The same object for the same graph and device.

    Example:
        >>> graph = graphnn.NeuronGraph([[0, 0, 1, 2], [1, 2, 3, 3]])
        >>> graphnn.build_plan(graph).level_ptr
        tensor([0, 1, 3, 4])
    """
    where = torch.device("cpu" if device is None else device)
    if ("plan", where) not in graph.derived:
        cpu = torch.device("cpu")
        if ("plan", cpu) not in graph.derived:
            graph.derived["plan", cpu] = _build(graph)
        graph.derived["plan", where] = graph.derived["plan", cpu].to(where)
    return graph.derived["plan", where]


def _build(graph: NeuronGraph) -> ExecutionPlan:
    from graphnn import topology

    own = graph.sorted_edges
    level = graph.level.numpy()
    level_ptr = topology.row_pointers(level, graph.num_levels)
    if (np.diff(level) >= 0).all():
        # Neurons numbered level by level, as converters and generators do: nothing moves.
        neuron_order = position = np.arange(graph.num_neurons)
        row_ptr, edge_source, edge_order = own.ptr, own.source, own.order
    else:
        neuron_order = np.empty(graph.num_neurons, np.int64)
        topology.stable_order(level, level_ptr, neuron_order)
        position = np.empty(graph.num_neurons, np.int64)
        position[neuron_order] = np.arange(graph.num_neurons)
        row_ptr, edge_source, edge_order = topology.reorder_rows(
            own.ptr, own.source, own.order, neuron_order, position
        )
    width, first_edge = topology.complete_levels(level_ptr, row_ptr, edge_source, edge_order)
    slot = np.full(graph.num_neurons, -1, np.int64)
    bias_neurons = graph.bias_neurons.numpy()
    slot[bias_neurons] = np.arange(bias_neurons.size)
    as_tensor = torch.from_numpy
    return ExecutionPlan(
        num_neurons=graph.num_neurons,
        num_edges=graph.num_edges,
        num_levels=graph.num_levels,
        level_ptr=as_tensor(level_ptr),
        neuron_order=as_tensor(neuron_order),
        neuron_position=as_tensor(position),
        row_ptr=as_tensor(row_ptr),
        edge_source=as_tensor(edge_source),
        edge_order=as_tensor(edge_order),
        bias_slot=as_tensor(slot[neuron_order]),
        activation_code=graph.activation_code[neuron_order],
        activation_table=graph.activation_table,
        block_width=as_tensor(width),
        block_first_edge=as_tensor(first_edge),
        input_position=as_tensor(position[graph.input_ids.numpy()]),
        output_position=as_tensor(position[graph.output_ids.numpy()]),
        device=torch.device("cpu"),
    )
