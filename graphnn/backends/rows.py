"""Rows of a tile: copied, filled, and multiplied by small matrices in registers, in numba code.

A row holds 1, 16, 32 or 64 numbers, one a sample. numba is imported here and in the files that are
built on this one; all are imported where used.
"""

# pyright: reportCallIssue=false
# numba hands an intrinsic its typing context itself, which pyright cannot know.

from __future__ import annotations

from graphnn.backends.compiling import kernel
from graphnn.backends.lanes import BLOCK, TAGS, fma, load, splat, splat_at, store

_ONE, _SIXTEEN, _THIRTY_TWO, _SIXTY_FOUR = (TAGS[width] for width in (1, 16, 32, 64))


@kernel
def _one(tag, a, a0, a_step, count, x, x0, x_step, out, place):
    """The row out[place] += the sum over k of a[a0 + k * a_step] * row k of x."""
    sums = load(tag, out, place)
    for k in range(count):
        sums = fma(splat_at(tag, a, a0 + k * a_step), load(tag, x, x0 + k * x_step), sums)
    store(out, place, sums)


@kernel
def _six(tag, a, a0, a_row, a_step, count, x, x0, x_step, out, place, step):
    """Six rows at once, so that a row of x is read once for all of them; `a` has a row for each."""
    s0, s1 = load(tag, out, place), load(tag, out, place + step)
    s2, s3 = load(tag, out, place + 2 * step), load(tag, out, place + 3 * step)
    s4, s5 = load(tag, out, place + 4 * step), load(tag, out, place + 5 * step)
    for k in range(count):
        value, at = load(tag, x, x0 + k * x_step), a0 + k * a_step
        s0 = fma(splat_at(tag, a, at), value, s0)
        s1 = fma(splat_at(tag, a, at + a_row), value, s1)
        s2 = fma(splat_at(tag, a, at + 2 * a_row), value, s2)
        s3 = fma(splat_at(tag, a, at + 3 * a_row), value, s3)
        s4 = fma(splat_at(tag, a, at + 4 * a_row), value, s4)
        s5 = fma(splat_at(tag, a, at + 5 * a_row), value, s5)
    store(out, place, s0)
    store(out, place + step, s1)
    store(out, place + 2 * step, s2)
    store(out, place + 3 * step, s3)
    store(out, place + 4 * step, s4)
    store(out, place + 5 * step, s5)


@kernel
def multiply(width, a, a0, a_row, a_step, rows, count, x, x0, out, place):
    """Rows of `width` numbers: out[i] += the sum over k of a[i, k] * x[k].

    Args:
        width: Numbers of a row of x and out: 1, 16, 32 or 64.
        a: Holds a[i, k] at a0 + i * a_row + k * a_step.
        a0: See `a`.
        a_row: See `a`.
        a_step: See `a`.
        rows: Rows of out.
        count: Rows of x.
        x: Holds its rows from x0 on.
        x0: See `x`.
        out: Holds its rows from `place` on.
        place: See `out`.
    """
    block = min(width, max(16, BLOCK // a.itemsize))
    row = 0
    while row < rows:
        together = 6 if row + 6 <= rows else 1
        for lane in range(0, width, block):
            i, k, o = a0 + row * a_row, x0 + lane, place + row * width + lane
            if together == 6:
                if block == 64:
                    _six(_SIXTY_FOUR, a, i, a_row, a_step, count, x, k, width, out, o, width)
                elif block == 32:
                    _six(_THIRTY_TWO, a, i, a_row, a_step, count, x, k, width, out, o, width)
                elif block == 16:
                    _six(_SIXTEEN, a, i, a_row, a_step, count, x, k, width, out, o, width)
                else:
                    _six(_ONE, a, i, a_row, a_step, count, x, k, width, out, o, width)
            elif block == 64:
                _one(_SIXTY_FOUR, a, i, a_step, count, x, k, width, out, o)
            elif block == 32:
                _one(_THIRTY_TWO, a, i, a_step, count, x, k, width, out, o)
            elif block == 16:
                _one(_SIXTEEN, a, i, a_step, count, x, k, width, out, o)
            else:
                _one(_ONE, a, i, a_step, count, x, k, width, out, o)
        row += together


@kernel
def copy_row(width, source, at, out, place):
    """out[place ...] = source[at ...], a row of a tile."""
    if width < 16:
        out[place] = source[at]
    for lane in range(0, width - 15, 16):
        store(out, place + lane, load(_SIXTEEN, source, at + lane))


@kernel
def spread(width, number, out, place):
    """A row of a tile: out[place ...] = number."""
    if width < 16:
        out[place] = number
    for lane in range(0, width - 15, 16):
        store(out, place + lane, splat(_SIXTEEN, number))


@kernel
def add_row(width, weight, state, at, place):
    """The row `place` += weight * the row `at`."""
    if width < 16:
        sums = fma(splat(_ONE, weight), load(_ONE, state, at), load(_ONE, state, place))
        store(state, place, sums)
    for lane in range(0, width - 15, 16):
        sums = load(_SIXTEEN, state, place + lane)
        sums = fma(splat(_SIXTEEN, weight), load(_SIXTEEN, state, at + lane), sums)
        store(state, place + lane, sums)
