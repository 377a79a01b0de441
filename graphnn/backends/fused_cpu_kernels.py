"""A plan's levels over tiles of samples, forward, in compiled code.

A tile holds W samples of every row: row r of a tile is the W numbers from r * W on. Samples are
independent, so a tile walks through all levels without waiting for another. Padding lanes repeat
the tile's first sample, so that they hold nothing that a real sample does not; where samples are
summed, their values and gradients are zeros. A tile's width is a value of `lanes.TAGS`.

Neurons are computed in *runs*: consecutive positions of one level with one activation; run 0 is
level 0. A run's values are in the rows `position + value_shift[run]`, its preactivations in
`position + pre_shift[run]`; where both shifts are equal, the values overwrite them.

The kernels take part of the work: tiles, runs first_run ... end_run - 1, and of those the positions
first_row ... end_row - 1. Imports numba: import it where it is used.
"""

# pyright: reportCallIssue=false
# numba hands an intrinsic its typing context itself, which pyright cannot know.

from __future__ import annotations

import numpy as np

from graphnn.backends.compiling import kernel
from graphnn.backends.elementwise import CODES, activate
from graphnn.backends.lanes import (
    TAGS,
    at,
    block_of,
    fma,
    load,
    plus,
    prefetch,
    ramp,
    splat,
    splat_at,
    store,
    transpose_16,
    width_of,
)

# Numbers that an activation's loop takes at a time: they are still in the first-level cache.
CHUNK = 2048
# Numbers that are asked for before they are needed: as many as the second-level cache can wait for.
_AHEAD = 128
# Fours that are asked for before they are computed.
FOURS_AHEAD = 3
_SIXTEEN = TAGS[16]
RELU = CODES["relu"]
# Bytes of a cache line.
LINE = 64


@kernel
def gather(numbers, ids, out, first, end):
    """out[i] = numbers[ids[i]] for i in first ... end - 1."""
    for i in range(first, end):
        prefetch(numbers, at(ids, min(i + _AHEAD, end - 1)))
        out[i] = at(numbers, at(ids, i))


@kernel
def gather_present(numbers, ids, out, first, end):
    """out[i] = numbers[ids[i]] for i in first ... end - 1 where ids[i] is not negative."""
    for i in range(first, end):
        prefetch(numbers, at(ids, min(i + _AHEAD, end - 1)))
        if at(ids, i) >= 0:
            out[i] = at(numbers, at(ids, i))


@kernel
def add_shares(others, sums, first, end):
    """sums[i] += the sum over others[:, i], in their order, for i in first ... end - 1."""
    for share in range(others.shape[0]):
        for i in range(first, end):
            sums[i] += others[share, i]


@kernel
def scatter(ids, numbers, out, first, end):
    """out[ids[i]] = numbers[i] for i in first ... end - 1."""
    for i in range(first, end):
        out[ids[i]] = numbers[i]


@kernel
def counts_up(ids, start, stop):
    """Whether ids[start : stop] are sixteen that each exceed the one before by 1."""
    if stop - start != 16:
        return False
    distance = 0
    for i in range(16):
        distance += abs(ids[start + i] - ids[start] - i)
    return distance == 0


@kernel
def read_inputs(tag, x, first, column, shift, first_row, end_row, state):
    """Puts the inputs of samples first ... into a tile's level 0.

    Args:
        tag: The tile's width.
        x: (B, n_in) inputs.
        first: The tile's first sample.
        column: (n_in,) the input column at each position.
        shift: From a position to the row of its value.
        first_row: First position.
        end_row: One past the last.
        state: The tile.
    """
    width = width_of(tag)
    batch, flat = x.shape[0], x.reshape(x.size)
    for start in range(first_row, end_row, 16):
        stop = min(start + 16, end_row)
        is_block = counts_up(column, start, stop)
        for lane in range(0, width, 16):
            place = (start + shift) * width + lane
            if is_block and width >= 16 and first + lane + 16 <= batch:
                begin = (first + lane) * column.size + column[start]
                transpose_16(flat, begin, column.size, state, place, width)
            else:
                for i in range(min(16, width)):
                    sample = first + lane + i
                    sample = sample if sample < batch else first
                    for row in range(start, stop):
                        state[place + (row - start) * width + i] = x[sample, column[row]]


@kernel
def write_rows(tag, state, first, column, shift, first_row, end_row, out):
    """out[first + lane, column[position]] = row position + shift, for positions first_row ..."""
    width, wide = width_of(tag), out.shape[1]
    batch, flat = out.shape[0], out.reshape(out.size)
    if batch == 0:
        return
    for start in range(first_row, end_row, 16):
        stop = min(start + 16, end_row)
        is_block = counts_up(column, start, stop)
        for lane in range(0, width, 16):
            place = (start + shift) * width + lane
            if is_block and width >= 16 and first + lane + 16 <= batch:
                begin = (first + lane) * wide + column[start]
                transpose_16(state, place, width, flat, begin, wide)
            else:
                for i in range(min(16, width, batch - first - lane)):
                    for row in range(start, stop):
                        number = state[place + (row - start) * width + i]
                        out[first + lane + i, column[row]] = number


