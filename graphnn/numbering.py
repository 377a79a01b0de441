"""Compiled numbering of labels by first appearance."""

from __future__ import annotations

import numpy as np
from numba import njit


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
    # Written out for both columns: a function for one took eight times as long.
    for row in range(source.size):
        found = id_of_source[source[row]]
        if found < 0:
            label = source_label[source[row]]
            if id_of_label[label] < 0:
                id_of_label[label] = count
                order[count] = label
                count += 1
            found = id_of_label[label]
            id_of_source[source[row]] = found
        edge_index[0, row] = found
        found = id_of_target[target[row]]
        if found < 0:
            label = target_label[target[row]]
            if id_of_label[label] < 0:
                id_of_label[label] = count
                order[count] = label
                count += 1
            found = id_of_label[label]
            id_of_target[target[row]] = found
        edge_index[1, row] = found
    return edge_index, order
