"""Triton kernels over a plan: (neurons, samples) states, a tile of rows x samples at a time.

Every sum runs over a neuron's edges one after the other, whatever the tile, so that results depend
neither on the tile nor on the batch, and nothing is added by atomics. Imports triton: import it
where it is used.

What the kernels are given:

- `values`: (ring, stride), position p in row p % ring; backward (N, stride). `pres`: (N, stride)
  preactivations, where KEEPS_PRE. `shift`: (N, stride) offsets, where SHIFTED. `bias`: (N,).
- `source`, `weight`: (E,) the sources' rows, and weights, as in the plan; `row_ptr`: (N + 1,).
- `table`: (N,) places in `codes` and, two numbers each, in `parameters`: the activations.
- `gradient`: (N, span) by preactivation where a level is done; before that by value, where SEEDED.
  It holds a piece of the batch, to whose first sample `values` and `pres` then point. `by_pre`:
  (N, span) what arrives at preactivations, where PRE_SEEDED.
- `target`, `weight`: backward, (E,) target positions and weights by source; `out_ptr`: (N + 1,).
- `by_weight`: where DOTS, one row of `width` edges for each block of samples of a launch, to which
  it adds where blocks are `earlier`; column 0 is the edge `base`.
- `fours`: (4, `num_fours`) positions of neurons that read the same, as `fused_gpu_fours` has them.
- `first`, `end`: the positions, or fours, of a level. `level_ptr`: (L + 1,), of all. `batch`: the
  samples of the state, or of the piece. `stride`, `span`: the samples that a row has room for,
  multiples of COLS. INDEX: a type that holds places in a state.
"""

# Triton compiles the functions below, whose arguments are tensors and constants of its own kind.
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

import triton
import triton.language as tl

from graphnn.backends.fused_gpu_activations import activate, times_slope

# Numbers that change from level to level or from batch to batch: code made for their particular
# divisors would be compiled again and again.
_CHANGING = [
    "first", "end", "ring", "batch", "base", "width", "earlier", "first_block", "num_blocks",
    "num_levels", "num_fours",
]  # fmt: skip


@triton.jit
def _whole_blocks(room, COLS: tl.constexpr):
    """`room`, seen to be a multiple of COLS; of 8 too, a thread then loads 16 bytes at a time."""
    return room // COLS * COLS


@triton.jit
def _kinds(table, codes, parameters, rows, is_row):
    """(code, a, b) of the rows' activations, each (ROWS, 1)."""
    kind = tl.load(table + rows, mask=is_row, other=0)
    code = tl.load(codes + kind)[:, None]
    return (
        code,
        tl.load(parameters + 2 * kind)[:, None],
        tl.load(parameters + 2 * kind + 1)[:, None],
    )


