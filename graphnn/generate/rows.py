"""Which sources the computed neurons read: one row of edges each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from graphnn.errors import GraphError


@dataclass(frozen=True, eq=False)
class Rows:
    """The sources that computed neurons choose from: consecutive ids.

    Args:
        first_target: Id of the first computed neuron; row r belongs to first_target + r.
        first_source: (R,) int64 the lowest id that a row may read.
        width: (R,) int64 how many ids from there on it may read.
    """

    first_target: int
    first_source: np.ndarray
    width: np.ndarray

    @classmethod
    def between(cls, sizes: tuple[int, ...]) -> Rows:
        """Every neuron may read the whole level just below its own."""
        start = np.cumsum((0, *sizes))[:-2]
        return cls(
            sizes[0], np.repeat(start, sizes[1:]), np.repeat(np.array(sizes[:-1]), sizes[1:])
        )

    def all(self) -> np.ndarray:
        """(2, E) edges from all that the rows may read."""
        edges, ptr = self._empty(self.width)
        edges[0] = np.arange(ptr[-1])
        edges[0] += np.repeat(self.first_source - ptr[:-1], self.width)
        return edges

    def drawn(
        self,
        count: np.ndarray,
        rng: np.random.Generator,
        kept: tuple[np.ndarray, np.ndarray] | None = None,
    ) -> np.ndarray:
        """(2, E) edges from `count[r]` distinct sources a row, uniformly drawn.

        Args:
            count: (R,) at most `width`.
            rng: Draws them.
            kept: Offsets (R + 1,) and source ids, ascending in a row, of edges that are there in
                any case; they count.
        """
        from graphnn.generate import kernels

        edges, ptr = self._empty(count)
        if kept is None:
            kept_ptr, cells = np.zeros(ptr.size, np.int64), np.empty(0, np.int64)
        else:
            kept_ptr = kept[0]
            cells = kept[1] - np.repeat(self.first_source, np.diff(kept_ptr))
        kernels.draw_rows(self.width, kept_ptr, cells, ptr, edges[0], rng)
        edges[0] += np.repeat(self.first_source, count)
        return edges

    def _empty(self, count: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(2, E) edges whose sources are not yet written, and the rows' offsets (R + 1,)."""
        ptr = offsets(count)
        edges = np.empty((2, int(ptr[-1])), np.int64)
        edges[1] = np.repeat(np.arange(self.first_target, self.first_target + count.size), count)
        return edges, ptr


def offsets(count: np.ndarray) -> np.ndarray:
    """(R + 1,) int64 offsets of rows of these lengths."""
    ptr = np.zeros(count.size + 1, np.int64)
    np.cumsum(count, out=ptr[1:])
    return ptr


def share_out(total: int, num_rows: int, width: int, rng: np.random.Generator) -> np.ndarray:
    """How many of `total` cells, drawn uniformly from num_rows x width, each row gets.

    Args:
        total: At most num_rows * width.
        num_rows: R.
        width: Cells of a row.
        rng: Draws.

    Returns:
        (R,) int64, `total` in all.
    """
    # Of cells that are each there with one probability, any number are a uniform choice; a few
    # too many are drawn, and the surplus is taken away again, as uniformly.
    probability = min(1.0, (total + 6 * total**0.5 + 10) / (num_rows * width))
    count = rng.binomial(width, probability, num_rows)
    while count.sum() < total:
        count = rng.binomial(width, probability, num_rows)
    surplus = rng.choice(int(count.sum()), int(count.sum()) - total, replace=False, shuffle=False)
    row = np.searchsorted(np.cumsum(count), surplus, side="right")
    return count - np.bincount(row, minlength=num_rows)


def seeded(generator: torch.Generator | None) -> np.random.Generator:
    """A numpy generator whose seed is drawn from a torch one, or from torch's global one."""
    if generator is not None and not isinstance(generator, torch.Generator):
        raise GraphError(
            f"generator must be a torch.Generator (got {type(generator).__name__}). Make one with "
            "torch.Generator().manual_seed(seed)."
        )
    device = "cpu" if generator is None else generator.device
    seed = torch.empty((), dtype=torch.int64, device=device).random_(generator=generator)
    return np.random.default_rng(int(seed))
