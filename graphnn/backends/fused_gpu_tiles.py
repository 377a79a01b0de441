"""How a plan is cut for a GPU: tiles of neurons x samples, and one launch or one a level."""

from __future__ import annotations

from dataclasses import dataclass

from graphnn.backends.fused_gpu_schedule import Schedule

# Samples that a padded row holds at least, and to whole multiples of which larger batches are cut.
_SMALLEST_BLOCK, LARGEST_BLOCK = 8, 64
# What the choice of a walk rests on, from data sheets, not from measurements: seconds that a launch
# and a level of a walk cost, and edge x sample products a second of all multiprocessors, and of one
# whose level fits its own cache, or all of whose levels fit the common one, or neither.
_LAUNCH, _STEP, _ALL = 8e-6, 1.5e-6, 1.2e12
_ONE = (1.5e10, 0.9e10, 0.3e10)
_OWN_CACHE, _COMMON_CACHE, _MULTIPROCESSORS = 190_000, 40_000_000, 132


@dataclass(frozen=True)
class Tile:
    """Rows and samples of a program's tile, and the warps that share it."""

    rows: int
    cols: int
    warps: int


def stride_of(batch: int) -> int:
    """Samples that a row has room for."""
    if batch > LARGEST_BLOCK // 2:
        return -(-batch // LARGEST_BLOCK) * LARGEST_BLOCK
    return max(_SMALLEST_BLOCK, _power_of_two(batch))


def _power_of_two(least: int) -> int:
    return 1 << max(0, least - 1).bit_length()


def level_tile(batch: int) -> Tile:
    """The tile of kernels that run one level: its samples' values fit the common cache."""
    cols = min(LARGEST_BLOCK, stride_of(batch))
    return Tile(1024 // cols, cols, 4)


def walk_tile(batch: int, widest: int) -> Tile:
    """The tile of kernels that run all levels: few samples, so that many programs share a batch."""
    cols = min(16 if batch <= 16 * _MULTIPROCESSORS else 32, stride_of(batch))
    rows = min(max(8, _power_of_two(widest)), 2048 // cols)
    return Tile(rows, cols, max(1, min(8, rows * cols // 256)))


def walks(own: Schedule, batch: int, element_size: int) -> bool:
    """Whether all levels should be run by one launch."""
    if own.products or batch == 0:
        return False
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
    by_walk = levels * _STEP * waves + products / (rate * running)
    return by_walk < levels * _LAUNCH + products / _ALL
