"""The way back through a plan's levels, in compiled code; terms are those of `fused_cpu_kernels`.

A neuron's gradient is a sum over its outgoing edges. Either it is *pulled* from their targets, with
the sum in registers and the weights in the order of their sources. Or each neuron *pushes* its own
gradient to its sources, with the sums in memory and the weights as the forward pass reads them.
Pulling is faster, but has the weights sorted anew at every call, which several tiles must share.
Both are one kernel, because all else that they do is the same.

Imports numba: import it where it is used.
"""

# pyright: reportCallIssue=false
# numba hands an intrinsic its typing context itself, which pyright cannot know.

from __future__ import annotations

import numpy as np

from graphnn.backends.compiling import kernel
from graphnn.backends.elementwise import multiply_by_slope
from graphnn.backends.fused_cpu_kernels import (
    CHUNK,
    FOURS_AHEAD,
    LINE,
    add_four,
    add_rows,
    ask_for_four,
    counts_up,
    line_of,
    write_fours,
    write_rows,
)
from graphnn.backends.lanes import (
    add_products,
    at,
    fma,
    load,
    prefetch,
    splat,
    splat_at,
    store,
    total,
    width_of,
)

# Numbers of the state that are asked for at a time. More would push out what is in use.
_WINDOW = 1 << 14


