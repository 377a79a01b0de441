"""Which neurons the GPU's kernels compute four at a time, because they read the same sources.

Channels of a converted convolution do, and what is wired in blocks. A source's values are then
gathered once for four neurons, which is what a wide level's time goes to.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from itertools import pairwise

import torch
from torch import Tensor

from graphnn.pieces import cuts, expanded

# Edges a neuron, on average, below which a level's neurons are computed one by one.
_FEW = 4
# Odd numbers that a hash multiplies by.
_SPREAD, _MIX = 0x1E3779B97F4A7C15, 0x3F58476D1CE4E5B9


@dataclass(frozen=True, eq=False)
class Fours:
    """Levels that are computed four neurons at a time.

    Args:
        ptr: L + 1 offsets of the levels' fours: all of a level's neurons, or none.
        rows: (4, F) int32 positions; where neurons are missing a four repeats its first.
    """

    ptr: tuple[int, ...]
    rows: Tensor

    def count(self, level: int) -> int:
        """The fours of a level."""
        return self.ptr[level + 1] - self.ptr[level]


def find(
    level_ptr: Tensor, row_ptr: Tensor, source: Tensor, without: Collection[int] = ()
) -> Fours:
    """The levels that are worth it: their fours hold two different neurons each, on average.

    Args:
        level_ptr: (L + 1,) offsets of the levels' positions.
        row_ptr: (N + 1,) offsets of the positions' edges.
        source: (E,) the positions' sources, in one order whatever reads them.
        without: Levels that are computed in another way.
    """
    sizes, edges, fan_in = level_ptr.diff(), row_ptr[level_ptr].diff(), row_ptr.diff()
    level = torch.repeat_interleave(sizes, output_size=fan_in.numel())
    wanted = edges >= _FEW * sizes
    wanted[torch.tensor(sorted({0, *without}), device=sizes.device)] = False
    hashes = _hashes(level, row_ptr, source)
    rows = wanted[level].nonzero().flatten()
    rows = rows[hashes[rows].argsort(stable=True)]
    follows = torch.zeros_like(rows, dtype=torch.bool)
    follows[1:] = True
    for alike in (hashes, level, fan_in):
        own = alike[rows]
        follows[1:] &= own[1:] == own[:-1]
    rows, follows = _filled(rows, follows, level, sizes)
    follows[_differing(rows, follows, row_ptr, source)] = False
    rows, follows = _filled(rows, follows, level, sizes)
    return _by_fours(rows, follows, level, sizes.numel())


def _hashes(level: Tensor, row_ptr: Tensor, source: Tensor) -> Tensor:
    """(N,) int64: of rows of one level that read the same, equal; of others, hardly ever."""
    hashes = level * _SPREAD
    for (low, start), (high, end) in pairwise(cuts(row_ptr)):
        mixed = source[start:end].long() * _SPREAD
        mixed = (mixed ^ (mixed >> 32)) * _MIX
        sums = mixed.new_zeros(mixed.numel() + 1)
        torch.cumsum(mixed ^ (mixed >> 29), 0, out=sums[1:])
        hashes[low:high] += sums[row_ptr[low : high + 1] - start].diff()
    return hashes


def _groups(follows: Tensor) -> tuple[Tensor, Tensor]:
    """(first, place), each (n,): where a row's group of rows alike begins, its place there."""
    index = torch.arange(follows.numel(), device=follows.device)
    first = index.where(~follows, 0).cummax(0).values
    return first, index - first


def _filled(rows: Tensor, follows: Tensor, level: Tensor, sizes: Tensor) -> tuple[Tensor, Tensor]:
    """The rows of levels whose fours are full enough, and whether each is like the one before."""
    _, place = _groups(follows)
    own = level[rows]
    fours = torch.bincount(own[place % 4 == 0], minlength=sizes.numel())
    keep = (2 * fours <= sizes)[own].nonzero().flatten()
    return rows[keep], follows[keep]


def _differing(rows: Tensor, follows: Tensor, row_ptr: Tensor, source: Tensor) -> Tensor:
    """The places in `rows` of those that do not read what the one before reads."""
    places = follows.nonzero().flatten()
    own, other = row_ptr[rows[places]], row_ptr[rows[places - 1]]
    counts = row_ptr[rows[places] + 1] - own
    ptr = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    found = [places[:0]]
    pieces = zip(
        expanded(own - ptr[:-1], counts, ptr), expanded(other - ptr[:-1], counts, ptr), strict=True
    )
    start = 0
    for mine, others in pieces:
        wrong = (source.index_select(0, mine) != source.index_select(0, others)).nonzero() + start
        found.append(places[torch.searchsorted(ptr, wrong.flatten(), right=True) - 1])
        start += mine.numel()
    return torch.cat(found)


def _by_fours(rows: Tensor, follows: Tensor, level: Tensor, num_levels: int) -> Fours:
    """The rows, all of whose levels are kept, four by four."""
    first, place = _groups(follows)
    begins = (place % 4 == 0).nonzero().flatten()
    four = (place % 4 == 0).cumsum(0) - 1
    cut = rows[begins].repeat(4, 1)
    cut[place % 4, four] = rows
    # By the first of all alike: neighbours read neighbouring rows.
    cut = cut[:, rows[first[begins]].argsort(stable=True)]
    counts = torch.bincount(level[cut[0]], minlength=num_levels)
    return Fours((0, *counts.cumsum(0).tolist()), cut.to(torch.int32))
