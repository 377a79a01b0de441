"""Which neurons are computed four at a time, because they read the same sources.

Channels of a converted convolution do, and what is wired in blocks. A source's values are then read
once for four neurons, which is what a wide level's time goes to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

# Edges below which a neuron is not computed together with others.
_FEW = 4


@dataclass(frozen=True, eq=False)
class Fours:
    """Runs that are computed four neurons at a time.

    Args:
        ptr: (R + 1,) offsets of the runs' fours: all of a run's neurons, or none.
        rows: (F, 4) positions.
    """

    ptr: np.ndarray
    rows: np.ndarray


def none(num_runs: int) -> Fours:
    """No fours."""
    return Fours(np.zeros(num_runs + 1, np.int64), np.empty((0, 4), np.int64))


def find(row_ptr: np.ndarray, source: np.ndarray, run_ptr: np.ndarray) -> Fours:
    """The runs whose neurons read the same, four by four.

    Args:
        row_ptr: (N + 1,) offsets of the positions' edges.
        source: (E,) what they read: positions of sources, or of targets on the way back.
        run_ptr: (R + 1,) offsets of the runs' positions.
    """
    from graphnn.backends import fused_cpu_topology

    num_runs = run_ptr.size - 1
    run = np.repeat(np.arange(num_runs), np.diff(run_ptr))
    hashes = fused_cpu_topology.row_hashes(row_ptr, source, run)
    eligible = np.flatnonzero(np.diff(row_ptr) >= _FEW)
    in_order = np.sort(hashes[eligible])
    if not (in_order[3:] == in_order[:-3]).any():
        return none(num_runs)
    # In the order of the first of those that are alike: neighbours read neighbouring rows. By run
    # before all, whatever else has the same hash.
    _, first, which = np.unique(hashes[eligible], return_index=True, return_inverse=True)
    order = eligible[np.lexsort((first[which], run[eligible]))]
    rows: np.ndarray = fused_cpu_topology.rows_alike(row_ptr, source, order, run, 4)
    of_run = np.bincount(run[rows[:, 0]], minlength=num_runs)
    of_run[4 * of_run != np.diff(run_ptr)] = 0
    ptr = np.append(0, np.cumsum(of_run))
    return Fours(ptr, rows[of_run[run[rows[:, 0]]] > 0])
