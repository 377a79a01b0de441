"""Levels that are dense enough to run as one matrix product over all tiles."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from graphnn.backends import buffers, compiling, threads
from graphnn.backends.fused_cpu_schedule import Product

# The (tiles, rows, width) parts of a state, one for each piece of a batch.
Views = Sequence[Tensor]


def _own(product: Product, weight: Tensor) -> Tensor:
    """(E_l,) the weights of a level, in the plan's order."""
    edges = product.edges
    return weight[edges] if isinstance(edges, slice) else weight.index_select(0, edges)


def _matrix(product: Product, weight: Tensor) -> Tensor:
    """(n, S) weights of a level, zero where there is no edge."""
    own, cells = _own(product, weight), product.cells
    if cells is not None:
        numbers = own.numpy()
        own = buffers.empty((product.end - product.first) * product.num_sources, own.dtype).zero_()
        places, matrix, run = cells.numpy(), own.numpy(), compiling.kernels().fill_matrix
        threads.over(cells.numel(), lambda a, b: run(places, numbers, matrix, a, b))
    return own.view(product.end - product.first, product.num_sources)


def _gather(views: Views, rows: slice | Tensor) -> Tensor:
    """(rows, lanes) of a state, samples side by side."""
    parts = [view[:, rows].transpose(0, 1).flatten(1) for view in views]
    return parts[0] if len(parts) == 1 else torch.cat(parts, 1)


def _split(numbers: Tensor, views: Views) -> list[Tensor]:
    """The parts of (rows, lanes) numbers that belong to the views, each (tiles, rows, width)."""
    sizes = [view.shape[0] * view.shape[2] for view in views]
    return [
        part.unflatten(1, (view.shape[0], view.shape[2])).transpose(0, 1)
        for part, view in zip(numbers.split(sizes, 1), views, strict=True)
    ]


def _product(product: Product, weight: Tensor, numbers: Tensor, transposed: bool) -> Tensor:
    """The level's matrix, or its transpose, times (S or n, lanes) numbers."""
    # 0 * inf is NaN, but an edge that is not there has no product.
    if product.cells is None or bool(numbers.sum().isfinite()):
        matrix = _matrix(product, weight)
        return (matrix.t() if transposed else matrix) @ numbers
    rows, columns = product.cells // product.num_sources, product.cells % product.num_sources
    to, of = (columns, rows) if transposed else (rows, columns)
    size = product.num_sources if transposed else product.end - product.first
    messages = numbers.index_select(0, of) * _own(product, weight)[:, None]
    return numbers.new_zeros(size, numbers.shape[1]).index_add_(0, to, messages)


def forward(product: Product, weight: Tensor, views: Views, shift: int) -> None:
    """Writes the sums over a level's edges to the rows of its preactivations.

    Args:
        product: The level.
        weight: (E,) in graph order.
        views: The state's pieces, values at their positions.
        shift: From a position to the row of its preactivation.
    """
    sums = _product(product, weight, _gather(views, product.pool), transposed=False)
    rows = slice(product.first + shift, product.end + shift)
    for part, view in zip(_split(sums, views), views, strict=True):
        view[:, rows] = part


def backward(
    product: Product, weight: Tensor, states: Views, gradients: Views, by_weight: Tensor | None
) -> None:
    """Adds to the gradients by the sources' values, and writes those by the level's weights.

    Args:
        product: The level.
        weight: (E,) in graph order.
        states: The state's pieces, values at their positions.
        gradients: The gradients' pieces, by preactivation for this level.
        by_weight: (E,) in graph order, or None if not wanted.
    """
    arriving = _gather(gradients, slice(product.first, product.end))
    back = _product(product, weight, arriving, transposed=True)
    for part, view in zip(_split(back, gradients), gradients, strict=True):
        if isinstance(product.pool, slice):
            view[:, product.pool] += part
        else:
            view.index_add_(1, product.pool, part)
    if by_weight is None:
        return
    shape = product.end - product.first, product.num_sources
    sources = _gather(states, product.pool).t()
    own = by_weight[product.edges] if isinstance(product.edges, slice) else None
    if product.cells is None and own is not None:
        torch.mm(arriving, sources, out=own.view(shape))
        return
    by_matrix = buffers.empty(shape[0] * shape[1], weight.dtype)
    torch.mm(arriving, sources, out=by_matrix.view(shape))
    by_edge = by_matrix
    if product.cells is not None:
        by_edge = buffers.empty(product.cells.numel(), weight.dtype) if own is None else own
        cells, matrix, into = product.cells.numpy(), by_matrix.numpy(), by_edge.numpy()
        run = compiling.kernels().gather
        threads.over(cells.size, lambda a, b: run(matrix, cells, into, a, b))
    if own is None:
        by_weight.numpy()[product.edges] = by_edge.numpy()
