"""Sparse matrix libraries without gradients: SuiteSparse:GraphBLAS and scipy."""

from __future__ import annotations

from importlib import import_module
from typing import Any

import numpy as np
from torch import Tensor

from benchmarks.contenders.levels import Runner
from benchmarks.problem import FORWARD, Problem


class _Inference(Runner):
    """What both share; states are numpy's or GraphBLAS's own, over one level below."""

    axis = 0

    @classmethod
    def unsupported(cls, problem: Problem, mode: str, samples: int) -> str | None:
        """Inference, written for the networks of the challenge."""
        if mode != FORWARD:
            return "has no gradients"
        is_known = problem.activation == problem.output_activation == "clamp(0, 32)"
        return None if is_known else "is written for clamp(0, 32)"

    def arranged(self, samples: Tensor) -> Any:
        """Neuron-major."""
        return np.ascontiguousarray(samples.numpy().T)

    def gradients(self, x: Any, seed: Any) -> Any:
        """None: `unsupported` refuses those cases."""
        raise TypeError(f"{type(self).__name__} has no gradients.")


class Scipy(_Inference):
    """scipy.sparse's product, which runs on one thread; the rest in place."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        from scipy.sparse import csr_array

        self.matrices = [
            csr_array(
                (
                    self.values(index).numpy(),
                    level.column.astype(np.int32),
                    level.row_ptr,
                ),
                shape=level.shape,
            )
            for index, level in enumerate(self.levels)
        ]
        self.own_biases = [bias.numpy()[:, None] for bias in self.biases]

    @classmethod
    def most_samples(cls, problem: Problem) -> int:
        """Larger pieces of a batch are slower."""
        return min(problem.x.shape[0], 128)

    def forward(self, x: Any) -> Any:
        """Runs the network level by level."""
        state = x
        for matrix, bias in zip(self.matrices, self.own_biases, strict=True):
            state = matrix @ state
            state += bias
            np.clip(state, 0, 32, out=state)
        return state

    def outputs(self, found: Any) -> np.ndarray:
        """(B, n_out)."""
        return found.T


class GraphBlas(_Inference):
    """SuiteSparse's product of a sparse and a full matrix, added to a full matrix of biases."""

    def __init__(self, problem: Problem) -> None:
        super().__init__(problem)
        gb = self.gb = _graphblas()
        self.low, self.high = (gb.Scalar.from_value(x, dtype="FP32") for x in (0.0, 32.0))
        self.matrices = [
            gb.Matrix.from_csr(
                level.row_ptr,
                level.column,
                self.values(index).numpy(),
                ncols=level.shape[1],
            )
            for index, level in enumerate(self.levels)
        ]

    @classmethod
    def most_samples(cls, problem: Problem) -> int:
        """Larger pieces of a batch are slower: their values leave the cache."""
        return min(problem.x.shape[0], 256)

    def arranged(self, samples: Tensor) -> Any:
        """A full matrix, neuron-major."""
        gb = self.gb
        dense = np.ascontiguousarray(samples.numpy().T)
        # One full matrix of biases a level, for this batch: each call starts from a copy of it.
        self.starts = [
            gb.Matrix.from_dense(np.repeat(bias.numpy()[:, None], dense.shape[1], axis=1))
            for bias in self.biases
        ]
        return gb.Matrix.from_dense(dense)

    def forward(self, x: Any) -> Any:
        """Runs the network level by level."""
        gb = self.gb
        plus_times = gb.semiring.plus_times["FP32"]
        plus, maximum, minimum = (
            getattr(gb.binary, name)["FP32"] for name in ("plus", "max", "min")
        )
        state = x
        for matrix, start in zip(self.matrices, self.starts, strict=True):
            following = start.dup()
            following(plus).update(matrix.mxm(state, plus_times))
            # Assigned with an accumulator, a scalar runs a compiled loop; applied, a generic one.
            following(maximum)[:, :].update(self.low)
            following(minimum)[:, :].update(self.high)
            state = following
        state.wait()
        return state

    def outputs(self, found: Any) -> np.ndarray:
        """(B, n_out)."""
        return found.to_dense(fill_value=0.0, dtype=np.float32).T


def _graphblas() -> Any:
    # Its names come at import time: nothing that a type checker could follow.
    return import_module("graphblas")
