"""Compiled graph algorithms on flat integer arrays: sorting edges, levels, cycles, orders.

numba is imported here, and this file where its functions are used: `import graphnn` does not pay
for it.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def scan_edges(source, target):
    """What one pass over the edges tells.

    Args:
        source: (E,) source ids.
        target: (E,) target ids.

    Returns:
        (is_sorted, ascends, self_loop): whether the edges are strictly ascending by (target,
        source), whether every source id is below its target id, and the first edge whose source
        is its target, or -1.
    """
    is_sorted = True
    ascends = True
    self_loop = -1
    for edge in range(source.size):
        s, t = source[edge], target[edge]
        if s >= t:
            ascends = False
            if s == t and self_loop < 0:
                self_loop = edge
        if edge > 0:
            last = target[edge - 1]
            if t < last or (t == last and s <= source[edge - 1]):
                is_sorted = False
    return is_sorted, ascends, self_loop


@njit(cache=True, nogil=True)
def row_pointers(ids, num_rows):
    """Offsets (num_rows + 1,) of each id's run in the sorted order of `ids`."""
    ptr = np.zeros(num_rows + 1, np.int64)
    for i in range(ids.size):
        ptr[ids[i] + 1] += 1
    for row in range(num_rows):
        ptr[row + 1] += ptr[row]
    return ptr


@njit(cache=True, nogil=True)
def stable_order(ids, ptr, order):
    """Writes to `order` the stable permutation that sorts `ids`, given their `row_pointers`."""
    cursor = ptr[:-1].copy()
    for i in range(ids.size):
        row = ids[i]
        order[cursor[row]] = i
        cursor[row] += 1


@njit(cache=True, nogil=True)
def sort_by_target(source, target, source_ptr, target_ptr, order, sorted_source):
    """Sorts edges by (target, source), ties by id, in two counting passes.

    Args:
        source: (E,) source ids.
        target: (E,) target ids.
        source_ptr: (N + 1,) `row_pointers` of `source`.
        target_ptr: (N + 1,) `row_pointers` of `target`.
        order: (E,) written: the edge ids in sorted order.
        sorted_source: (E,) written: the source ids in sorted order.
    """
    by_source = np.empty_like(order)
    stable_order(source, source_ptr, by_source)
    cursor = target_ptr[:-1].copy()
    for s in range(source_ptr.size - 1):
        for i in range(source_ptr[s], source_ptr[s + 1]):
            edge = by_source[i]
            place = cursor[target[edge]]
            cursor[target[edge]] = place + 1
            order[place] = edge
            sorted_source[place] = s


@njit(cache=True, nogil=True)
def first_duplicate(ptr, sorted_source, order):
    """The duplicate pair whose later edge has the lowest id: (first, later), or (-1, -1)."""
    first, later = -1, -1
    for row in range(ptr.size - 1):
        for i in range(ptr[row] + 1, ptr[row + 1]):
            if sorted_source[i] == sorted_source[i - 1] and (later < 0 or order[i] < later):
                first, later = order[i - 1], order[i]
    return first, later


@njit(cache=True, nogil=True)
def ascending_levels(ptr, sorted_source, is_input):
    """Levels (N,) of a graph in which every source id is below its target id."""
    level = np.empty(ptr.size - 1, np.int64)
    for neuron in range(ptr.size - 1):
        highest = -1 if is_input[neuron] else 0
        for i in range(ptr[neuron], ptr[neuron + 1]):
            highest = max(highest, level[sorted_source[i]])
        level[neuron] = highest + 1
    return level


@njit(cache=True, nogil=True)
def levels_or_cycle(ptr, sorted_source, is_input):
    """Levels of any acyclic graph, or one cycle, by an iterative depth-first search.

    Args:
        ptr: (N + 1,) offsets of each neuron's incoming edges.
        sorted_source: (E,) sources, sorted by target.
        is_input: (N,) bool.

    Returns:
        (level, cycle): level (N,), and the places of one cycle's edges in the sorted order, each
        edge's source being the next one's target; empty if the graph has no cycle.
    """
    num_neurons = ptr.size - 1
    unseen, open_ = -2, -1
    level = np.full(num_neurons, unseen, np.int64)
    cursor = ptr[:-1].copy()
    stack = np.empty(num_neurons, np.int64)
    for root in range(num_neurons):
        if level[root] != unseen:
            continue
        depth = 0
        stack[0] = root
        level[root] = open_
        while depth >= 0:
            neuron = stack[depth]
            descended = False
            while cursor[neuron] < ptr[neuron + 1]:
                source = sorted_source[cursor[neuron]]
                cursor[neuron] += 1
                if level[source] == unseen:
                    level[source] = open_
                    depth += 1
                    stack[depth] = source
                    descended = True
                    break
                if level[source] == open_:
                    start = depth
                    while stack[start] != source:
                        start -= 1
                    cycle = np.empty(depth - start + 1, np.int64)
                    for i in range(start, depth + 1):
                        cycle[i - start] = cursor[stack[i]] - 1
                    return level, cycle
            if not descended:
                highest = -1 if is_input[neuron] else 0
                for i in range(ptr[neuron], ptr[neuron + 1]):
                    highest = max(highest, level[sorted_source[i]])
                level[neuron] = highest + 1
                depth -= 1
    return level, np.empty(0, np.int64)


