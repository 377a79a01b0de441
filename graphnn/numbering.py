"""Compiled numbering of labels by first appearance."""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True, inline="always")
def _id_of(place, label_of, id_of_place, id_of_label, order, count):
    """The id at a place of a column, and how many labels have one; `count` had one before."""
    found = id_of_place[place]
    if found < 0:
        label = label_of[place]
        if id_of_label[label] < 0:
            id_of_label[label] = count
            order[count] = label
            count += 1
        found = id_of_label[label]
        id_of_place[place] = found
    return found, count


@njit(cache=True, nogil=True)
def number_rows(source, target, source_label, target_label, num_labels):
    """Ids of two columns' labels by first appearance, row by row, source first.

    Args:
        source: (E,) place of each source among the distinct sources.
        target: (E,) place of each target among the distinct targets.
        source_label: The label of each distinct source, as a number below num_labels.
        target_label: The label of each distinct target, likewise.
        num_labels: How many labels there are; each occurs.

    Returns:
        (edge_index, order): (2, E) int64 ids, and the label (num_labels,) of each id.
    """
    edge_index = np.empty((2, source.size), np.int64)
    order = np.empty(num_labels, np.int64)
    id_of_label = np.full(num_labels, -1, np.int64)
    id_of_source = np.full(source_label.size, -1, np.int64)
    id_of_target = np.full(target_label.size, -1, np.int64)
    count = 0
    for row in range(source.size):
        edge_index[0, row], count = _id_of(
            source[row], source_label, id_of_source, id_of_label, order, count
        )
        edge_index[1, row], count = _id_of(
            target[row], target_label, id_of_target, id_of_label, order, count
        )
    return edge_index, order