@kernel
def ask(array, first, end):
    """Asks for array[first : end]."""
    for i in range(first, end, LINE // array.itemsize):
        prefetch(array, i)


@kernel
def add_columns(tag, numbers, first, order, position, shift, start, first_row, end_row, state,
                scratch):  # fmt: skip
    """Adds numbers[first + lane, order[k]] to row position[k] + shift, k from `start` on.

    `position` ascends. Returns the first k whose position is not below end_row.
    """
    k = start
    while k < position.size and position[k] < first_row:
        k += 1
    while k < position.size and position[k] < end_row:
        stop = min(k + 16, position.size)
        if counts_up(position, k, stop) and position[stop - 1] < end_row:
            add_rows(tag, numbers, first, order, shift + position[k] - k, k, stop, state,
                     scratch)  # fmt: skip
        else:
            stop = k + 1
            add_rows(tag, numbers, first, order, shift + position[k] - k, k, stop, state,
                     scratch)  # fmt: skip
        k = stop
    return k


@kernel
def clear_padding(width, used, first_row, end_row, state):
    """Writes zeros to the lanes from `used` on, in a tile's rows first_row ... end_row - 1."""
    for row in range(first_row, end_row if used < width else first_row):
        for lane in range(used, width):
            state[row * width + lane] = 0


@kernel
def pull_fours(tag, fours, out_ptr, target, weight, shift, gradient, side):
    """Pulls the gradients of all neurons of a run, in fours; `side` as for `run_fours`."""
    place, zero = line_of(side), gradient.dtype.type(0)
    for four in range(len(fours)):
        later = fours[min(four + FOURS_AHEAD, len(fours) - 1)]
        ask_for_four(later, out_ptr, target, weight)
        own = fours[four : four + 1]
        add_four(tag, own[0], zero, zero, zero, zero, out_ptr, target, weight, gradient, side,
                 place)  # fmt: skip
        write_fours(tag, own, shift, side, place, gradient)


@kernel
def backward_tiles(tag, by_output, output_order, output_position, output_ptr, by_value, by_pre,
                   neuron_order, input_column, run_ptr, code, parameter, pre_shift, is_product,
                   is_seeded, row_ptr, source, lowest, pushes, push_from, weight, out_ptr, target,
                   four_ptr, fours, shift, mask, states, gradients, by_weight, by_row, by_input,
                   by_offset, is_first, batch, first_sample, tiles, first_run, end_run, first_row,
                   end_row):  # fmt: skip
    """Takes gradients back, run by run from the last.

    Args:
        tag: The tiles' width W.
        by_output: (B, n_out) gradients by output, or (0, n_out).
        output_order: (n_out,) output columns in the order of their positions.
        output_position: (n_out,) those positions, ascending.
        output_ptr: (R,) where each run's outputs begin among them.
        by_value: (B, N) gradients by value, in neuron order, or (0, N).
        by_pre: (B, N) gradients by preactivation, or (0, N).
        neuron_order: (N,) neuron id at each position.
        input_column: (n_in,) the input column at each position of level 0.
        run_ptr: As in `forward_tiles`.
        code: As in `forward_tiles`.
        parameter: As in `forward_tiles`.
        pre_shift: As in `forward_tiles`; values are at their positions.
        is_product: (R,) whether the gradients by the run's edges are somebody else's work.
        is_seeded: (R,) whether `gradients` already holds something for the run's values.
        row_ptr: (N + 1,) offsets of the positions' incoming edges.
        source: (E,) their source positions.
        lowest: (R + 1,) where the lowest level begins that a run or a later one reads; N at last.
        pushes: Whether gradients are pushed. Then all runs and rows are one part.
        push_from: The first position whose gradient is pushed.
        weight: (E,) weights, in the order of `source` if pushed, else in that of `target`, where
            those of run 0 are not read unless it is wanted.
        out_ptr: (N + 1,) offsets of the positions' outgoing edges; read if pulled, as `target`.
        target: (E,) the rows of their targets' gradients.
        four_ptr: (R + 1,) offsets of the fours of runs that consist of fours.
        fours: (F, 4) positions that feed the same targets.
        shift: (R,) the row of a position's gradient is (position & mask) + shift.
        mask: A power of two less one: so many rows are used in turn.
        states: (tiles, rows * W) from `forward_tiles`, with zeros in padding lanes.
        gradients: (tiles or 1, rows * W) by preactivation, written. With one row, every tile uses
            it anew.
        by_weight: (E,) added to, or empty if not wanted.
        by_row: (N,) gradients by bias, added to, or empty with `by_weight`.
        by_input: (B, n_in) written, or (0, n_in).
        by_offset: (B, N) written, or (0, N).
        is_first: Whether the first tile overwrites `by_weight` and `by_row`.
        batch: B, the number of samples.
        first_sample: First sample of the first tile.
        tiles: Number of tiles.
        first_run: First run.
        end_run: One past the last run.
        first_row: First position.
        end_row: One past the last position.
    """
    width = width_of(tag)
    chunk = max(1, CHUNK // width)
    scratch = np.empty(256, gradients.dtype)
    zero = gradients.dtype.type(0)
    side = np.empty(CHUNK + LINE if len(fours) > 0 else 0, gradients.dtype)
    for tile in range(tiles):
        first = first_sample + tile * width
        is_fresh = is_first and tile == 0
        state, gradient = states[tile], gradients[tile % gradients.shape[0]]
        cleared = lowest[end_run]
        for run in range(end_run - 1, first_run - 1, -1):
            if run == 0 and by_input.shape[0] == 0 and by_offset.shape[0] == 0:
                continue
            begin, stop = max(run_ptr[run], first_row), min(run_ptr[run + 1], end_row)
            place = output_ptr[run]
            if (lowest[run + 1] - lowest[run]) * width <= _WINDOW:
                # From here on, these are read in an order that no cache foresees.
                ask(state, lowest[run] * width, lowest[run + 1] * width)
            if pushes:
                until = lowest[run] if begin >= push_from else min(begin, cleared)
                for row in range(until, cleared):
                    store(gradient, (row & mask) * width, splat(tag, zero))
                cleared = until
            own = slice(four_ptr[run], four_ptr[run + 1])
            # Not if threads share the run.
            in_fours = 0 < 4 * (own.stop - own.start) == stop - begin and not is_seeded[run]
            if in_fours:
                pull_fours(tag, fours[own], out_ptr, target, weight, shift[run], gradient, side)
            top = begin
            while top < stop:
                end = min(top + chunk, stop, (top | mask) + 1)
                up = (top & mask) - top + shift[run]
                for row in range(top, top if pushes or in_fours else end):
                    sums = splat(tag, zero)
                    if is_seeded[run]:
                        sums = load(tag, gradient, (row + up) * width)
                    for edge in range(out_ptr[row], out_ptr[row + 1]):
                        arriving = load(tag, gradient, at(target, edge) * width)
                        sums = fma(splat_at(tag, weight, edge), arriving, sums)
                    store(gradient, (row + up) * width, sums)
                if place < output_position.size and output_position[place] < end:
                    place = add_columns(tag, by_output, first, output_order, output_position, up,
                                        place, top, end, gradient, scratch)  # fmt: skip
                if len(by_value) > 0:
                    add_rows(tag, by_value, first, neuron_order, up, top, end, gradient, scratch)
                if run > 0:
                    multiply_by_slope(
                        code[run], parameter[run, 0], parameter[run, 1], state,
                        (top + pre_shift[run]) * width, top * width, gradient, (top + up) * width,
                        (end - top) * width,
                    )  # fmt: skip
                if len(by_pre) > 0:
                    add_rows(tag, by_pre, first, neuron_order, up, top, end, gradient, scratch)
                # An infinite weight or slope makes NaN of the zeros that are there.
                clear_padding(width, batch - first, top + up, end + up, gradient)
                if len(by_offset) > 0:
                    write_rows(tag, gradient, first, neuron_order, up, top, end, by_offset)
                if run == 0:
                    write_rows(tag, gradient, first, input_column, up, top, end, by_input)
                top = end
            # After the whole run: what its edges read should find the cache to itself.
            for row in range(begin, stop if run > 0 else begin):
                arriving = load(tag, gradient, ((row & mask) + shift[run]) * width)
                if by_row.size > 0:
                    by_row[row] = total(arriving) + (zero if is_fresh else by_row[row])
                    if not is_product[run]:
                        add_products(tag, arriving, state, source, row_ptr[row], row_ptr[row + 1],
                                     by_weight, is_fresh)  # fmt: skip
                if pushes and begin >= push_from:
                    for edge in range(row_ptr[row], row_ptr[row + 1]):
                        lane = (at(source, edge) & mask) * width
                        sums = load(tag, gradient, lane)
                        sums = fma(splat_at(tag, weight, edge), arriving, sums)
                        store(gradient, lane, sums)
