"""How a batch is cut into tiles, and the tiles between threads.

A batch is cut into groups of 16 samples, and the groups into tiles of 64, 32 or 16; one sample
alone is a tile of 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import pairwise

from graphnn.backends.fused_cpu_schedule import Schedule

_GROUP = 16
# What an edge costs a sample in a tile of so many samples, relative to the widest; and how much
# more a read costs where the values that a level reads do not fit the second-level cache.
_COST = {64: 1.0, 32: 1.15, 16: 1.8}
_SPILLED = 4.0
# Bytes of a level's sources that leave room for edges in a second-level cache of 2 MiB.
_CACHE_BYTES = 5 << 18
# Edge x sample products below which a thread costs more than it saves: with half as many, two
# threads took twice as long as one.
_PRODUCTS_PER_THREAD = 10_000_000
# Edge x sample products below which a level is not shared between threads.
PRODUCTS_PER_STEP = 3_000_000
# The price of an edge for one sample alone, in edge x sample products of a full tile.
PRICE_ALONE = 16


@dataclass(frozen=True)
class Piece:
    """Tiles of one width: `tiles` of them, from sample `first` on."""

    width: int
    first: int
    tiles: int


@dataclass(frozen=True, eq=False)
class Cut:
    """How a batch is shared.

    Args:
        shares: Each thread's pieces. Or one share, whose rows several threads compute.
        threads: How many threads.
    """

    shares: tuple[tuple[Piece, ...], ...]
    threads: int

    @property
    def pieces(self) -> tuple[Piece, ...]:
        """All pieces, in the order of their samples."""
        return tuple(piece for share in self.shares for piece in share)

    @cached_property
    def widths(self) -> frozenset[int]:
        """The widths of its tiles."""
        return frozenset(piece.width for piece in self.pieces)

    @cached_property
    def is_by_rows(self) -> bool:
        """Whether the threads share a level's rows instead of the samples."""
        return len(self.shares) < self.threads


def num_lanes(batch: int) -> int:
    """Samples that a state has room for."""
    return batch if batch <= 1 else -(-batch // _GROUP) * _GROUP


def _pieces(first: int, end: int, widest: int) -> tuple[Piece, ...]:
    pieces = []
    for width in _COST:
        tiles = (end - first) // (width // _GROUP) if width <= widest else 0
        if tiles:
            pieces.append(Piece(width, first * _GROUP, tiles))
            first += tiles * (width // _GROUP)
    return tuple(pieces)


def widest_tile(schedule: Schedule, element_size: int) -> int:
    """The width whose tiles cost least, by the levels' sources that fit the cache."""

    def cost(width: int) -> float:
        spills = schedule.level_sources * (width * element_size) > _CACHE_BYTES
        spilled = int(schedule.level_reads[spills].sum())
        return _COST[width] * (schedule.num_edges + (_SPILLED - 1) * spilled)

    return min(_COST, key=cost)


@lru_cache(maxsize=256)
def cut_batch(widest: int, batch: int, work: int, largest_level: int, most_threads: int) -> Cut:
    """Cuts a batch, each sample of which takes `work` products, `largest_level` on one level."""
    if batch == 0:
        return Cut(((),), 1)
    price = PRICE_ALONE if batch == 1 else num_lanes(batch)
    workers = max(1, min(most_threads, work * price // _PRODUCTS_PER_THREAD))
    groups = num_lanes(batch) // _GROUP
    if groups < workers and largest_level * price < PRODUCTS_PER_STEP:
        workers = max(1, groups)
    if batch == 1:
        return Cut(((Piece(1, 0, 1),),), workers)
    if groups < workers:
        return Cut((_pieces(0, groups, widest),), workers)
    ends = [groups * i // workers for i in range(workers + 1)]
    shares = [_pieces(a, b, widest) for a, b in pairwise(ends)]
    return Cut(tuple(shares), workers)
