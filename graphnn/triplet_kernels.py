"""Compiled loops that write neuron-edge-neuron triplets on the CPU.

numba is imported here, and this file is imported where its function is used.
"""

from __future__ import annotations

import numpy as np
from numba import njit

# Edges whose ids and weights are fetched once and then used for every sample: 20 KiB of a core's
# first-level cache.
_BLOCK = 1024


@njit(cache=True, nogil=True)
def write_triplets(value, weight, at_target, source, target, edges, out, start, end):
    """Writes the triplets of edges[start:end] for every sample.

    Args:
        value: (B, N) values of all neurons.
        weight: (E,) weights of all edges.
        at_target: (B, N) what the last place holds: values or preactivations.
        source: (E,) int64 source ids.
        target: (E,) int64 target ids.
        edges: (M,) int64 ids of the edges to write.
        out: (B, M, 3) written: source value, weight, target value.
        start: First place in `edges`.
        end: One past the last.
    """
    sources = np.empty(_BLOCK, np.int64)
    targets = np.empty(_BLOCK, np.int64)
    weights = np.empty(_BLOCK, weight.dtype)
    for first in range(start, end, _BLOCK):
        size = min(_BLOCK, end - first)
        for i in range(size):
            edge = edges[first + i]
            sources[i] = source[edge]
            targets[i] = target[edge]
            weights[i] = weight[edge]
        for sample in range(out.shape[0]):
            own, arriving = value[sample], at_target[sample]
            rows = out[sample, first : first + size]
            for i in range(size):
                rows[i, 0] = own[sources[i]]
                rows[i, 1] = weights[i]
                rows[i, 2] = arriving[targets[i]]
