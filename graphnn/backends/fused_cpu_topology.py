"""Compiled graph algorithms that only `fused_cpu` needs: which rows are alike, and used again.

numba is imported here, and this file where its functions are used.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def level_reach(level_ptr, row_ptr, source):
    """How far edges reach.

    Args:
        level_ptr: (L + 1,) offsets of the levels' positions.
        row_ptr: (N + 1,) offsets of the positions' edges.
        source: (E,) their source positions.

    Returns:
        (highest, lowest): the highest level that reads each level (L,), itself if none does; and
        the lowest that each level reads (L,), itself if it reads none.
    """
    num_levels = level_ptr.size - 1
    level_of = np.empty(level_ptr[num_levels], np.int32)
    highest, lowest = np.arange(num_levels), np.arange(num_levels)
    for level in range(num_levels):
        first, end = level_ptr[level], level_ptr[level + 1]
        level_of[first:end] = level
        for edge in range(row_ptr[first], row_ptr[end]):
            read = level_of[source[edge]]
            highest[read] = level
            lowest[level] = min(lowest[level], read)
    return highest, lowest


@njit(cache=True, nogil=True)
def row_hashes(row_ptr, source, block):
    """(N,) a number that is equal for rows of equal sources in one block, and for few others."""
    hashes = np.empty(row_ptr.size - 1, np.uint64)
    for row in range(row_ptr.size - 1):
        # Mixed first, or a block and a source would make up for each other.
        number = (np.uint64(block[row]) + np.uint64(1)) * np.uint64(0xBF58476D1CE4E5B9)
        for edge in range(row_ptr[row], row_ptr[row + 1]):
            number = (number ^ np.uint64(source[edge])) * np.uint64(0x9E3779B97F4A7C15)
            number ^= number >> np.uint64(29)
        hashes[row] = number
    return hashes


@njit(cache=True, nogil=True)
def rows_alike(row_ptr, source, order, block, size):
    """Groups of `size` rows that read the same sources.

    Args:
        row_ptr: (N + 1,) offsets of the rows' edges.
        source: (E,) their sources.
        order: The rows, those that may be alike side by side.
        block: (N,) what the rows of a group must share.
        size: Rows of a group.

    Returns:
        (count, size) rows of the groups, in the order given.
    """
    groups = np.empty((order.size // size + 1, size), order.dtype)
    count, known = 0, 0
    for i in range(order.size):
        row = order[i]
        begin, num_edges = row_ptr[row], row_ptr[row + 1] - row_ptr[row]
        first = groups[count, 0] if known > 0 else row
        other = row_ptr[first]
        is_alike = block[first] == block[row] and row_ptr[first + 1] - other == num_edges
        for k in range(num_edges if is_alike else 0):
            if source[begin + k] != source[other + k]:
                is_alike = False
                break
        groups[count, known if is_alike else 0] = row
        known = known + 1 if is_alike else 1
        if known == size:
            count, known = count + 1, 0
    return groups[:count].copy()


@njit(cache=True, nogil=True)
def reuse_rows(sizes, last_reader):
    """Places for blocks of rows that are written in order, where nothing still needed lies.

    Args:
        sizes: (R,) rows of each block.
        last_reader: (R,) the last block whose writing reads it; itself if none.

    Returns:
        (start, count): the blocks' first rows (R,), and one past the highest row in use at a time.
    """
    num_blocks = sizes.size
    start = np.zeros(num_blocks, np.int64)
    # The blocks in use, by place.
    used = np.empty(num_blocks, np.int64)
    num_used = 0
    count = 0
    for block in range(num_blocks):
        kept = 0
        for i in range(num_used):
            if last_reader[used[i]] >= block:
                used[kept] = used[i]
                kept += 1
        num_used = kept
        # The first gap that is large enough.
        place, at = 0, 0
        while at < num_used and start[used[at]] - place < sizes[block]:
            place = start[used[at]] + sizes[used[at]]
            at += 1
        start[block] = place
        for i in range(num_used, at, -1):
            used[i] = used[i - 1]
        used[at] = block
        num_used += 1
        count = max(count, place + sizes[block])
    return start, count
