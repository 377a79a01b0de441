"""Matrix products over levels that are nearly complete, in compiled code, with missing edges.

A level's (neurons, sources) matrix is kept as one bit a cell (`bits`). A panel of it at a time is
written out, zeros for the missing edges, and multiplied while it is in the cache; the gradient by
the matrix is kept of the edges only. Every sum runs in the order of the sources, as in
`fused_cpu_kernels`, so that the numbers are the same, bit for bit.

States are flat arrays of tiles: tile t has `width[t]` samples a row and begins at `start[t]`.
Imports numba: import it where it is used.
"""

# pyright: reportCallIssue=false
# numba hands an intrinsic its typing context itself, which pyright cannot know.

from __future__ import annotations

import numpy as np

from graphnn.backends.bits import compress, count_16, expand, lowest
from graphnn.backends.compiling import kernel
from graphnn.backends.lanes import TAGS, load, plus, splat, store, transpose_16
from graphnn.backends.rows import add_row, copy_row, multiply, spread

_SIXTEEN = TAGS[16]
# Cells of a word, and words of a panel: 384 columns are whole groups of six.
_WORD, _PANEL_WORDS = 64, 6
_PANEL_ROWS = 384
# Numbers of a panel's row: more than its columns, or all rows would share few places of a cache.
_STRIDE = _WORD * _PANEL_WORDS + 16
# Samples and words of sources whose values are transposed at a time, and neurons whose gradients
# they multiply: what is multiplied together fits the second-level cache.
_SAMPLES, _TURNED_WORDS, _SUM_ROWS = 256, 8, 48


@kernel
def mark(row_ptr, column, bits, start):
    """Sets the bits of a matrix's cells, and finds where each word's edges begin.

    Args:
        row_ptr: (n + 1,) offsets of the rows' edges.
        column: (E,) column of each edge, ascending in each row.
        bits: (n, words) zeros, written.
        start: (n, words) written.
    """
    one = np.int64(1)
    for row in range(bits.shape[0]):
        edge = row_ptr[row]
        for word in range(bits.shape[1]):
            start[row, word] = edge
            while edge < row_ptr[row + 1] and column[edge] < (word + 1) * _WORD:
                bits[row, word] |= one << (column[edge] - word * _WORD)
                edge += 1


@kernel
def _fill(bits, start, weight, top, rows, word, words, panel):
    """Writes a panel: `rows` rows from `top` on, `words` words from `word` on."""
    for row in range(rows):
        place = row * _STRIDE
        for i in range(word, word + words):
            cells, edge = bits[top + row, i], np.intp(start[top + row, i])
            for _ in range(4):
                expand(weight, edge, cells, panel, place)
                edge += count_16(cells)
                cells >>= 16
                place += 16


@kernel
def _is_consecutive(pool):
    """Whether each number exceeds the one before by 1."""
    consecutive = True
    for i in range(1, pool.size):
        consecutive &= pool[i] == pool[i - 1] + 1
    return consecutive


@kernel
def _is_finite(width, state, base, pool):
    """Whether a tile's rows `pool` are free of infinities and NaN; may say no if they are large."""
    if width < 16:
        total = state[base] * 0
        for i in range(pool.size):
            total += state[base + pool[i]]
        return np.isfinite(total)
    total = splat(_SIXTEEN, state.dtype.type(0))
    for i in range(pool.size):
        for lane in range(0, width, 16):
            total = plus(total, load(_SIXTEEN, state, base + pool[i] * width + lane))
    sums = np.empty(16, state.dtype)
    store(sums, 0, total)
    return np.isfinite(sums.sum())


@kernel
def _add_edges(bits, start, weight, pool, top, rows, word, words, width, state, neurons, base,
               is_to_source):  # fmt: skip
    """Multiplies a panel's edges one by one.

    0 * inf is NaN, but an edge that is not there has no product.

    Args:
        bits: As in `add_by_target`.
        start: As in `add_by_target`.
        weight: As in `add_by_target`.
        pool: As in `add_by_target`.
        top: First neuron of the panel.
        rows: Its neurons.
        word: First word of the panel.
        words: Its words.
        width: The tile's samples.
        state: Flat.
        neurons: Where the row of neuron `top` begins.
        base: Where the tile begins.
        is_to_source: Whether neurons are added to sources, instead of sources to neurons.
    """
    for row in range(rows):
        neuron = neurons + row * width
        for i in range(word, word + words):
            cells, edge = bits[top + row, i], start[top + row, i]
            while cells != 0:
                source = base + pool[i * _WORD + lowest(cells)] * width
                if is_to_source:
                    add_row(width, weight[edge], state, neuron, source)
                else:
                    add_row(width, weight[edge], state, source, neuron)
                cells &= cells - 1
                edge += 1


