"""Work on all edges a piece at a time, so that what it allocates is a share of what it makes."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

# Edges that are worked on at a time: at least so many, and at most about this share of all.
_PIECE, _SHARE = 1 << 22, 16


def cuts(ptr: Tensor) -> list[list[int]]:
    """(row, place) of the ends of pieces of whole rows, ascending, (0, 0) the first."""
    total, num_rows = int(ptr[-1]), ptr.numel() - 1
    piece = max(_PIECE, total // _SHARE)
    if total <= piece:
        return [[0, 0], [num_rows, total]]
    steps = torch.arange(piece, total, piece, device=ptr.device)
    ends = torch.searchsorted(ptr, steps)
    rows = torch.unique_consecutive(torch.nn.functional.pad(ends, (1, 1)))
    rows[-1] = num_rows
    return torch.stack([rows, ptr[rows]], 1).tolist()


def expanded(shift: Tensor, counts: Tensor, ptr: Tensor) -> Iterator[Tensor]:
    """Pieces of ptr[row] + shift[row], + 1, ... (counts[row] numbers) of all rows in order."""
    for (low, start), (high, end) in pairwise(cuts(ptr)):
        if end > start:
            own = torch.repeat_interleave(
                shift[low:high], counts[low:high], output_size=end - start
            )
            yield own.add_(torch.arange(start, end, device=own.device))


def gathered(values: Tensor, index: Tensor, dtype: torch.dtype) -> Tensor:
    """values[index] as `dtype`, without all of it in the type of `values`."""
    out = torch.empty(index.numel(), dtype=dtype, device=index.device)
    piece = max(_PIECE, index.numel() // _SHARE)
    for own, written in zip(index.split(piece), out.split(piece), strict=True):
        written.copy_(values.index_select(0, own))
    return out
