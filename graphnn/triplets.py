"""Triplets out of states and weights: compiled loops, a GPU's kernel or torch operations."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphnn.backends import fused_gpu, transforms

Write = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor], None]

# Below this many triplets a second thread costs more than it saves.
_TRIPLETS_PER_THREAD = 1 << 18
_ON_CPU = (torch.float32, torch.float64)
_ON_GPU = (*_ON_CPU, torch.float16, torch.bfloat16)


def triplets(
    values: Tensor, weight: Tensor, at_target: Tensor, edge_index: Tensor, edges: Tensor
) -> Tensor:
    """Source value, weight and target value of some edges, differentiably.

    Args:
        values: (B, N) values of all neurons.
        weight: (E,) weights of all edges.
        at_target: (B, N) what the last place holds: values or preactivations.
        edge_index: (2, E) int64 sources and targets.
        edges: (M,) int64 edge ids.

    Returns:
        (B, M, 3).
    """
    write = writer(values, weight, at_target)
    if write is not None:
        return _Written.apply(write, values, weight, at_target, edge_index, edges)
    source, target = edge_index[:, edges]
    at_edge = weight[edges].expand(values.shape[0], -1)
    return torch.stack([values[:, source], at_edge, at_target[:, target]], dim=-1)


def writer(values: Tensor, weight: Tensor, at_target: Tensor) -> Write | None:
    """What writes triplets of these numbers; None where only torch operations can."""
    if not transforms.is_plain(values, weight, at_target) or transforms.active():
        return None
    device, dtype = values.device, values.dtype
    if weight.dtype != dtype or at_target.dtype != dtype:
        return None
    if device.type == "cpu" and dtype in _ON_CPU:
        return write_on_cpu
    if device.type == "cuda" and dtype in _ON_GPU and not fused_gpu.no_kernels_on(device):
        return write_on_gpu
    return None


def write_on_cpu(
    values: Tensor, weight: Tensor, at_target: Tensor, ends: Tensor, edges: Tensor, out: Tensor
) -> None:
    """Fills `out` by compiled loops; arguments as in `triplet_gpu_kernels.write_triplets`."""
    from graphnn.triplet_kernels import write_triplets

    source, target = ends.numpy()
    arrays = (
        values.contiguous().numpy(), weight.contiguous().numpy(), at_target.contiguous().numpy(),
        source, target, edges.contiguous().numpy(), out.numpy(),
    )  # fmt: skip
    parts = max(1, min(torch.get_num_threads(), out.numel() // 3 // _TRIPLETS_PER_THREAD))
    cuts = np.linspace(0, edges.numel(), parts + 1).astype(int).tolist()
    if parts == 1:
        write_triplets(*arrays, 0, cuts[1])
        return
    with ThreadPoolExecutor(parts) as pool:
        list(pool.map(lambda a, b: write_triplets(*arrays, a, b), cuts[:-1], cuts[1:]))


def write_on_gpu(
    values: Tensor, weight: Tensor, at_target: Tensor, ends: Tensor, edges: Tensor, out: Tensor
) -> None:
    """Fills `out` by a kernel; arguments as in `triplet_gpu_kernels.write_triplets`."""
    from graphnn.triplet_gpu_kernels import write_triplets

    write_triplets(values, weight, at_target, ends, edges, out)


class _Written(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        write: Write,
        values: Tensor,
        weight: Tensor,
        at_target: Tensor,
        edge_index: Tensor,
        edges: Tensor,
    ) -> Tensor:
        ctx.save_for_backward(edge_index, edges)
        ctx.num_neurons, ctx.num_edges = values.shape[1], weight.shape[0]
        out = values.new_empty(values.shape[0], edges.numel(), 3)
        write(values, weight, at_target, edge_index, edges, out)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> Any:
        (gradient,) = gradients
        # Linear in the gradient and made of torch operations, so it can be differentiated again.
        edge_index, edges = ctx.saved_tensors
        source, target = edge_index[:, edges]
        by_source, by_weight, by_target = gradient.unbind(-1)
        neurons = gradient.new_zeros(ctx.num_neurons, gradient.shape[0])
        needs = ctx.needs_input_grad[1:]
        return (
            None,
            _added(neurons, source, by_source.t()).t() if needs[0] else None,
            _added(gradient.new_zeros(ctx.num_edges), edges, by_weight.sum(0))
            if needs[1]
            else None,
            _added(neurons, target, by_target.t()).t() if needs[2] else None,
            None,
            None,
        )


def _added(zeros: Tensor, rows: Tensor, numbers: Tensor) -> Tensor:
    """`zeros` with `numbers` added to its `rows`, the same bits every time."""
    if zeros.device.type == "cpu":
        return zeros.index_add(0, rows, numbers)
    # index_add adds with atomics there; index_put sorts.
    return zeros.index_put((rows,), numbers, accumulate=True)
