"""Compiled search for what depends on what in a network.

numba is imported here, and this file is imported where its functions are used.
"""

from __future__ import annotations

import numpy as np
from numba import njit


@njit(cache=True, nogil=True)
def ancestors(ptr, sorted_source, order, is_kept, roots):
    """Which neurons reach a root over kept edges, by a depth-first search against the edges.

    Args:
        ptr: (N + 1,) offsets of each neuron's incoming edges.
        sorted_source: (E,) source ids, sorted by target.
        order: (E,) edge ids in that order.
        is_kept: (E,) bool by edge id: the edges that count.
        roots: (n,) int64 neuron ids; an id may repeat.

    Returns:
        (N,) bool, True for the roots too.
    """
    reached = np.zeros(ptr.size - 1, np.bool_)
    stack = np.empty(ptr.size - 1, np.int64)
    depth = 0
    for root in roots:
        if not reached[root]:
            reached[root] = True
            stack[depth] = root
            depth += 1
    while depth > 0:
        depth -= 1
        neuron = stack[depth]
        for i in range(ptr[neuron], ptr[neuron + 1]):
            source = sorted_source[i]
            if is_kept[order[i]] and not reached[source]:
                reached[source] = True
                stack[depth] = source
                depth += 1
    return reached


@njit(cache=True, nogil=True)
def descendants(ptr, sorted_source, order, is_kept, neurons, roots):
    """Which neurons a root reaches over kept edges.

    Args:
        ptr: (N + 1,) offsets of each neuron's incoming edges.
        sorted_source: (E,) source ids, sorted by target.
        order: (E,) edge ids in that order.
        is_kept: (E,) bool by edge id: the edges that count.
        neurons: (N,) ids, every neuron after its sources.
        roots: (n,) int64 neuron ids; an id may repeat.

    Returns:
        (N,) bool, True for the roots too.
    """
    reached = np.zeros(ptr.size - 1, np.bool_)
    for root in roots:
        reached[root] = True
    for neuron in neurons:
        for i in range(ptr[neuron], ptr[neuron + 1]):
            if is_kept[order[i]] and reached[sorted_source[i]]:
                reached[neuron] = True
                break
    return reached
