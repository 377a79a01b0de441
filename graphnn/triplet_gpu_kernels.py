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

# Numbers of a sample that a program writes; samples that it writes at a time, so that a thread has
# sixteen gathers under way; and samples that share one reading of ids and weights.
_COLS, _ROWS, _SAMPLES = 512, 4, 16
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
    constants: dict[str, Any] = {"COLS": _COLS, "ROWS": _ROWS, "SAMPLES": _SAMPLES}
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
    stride_at_target, num_edges, batch, span, COLS: tl.constexpr, ROWS: tl.constexpr,
    SAMPLES: tl.constexpr,
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
    top = (program // blocks) * SAMPLES
    for start in range(0, SAMPLES, ROWS):
        sample = (top + start + tl.arange(0, ROWS)).to(tl.int64)[:, None]
        is_sample = sample < batch
        # Weights are the same in every sample.
        found = tl.load(
            state[None, :] + sample * sample_step[None, :],
            mask=is_sample & is_value[None, :],
            other=tl.broadcast_to(number[None, :], [ROWS, COLS]),
        )
        # Nobody reads them soon: the values are what the cache is for.
        tl.store(
            out + (sample * span + column[None, :]), found, mask=is_sample & is_number[None, :],
            cache_modifier=".cs",
        )  # fmt: skip
