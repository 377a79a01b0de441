"""The Triton kernel that writes neuron-edge-neuron triplets on a GPU.

Imports triton: import it where it is used.
"""

# Triton compiles the functions below, whose arguments are tensors and constants of its own kind.
# pyright: reportOperatorIssue=false, reportArgumentType=false, reportIndexIssue=false
# pyright: reportCallIssue=false, reportAttributeAccessIssue=false, reportReturnType=false
# pyright: reportGeneralTypeIssues=false

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

# Numbers of a sample that a program writes, and samples, a multiple of four, that share one reading
# of ids and weights.
_COLS, _SAMPLES = 512, 16
_WARPS = 4


def write_triplets(
    values: Tensor, weight: Tensor, at_target: Tensor, ends: Tensor, edges: Tensor, out: Tensor
) -> None:
    """Writes the triplets of `edges` for every sample.

    Args:
        values: (B, N) values of all neurons, of any strides.
        weight: (E,) weights of all edges.
        at_target: (B, N) what the last place holds: values or preactivations.
        ends: (2, E) int64 sources and targets.
        edges: (M,) int64 ids of the edges to write.
        out: (B, M, 3) written: source value, weight, target value.
    """
    if out.numel() == 0:
        return
    batch, span = out.shape[0], 3 * edges.numel()
    grid = (triton.cdiv(span, _COLS) * triton.cdiv(batch, _SAMPLES),)
    constants: dict[str, Any] = {"COLS": _COLS, "SAMPLES": _SAMPLES}
    with torch.cuda.device_of(values):
        write_numbers[grid](
            values, at_target, weight.contiguous(), ends.contiguous(), edges.contiguous(), out,
            *values.stride(), *at_target.stride(), ends.shape[1], batch, span, num_warps=_WARPS,
            enable_fp_fusion=True, **constants,
        )  # fmt: skip


# Code of its own for sizes that sixteen divides would store sixteen bytes a thread, for which it
# would hand numbers from thread to thread; stores side by side are as good.
_CHANGING = ["num_edges", "batch", "span", "sample_stride", "sample_stride_at_target"]


@triton.jit(do_not_specialize=_CHANGING)
def write_numbers(
    values, at_target, weight, ends, edges, out, sample_stride, stride, sample_stride_at_target,
    stride_at_target, num_edges, batch, span, COLS: tl.constexpr, SAMPLES: tl.constexpr,
):  # fmt: skip
    """Writes a piece of the `span` = 3 M numbers of some samples, neighbours by neighbours.

    A number's place tells which of the three it is, so that a thread loads the one that it stores.
    Programs count up by pieces of a sample first: those that run at one time read the same samples,
    whose values fit the cache that all share.
    """
    program = tl.program_id(0)
    blocks = tl.cdiv(span, COLS)
    # Numbers are counted from a multiple of three, so that divisions are of 32 bits.
    first = (program % blocks).to(tl.int64) * COLS
    column = first + tl.arange(0, COLS)
    near = (first % 3).to(tl.int32) + tl.arange(0, COLS)
    part = near % 3
    is_number = column < span
    edge = tl.load(edges + (first // 3 + near // 3), mask=is_number, other=0)
    is_weight, is_target = part == 1, part == 2
    number = tl.load(weight + edge, mask=is_number & is_weight, other=0)
    is_value = is_number & (part != 1)
    row_of_ends = tl.where(is_target, num_edges, 0).to(tl.int64)
    neuron = tl.load(ends + (row_of_ends + edge), mask=is_value, other=0)
    state = tl.where(is_target, at_target + neuron * stride_at_target, values + neuron * stride)
    sample_step = tl.where(
        is_target, sample_stride_at_target.to(tl.int64), sample_stride.to(tl.int64)
    )
    # Samples lie apart, so that no product with their numbers is seen to be a multiple of four:
    # Triton would store four numbers a thread, for which threads would have to meet. And they come
    # one after the other: of a tile of samples x numbers, along neither of which anything is known
    # to lie side by side, some versions have neighbouring threads load from different samples.
    apart = tl.cdiv(batch, SAMPLES)
    for start in range(0, SAMPLES, 4):
        own = program // blocks + start * apart
        two, three, four = own + apart, own + 2 * apart, own + 3 * apart
        of_own = _gather(own, state, sample_step, number, is_value, column, span, batch)
        of_two = _gather(two, state, sample_step, number, is_value, column, span, batch)
        of_three = _gather(three, state, sample_step, number, is_value, column, span, batch)
        of_four = _gather(four, state, sample_step, number, is_value, column, span, batch)
        _store(own, of_own, out, column, span, batch)
        _store(two, of_two, out, column, span, batch)
        _store(three, of_three, out, column, span, batch)
        _store(four, of_four, out, column, span, batch)


@triton.jit
def _gather(sample, state, sample_step, number, is_value, column, span, batch):
    """A sample's numbers; weights, which are `number`, are the same in every sample."""
    exists = column < tl.where(sample < batch, span, 0)
    place = state + sample.to(tl.int64) * sample_step
    return tl.load(place, mask=is_value & exists, other=number)


@triton.jit
def _store(sample, numbers, out, column, span, batch):
    """Nobody reads them soon: the values are what the cache is for."""
    exists = column < tl.where(sample < batch, span, 0)
    tl.store(
        out + (sample.to(tl.int64) * span + column), numbers, mask=exists, cache_modifier=".cs"
    )
