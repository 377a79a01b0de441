"""One sample through a chain of complete levels, forward and backward, in compiled code.

A matrix times one vector does as many operations as it has weights: what counts is to ask for the
weights early, and that between two products there is nothing but the next.

A layer is a row of `layers`: its neurons n, its sources s, its first edge, the place of its first
bias, where its preactivations and its values begin in `state` (at one place where the values may
overwrite), and its activation's code. Imports numba: import it where it is used.
"""

# pyright: reportCallIssue=false
# numba hands an intrinsic its typing context itself, which pyright cannot know.

from __future__ import annotations

from graphnn.backends.compiling import kernel
from graphnn.backends.elementwise import activate, multiply_by_slope
from graphnn.backends.lanes import (
    TAGS,
    at,
    block_of,
    fma,
    load,
    plus,
    prefetch,
    splat,
    store,
    times,
    total,
    width_of,
)

_WIDEST = TAGS[64]
_SIXTEEN = TAGS[16]
# Numbers of a matrix that are asked for before they are needed.
_AHEAD = 512


@kernel
def dot(matrix, first, vector, size):
    """The sum of matrix[first + i] * vector[i] for i in 0 ... size - 1."""
    block = block_of(_WIDEST, matrix)
    width, zero = width_of(block), matrix.dtype.type(0)
    even = odd = splat(block, zero)
    i = 0
    while i + 2 * width <= size:
        for line in range(i, i + 2 * width, 16):
            prefetch(matrix, first + line + _AHEAD)
        even = fma(load(block, matrix, first + i), load(block, vector, i), even)
        odd = fma(load(block, matrix, first + i + width), load(block, vector, i + width), odd)
        i += 2 * width
    rest = splat(_SIXTEEN, zero)
    while i + 16 <= size:
        rest = fma(load(_SIXTEEN, matrix, first + i), load(_SIXTEEN, vector, i), rest)
        i += 16
    found = total(plus(even, odd)) + total(rest)
    while i < size:
        found += at(matrix, first + i) * at(vector, i)
        i += 1
    return found


@kernel
def write_scaled(vector, factor, size, out, first):
    """out[first + i] = factor * vector[i] for i in 0 ... size - 1."""
    block = block_of(_WIDEST, out)
    wide, narrow = splat(block, factor), splat(_SIXTEEN, factor)
    i = 0
    while i + width_of(block) <= size:
        store(out, first + i, times(wide, load(block, vector, i)))
        i += width_of(block)
    while i + 16 <= size:
        store(out, first + i, times(narrow, load(_SIXTEEN, vector, i)))
        i += 16
    while i < size:
        out[first + i] = factor * at(vector, i)
        i += 1


@kernel
def add_four_rows(matrix, first, size, a, b, c, d, out):
    """out[i] += the four rows of a matrix from `first` on, times a ... d."""
    block = block_of(_WIDEST, out)
    by_a, by_b, by_c, by_d = splat(block, a), splat(block, b), splat(block, c), splat(block, d)
    i = 0
    while i + width_of(block) <= size:
        place = first + i
        for line in range(place + _AHEAD, place + _AHEAD + width_of(block), 16):
            prefetch(matrix, line)
            prefetch(matrix, line + size)
            prefetch(matrix, line + 2 * size)
            prefetch(matrix, line + 3 * size)
        sums = load(block, out, i)
        sums = fma(by_a, load(block, matrix, place), sums)
        sums = fma(by_b, load(block, matrix, place + size), sums)
        sums = fma(by_c, load(block, matrix, place + 2 * size), sums)
        sums = fma(by_d, load(block, matrix, place + 3 * size), sums)
        store(out, i, sums)
        i += width_of(block)
    while i < size:
        place = first + i
        low = a * at(matrix, place) + b * at(matrix, place + size)
        high = c * at(matrix, place + 2 * size) + d * at(matrix, place + 3 * size)
        out[i] += low + high
        i += 1


@kernel
def add_row(matrix, first, size, factor, out):
    """out[i] += factor * matrix[first + i] for i in 0 ... size - 1."""
    for i in range(size):
        out[i] += factor * at(matrix, first + i)


@kernel
def forward_sample(x, weight, bias, layers, parameter, state, out):
    """Computes values.

    Args:
        x: (1, n_in) inputs.
        weight: (E,) weights.
        bias: (K,) biases.
        layers: (L, 7); see above.
        parameter: (L, 2) activation parameters.
        state: Written.
        out: (1, n_out) the last layer's values, written.
    """
    values = x[0]
    for layer in range(len(layers)):
        n, s, edge, slot, pre, value, code = layers[layer]
        for i in range(n):
            state[pre + i] = dot(weight, edge + i * s, values, s) + at(bias, slot + i)
        activate(code, parameter[layer, 0], parameter[layer, 1], state, pre, value, n)
        values = state[value : value + n]
    out[0] = values


@kernel
def backward_sample(by_output, by_value, by_pre, weight, layers, parameter, state, by_bias,
                    by_input):  # fmt: skip
    """Takes gradients back to every layer's preactivations: those by its biases.

    Args:
        by_output: (1, n_out) gradients by output, or (0, n_out).
        by_value: (N,) gradients by value, the inputs' first, then layer by layer; or (0,).
        by_pre: (N,) gradients by preactivation, likewise.
        weight: As in `forward_sample`, as the others; read from the second layer on, and all of it
            where `by_input` is wanted.
        layers: As there.
        parameter: As there.
        state: From `forward_sample`.
        by_bias: (K,) written.
        by_input: (1, n_in) written, or (0, n_in) if not wanted.
    """
    last, end = len(layers) - 1, max(by_value.size, by_pre.size)
    for layer in range(last, -1, -1):
        n, s, edge, slot, pre, value, code = layers[layer]
        own = by_bias[slot : slot + n]
        if layer == last:
            own[:] = 0
            if len(by_output) > 0:
                own[:] = by_output[0]
        if by_value.size > 0:
            own += by_value[end - n : end]
        multiply_by_slope(
            code, parameter[layer, 0], parameter[layer, 1], state, pre, value, by_bias, slot, n
        )
        if by_pre.size > 0:
            own += by_pre[end - n : end]
        end -= n
        if layer > 0:
            below = layers[layer - 1, 3]
            by_source = by_bias[below : below + s]
        elif len(by_input) > 0:
            by_source = by_input[0]
        else:
            return
        by_source[:] = 0
        i = 0
        while i + 4 <= n:
            add_four_rows(
                weight, edge + i * s, s, own[i], own[i + 1], own[i + 2], own[i + 3], by_source
            )
            i += 4
        while i < n:
            add_row(weight, edge + i * s, s, own[i], by_source)
            i += 1
    # An input's value is its preactivation.
    if by_value.size > 0:
        by_input[0] += by_value[:end]
    if by_pre.size > 0:
        by_input[0] += by_pre[:end]


@kernel
def write_by_weight(x, layers, state, by_bias, by_weight):
    """by_weight[edge] = its target's gradient * its source's value.

    Args:
        x: As in `forward_sample`.
        layers: As there.
        state: From there.
        by_bias: From `backward_sample`.
        by_weight: (E,) written.
    """
    values = x[0]
    for layer in range(len(layers)):
        n, s, edge, slot, _, value, _ = layers[layer]
        for i in range(n):
            write_scaled(values, by_bias[slot + i], s, by_weight, edge + i * s)
        values = state[value : value + n]
