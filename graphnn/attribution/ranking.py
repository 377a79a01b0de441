"""From scores per sample to one order of the neurons."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from graphnn import wiring
from graphnn.errors import GraphError

_REDUCE = {"mean": lambda own: own.mean(0), "mean_abs": lambda own: own.abs().mean(0)}


def aggregate(
    scores: Tensor,
    clusters: Sequence[int] | Tensor | np.ndarray,
    reduce: Literal["mean", "mean_abs"] = "mean",
) -> Tensor:
    """Mean scores of every cluster of samples.

    ``mean`` over the samples, or ``mean of |score|``. In a signed mean scores of opposite sign
    cancel: a neuron that drives half of the samples up and half of them down gets nearly 0.

    Args:
        scores: (B, N) or (B, E), a row a sample.
        clusters: (B,) the number of each sample's cluster; each of 0 ... C - 1 occurs.
        reduce: "mean" or "mean_abs".

    Returns:
        (C, N) or (C, E).

    Raises:
        GraphError: `clusters` is not one number a sample, a cluster has no sample, there is no
            sample at all, or `reduce` is unknown.

    Example:
        >>> scores = torch.tensor([[1.0, 2.0], [-1.0, 2.0], [5.0, 0.0]])
        >>> graphnn.attribution.aggregate(scores, [0, 0, 1])
        tensor([[0., 2.],
                [5., 0.]])
        >>> graphnn.attribution.aggregate(scores, [0, 0, 1], reduce="mean_abs")
        tensor([[1., 2.],
                [5., 0.]])
    """
    if not isinstance(reduce, str) or reduce not in _REDUCE:
        raise GraphError(f"reduce must be one of {', '.join(map(repr, _REDUCE))} (got {reduce!r}).")
    if not isinstance(scores, Tensor) or scores.dim() != 2 or not scores.is_floating_point():
        shown = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise GraphError(
            f"scores must be a tensor of real numbers of shape (B, N) or (B, E), one row a sample "
            f"(got {shown})."
        )
    if scores.shape[0] == 0:
        raise GraphError(f"scores must hold at least one sample (got shape {tuple(scores.shape)}).")
    own = wiring.read_ids(clusters, "clusters", 2**62, kind="cluster")
    if own.numel() != scores.shape[0]:
        raise GraphError(
            f"clusters must hold one number a sample, {scores.shape[0]} as scores has rows "
            f"(got {own.numel()})."
        )
    found = own.unique()
    missing = (found != torch.arange(found.numel(), device="cpu")).nonzero()
    if missing.numel():
        raise GraphError(
            f"clusters must be numbered 0, 1, 2 ... without a gap, but no sample is in cluster "
            f"{int(missing[0])} and one is in {int(found[-1])}. "
            "Use torch.unique(clusters, return_inverse=True)."
        )
    own = own.to(scores.device)
    return torch.stack([_REDUCE[reduce](scores[own == c]) for c in range(found.numel())])


def rank(scores: Tensor) -> Tensor:
    """Neuron or edge ids by descending score.

    Args:
        scores: (*, N) or (*, E).

    Returns:
        int64 ids of the same shape, the highest score first, equal scores by ascending id; NaN
        counts as minus infinity.

    Raises:
        GraphError: `scores` is no tensor of real numbers with at least one dimension.

    Example:
        >>> graphnn.attribution.rank(torch.tensor([0.5, 2.0, 0.5, float("nan")]))
        tensor([1, 0, 2, 3])
    """
    if not isinstance(scores, Tensor) or scores.dim() == 0 or scores.is_complex():
        shown = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise GraphError(
            f"scores must be a tensor of real numbers of shape (*, N) or (*, E) (got {shown})."
        )
    # As numbers, NaN would come first.
    known = scores.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return known.sort(dim=-1, descending=True, stable=True).indices
