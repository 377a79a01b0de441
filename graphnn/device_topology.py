"""Graph algorithms out of torch operations, for wirings that live on an accelerator.

`compiled_topology` has the same functions for the CPU, by loops. What these here allocate is cut
into pieces: a sort of all edges at once would take 48 bytes an edge beside its result.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from graphnn.exhausted import is_out_of_memory
from graphnn.pieces import cuts, expanded, gathered


def scan_edges(source: Tensor, target: Tensor) -> tuple[bool, bool, int]:
    """What one pass over the edges tells.

    Args:
        source: (E,) source ids.
        target: (E,) target ids.

    Returns:
        (is_sorted, ascends, self_loop): whether the edges are strictly ascending by (target,
        source), whether every source id is below its target id, and the first edge whose source
        is its target, or -1.
    """
    same_row = (target[1:] == target[:-1]) & (source[1:] > source[:-1])
    is_sorted = ((target[1:] > target[:-1]) | same_row).all()
    facts = torch.stack([is_sorted, (source < target).all(), (source == target).any()])
    in_order, ascends, loops = facts.tolist()
    return in_order, ascends, int((source == target).nonzero()[0]) if loops else -1


def row_pointers(ids: Tensor, num_rows: int) -> Tensor:
    """Offsets (num_rows + 1,) int64 of each id's run in the sorted order of `ids`.

    Raises:
        MemoryError: There are too many rows.
    """
    try:
        ptr = torch.zeros(num_rows + 1, dtype=torch.int64, device=ids.device)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        raise MemoryError(str(error)) from None
    return _accumulate(torch.bincount(ids, minlength=num_rows), ptr)


def stable_order(ids: Tensor, ptr: Tensor, dtype: torch.dtype) -> Tensor:
    """The stable permutation (n,), of `dtype`, that sorts `ids`, given their `row_pointers`."""
    order = torch.empty(ids.numel(), dtype=dtype, device=ids.device)
    key_type = torch.int32 if ptr.numel() < 2**31 else torch.int64
    for (low, start), (high, end) in pairwise(cuts(ptr)):
        if end - start == ids.numel():
            return torch.sort(ids.to(key_type), stable=True).indices.to(dtype)
        own = ((ids >= low) & (ids < high)).nonzero().flatten()
        keys = ids.index_select(0, own).to(key_type)
        order[start:end] = own.index_select(0, torch.sort(keys, stable=True).indices)
    return order


def sort_by_target(
    source: Tensor, target: Tensor, ptr: Tensor, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Sorts edges by (target, source), ties by id.

    Args:
        source: (E,) source ids.
        target: (E,) target ids.
        ptr: (N + 1,) `row_pointers` of `target`.
        dtype: Of the results.

    Returns:
        (order, sorted_source): edge ids and source ids (E,) in sorted order.
    """
    by_source = stable_order(source, row_pointers(source, ptr.numel() - 1), dtype)
    arriving = gathered(target, by_source, dtype)
    order = by_source.index_select(0, stable_order(arriving, ptr, dtype))
    del by_source, arriving
    return order, gathered(source, order, dtype)


def first_duplicate(ptr: Tensor, sorted_source: Tensor, order: Tensor) -> tuple[int, int]:
    """The duplicate pair whose later edge has the lowest id: (first, later), or (-1, -1)."""
    if sorted_source.numel() == 0:
        return -1, -1
    same = torch.zeros_like(sorted_source, dtype=torch.bool)
    torch.eq(sorted_source[1:], sorted_source[:-1], out=same[1:])
    # A row's first edge has another target than the edge before it.
    starts = ptr[:-1]
    same[starts[starts < sorted_source.numel()]] = False
    places = same.nonzero().flatten()
    if places.numel() == 0:
        return -1, -1
    place = places[order.index_select(0, places).argmin()]
    return int(order[place - 1]), int(order[place])


