"""How a plan is cut for a GPU: tiles of neurons x samples, and one launch or one a level."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from graphnn.backends.fused_gpu_schedule import Schedule

# Samples that a padded row holds at least, and to whole multiples of which larger batches are cut.
_SMALLEST_BLOCK, LARGEST_BLOCK = 8, 64
# What the choice below rests on, from data sheets, not from measurements: seconds of a launch by
# Python, of a launch within a captured graph, of a level of a walk, and of the copies into and out
# of a captured graph; edge x sample products a second of all multiprocessors, and of one whose
# level fits its own cache, or all of whose levels fit the common one, or neither.
_LAUNCH, _NODE, _STEP, _AROUND, _ALL = 2e-5, 2.5e-6, 2e-6, 8e-5, 1.2e12
_ONE = (1.5e10, 0.9e10, 0.3e10)
# What an edge takes of a neuron that is one of a four, beside another's, with a launch a level.
_OF_FOUR = 0.4
_OWN_CACHE, _COMMON_CACHE, _MULTIPROCESSORS = 190_000, 40_000_000, 132
# Programs of a walk that a GPU runs at one time.
WALKERS = 2 * _MULTIPROCESSORS
# Bytes of a state that a captured graph may hold on to.
_LARGEST_CAPTURED = 1 << 28

Launches = Literal["walk", "graph", "levels"]


@dataclass(frozen=True)
class Tile:
    """Rows and samples of a program's tile, and the warps that share it."""

    rows: int
    cols: int
    warps: int

    @property
    def registers(self) -> int:
        """What a thread may have.

        It is named because ptxas, told of no limit, saves registers where it should save time: it
        then waits for a gathered value before it asks for the next one's.
        """
        return min(255, 2048 // self.warps)


def stride_of(batch: int) -> int:
    """Samples that a row has room for."""
    if batch > LARGEST_BLOCK // 2:
        return -(-batch // LARGEST_BLOCK) * LARGEST_BLOCK
    return max(_SMALLEST_BLOCK, _power_of_two(batch))


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


def level_tile(batch: int, elements: int) -> Tile:
    """The tile of kernels that run one level: its samples' values fit the common cache.

    Args:
        batch: B.
        elements: Of a tile: 1024 forward, 512 backward, where a thread holds more of each.
    """
    cols = min(LARGEST_BLOCK, stride_of(batch))
    # With as many rows as threads each edge would be handed from thread to thread.
    return Tile(min(elements // cols, 64), cols, 4)


def walk_tile(batch: int, widest: int) -> Tile:
    """The tile of kernels that run all levels: few samples, so that many programs share a batch."""
    return walk_tile_of(min(16 if batch <= 16 * _MULTIPROCESSORS else 32, stride_of(batch)), widest)


def walk_tile_of(cols: int, widest: int) -> Tile:
    """The same with that many samples."""
    # At most sixteen warps: with what registers they take, a multiprocessor runs one such program
    # at a time, and a level of a thousand neurons stays in its cache. At least two threads a row,
    # see above.
    room = max(16, cols)
    rows = min(max(8, _power_of_two(widest)), 4096 // room)
    return Tile(rows, cols, max(1, min(16, rows * room // 256)))


def launches(own: Schedule, batch: int, element_size: int) -> Launches:
    """How all levels are launched where it takes least time.

    Returns:
        "walk", all by one launch; "graph", one a level, captured; or "levels", one a level.
    """
    if batch == 0:
        return "levels"
    edges = own.plan.num_edges - (1 - _OF_FOUR) * own.edges_of_fours
    products, levels = edges * batch, own.plan.num_levels
    # Python launches while the GPU works.
    plainly = max(levels * _LAUNCH, levels * _NODE + products / _ALL)
    captured = levels * _NODE + products / _ALL + _AROUND
    copies = 2 if own.keeps_pre else 1
    if copies * own.plan.num_neurons * stride_of(batch) * element_size > _LARGEST_CAPTURED:
        captured = plainly
    if not own.products and _walking(own, batch, element_size) < min(plainly, captured):
        return "walk"
    return "graph" if captured < plainly else "levels"


def _walking(own: Schedule, batch: int, element_size: int) -> float:
    """Seconds of a walk."""
    cols = walk_tile(batch, own.widest).cols
    programs = -(-batch // cols)
    running = min(programs, _MULTIPROCESSORS)
    level_bytes = own.widest * cols * element_size
    if level_bytes <= _OWN_CACHE:
        rate = _ONE[0]
    else:
        rate = _ONE[1] if 2 * level_bytes * running <= _COMMON_CACHE else _ONE[2]
    products, levels = own.plan.num_edges * batch, own.plan.num_levels
    waves = -(-programs // running)
    # The first is what waiting for memory takes, the second what computing does.
    return max(levels * _STEP * waves, products / (rate * running))