@kernel
def add_by_target(bits, start, weight, pool, row_bias, state, base, width, first, first_row,
                  end_row):  # fmt: skip
    """Writes bias + the sums over edges to the rows of a level's preactivations.

    Args:
        bits: (n, words) from `mark`.
        start: (n, words) from `mark`.
        weight: (E_l,) the level's weights, by (row, column).
        pool: (S,) rows of the sources' values.
        row_bias: (n,) the level's biases.
        state: Flat.
        base: (tiles,) where each tile begins.
        width: (tiles,) its samples.
        first: Row of the level's first preactivation.
        first_row: First neuron of the level to compute.
        end_row: One past the last.
    """
    # numba compiles a function anew for each literal number that it is called with.
    none, one, stride = np.intp(0), np.intp(1), np.intp(_STRIDE)
    panel = np.empty(_PANEL_ROWS * _STRIDE, weight.dtype)
    gathered = np.empty(_PANEL_WORDS * _WORD * 64, weight.dtype)
    size, consecutive = pool.size, _is_consecutive(pool)
    finite = np.empty(base.size, np.bool_)
    for tile in range(base.size):
        finite[tile] = _is_finite(width[tile], state, base[tile], pool)
    for top in range(first_row, end_row, _PANEL_ROWS):
        rows = min(_PANEL_ROWS, end_row - top)
        for tile in range(base.size):
            for row in range(top, top + rows):
                spread(width[tile], row_bias[row], state, base[tile] + (first + row) * width[tile])
        for word in range(0, bits.shape[1], _PANEL_WORDS):
            words = min(_PANEL_WORDS, bits.shape[1] - word)
            column = word * _WORD
            columns = min(words * _WORD, size - column)
            _fill(bits, start, weight, top, rows, word, words, panel)
            for tile in range(base.size):
                wide, here = width[tile], base[tile]
                place = here + (first + top) * wide
                if not finite[tile]:
                    _add_edges(bits, start, weight, pool, top, rows, word, words, wide, state,
                               place, here, False)  # fmt: skip
                else:
                    values, at = state, here + pool[column] * wide
                    if not consecutive:
                        values, at = gathered, none
                        for i in range(columns):
                            row = here + pool[column + i] * wide
                            copy_row(wide, state, row, gathered, i * wide)
                    multiply(wide, panel, none, stride, one, rows, columns, values, at, state,
                              place)  # fmt: skip


@kernel
def add_by_source(bits, start, weight, pool, gradient, base, width, first, first_word, end_word):
    """Adds the sums over edges to the gradients by the sources' values.

    Args:
        bits: As in `add_by_target`.
        start: As in `add_by_target`.
        weight: As in `add_by_target`.
        pool: (S,) rows of the sources' gradients.
        gradient: Flat; the level's own rows are by preactivation.
        base: (tiles,) where each tile begins.
        width: (tiles,) its samples.
        first: Row of the level's first gradient.
        first_word: First word of the sources to add to.
        end_word: One past the last.
    """
    # numba compiles a function anew for each literal number that it is called with.
    none, one, stride = np.intp(0), np.intp(1), np.intp(_STRIDE)
    panel = np.empty(_PANEL_ROWS * _STRIDE, weight.dtype)
    gathered = np.empty(_PANEL_WORDS * _WORD * 64, weight.dtype)
    size, neurons = pool.size, bits.shape[0]
    consecutive = _is_consecutive(pool)
    own = np.arange(first, first + neurons)
    finite = np.empty(base.size, np.bool_)
    for tile in range(base.size):
        finite[tile] = _is_finite(width[tile], gradient, base[tile], own)
    for word in range(first_word, end_word, _PANEL_WORDS):
        words = min(_PANEL_WORDS, end_word - word)
        column = word * _WORD
        columns = min(words * _WORD, size - column)
        for top in range(0, neurons, _PANEL_ROWS):
            rows = min(_PANEL_ROWS, neurons - top)
            _fill(bits, start, weight, top, rows, word, words, panel)
            for tile in range(base.size):
                wide, here = width[tile], base[tile]
                at = here + (first + top) * wide
                if not finite[tile]:
                    _add_edges(bits, start, weight, pool, top, rows, word, words, wide, gradient,
                               at, here, True)  # fmt: skip
                else:
                    sums, place = gradient, here + pool[column] * wide
                    if not consecutive:
                        sums, place = gathered, none
                        for i in range(columns):
                            row = here + pool[column + i] * wide
                            copy_row(wide, gradient, row, gathered, i * wide)
                    multiply(wide, panel, none, one, stride, columns, rows, gradient, at, sums,
                              place)  # fmt: skip
                    for i in range(0 if consecutive else columns):
                        row = here + pool[column + i] * wide
                        copy_row(wide, gathered, i * wide, gradient, row)