def levels(ptr: Tensor, sorted_source: Tensor, is_input: Tensor, ascends: bool) -> Tensor | None:
    """Levels (N,) int64 of an acyclic graph, or None where there is a cycle.

    Neurons whose sources are all done form the next level, so the work is one look at every edge.
    A level costs some twenty launches and two waits for the device, whatever it holds: a chain of
    thousands of neurons is better built on the CPU, and moved.

    Args:
        ptr: (N + 1,) offsets of each neuron's incoming edges.
        sorted_source: (E,) sources, sorted by target.
        is_input: (N,) bool.
        ascends: Whether every source id is below its target id; of no use here.
    """
    waves = _Waves(ptr, sorted_source)
    level = torch.zeros(is_input.numel(), dtype=torch.int64, device=ptr.device)
    constants = ((ptr.diff() == 0) & ~is_input).nonzero().flatten()
    ready = is_input.nonzero().flatten()
    index, done = 0, 0
    while index <= 1 or ready.numel():
        level[ready] = index
        done += ready.numel()
        ready = waves.after(ready)
        if index == 0:
            ready = torch.cat([ready, constants])
        index += 1
    return level if done == level.numel() else None


class _Waves:
    """Which neurons have all their sources done; lives as long as the levels take."""

    def __init__(self, ptr: Tensor, sorted_source: Tensor) -> None:
        count = ptr.numel() - 1
        dtype, device = sorted_source.dtype, sorted_source.device
        self.ptr = row_pointers(sorted_source, count)
        by_source = stable_order(sorted_source, self.ptr, dtype)
        neurons = torch.arange(count, dtype=dtype, device=device)
        fan_in = ptr.diff()
        target = torch.repeat_interleave(neurons, fan_in, output_size=sorted_source.numel())
        self.target = target.index_select(0, by_source)
        # The number of each neuron's sources that are not done.
        self.left = fan_in.to(dtype)
        self.claim = torch.empty(count, dtype=torch.int64, device=device)
        self.less = torch.full((1,), -1, dtype=dtype, device=device)

    def after(self, done: Tensor) -> Tensor:
        """The neurons (n,) whose last source is among `done`, each once, in any order."""
        first = self.ptr.index_select(0, done)
        counts = self.ptr.index_select(0, done + 1) - first
        ptr = _accumulate(counts, counts.new_zeros(counts.numel() + 1))
        found = [done[:0]]
        for edges in expanded(first - ptr[:-1], counts, ptr):
            target = self.target.index_select(0, edges).long()
            self.left.index_add_(0, target, self.less.expand(target.numel()))
            # Of several edges into one neuron, the one whose number stays in `claim` counts.
            number = torch.arange(target.numel(), device=target.device)
            self.claim[target] = number
            counted = self.claim.index_select(0, target) == number
            found.append(target[counted & (self.left.index_select(0, target) == 0)])
        return torch.cat(found)


