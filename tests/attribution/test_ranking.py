"""Scores of clusters, and the order of neurons."""

from typing import Any

import numpy as np
import pytest
import torch

from graphnn import GraphError
from graphnn.attribution import aggregate, rank


@pytest.mark.parametrize("make", [list, tuple, np.array, torch.tensor])
def test_means_of_clusters(make, rng):
    scores = torch.randn(40, 7, generator=rng, dtype=torch.float64)
    clusters = torch.randint(3, (40,), generator=rng).tolist()
    for reduce, array in (("mean", scores.numpy()), ("mean_abs", scores.abs().numpy())):
        kind: Any = reduce
        expected = [
            np.mean([row for row, c in zip(array, clusters, strict=True) if c == k], axis=0)
            for k in range(3)
        ]
        found = aggregate(scores, make(clusters), reduce=kind)
        torch.testing.assert_close(found, torch.from_numpy(np.stack(expected)))


def test_opposite_signs_cancel_in_the_signed_mean_only():
    scores = torch.tensor([[3.0], [-3.0]])
    assert aggregate(scores, [0, 0]).item() == 0
    assert aggregate(scores, [0, 0], reduce="mean_abs").item() == 3


def test_a_nan_stays_in_its_cluster():
    scores = torch.tensor([[float("nan"), 1.0], [2.0, 3.0]])
    found = aggregate(scores, [0, 1])
    assert found[0, 0].isnan()
    assert found[1].tolist() == [2.0, 3.0]


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([0, 1],), r"one number a sample, 3 as scores has rows \(got 2\)"),
        (([0, 1, 0, 1],), r"\(got 4\)"),
        (([0, 2, 0],), r"no sample is in cluster 1 and one is in 2"),
        (([1, 1, 1],), "no sample is in cluster 0"),
        (([0, -1, 0],), r"clusters\[1\] is -1"),
        (([0.5, 1.0, 0.0],), "clusters must hold integers"),
        ((0,), "clusters must be a sequence"),
        (([0, 0, 1], "median"), r"reduce must be one of 'mean', 'mean_abs' \(got 'median'\)"),
    ],
)
def test_clusters_that_cannot_be(arguments, match):
    with pytest.raises(GraphError, match=match):
        aggregate(torch.ones(3, 2), *arguments)


def test_scores_that_cannot_be():
    with pytest.raises(GraphError, match=r"at least one sample \(got shape \(0, 4\)\)"):
        aggregate(torch.ones(0, 4), [])
    for wrong in (torch.ones(4), torch.ones(2, 3).long(), [[1.0]]):
        scores: Any = wrong
        with pytest.raises(GraphError, match=r"scores must be a tensor of real numbers"):
            aggregate(scores, [0])
    number: Any = 3.0
    for wrong in (number, torch.tensor(1.0), torch.ones(2, dtype=torch.complex64)):
        with pytest.raises(GraphError, match="scores must be a tensor of real numbers"):
            rank(wrong)


def test_ties_go_by_id():
    # Long enough that an unstable sort would show.
    scores = torch.tensor([1.0, 2.0, 0.0]).repeat(2000)
    ids = torch.arange(6000)
    expected = torch.cat([ids[1::3], ids[0::3], ids[2::3]])
    assert torch.equal(rank(scores), expected)
    assert torch.equal(rank(torch.stack([scores, -scores]))[0], expected)
    assert torch.equal(rank(scores.long()), expected)
    assert torch.equal(rank(scores.bfloat16()), expected)


def test_nan_comes_last_and_infinities_where_they_belong():
    inf = float("inf")
    scores = torch.tensor([0.0, float("nan"), -inf, inf, -1.0])
    assert rank(scores).tolist() == [3, 0, 4, 1, 2]