@kernel
def _turn(width, state, base, pool, column, columns, gathered, out, place):
    """out[place + sample * 64 + i] = the value of source `column` + i, for a tile's samples."""
    for i in range(columns):
        copy_row(width, state, base + pool[column + i] * width, gathered, i * width)
    if width < 16:
        for i in range(columns):
            out[place + i] = gathered[i]
    for lane in range(0, width - 15, 16):
        for i in range(0, columns, 16):
            at = i * width + lane
            transpose_16(gathered, at, width, out, place + lane * _WORD + i, _WORD)


@kernel
def write_by_edge(bits, start, pool, state, base, gradient, gradient_base, width, first, by_edge,
                  first_word, end_word):  # fmt: skip
    """Writes the gradients by weight: of each edge, the sum over samples of two numbers' product.

    Args:
        bits: As in `add_by_target`.
        start: As in `add_by_target`.
        pool: (S,) rows of the sources' values.
        state: Flat.
        base: (tiles,) where each tile of the state begins.
        gradient: Flat, by preactivation.
        gradient_base: (tiles,) where each tile of the gradient begins.
        width: (tiles,) its samples.
        first: Row of the level's first gradient.
        by_edge: (E_l,) by (row, column), written.
        first_word: First word of the sources whose edges to take.
        end_word: One past the last.
    """
    none, one, word_size = np.intp(0), np.intp(1), np.intp(_WORD)
    gathered = np.zeros(_WORD * 64, state.dtype)
    turned = np.zeros(_TURNED_WORDS * _SAMPLES * _WORD, state.dtype)
    sums = np.empty(_SUM_ROWS * _WORD, state.dtype)
    neurons, tiles = bits.shape[0], base.size
    for first_turned in range(first_word, end_word, _TURNED_WORDS):
        end_turned = min(first_turned + _TURNED_WORDS, end_word)
        end = 0
        while end < tiles or end == 0:
            begin, samples = end, 0
            while end < tiles and samples + width[end] <= _SAMPLES:
                for word in range(first_turned, end_turned):
                    column = word * _WORD
                    place = ((word - first_turned) * _SAMPLES + samples) * _WORD
                    _turn(width[end], state, base[end], pool, column,
                          min(_WORD, pool.size - column), gathered, turned, place)  # fmt: skip
                samples += width[end]
                end += 1
            for top in range(0, neurons, _SUM_ROWS):
                rows = min(_SUM_ROWS, neurons - top)
                for word in range(first_turned, end_turned):
                    sums[:] = 0
                    for row in range(rows if begin > 0 else 0):
                        cells, edge = bits[top + row, word], np.intp(start[top + row, word])
                        for i in range(4):
                            expand(by_edge, edge, cells, sums, row * _WORD + 16 * i)
                            edge += count_16(cells)
                            cells >>= 16
                    place = (word - first_turned) * _SAMPLES * _WORD
                    for tile in range(begin, end):
                        wide = width[tile]
                        at = gradient_base[tile] + (first + top) * wide
                        multiply(word_size, gradient, at, wide, one, rows, wide, turned, place,
                                  sums, none)  # fmt: skip
                        place += wide * _WORD
                    for row in range(rows):
                        cells, edge = bits[top + row, word], np.intp(start[top + row, word])
                        for i in range(4):
                            compress(sums, row * _WORD + 16 * i, cells, by_edge, edge)
                            edge += count_16(cells)
                            cells >>= 16
            if tiles == 0:
                break