@njit(cache=True, nogil=True)
def reorder_rows(ptr, sorted_source, order, neuron_order, position):
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
    row_ptr = np.empty(ptr.size, np.int64)
    edge_source = np.empty_like(sorted_source)
    edge_order = np.empty_like(order)
    place = 0
    for row in range(neuron_order.size):
        row_ptr[row] = place
        neuron = neuron_order[row]
        for i in range(ptr[neuron], ptr[neuron + 1]):
            edge_source[place] = position[sorted_source[i]]
            edge_order[place] = order[i]
            place += 1
    row_ptr[neuron_order.size] = place
    return row_ptr, edge_source, edge_order


@njit(cache=True, nogil=True)
def complete_levels(level_ptr, row_ptr, edge_source, edge_order):
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
    num_levels = level_ptr.size - 1
    width = np.zeros(num_levels, np.int64)
    first_edge = np.full(num_levels, -1, np.int64)
    for level in range(1, num_levels):
        top, end = level_ptr[level], level_ptr[level + 1]
        if top == end:
            continue
        start = row_ptr[top]
        columns = row_ptr[top + 1] - start
        complete = columns > 0
        for row in range(top, end):
            if not complete or row_ptr[row + 1] - row_ptr[row] != columns:
                complete = False
                break
            for column in range(columns):
                if edge_source[row_ptr[row] + column] != edge_source[start + column]:
                    complete = False
                    break
        if not complete:
            continue
        width[level] = columns
        consecutive = True
        for i in range(start, row_ptr[end]):
            if edge_order[i] != edge_order[start] + (i - start):
                consecutive = False
                break
        if consecutive:
            first_edge[level] = edge_order[start]
    return width, first_edge


@njit(cache=True, nogil=True)
def level_pools(level_ptr, row_ptr, edge_source):
    """The distinct sources of every level, and each edge's place among them.

    Args:
        level_ptr: (L + 1,) offsets of the levels' positions.
        row_ptr: (N + 1,) offsets of the rows' edges.
        edge_source: (E,) source positions.

    Returns:
        (pool_ptr, pool_source, edge_column): offsets (L + 1,), the levels' distinct source
        positions, ascending within a level, and for every edge (E,) its place in its level's pool.
    """
    num_levels = level_ptr.size - 1
    num_neurons = row_ptr.size - 1
    pool_ptr = np.zeros(num_levels + 1, np.int64)
    seen = np.full(num_neurons, -1, np.int64)
    for level in range(num_levels):
        count = 0
        for i in range(row_ptr[level_ptr[level]], row_ptr[level_ptr[level + 1]]):
            if seen[edge_source[i]] != level:
                seen[edge_source[i]] = level
                count += 1
        pool_ptr[level + 1] = pool_ptr[level] + count
    pool_source = np.empty(pool_ptr[num_levels], edge_source.dtype)
    edge_column = np.empty_like(edge_source)
    column = np.empty(num_neurons, np.int64)
    seen[:] = -1
    for level in range(num_levels):
        start, end = row_ptr[level_ptr[level]], row_ptr[level_ptr[level + 1]]
        count = pool_ptr[level]
        for i in range(start, end):
            if seen[edge_source[i]] != level:
                seen[edge_source[i]] = level
                pool_source[count] = edge_source[i]
                count += 1
        pool = pool_source[pool_ptr[level] : count]
        pool.sort()
        for i in range(pool.size):
            column[pool[i]] = i
        for i in range(start, end):
            edge_column[i] = column[edge_source[i]]
    return pool_ptr, pool_source, edge_column


@njit(cache=True, nogil=True)
def pool_sizes(level_ptr, row_ptr, edge_source):
    """(L,) number of distinct sources of every level; arguments as in `level_pools`."""
    sizes = np.zeros(level_ptr.size - 1, np.int64)
    seen = np.full(row_ptr.size - 1, -1, np.int64)
    for level in range(sizes.size):
        for i in range(row_ptr[level_ptr[level]], row_ptr[level_ptr[level + 1]]):
            if seen[edge_source[i]] != level:
                seen[edge_source[i]] = level
                sizes[level] += 1
    return sizes


@njit(cache=True, nogil=True)
def find_edges(ptr, sorted_source, order, source, target):
    """The ids (M,) of the edges source[i] -> target[i], -1 where there is none."""
    found = np.full(source.size, -1, np.int64)
    for i in range(source.size):
        low, high = ptr[target[i]], ptr[target[i] + 1]
        while low < high:
            middle = (low + high) // 2
            if sorted_source[middle] < source[i]:
                low = middle + 1
            else:
                high = middle
        if low < ptr[target[i] + 1] and sorted_source[low] == source[i]:
            found[i] = order[low]
    return found


@njit(cache=True, nogil=True)
def transpose_rows(row_ptr, edge_source, out_ptr, out_target, out_edge):
    """Sorts a plan's edges by source position, ties by target position.

    Args:
        row_ptr: (N + 1,) offsets of the positions' incoming edges.
        edge_source: (E,) source positions.
        out_ptr: (N + 1,) offsets of the positions' outgoing edges: `row_pointers(edge_source, N)`.
        out_target: (E,) written: target positions.
        out_edge: (E,) written: each edge's place in the plan's order.
    """
    cursor = out_ptr[:-1].copy()
    for row in range(row_ptr.size - 1):
        for edge in range(row_ptr[row], row_ptr[row + 1]):
            place = cursor[edge_source[edge]]
            cursor[edge_source[edge]] = place + 1
            out_target[place] = row
            out_edge[place] = edge