@triton.jit
def _activate_rows(
    total, kinds, values, pres, shift, rows, is_row, cols, stride, ring, INDEX: tl.constexpr,
    USED: tl.constexpr, KEEPS_PRE: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """Writes what the preactivations of some rows become, after their offsets are added."""
    mask = is_row[:, None]
    place = (rows % ring).to(INDEX)[:, None] * stride + cols[None, :]
    if SHIFTED:
        at = rows.to(INDEX)[:, None] * stride + cols[None, :]
        total += tl.load(shift + at, mask=mask, other=0).to(total.dtype)
    if KEEPS_PRE:
        tl.store(pres + place, total.to(pres.dtype.element_ty), mask=mask)
    code, a, b = kinds
    value = activate(total, code, a, b, USED)
    tl.store(values + place, value.to(values.dtype.element_ty), mask=mask)


@triton.jit
def _weights(weights, k, has, ROWS: tl.constexpr, COLS: tl.constexpr, ACC: tl.constexpr):
    """(ROWS, COLS): the k-th weight of each row."""
    w = tl.load(weights + k, mask=has, other=0).to(ACC)
    return tl.broadcast_to(w[:, None], [ROWS, COLS])


@triton.jit
def _gathered(
    state, end, has, cols, room, COLS: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr
):
    """(ROWS, COLS): the numbers of the neurons `end`."""
    at = end.to(INDEX)[:, None] * room + cols[None, :]
    return tl.load(state + at, mask=has[:, None], other=0).to(ACC)


@triton.jit
def _add_four_edges(
    total, state, ends, weights, k, count, cols, room, ROWS: tl.constexpr, COLS: tl.constexpr,
    ACC: tl.constexpr, INDEX: tl.constexpr,
):  # fmt: skip
    """The sums with four more edges of each row, and the numbers at the edges' other ends.

    Beyond a row's `count` edges both weights and numbers are 0.
    """
    has0, has1, has2, has3 = k < count, k + 1 < count, k + 2 < count, k + 3 < count
    end0 = tl.load(ends + k, mask=has0, other=0)
    end1 = tl.load(ends + k + 1, mask=has1, other=0)
    end2 = tl.load(ends + k + 2, mask=has2, other=0)
    end3 = tl.load(ends + k + 3, mask=has3, other=0)
    v0 = _gathered(state, end0, has0, cols, room, COLS, ACC, INDEX)
    v1 = _gathered(state, end1, has1, cols, room, COLS, ACC, INDEX)
    v2 = _gathered(state, end2, has2, cols, room, COLS, ACC, INDEX)
    v3 = _gathered(state, end3, has3, cols, room, COLS, ACC, INDEX)
    w0 = _weights(weights, k, has0, ROWS, COLS, ACC)
    w1 = _weights(weights, k + 1, has1, ROWS, COLS, ACC)
    w2 = _weights(weights, k + 2, has2, ROWS, COLS, ACC)
    w3 = _weights(weights, k + 3, has3, ROWS, COLS, ACC)
    total = tl.fma(w3, v3, tl.fma(w2, v2, tl.fma(w1, v1, tl.fma(w0, v0, total))))
    return total, v0, v1, v2, v3


@triton.jit
def _run_rows(
    values, pres, source, weight, row_ptr, shift, bias, table, codes, parameters, rows, is_row,
    cols, stride, ring, COLS: tl.constexpr, ROWS: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr,
    USED: tl.constexpr, KEEPS_PRE: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """Computes some neurons of one level for some samples."""
    edge = tl.load(row_ptr + rows, mask=is_row, other=0)
    count = tl.load(row_ptr + rows + 1, mask=is_row, other=0) - edge
    # Needed at the end, but on their way meanwhile.
    own_bias = tl.load(bias + rows, mask=is_row, other=0)[:, None]
    kinds = _kinds(table, codes, parameters, rows, is_row)
    total = tl.zeros([ROWS, COLS], ACC)
    # Added first, so that the places of the edges that follow are constants away.
    sources, weights = source + edge, weight + edge
    for k in tl.range(0, tl.max(count, 0), 4):
        total, _, _, _, _ = _add_four_edges(
            total, values, sources, weights, k, count, cols, stride, ROWS, COLS, ACC, INDEX
        )
    _activate_rows(
        total + own_bias, kinds, values, pres, shift, rows, is_row, cols, stride, ring, INDEX,
        USED, KEEPS_PRE, SHIFTED,
    )  # fmt: skip


@triton.jit(do_not_specialize=_CHANGING)
def forward_level(
    values, pres, source, weight, row_ptr, shift, bias, table, codes, parameters, first, end,
    stride, ring, ROWS: tl.constexpr, COLS: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr,
    USED: tl.constexpr,
    KEEPS_PRE: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """Computes the neurons first ... end - 1, which are one level's, from lower levels' values.

    Programs count up by rows first: those that run at one time read the same samples, whose values
    fit the cache that all share.
    """
    stride = _whole_blocks(stride, COLS)
    program = tl.program_id(0)
    blocks = tl.cdiv(end - first, ROWS)
    rows = first + (program % blocks) * ROWS + tl.arange(0, ROWS)
    cols = (program // blocks) * COLS + tl.arange(0, COLS)
    _run_rows(
        values, pres, source, weight, row_ptr, shift, bias, table, codes, parameters, rows,
        rows < end, cols, stride, ring, COLS, ROWS, ACC, INDEX, USED, KEEPS_PRE, SHIFTED,
    )  # fmt: skip


@triton.jit
def _row_of_four(fours, row_ptr, place, num_fours, is_four, SLOT: tl.constexpr):
    """(position, first edge) of one of four neurons, for each four."""
    at = fours + place
    for _ in tl.static_range(SLOT):
        at += num_fours
    row = tl.load(at, mask=is_four, other=0)
    return row, tl.load(row_ptr + row, mask=is_four, other=0)


@triton.jit(do_not_specialize=_CHANGING)
def forward_fours(
    values, pres, source, weight, row_ptr, shift, bias, table, codes, parameters, fours, num_fours,
    first, end, stride, ring, ROWS: tl.constexpr, COLS: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr,
    USED: tl.constexpr, KEEPS_PRE: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """Computes a level whose neurons read the same as others do: a value is gathered for four.

    Each sum is added up as `forward_level` does it.
    """
    stride = _whole_blocks(stride, COLS)
    program = tl.program_id(0)
    blocks = tl.cdiv(end - first, ROWS)
    place = first + (program % blocks) * ROWS + tl.arange(0, ROWS)
    is_four = place < end
    cols = (program // blocks) * COLS + tl.arange(0, COLS)
    row0, edge0 = _row_of_four(fours, row_ptr, place, num_fours, is_four, 0)
    row1, edge1 = _row_of_four(fours, row_ptr, place, num_fours, is_four, 1)
    row2, edge2 = _row_of_four(fours, row_ptr, place, num_fours, is_four, 2)
    row3, edge3 = _row_of_four(fours, row_ptr, place, num_fours, is_four, 3)
    count = tl.load(row_ptr + row0 + 1, mask=is_four, other=0) - edge0
    sources = source + edge0
    weights0, weights1, weights2, weights3 = (
        weight + edge0, weight + edge1, weight + edge2, weight + edge3,
    )  # fmt: skip
    total0 = tl.zeros([ROWS, COLS], ACC)
    total1 = tl.zeros([ROWS, COLS], ACC)
    total2 = tl.zeros([ROWS, COLS], ACC)
    total3 = tl.zeros([ROWS, COLS], ACC)
    for k in tl.range(0, tl.max(count, 0), 4):
        for j in tl.static_range(4):
            has = k + j < count
            s = tl.load(sources + k + j, mask=has, other=0)
            v = _gathered(values, s, has, cols, stride, COLS, ACC, INDEX)
            total0 = tl.fma(_weights(weights0, k + j, has, ROWS, COLS, ACC), v, total0)
            total1 = tl.fma(_weights(weights1, k + j, has, ROWS, COLS, ACC), v, total1)
            total2 = tl.fma(_weights(weights2, k + j, has, ROWS, COLS, ACC), v, total2)
            total3 = tl.fma(_weights(weights3, k + j, has, ROWS, COLS, ACC), v, total3)
    rows, totals = (row0, row1, row2, row3), (total0, total1, total2, total3)
    for slot in tl.static_range(4):
        own_bias = tl.load(bias + rows[slot], mask=is_four, other=0)[:, None]
        kinds = _kinds(table, codes, parameters, rows[slot], is_four)
        _activate_rows(
            totals[slot] + own_bias, kinds, values, pres, shift, rows[slot], is_four, cols, stride,
            ring, INDEX, USED, KEEPS_PRE, SHIFTED,
        )  # fmt: skip


@triton.jit(do_not_specialize=_CHANGING)
def forward_walk(
    values, pres, source, weight, row_ptr, shift, bias, table, codes, parameters, level_ptr,
    num_levels, stride, ring, ROWS: tl.constexpr, COLS: tl.constexpr, ACC: tl.constexpr,
    INDEX: tl.constexpr,
    USED: tl.constexpr, KEEPS_PRE: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """Computes all levels: a program takes its samples through them, and reads no others'."""
    stride = _whole_blocks(stride, COLS)
    cols = tl.program_id(0) * COLS + tl.arange(0, COLS)
    for level in range(1, num_levels):
        first, end = tl.load(level_ptr + level), tl.load(level_ptr + level + 1)
        for top in range(first, end, ROWS):
            rows = top + tl.arange(0, ROWS)
            _run_rows(
                values, pres, source, weight, row_ptr, shift, bias, table, codes, parameters,
                rows, rows < end, cols, stride, ring, COLS, ROWS, ACC, INDEX, USED, KEEPS_PRE,
                SHIFTED,
            )  # fmt: skip
        # The next level reads what other threads of this program have written.
        tl.debug_barrier()


@triton.jit(do_not_specialize=_CHANGING)
def activate_level(
    values, pres, shift, bias, table, codes, parameters, first, end, stride, ring,
    ROWS: tl.constexpr, COLS: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr,
    USED: tl.constexpr,
    KEEPS_PRE: tl.constexpr, SHIFTED: tl.constexpr,
):  # fmt: skip
    """Finishes a level whose sums a matrix product has left in `values`."""
    stride = _whole_blocks(stride, COLS)
    program = tl.program_id(0)
    blocks = tl.cdiv(end - first, ROWS)
    rows = first + (program % blocks) * ROWS + tl.arange(0, ROWS)
    cols = (program // blocks) * COLS + tl.arange(0, COLS)
    is_row = rows < end
    at = (rows % ring).to(INDEX)[:, None] * stride + cols[None, :]
    total = tl.load(values + at, mask=is_row[:, None], other=0).to(ACC)
    total += tl.load(bias + rows, mask=is_row, other=0)[:, None]
    _activate_rows(
        total, _kinds(table, codes, parameters, rows, is_row), values, pres, shift, rows, is_row,
        cols, stride, ring, INDEX, USED, KEEPS_PRE, SHIFTED,
    )  # fmt: skip


@triton.jit
def _with_dot(dots, products, is_own):
    """The dot products with one more of each row, where the lane is its own."""
    return tl.where(is_own, tl.sum(products, 1)[:, None], dots)


@triton.jit
def _back_rows(
    gradient, by_pre, values, pres, target, weight, out_ptr, table, codes, parameters, by_weight,
    base, earlier, rows, is_row, cols, batch, stride, span, COLS: tl.constexpr, ROWS: tl.constexpr,
    ACC: tl.constexpr, INDEX: tl.constexpr, USED: tl.constexpr, KEEPS_PRE: tl.constexpr,
    SEEDED: tl.constexpr,
    PRE_SEEDED: tl.constexpr, DOTS: tl.constexpr,
):  # fmt: skip
    """Takes the gradient of some neurons for some samples from their targets'."""
    mask = is_row[:, None]
    at = rows.to(INDEX)[:, None] * stride + cols[None, :]
    own_place = rows.to(INDEX)[:, None] * span + cols[None, :]
    edge = tl.load(out_ptr + rows, mask=is_row, other=0)
    count = tl.load(out_ptr + rows + 1, mask=is_row, other=0) - edge
    longest = tl.max(count, 0)
    value = tl.load(values + at, mask=mask, other=0).to(ACC)
    total = tl.zeros([ROWS, COLS], ACC)
    if SEEDED:
        total = tl.load(gradient + own_place, mask=mask, other=0).to(ACC)
    # Dot products wait in a tile for COLS edges of each row, which then are written side by side:
    # threads that wrote every one of them would have to meet for it.
    lane = tl.arange(0, COLS)[None, :]
    again = tl.zeros([ROWS, COLS], tl.int32) + earlier > 0
    # Columns beyond the batch hold anything, NaN perhaps. What is added over samples, values here
    # and gradients below, is 0 there.
    is_sample = cols[None, :] < batch
    own_value = tl.where(is_sample, value, 0.0)
    targets, weights = target + edge, weight + edge
    for start in tl.range(0, longest, COLS):
        dots = tl.zeros([ROWS, COLS], ACC)
        # Four at a time: the threads' additions of a dot product hold up all loads that come later.
        for k in tl.range(start, tl.minimum(start + COLS, longest), 4):
            total, g0, g1, g2, g3 = _add_four_edges(
                total, gradient, targets, weights, k, count, cols, span, ROWS, COLS, ACC, INDEX
            )
            if DOTS:
                dots = _with_dot(dots, g0 * own_value, lane == k - start)
                dots = _with_dot(dots, g1 * own_value, lane == k + 1 - start)
                dots = _with_dot(dots, g2 * own_value, lane == k + 2 - start)
                dots = _with_dot(dots, g3 * own_value, lane == k + 3 - start)
        if DOTS:
            is_edge = start + lane < count[:, None]
            place = by_weight + (edge[:, None] + (start - base) + lane)
            dots += tl.load(place, mask=is_edge & again, other=0)
            tl.store(place, dots, mask=is_edge)
    pre = value
    if KEEPS_PRE:
        pre = tl.load(pres + at, mask=mask, other=0).to(ACC)
    code, a, b = _kinds(table, codes, parameters, rows, is_row)
    total = times_slope(total, pre, value, code, a, b, USED)
    if PRE_SEEDED:
        total += tl.load(by_pre + own_place, mask=mask, other=0).to(ACC)
    total = tl.where(is_sample, total, 0.0)
    tl.store(gradient + own_place, total.to(gradient.dtype.element_ty), mask=mask)


@triton.jit(do_not_specialize=_CHANGING)
def backward_level(
    gradient, by_pre, values, pres, target, weight, out_ptr, table, codes, parameters, by_weight,
    base, width, earlier, first_block, first, end, batch, stride, span, ROWS: tl.constexpr,
    COLS: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, USED: tl.constexpr,
    KEEPS_PRE: tl.constexpr, SEEDED: tl.constexpr,
    PRE_SEEDED: tl.constexpr, DOTS: tl.constexpr,
):  # fmt: skip
    """Gradients by the preactivations of one level, and by the weights of its outgoing edges."""
    stride, span = _whole_blocks(stride, COLS), _whole_blocks(span, COLS)
    program = tl.program_id(0)
    blocks = tl.cdiv(end - first, ROWS)
    rows = first + (program % blocks) * ROWS + tl.arange(0, ROWS)
    block = program // blocks
    cols = (first_block + block) * COLS + tl.arange(0, COLS)
    _back_rows(
        gradient, by_pre, values, pres, target, weight, out_ptr, table, codes, parameters,
        by_weight + block.to(tl.int64) * width, base, earlier, rows, rows < end, cols,
        batch, stride, span, COLS, ROWS, ACC, INDEX, USED, KEEPS_PRE, SEEDED, PRE_SEEDED, DOTS,
    )  # fmt: skip


@triton.jit(do_not_specialize=_CHANGING)
def backward_walk(
    gradient, by_pre, values, pres, target, weight, out_ptr, table, codes, parameters, by_weight,
    width, earlier, num_blocks, level_ptr, num_levels, batch, stride, span, ROWS: tl.constexpr,
    COLS: tl.constexpr, ACC: tl.constexpr, INDEX: tl.constexpr, USED: tl.constexpr,
    KEEPS_PRE: tl.constexpr,
    PRE_SEEDED: tl.constexpr, DOTS: tl.constexpr,
):  # fmt: skip
    """All levels downwards: a program takes block after block of samples through them."""
    stride, span = _whole_blocks(stride, COLS), _whole_blocks(span, COLS)
    program = tl.program_id(0)
    own = by_weight + program.to(tl.int64) * width
    for block in range(program, num_blocks, tl.num_programs(0)):
        cols = block * COLS + tl.arange(0, COLS)
        for step in range(num_levels):
            level = num_levels - 1 - step
            first, end = tl.load(level_ptr + level), tl.load(level_ptr + level + 1)
            for top in range(first, end, ROWS):
                rows = top + tl.arange(0, ROWS)
                _back_rows(
                    gradient, by_pre, values, pres, target, weight, out_ptr, table, codes,
                    parameters, own, 0, earlier + block - program, rows, rows < end, cols, batch,
                    stride, span, COLS, ROWS, ACC, INDEX, USED, KEEPS_PRE, True, PRE_SEEDED, DOTS,
                )  # fmt: skip
            # The next level reads what other threads of this program have written.
            tl.debug_barrier()