def reorder_rows(
    ptr: Tensor, sorted_source: Tensor, order: Tensor, neuron_order: Tensor, position: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the (target, source) order, put into another order of the neurons.

    Args:
        ptr: (N + 1,) offsets by neuron id.
        sorted_source: (E,) source ids.
        order: (E,) edge ids.
        neuron_order: (N,) neuron id at each position.
        position: (N,) position of each neuron id.

    Returns:
        (row_ptr, edge_source, edge_order): offsets (N + 1,) by position, source positions (E,) and
        edge ids (E,) in the new order.
    """
    counts = ptr.diff().index_select(0, neuron_order)
    row_ptr = _accumulate(counts, torch.zeros_like(ptr))
    edge_source, edge_order = torch.empty_like(sorted_source), torch.empty_like(order)
    shift = ptr.index_select(0, neuron_order) - row_ptr[:-1]
    start = 0
    for places in expanded(shift, counts, row_ptr):
        end = start + places.numel()
        source = sorted_source.index_select(0, places)
        edge_source[start:end] = position.index_select(0, source)
        edge_order[start:end] = order.index_select(0, places)
        start = end
    return row_ptr, edge_source, edge_order


def complete_levels(
    level_ptr: Tensor, row_ptr: Tensor, edge_source: Tensor, edge_order: Tensor
) -> tuple[Tensor, Tensor]:
    """Which levels are complete bipartite blocks.

    Args:
        level_ptr: (L + 1,) offsets of the levels' positions.
        row_ptr: (N + 1,) offsets of the rows' edges.
        edge_source: (E,) source positions.
        edge_order: (E,) edge ids.

    Returns:
        (width, first_edge): (L,) number of sources that every neuron of the level reads, 0 where
        the level is not a block; and (L,) id of the block's first edge where its edges are
        consecutive ids in sorted order, -1 elsewhere.
    """
    num_levels = level_ptr.numel() - 1
    width, first_edge = [0] * num_levels, [-1] * num_levels
    found, answers = [], []
    for level, start, end, columns in _candidates(level_ptr, row_ptr, edge_source):
        rows, ids = edge_source[start:end].view(-1, columns), edge_order[start:end]
        found.append((level, columns))
        answers.append((rows == rows[:1]).all())
        answers.append((ids.diff() == 1).all())
        answers.append(ids[0])
    if found:
        facts = torch.stack([answer.long() for answer in answers]).view(-1, 3).tolist()
        for (level, columns), (is_block, is_view, first) in zip(found, facts, strict=True):
            if is_block:
                width[level] = columns
                first_edge[level] = first if is_view else -1
    device = level_ptr.device
    return torch.tensor(width, device=device), torch.tensor(first_edge, device=device)


def level_pools(
    level_ptr: Tensor, row_ptr: Tensor, edge_source: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """The distinct sources of every level, and each edge's place among them.

    Args:
        level_ptr: (L + 1,) offsets of the levels' positions.
        row_ptr: (N + 1,) offsets of the rows' edges.
        edge_source: (E,) source positions.

    Returns:
        (pool_ptr, pool_source, edge_column): offsets (L + 1,), the levels' distinct source
        positions, ascending within a level, and for every edge (E,) its place in its level's pool.
    """
    pools, edge_column = [edge_source[:0]], torch.empty_like(edge_source)
    for start, end in pairwise(row_ptr[level_ptr].tolist()):
        pool, edge_column[start:end] = torch.unique(edge_source[start:end], return_inverse=True)
        pools.append(pool)
    sizes = torch.tensor([pool.numel() for pool in pools], device=level_ptr.device)
    return sizes.cumsum(0), torch.cat(pools), edge_column


def find_edges(
    ptr: Tensor, sorted_source: Tensor, order: Tensor, source: Tensor, target: Tensor
) -> Tensor:
    """The ids (M,) int64 of the edges source[i] -> target[i], -1 where there is none."""
    if sorted_source.numel() == 0 or source.numel() == 0:
        return torch.full_like(source, -1)
    low, end = ptr.index_select(0, target), ptr.index_select(0, target + 1)
    high, last = end, sorted_source.numel() - 1
    # A binary search in every row at once.
    for _ in range(int((high - low).max()).bit_length()):
        middle = (low + high) // 2
        is_below = sorted_source.index_select(0, middle.clamp(max=last)) < source
        is_below &= low < high
        low, high = low.where(~is_below, middle + 1), high.where(is_below, middle)
    place = low.clamp(max=last)
    found = (low < end) & (sorted_source.index_select(0, place) == source)
    return order.index_select(0, place).long().where(found, -1)


def _accumulate(counts: Tensor, ptr: Tensor) -> Tensor:
    """`ptr` (n + 1,), which holds 0, with the sums of `counts` (n,) behind it."""
    torch.cumsum(counts, 0, out=ptr[1:])
    return ptr


def _candidates(
    level_ptr: Tensor, row_ptr: Tensor, edge_source: Tensor
) -> list[tuple[int, int, int, int]]:
    """(level, first edge, end, fan-in) of levels of one fan-in whose first and last rows agree."""
    fan_in = row_ptr.diff()
    top, end = level_ptr[:-1], level_ptr[1:]
    columns = fan_in[top.clamp(max=fan_in.numel() - 1)]
    of_level = torch.repeat_interleave(columns, end - top, output_size=fan_in.numel())
    differ = _accumulate((fan_in != of_level).long(), torch.zeros_like(row_ptr))
    maybe = (differ[end] == differ[top]) & (columns > 0) & (end > top)
    maybe[0] = False
    if edge_source.numel() == 0:
        return []
    first, last = row_ptr[top], row_ptr[end] - 1
    ends = first + columns - 1, last - columns + 1
    for one, other in ((first, ends[1]), (ends[0], last)):
        own, others = (
            edge_source[place.clamp(0, edge_source.numel() - 1)] for place in (one, other)
        )
        maybe &= own == others
    index = maybe.nonzero().flatten()
    facts = torch.stack([index, first[index], last[index] + 1, columns[index]], 1)
    return [(level, start, stop, width) for level, start, stop, width in facts.tolist()]
