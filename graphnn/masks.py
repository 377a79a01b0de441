"""Networks from the masks of a stack of layers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from graphnn.errors import GraphError
from graphnn.generate.arguments import assemble_levels
from graphnn.network import Network

if TYPE_CHECKING:
    from collections.abc import Sequence

    from scipy.sparse import sparray, spmatrix

    Mask = Tensor | np.ndarray | sparray | spmatrix | Sequence[Sequence[float]]


def from_masks(
    masks: Iterable[Mask],
    activation: str = "relu",
    output_activation: str = "identity",
    bias: bool = True,
    generator: torch.Generator | None = None,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Network:
    """Builds a network of levels from the masks of its connections.

    Inputs come first, then level by level; edges are row-major over each mask. A neuron whose row
    has no ones is a constant.

    Args:
        masks: One (out, in) mask for each level, in the order of nn.Linear.weight: bools, or
            numbers that are all 0 or 1; torch tensors, numpy arrays, nested lists, and sparse
            matrices of torch or scipy. Each has as many columns as the one before has rows.
        activation: Of hidden neurons.
        output_activation: Of the rows of the last mask.
        bias: Whether computed neurons have a bias.
        generator: Draws weights and biases, as nn.Linear does; default: torch's global one.
        backend: "auto" or a name from `graphnn.backends()`.
        dtype: Of the parameters; default: torch's default.
        device: Of the parameters; default: torch's default.

    Returns:
        The network.

    Raises:
        GraphError: A mask is no mask, or does not fit the one before; the first one is named.

    Example:
        >>> net = graphnn.from_masks([torch.eye(3, dtype=torch.bool), [[1, 0, 1]]])
        >>> net.graph.edge_index
        tensor([[0, 1, 2, 3, 5],
                [3, 4, 5, 6, 6]])
    """
    cells, shapes = [], []
    for place, mask in enumerate(_read_list(masks)):
        found, shape = _ones(mask, f"masks[{place}]")
        cells.append(found)
        shapes.append(shape)
    _check_chain(shapes)
    sizes = (shapes[0][1], *(rows for rows, _ in shapes))
    start = np.cumsum((0, *sizes))
    edges = np.concatenate(
        [
            np.stack([column + start[level], row + start[level + 1]])
            for level, (row, column) in enumerate(cells)
        ],
        axis=1,
    )
    graph = assemble_levels(edges, sizes, activation, output_activation, bias)
    return Network(graph, backend=backend, dtype=dtype, device=device, generator=generator)


def _read_list(masks: Any) -> list[Any]:
    if isinstance(masks, str | Mapping) or not isinstance(masks, Iterable):
        raise GraphError(
            f"masks must be a sequence of (out, in) masks, one a level (got {type(masks).__name__})"
            "."
        )
    read = list(masks)
    if not read:
        raise GraphError("masks must hold at least one mask (got an empty sequence).")
    return read


def _ones(mask: Any, what: str) -> tuple[tuple[np.ndarray, np.ndarray], tuple[int, int]]:
    """Rows and columns of a mask's ones, row-major, and its shape."""
    cells, value, shape = _entries(mask, what)
    if len(shape) != 2 or 0 in shape:
        hint = " Pass a list of masks." if len(shape) == 1 else ""
        raise GraphError(
            f"{what} must have shape (out, in), both at least 1 (got shape {shape}).{hint}"
        )
    if value.dtype.kind not in "biuf":
        raise GraphError(f"{what} must hold bools, or numbers that are 0 or 1 (got {value.dtype}).")
    kept = value != 0
    row, column = (own[kept].astype(np.int64) for own in cells)
    wrong = value[kept] != 1
    if wrong.any():
        first = int(np.argmax(wrong))
        raise GraphError(
            f"{what} must hold bools, or numbers that are 0 or 1, but [{row[first]}, "
            f"{column[first]}] is {value[kept][first]}. Pass mask != 0; weights are given to "
            "graphnn.Network."
        )
    return (row, column), (shape[0], shape[1])


def _entries(mask: Any, what: str) -> tuple[tuple[np.ndarray, ...], np.ndarray, tuple[int, ...]]:
    """Places of a mask's entries, zeros left out or not, in row-major order; values; shape."""
    if isinstance(mask, Tensor):
        mask = mask.detach().cpu()
        if mask.layout != torch.strided:
            sparse = mask.to_sparse_coo().coalesce()
            return tuple(sparse.indices().numpy()), sparse.values().numpy(), tuple(sparse.shape)
    elif hasattr(mask, "tocsr"):
        # Through a copy in CSR, because only there duplicates are added up and columns sorted.
        sparse = mask.tocsr(copy=True)
        sparse.sum_duplicates()
        sparse = sparse.tocoo()
        return (sparse.row, sparse.col), sparse.data, tuple(sparse.shape)
    try:
        array = np.asarray(mask)
    except ValueError as error:
        raise GraphError(f"{what} must be a rectangular array ({error}).") from None
    cells = array.nonzero() if array.ndim else ()
    return cells, array[cells], array.shape


def _check_chain(shapes: list[tuple[int, int]]) -> None:
    """Refuses masks that do not follow one another."""
    for place, (one, other) in enumerate(pairwise(shapes)):
        if other[1] == one[0]:
            continue
        raise GraphError(
            "masks must be (out, in), as nn.Linear.weight is, and have as many columns as the mask "
            f"before has rows, but masks[{place}] has shape {one} and masks[{place + 1}] has shape "
            f"{other}.{_transposed(shapes, place)}"
        )


def _transposed(shapes: list[tuple[int, int]], place: int) -> str:
    """A hint at the masks around the first misfit that fit as (in, out), or the empty string."""
    one, other = shapes[place], shapes[place + 1]
    if all(later[0] == earlier[1] for earlier, later in pairwise(shapes)):
        return " All look transposed, (in, out): pass [mask.T for mask in masks]."
    if other[0] == one[0]:
        return f" masks[{place + 1}] looks transposed, (in, out): pass its .T."
    if other[1] == one[1] and (place == 0 or shapes[place - 1][0] == one[0]):
        return f" masks[{place}] looks transposed, (in, out): pass its .T."
    return ""
