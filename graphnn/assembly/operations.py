"""What a model's weighted operations do to neurons, in torch's arguments."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphnn.assembly.blocks import Assembly
from graphnn.assembly.neurons import Neurons
from graphnn.assembly.windows import BEYOND, adaptive, bordered, strided, windows
from graphnn.errors import ConversionError

Sizes = int | Sequence[int]


def spread(value: Sizes, count: int) -> tuple[int, ...]:
    """One size for each of `count` dimensions."""
    if isinstance(value, int):
        return (value,) * count
    given = tuple(value)
    return given * count if len(given) == 1 else given


def convolve(
    assembly: Assembly,
    x: Neurons,
    weight: Tensor,
    bias: Tensor | None,
    stride: Sizes = 1,
    padding: Sizes | str = 0,
    dilation: Sizes = 1,
    groups: int = 1,
    padding_mode: str = "zeros",
) -> Neurons:
    """A convolution over all dimensions after the channels.

    Args:
        assembly: Gets the neurons.
        x: A sample (i, *).
        weight: (o, i / groups, *kernel) entries.
        bias: (o,) entries, or None.
        stride: As torch has it, like all that follow.
        padding: A size, or "valid" or "same".
        dilation: From one element of the kernel to the next.
        groups: Blocks of channels that are apart.
        padding_mode: "zeros", "reflect", "replicate" or "circular".

    Raises:
        ConversionError: A sample has another number of dimensions or of channels.
    """
    ids, kernel = x.sample, tuple(weight.shape[2:])
    num_dims = len(kernel)
    _check_dims(ids, num_dims)
    if ids.shape[0] != weight.shape[1] * groups:
        raise ConversionError(
            f"takes {weight.shape[1] * groups} channels, but a sample has shape {tuple(ids.shape)}"
        )
    step = spread(dilation, num_dims)
    pads = _pads(padding, kernel, step)
    if padding_mode != "zeros":
        for dim, pad in enumerate(pads):
            ids = ids.index_select(dim + 1, bordered(ids.shape[dim + 1], pad, padding_mode))
        pads = ((0, 0),) * num_dims
    tables = [
        strided(*arguments)
        for arguments in zip(
            ids.shape[1:], kernel, spread(stride, num_dims), pads, step, strict=True
        )
    ]
    ids = assembly.distinct(ids)
    return assembly.convolution(ids, windows(ids, tables), weight, bias, groups)


def _check_dims(ids: Tensor, num_dims: int) -> None:
    if ids.dim() != num_dims + 1:
        raise ConversionError(
            f"takes samples (C, ...) of {num_dims + 1} dimensions after the batch, but a sample "
            f"has shape {tuple(ids.shape)}"
        )


def _pads(
    padding: Sizes | str, kernel: tuple[int, ...], dilation: tuple[int, ...]
) -> tuple[tuple[int, int], ...]:
    if padding == "same":
        totals = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    sizes = spread(0 if isinstance(padding, str) else padding, len(kernel))
    return tuple((size, size) for size in sizes)


def average_pool(
    assembly: Assembly,
    x: Neurons,
    num_dims: int,
    kernel_size: Sizes,
    stride: Sizes | None = None,
    padding: Sizes = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Neurons:
    """An average pooling over the `num_dims` dimensions after the channels, in torch's arguments.

    Raises:
        ConversionError: A sample has another number of dimensions.
    """
    ids = x.sample
    _check_dims(ids, num_dims)
    kernel = spread(kernel_size, num_dims)
    # Without a stride torch passes None, or an empty list.
    steps = spread(stride, num_dims) if stride else kernel
    tables = [
        strided(size, k, step, (pad, pad), 1, ceil_mode)
        for size, k, step, pad in zip(
            ids.shape[1:], kernel, steps, spread(padding, num_dims), strict=True
        )
    ]
    read = windows(assembly.distinct(ids), tables)
    counted = read > BEYOND if count_include_pad else read >= 0
    inner = tuple(range(1 + num_dims, read.dim()))
    count = counted.sum(inner, keepdim=True).double()
    if divisor_override is not None:
        count = torch.full_like(count, divisor_override)
    return assembly.mean(read, 1 + num_dims, count.reciprocal().expand(read.shape))


def adaptive_average_pool(
    assembly: Assembly, x: Neurons, num_dims: int, output_size: int | Sequence[int | None] | None
) -> Neurons:
    """An average pooling to `output_size` windows in each of the last `num_dims` dimensions.

    Raises:
        ConversionError: A sample has another number of dimensions.
    """
    ids = x.sample
    _check_dims(ids, num_dims)
    given = output_size if isinstance(output_size, Sequence) else (output_size,) * num_dims
    tables = [
        adaptive(size, size if count is None else count)
        for size, count in zip(ids.shape[1:], given, strict=True)
    ]
    read = windows(assembly.distinct(ids), tables)
    inner = tuple(range(1 + num_dims, read.dim()))
    count = (read >= 0).sum(inner, keepdim=True).double()
    return assembly.mean(read, 1 + num_dims, count.reciprocal().expand(read.shape))


def reduce(
    assembly: Assembly, x: Neurons, dim: Sizes | None, keepdim: bool, averages: bool
) -> Neurons:
    """The sum or the mean over dimensions other than the batch.

    Args:
        assembly: Gets the neurons.
        x: Batch-first.
        dim: As torch has it, the batch counted.
        keepdim: Whether the dimensions stay, with size 1.
        averages: Whether the mean is taken.

    Raises:
        ConversionError: The batch is among the dimensions.
    """
    num_dims = x.ids.dim()
    dims = range(num_dims) if dim is None else spread(dim, 1)
    places = sorted({d % num_dims for d in dims})
    if 0 in places:
        raise ConversionError(
            "must not reduce dimension 0, the batch: a network treats every sample alone. Name the "
            "other dimensions"
        )
    ids = assembly.distinct(x.sample)
    inner = [place - 1 for place in places]
    outer = [place for place in range(ids.dim()) if place not in inner]
    read = ids.permute(*outer, *inner)
    count = read.shape[len(outer) :].numel()
    weight = read.new_full(read.shape, 1 / count if averages else 1.0, dtype=torch.float64)
    reduced = assembly.mean(read, len(outer), weight)
    if not keepdim:
        return reduced
    shape = [1 if place in inner else size for place, size in enumerate(ids.shape)]
    return Neurons.of(reduced.sample.view(shape))