@kernel
def write_columns(tag, state, first, row, out):
    """out[first + lane, column] = the tile's number at row[column], for the real samples."""
    width, wide = width_of(tag), row.size
    batch, flat = out.shape[0], out.reshape(out.size)
    if batch == 0:
        return
    for start in range(0, wide, 16):
        stop = min(start + 16, wide)
        is_block = counts_up(row, start, stop)
        for lane in range(0, width, 16):
            if is_block and width >= 16 and first + lane + 16 <= batch:
                begin = (first + lane) * wide + start
                transpose_16(state, row[start] * width + lane, width, flat, begin, wide)
            else:
                for i in range(min(16, width, batch - first - lane)):
                    for column in range(start, stop):
                        out[first + lane + i, column] = state[row[column] * width + lane + i]


@kernel
def add_rows(tag, numbers, first, column, shift, first_row, end_row, state, scratch):
    """Adds numbers[first + lane, column[position]] to row position + shift.

    `scratch` has room for 256 numbers.
    """
    width, wide = width_of(tag), numbers.shape[1]
    batch, flat = numbers.shape[0], numbers.reshape(numbers.size)
    if batch == 0:
        return
    for start in range(first_row, end_row, 16):
        stop = min(start + 16, end_row)
        is_block = counts_up(column, start, stop)
        for lane in range(0, width, 16):
            place = (start + shift) * width + lane
            if is_block and width >= 16 and first + lane + 16 <= batch:
                begin = (first + lane) * wide + column[start]
                transpose_16(flat, begin, wide, scratch, 0, 16)
                for row in range(16):
                    target = place + row * width
                    sums = plus(load(_SIXTEEN, state, target), load(_SIXTEEN, scratch, row * 16))
                    store(state, target, sums)
            else:
                for i in range(min(16, width, batch - first - lane)):
                    for row in range(start, stop):
                        number = numbers[first + lane + i, column[row]]
                        state[place + (row - start) * width + i] += number


@kernel
def add_four(tag, rows, b0, b1, b2, b3, row_ptr, source, weight, state, out, place):
    """Writes b0 ... b3 + the sums over edges of four rows that read the same sources.

    A source's values are read once for all four. They go to out[place] and what follows, side by
    side.
    """
    width, block = width_of(tag), block_of(tag, state)
    a, b, c, d = rows[0], rows[1], rows[2], rows[3]
    first = row_ptr[a]
    to_b, to_c, to_d = row_ptr[b] - first, row_ptr[c] - first, row_ptr[d] - first
    for lane in range(0, width, width_of(block)):
        s0, s1, s2, s3 = splat(block, b0), splat(block, b1), splat(block, b2), splat(block, b3)
        for edge in range(first, row_ptr[a + 1]):
            value = load(block, state, at(source, edge) * width + lane)
            s0 = fma(splat_at(block, weight, edge), value, s0)
            s1 = fma(splat_at(block, weight, edge + to_b), value, s1)
            s2 = fma(splat_at(block, weight, edge + to_c), value, s2)
            s3 = fma(splat_at(block, weight, edge + to_d), value, s3)
        store(out, place + lane, s0)
        store(out, place + width + lane, s1)
        store(out, place + 2 * width + lane, s2)
        store(out, place + 3 * width + lane, s3)


@kernel
def ask_for_four(rows, row_ptr, source, weight):
    """Asks for what a four reads first: its rows may be far from those before."""
    for i in range(4):
        prefetch(weight, row_ptr[rows[i]])
        prefetch(weight, row_ptr[rows[i]] + 16)
    prefetch(source, row_ptr[rows[0]])
    prefetch(source, row_ptr[rows[0]] + 16)


@kernel
def line_of(array):
    """The first place of an array that begins a cache line."""
    return -array.ctypes.data % LINE // array.itemsize


@kernel
def write_fours(tag, fours, shift, numbers, begin, state):
    """Puts rows that lie side by side from numbers[begin] on where the fours' rows are."""
    width = width_of(tag)
    for four in range(len(fours)):
        for i in range(4):
            place = begin + (4 * four + i) * width
            store(state, (fours[four, i] + shift) * width, load(tag, numbers, place))


