"""Reading what is attributed: a class of the outputs, or any function of them."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from graphnn import wiring
from graphnn.errors import GraphError
from graphnn.graph import NeuronGraph

# A class, one class a sample, or outputs -> (B,) scores.
Target = int | Sequence[int] | Tensor | Callable[[Any], Tensor]
# The outputs, before their transform, -> (B,) scores.
Score = Callable[[Any], Tensor]


def read_target(target: Any, graph: NeuronGraph, batch: int) -> Score:
    """The function of the outputs that a target stands for.

    Args:
        target: The index of a neuron in the one output group, B such indices, or a callable on the
            outputs as `Network` returns them, transform aside.
        graph: The wiring.
        batch: B.

    Raises:
        GraphError: An index is out of range or no integer, there are not B of them, or there are
            several output groups for an index to be in.
    """
    if callable(target):
        return lambda outputs: _check_scores(target(outputs), batch)
    if len(graph.outputs) != 1:
        raise GraphError(
            "target must be a callable on the outputs where there are several output groups, here "
            f"{', '.join(map(repr, graph.outputs))} (got {target!r})."
        )
    classes = _read_classes(target, graph.output_ids.numel(), batch)
    return lambda outputs: outputs.gather(1, classes.to(outputs.device)[:, None]).squeeze(1)


def _read_classes(target: Any, count: int, batch: int) -> Tensor:
    if isinstance(target, Tensor | np.ndarray) and target.ndim == 0:
        target = target.item()
    if isinstance(target, bool | str) or not isinstance(target, numbers.Integral | Iterable):
        raise GraphError(
            "target must be a class index, one index a sample, or a callable on the outputs "
            f"(got {target!r})."
        )
    if isinstance(target, numbers.Integral):
        target = int(target)
        if not 0 <= target < count:
            raise GraphError(
                f"target must be a class index in 0 ... {count - 1}, as there are {count} outputs "
                f"(got {target})."
            )
        return torch.full((batch,), target, device="cpu")
    classes = wiring.read_ids(target, "target", count, kind="class")
    if classes.numel() != batch:
        raise GraphError(
            f"target must hold one class index a sample, {batch} in all (got {classes.numel()})."
        )
    return classes


def _check_scores(scores: Any, batch: int) -> Tensor:
    if not isinstance(scores, Tensor) or tuple(scores.shape) != (batch,):
        shape = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise GraphError(
            f"target must return one score a sample, a tensor of shape ({batch},) (got {shape}). "
            "Do not reduce over the samples."
        )
    if not scores.requires_grad:
        raise GraphError(
            "target must compute its scores out of the outputs with differentiable torch "
            "operations (got a tensor that does not depend on them)."
        )
    return scores
