"""Where shown neurons stand: in columns by level, wide levels in several, images as images."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from graphnn.graph import NeuronGraph

# The size that a picture is made for, in the unit of all positions; one is a pixel there.
WIDTH, HEIGHT = 1100.0, 620.0

_SPACING = 46.0
_GAP, _LEAST_GAP = 34.0, 44.0
# A column holds this many neurons before a second one is begun.
_ROWS, _MOST_ROWS = 40, 120
_IMAGE_HEIGHT = 300.0
_SMALLEST, _LARGEST = 2.5, 20.0


@dataclass(frozen=True, eq=False)
class Image:
    """An input group that stands as an image, one pixel a neuron.

    Args:
        group: Its name.
        neurons: (rows, columns) neuron ids; several images of one group stand below each other.
        x: (columns,) centres of the pixels.
        y: (rows,) centres of the pixels; y points up.
    """

    group: str
    neurons: np.ndarray
    x: np.ndarray
    y: np.ndarray


@dataclass(frozen=True, eq=False)
class Places:
    """Where neurons stand.

    Args:
        x: (N,) float64, NaN where a neuron is not shown.
        y: (N,) float64, pointing up, centred around 0.
        sizes: (N,) float64 diameters.
        columns: (L,) float64: the middle of each level.
        width: Of the whole picture.
        images: The input groups that are images.
    """

    x: np.ndarray
    y: np.ndarray
    sizes: np.ndarray
    columns: np.ndarray
    width: float
    images: tuple[Image, ...]


@dataclass(frozen=True, eq=False)
class _Block:
    """A grid of neurons; (rows, columns) ids, -1 where the last column ends early."""

    neurons: np.ndarray
    spacing: float
    image: str | None = None

    @property
    def height(self) -> float:
        return self.neurons.shape[0] * self.spacing

    @property
    def width(self) -> float:
        return self.neurons.shape[1] * self.spacing


def place(
    graph: NeuronGraph, shown: np.ndarray, image_shapes: Mapping[str, tuple[int, int]]
) -> Places:
    """Gives every shown neuron a place.

    Args:
        graph: The wiring.
        shown: (N,) bool: the neurons that are to have a place; those of images have one anyway.
        image_shapes: Input group -> (height, width) of its images.

    Returns:
        The `Places`.
    """
    levels = [_input_blocks(graph, shown, image_shapes)]
    order = np.argsort(graph.level.numpy(), kind="stable")
    ends = np.cumsum(np.bincount(graph.level.numpy(), minlength=graph.num_levels))
    for start, stop in itertools.pairwise(ends.tolist()):
        own = order[start:stop]
        levels.append([_column_block(own[shown[own]], HEIGHT)])
    widths = [max((block.width for block in blocks), default=0.0) for blocks in levels]
    gap = max(_LEAST_GAP, (WIDTH - sum(widths)) / max(len(levels), 1))
    width = sum(widths) + gap * len(levels)
    # On a picture wider than it was made for, columns move together.
    squeeze = min(1.0, WIDTH / width)
    x, y, sizes = (np.full(graph.num_neurons, np.nan) for _ in range(3))
    columns, images, left = np.empty(len(levels)), [], gap / 2
    for level, (blocks, own_width) in enumerate(zip(levels, widths, strict=True)):
        columns[level] = middle = left + own_width / 2
        left += own_width + gap
        top = (sum(block.height for block in blocks) + _GAP * (len(blocks) - 1)) / 2
        for block in blocks:
            rows, cols = block.neurons.shape
            across = middle + (np.arange(cols) - (cols - 1) / 2) * block.spacing
            down = top - (np.arange(rows) + 0.5) * block.spacing
            top -= block.height + _GAP
            there = block.neurons >= 0
            ids = block.neurons[there]
            x[ids] = np.broadcast_to(across, block.neurons.shape)[there]
            y[ids] = np.broadcast_to(down[:, None], block.neurons.shape)[there]
            room = block.spacing * (squeeze if cols > 1 else 1.0)
            size = min(0.62 * room, 0.5 * gap * squeeze)
            sizes[ids] = min(max(size, _SMALLEST), _LARGEST)
            if block.image is not None:
                images.append(Image(block.image, block.neurons, across, down))
    # Pages store float32 and write one digit after the point: both are exact on this grid, also of
    # the middles of edges, so that a page and a figure agree.
    x, y = np.round(5 * x) / 5, np.round(5 * y) / 5
    return Places(x, y, sizes, columns, width, tuple(images))


def _input_blocks(
    graph: NeuronGraph, shown: np.ndarray, image_shapes: Mapping[str, tuple[int, int]]
) -> list[_Block]:
    groups = {name: ids.numpy() for name, ids in graph.inputs.items() if ids.numel()}
    room = (HEIGHT - _GAP * (len(groups) - 1)) / max(len(groups), 1)
    blocks = []
    for name, ids in groups.items():
        if name in image_shapes:
            neurons = ids.reshape(-1, image_shapes[name][1])
            height = min(max(room, 60.0), _IMAGE_HEIGHT * ids.size / math.prod(image_shapes[name]))
            blocks.append(_Block(neurons, height / neurons.shape[0], name))
        elif shown[ids].any():
            blocks.append(_column_block(ids[shown[ids]], max(room, 60.0)))
    return blocks


def _column_block(ids: np.ndarray, height: float) -> _Block:
    rows = min(_ROWS, max(1, int(height / 15)))
    if ids.size > rows:
        rows = int(np.clip(math.ceil(math.sqrt(6 * ids.size)), rows, _MOST_ROWS))
    columns = math.ceil(ids.size / rows)
    # Columns of equal length look better than a short last one.
    rows = math.ceil(ids.size / max(columns, 1))
    neurons = np.full(rows * columns, -1, np.int64)
    neurons[: ids.size] = ids
    grid = neurons.reshape(columns, rows).T
    return _Block(grid, min(_SPACING, height / max(rows, 1)))