@kernel
def run_fours(tag, fours, row_ptr, source, weight, row_bias, code, parameter, pre_shift,
              value_shift, state, side):  # fmt: skip
    """Computes all neurons of a run, in fours; `side` is memory for CHUNK numbers and a line."""
    width = width_of(tag)
    begin = line_of(side)
    together = max(1, CHUNK // (4 * width))
    for first in range(0, len(fours), together):
        own = fours[first : first + together]
        for i in range(len(own)):
            place = begin + i * 4 * width
            later = fours[min(first + i + FOURS_AHEAD, len(fours) - 1)]
            ask_for_four(later, row_ptr, source, weight)
            b0, b1 = row_bias[own[i, 0]], row_bias[own[i, 1]]
            b2, b3 = row_bias[own[i, 2]], row_bias[own[i, 3]]
            add_four(tag, own[i], b0, b1, b2, b3, row_ptr, source, weight, state, side, place)
        if pre_shift != value_shift:
            write_fours(tag, own, pre_shift, side, begin, state)
        size = len(own) * 4 * width
        activate(code, parameter[0], parameter[1], side, begin, begin, size)
        write_fours(tag, own, value_shift, side, begin, state)


@kernel
def forward_tiles(tag, x, input_column, output_row, run_ptr, code, parameter, value_shift,
                  pre_shift, is_product, row_ptr, source, weight, row_bias, four_ptr, fours,
                  offset, neuron_order, states, out, values, pres, first_sample, tiles, first_run,
                  end_run, first_row, end_row):  # fmt: skip
    """Computes values.

    Args:
        tag: The tiles' width W.
        x: (B, n_in) inputs.
        input_column: (n_in,) the input column at each position of level 0.
        output_row: (n_out,) row of each output's value.
        run_ptr: (R + 1,) offsets of the runs' positions.
        code: (R,) activation codes.
        parameter: (R, 2) activation parameters.
        value_shift: (R,) from a position to the row of its value.
        pre_shift: (R,) from a position to the row of its preactivation.
        is_product: (R,) whether the biases and sums over edges are already in their rows.
        row_ptr: (N + 1,) offsets of the positions' edges.
        source: (E,) the rows of the sources' values.
        weight: (E,) weights.
        row_bias: (N,) bias of each position, 0 where it has none.
        four_ptr: (R + 1,) offsets of the fours of runs that consist of fours.
        fours: (F, 4) positions that read the same sources.
        offset: (B, N) added to the preactivations, in neuron order; (0, N) for none.
        neuron_order: (N,) neuron id at each position.
        states: (tiles or 1, rows * W) read and written. With one row, every tile uses it anew.
        out: (B, n_out) outputs, written if end_run is R; or (0, n_out).
        values: (B, N) values, in neuron order, written; or (0, N).
        pres: (B, N) preactivations, likewise.
        first_sample: First sample of the first tile.
        tiles: Number of tiles.
        first_run: First run; 0 reads the inputs.
        end_run: One past the last run.
        first_row: First position.
        end_row: One past the last position.
    """
    width = width_of(tag)
    chunk = max(1, CHUNK // width)
    scratch = np.empty(256, states.dtype)
    # A call that does nothing costs a small level as much as its edges.
    moves, tells = len(offset) > 0, len(pres) > 0 or len(values) > 0
    in_fours = len(fours) > 0 and not moves and not tells
    side = np.empty(CHUNK + LINE if in_fours else 0, states.dtype)
    for tile in range(tiles):
        first = first_sample + tile * width
        state = states[tile % states.shape[0]]
        for run in range(first_run, end_run):
            up, pre_up = value_shift[run], pre_shift[run]
            stop = min(run_ptr[run + 1], end_row)
            own = fours[four_ptr[run] : four_ptr[run + 1]]
            # Not if threads share the run, or more is done to its rows one after the other.
            if run > 0 and 4 * len(own) == stop - max(run_ptr[run], first_row) and in_fours:
                run_fours(tag, own, row_ptr, source, weight, row_bias, code[run], parameter[run],
                          pre_up, up, state, side)  # fmt: skip
                continue
            # In the registers; by `activate` it would be a further walk over the rows.
            is_ramp = code[run] == RELU and not (moves or tells or is_product[run])
            for top in range(max(run_ptr[run], first_row), stop, chunk):
                end = min(top + chunk, stop)
                if run == 0:
                    read_inputs(tag, x, first, input_column, up, top, end, state)
                    if moves:
                        add_rows(tag, offset, first, neuron_order, up, top, end, state, scratch)
                    if tells:
                        write_rows(tag, state, first, neuron_order, up, top, end, pres)
                        write_rows(tag, state, first, neuron_order, up, top, end, values)
                    continue
                for row in range(top, top if is_product[run] else end):
                    sums = splat(tag, row_bias[row])
                    for edge in range(row_ptr[row], row_ptr[row + 1]):
                        value = load(tag, state, at(source, edge) * width)
                        sums = fma(splat_at(tag, weight, edge), value, sums)
                    if is_ramp:
                        sums = ramp(sums)
                    store(state, (row + pre_up) * width, sums)
                if is_ramp:
                    continue
                if moves:
                    add_rows(tag, offset, first, neuron_order, pre_up, top, end, state, scratch)
                if tells:
                    write_rows(tag, state, first, neuron_order, pre_up, top, end, pres)
                activate(
                    code[run], parameter[run, 0], parameter[run, 1], state, (top + pre_up) * width,
                    (top + up) * width, (end - top) * width,
                )  # fmt: skip
                if tells:
                    write_rows(tag, state, first, neuron_order, up, top, end, values)
        if end_run == code.size:
            write_columns(tag, state, first, output_row, out)
