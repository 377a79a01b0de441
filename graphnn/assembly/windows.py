"""Which elements a convolution or a pooling reads, as tables of places along each dimension."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

# In a table or in windows: zero padding, and places beyond it that only ceil_mode reaches.
PADDING = -1
BEYOND = -2


def strided(
    size: int,
    kernel: int,
    stride: int = 1,
    padding: tuple[int, int] = (0, 0),
    dilation: int = 1,
    ceil: bool = False,
) -> Tensor:
    """The places that every window along one dimension reads.

    Args:
        size: Elements along the dimension.
        kernel: Elements that a window reads.
        stride: From one window to the next.
        padding: Before and after.
        dilation: From one element of a window to the next.
        ceil: Whether a last window may reach beyond the padding.

    Returns:
        (windows, kernel) int64 places, `PADDING` or `BEYOND`.
    """
    span = dilation * (kernel - 1) + 1
    room = size + sum(padding) - span
    count = room // stride + 1
    # As torch has it: a last window must begin inside the input or the padding before it.
    if ceil and room % stride and count * stride < size + padding[0]:
        count += 1
    starts = torch.arange(max(count, 0), device="cpu") * stride - padding[0]
    places = starts[:, None] + torch.arange(kernel, device="cpu") * dilation
    outside = torch.where(places < size + padding[1], PADDING, BEYOND)
    return torch.where((places >= 0) & (places < size), places, outside)


def adaptive(size: int, count: int) -> Tensor:
    """The places that every window of an adaptive pooling reads along one dimension.

    Args:
        size: Elements along the dimension.
        count: Windows.

    Returns:
        (count, k) int64 places; `BEYOND` where a window is shorter than the longest.
    """
    index = torch.arange(count, device="cpu")
    start, end = index * size // count, -(-(index + 1) * size // count)
    places = start[:, None] + torch.arange(int((end - start).max()), device="cpu")
    return torch.where(places < end[:, None], places, BEYOND)


def bordered(size: int, padding: tuple[int, int], mode: str) -> Tensor:
    """The place that every element of a padded dimension repeats.

    Args:
        size: Elements along the dimension.
        padding: Before and after.
        mode: "reflect", "replicate" or "circular", as nn.Conv2d's padding_mode.

    Returns:
        (size + padding,) int64 places.
    """
    places = torch.arange(-padding[0], size + padding[1], device="cpu")
    if mode == "circular":
        return places % size
    if mode == "replicate":
        return places.clamp(0, size - 1)
    places = places.abs()
    return torch.where(places < size, places, 2 * (size - 1) - places)


def windows(ids: Tensor, tables: Sequence[Tensor]) -> Tensor:
    """The elements of every window.

    Args:
        ids: (C, n_1, ..., n_d) int64.
        tables: For each of the d dimensions (windows, kernel) places.

    Returns:
        (C, *windows, *kernel) int64: ids, `PADDING` or `BEYOND`.
    """
    for d, table in enumerate(tables):
        dim = 1 + 2 * d
        picked = ids.index_select(dim, table.clamp(min=0).reshape(-1))
        picked = picked.unflatten(dim, tuple(table.shape))
        shape = [1] * picked.dim()
        shape[dim : dim + 2] = table.shape
        own = table.view(shape)
        ids = torch.where(own < 0, torch.minimum(own, picked), picked)
    d = len(tables)
    return ids.permute(0, *range(1, 2 * d, 2), *range(2, 2 * d + 1, 2))
