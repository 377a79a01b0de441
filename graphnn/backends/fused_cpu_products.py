"""Levels that are dense enough to run as one matrix product over all tiles.

Threads share a level's neurons or its sources, so that every weight is read once; a level that has
few is shared by tiles.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from torch import Tensor

from graphnn.backends import buffers, compiling, threads
from graphnn.backends.fused_cpu_cut import Piece
from graphnn.backends.fused_cpu_schedule import Product

# Neurons, and words of 64 sources, that a thread takes at least.
_NEURONS, _WORDS = 48, 3


class Tiles:
    """A state and where its tiles are.

    Args:
        state: Flat.
        pieces: The batch's pieces, in the order of their samples.
        rows: Rows of a tile.
    """

    def __init__(self, state: Tensor | None, pieces: Sequence[Piece], rows: int) -> None:
        assert state is not None
        self.state = state.numpy()
        self.width = np.repeat([p.width for p in pieces], [p.tiles for p in pieces])
        ends = np.cumsum(self.width)
        self.base = (ends - self.width) * rows


def _share(
    run: Callable[[slice, int, int], None], tiles: int, count: int, least: int, workers: int
) -> None:
    """Calls run(tiles, first, end) in threads, each with a part of `count`, or of the tiles."""
    if count >= least * workers:
        cuts = [count * i // workers for i in range(workers + 1)]
        threads.share(lambda t: run(slice(0, tiles), cuts[t], cuts[t + 1]), workers)
    else:
        workers = max(1, min(workers, tiles))
        cuts = [tiles * i // workers for i in range(workers + 1)]
        threads.share(lambda t: run(slice(cuts[t], cuts[t + 1]), 0, count), workers)


def _compile(name: str, product: Product, state: np.ndarray, call: Callable[..., None]) -> None:
    variant = (name, state.dtype.str, product.start.dtype.str)
    compiling.announce(variant, lambda: call(slice(0, 0), 0, 0))


def add_by_target(
    product: Product, weight: np.ndarray, row_bias: np.ndarray, values: Tiles, shift: int,
    workers: int,
) -> None:  # fmt: skip
    """Writes a level's biases and sums over edges to the rows of its preactivations.

    Args:
        product: The level.
        weight: (E_l,) the level's weights, in the plan's order.
        row_bias: (N,) bias of each position.
        values: Values at their positions.
        shift: From a position to the row of its preactivation.
        workers: How many threads share it.
    """
    own, first = row_bias[product.first : product.end], product.first + shift

    def run(tiles: slice, start: int, end: int) -> None:
        compiling.matrix_kernels().add_by_target(
            product.bits, product.start, weight, product.pool, own, values.state,
            values.base[tiles], values.width[tiles], first, start, end,
        )  # fmt: skip

    _compile("add_by_target", product, values.state, run)
    _share(run, values.base.size, len(product.bits), _NEURONS, workers)


def add_by_source(product: Product, weight: np.ndarray, gradients: Tiles, workers: int) -> None:
    """Adds to the gradients by the values of a level's sources.

    Args:
        product: The level.
        weight: (E_l,) the level's weights, in the plan's order.
        gradients: Gradients, by preactivation for this level.
        workers: How many threads share it.
    """

    def run(tiles: slice, start: int, end: int) -> None:
        compiling.matrix_kernels().add_by_source(
            product.bits, product.start, weight, product.pool, gradients.state,
            gradients.base[tiles], gradients.width[tiles], product.first, start, end,
        )  # fmt: skip

    _compile("add_by_source", product, gradients.state, run)
    _share(run, gradients.base.size, product.bits.shape[1], _WORDS, workers)


def write_by_weight(
    product: Product, values: Tiles, gradients: Tiles, by_weight: Tensor, workers: int
) -> None:
    """Writes the gradients by a level's weights.

    Args:
        product: The level.
        values: Values at their positions.
        gradients: Gradients, by preactivation for this level.
        by_weight: (E,) in graph order.
        workers: How many threads share it.
    """
    edges, words = product.edges, product.bits.shape[1]
    is_view = isinstance(edges, slice)
    own = by_weight[edges] if is_view else buffers.empty(edges.numel(), by_weight.dtype)
    by_edge = own.numpy()

    def run(_: slice, start: int, end: int) -> None:
        compiling.matrix_kernels().write_by_edge(
            product.bits, product.start, product.pool, values.state, values.base, gradients.state,
            gradients.base, gradients.width, product.first, by_edge, start, end,
        )  # fmt: skip

    _compile("write_by_edge", product, gradients.state, run)
    # Never by tiles: an edge's gradient is one sum over all samples.
    _share(run, 1, words, 1, min(workers, words))
    if not is_view:
        into, places, write = by_weight.numpy(), edges.numpy(), compiling.kernels().scatter
        threads.over(places.size, lambda a, b: write(places, by_edge, into, a, b))
