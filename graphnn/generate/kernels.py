"""Compiled sampling of distinct sources, row by row."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def draw_rows(width, kept_ptr, kept, ptr, cells, rng):
    """Fills every row with distinct cells: those that it keeps, and others drawn uniformly.

    Floyd's sampling: one draw for each cell, whatever the width.

    Args:
        width: (R,) number of cells that a row chooses from, 0 ... width - 1.
        kept_ptr: (R + 1,) offsets of the rows' kept cells.
        kept: Cells that rows hold in any case, ascending in a row.
        ptr: (R + 1,) offsets of the rows' cells in `cells`.
        cells: (ptr[-1],) written, ascending in a row.
        rng: numpy's Generator.

    Source: J. Bentley, B. Floyd, "Programming pearls: a sample of brilliance", CACM 30(9), 1987.
    """
    num_rows = width.size
    widest, longest = 0, 0
    for row in range(num_rows):
        widest = max(widest, width[row])
        longest = max(longest, ptr[row + 1] - ptr[row])
    last_row = np.full(widest, -1, np.int64)
    ranks = np.empty(longest, np.int64)
    for row in range(num_rows):
        num_free = width[row] - (kept_ptr[row + 1] - kept_ptr[row])
        num_drawn = ptr[row + 1] - ptr[row] - (kept_ptr[row + 1] - kept_ptr[row])
        # Ranks among the cells that are not kept.
        for i in range(num_drawn):
            highest = num_free - num_drawn + i
            rank = rng.integers(0, highest + 1)
            if last_row[rank] == row:
                rank = highest
            last_row[rank] = row
            ranks[i] = rank
        own = ranks[:num_drawn]
        own.sort()
        place, next_kept, passed = ptr[row], kept_ptr[row], 0
        for i in range(num_drawn):
            while next_kept < kept_ptr[row + 1] and kept[next_kept] <= own[i] + passed:
                cells[place] = kept[next_kept]
                place, next_kept, passed = place + 1, next_kept + 1, passed + 1
            cells[place] = own[i] + passed
            place += 1
        while next_kept < kept_ptr[row + 1]:
            cells[place] = kept[next_kept]
            place, next_kept = place + 1, next_kept + 1


@njit(cache=True, nogil=True)
def draw_preferential(num_inputs, num_hidden, ptr, source, rng):
    """Fills every computed neuron's row with distinct sources, well-read ones more likely.

    Args:
        num_inputs: Neurons 0 ... num_inputs - 1.
        num_hidden: The neurons after them; outputs follow, which nobody reads.
        ptr: (R + 1,) offsets of the computed neurons' edges.
        source: (ptr[-1],) written, ascending in a row.
        rng: numpy's Generator.
    """
    num_sources = num_inputs + num_hidden
    # A neuron stands here once, and once more for each neuron that reads it.
    ballots = np.empty(num_sources + source.size, np.int64)
    for neuron in range(num_inputs):
        ballots[neuron] = neuron
    num_ballots = num_inputs
    reader = np.full(num_sources, -1, np.int64)
    for row in range(ptr.size - 1):
        neuron = num_inputs + row
        start, end = ptr[row], ptr[row + 1]
        if end - start == min(neuron, num_sources):
            for i in range(start, end):
                source[i] = i - start
        else:
            for i in range(start, end):
                drawn = ballots[rng.integers(0, num_ballots)]
                while reader[drawn] == row:
                    drawn = ballots[rng.integers(0, num_ballots)]
                reader[drawn] = row
                source[i] = drawn
            source[start:end].sort()
        for i in range(start, end):
            ballots[num_ballots] = source[i]
            num_ballots += 1
        if neuron < num_sources:
            ballots[num_ballots] = neuron
            num_ballots += 1
