"""Which neurons the outputs depend on, and which depend on the inputs."""

import networkx as nx
import numpy as np
import pytest
import torch

from graphnn import NeuronGraph, reachability


def ancestors(graph, is_kept, roots):
    ptr, source, order = graph.sorted_edges.arrays()
    return reachability.ancestors(ptr, source, order, is_kept, np.array(roots, np.int64))


@pytest.mark.parametrize("seed", range(10))
def test_agrees_with_networkx(seed):
    rng = torch.Generator().manual_seed(seed)
    pairs = torch.triu_indices(30, 30, 1)
    chosen = torch.rand(pairs.shape[1], generator=rng) < 0.08
    ids = torch.randperm(30, generator=rng)
    graph = NeuronGraph(ids[pairs[:, chosen]], num_neurons=30)
    is_kept = (torch.rand(graph.num_edges, generator=rng) < 0.7).numpy()
    roots = torch.randint(30, (3,), generator=rng).tolist()
    kept = nx.DiGraph(graph.edge_index.t()[torch.from_numpy(is_kept)].tolist())
    kept.add_nodes_from(range(30))
    expected = set(roots).union(*(nx.ancestors(kept, root) for root in roots))
    assert set(np.flatnonzero(ancestors(graph, is_kept, roots))) == expected


def test_a_root_may_repeat():
    graph = NeuronGraph([[0, 1], [1, 2]])
    reached = ancestors(graph, np.array([False, True]), [2, 2, 2])
    assert reached.tolist() == [False, True, True]


def test_a_long_chain_needs_no_recursion():
    ids = torch.arange(200_000)
    graph = NeuronGraph(torch.stack([ids[:-1], ids[1:]]))
    assert ancestors(graph, np.ones(199_999, bool), [199_999]).all()


@pytest.mark.parametrize("seed", range(10))
def test_descendants_agree_with_networkx(seed):
    rng = torch.Generator().manual_seed(seed)
    pairs = torch.triu_indices(30, 30, 1)
    chosen = torch.rand(pairs.shape[1], generator=rng) < 0.08
    graph = NeuronGraph(torch.randperm(30, generator=rng)[pairs[:, chosen]], num_neurons=30)
    is_kept = (torch.rand(graph.num_edges, generator=rng) < 0.7).numpy()
    roots = torch.randint(30, (3,), generator=rng)
    kept = nx.DiGraph(graph.edge_index.t()[torch.from_numpy(is_kept)].tolist())
    kept.add_nodes_from(range(30))
    own, by_level = graph.sorted_edges.arrays(), graph.level.argsort().numpy()
    found = reachability.descendants(*own, is_kept, by_level, roots.numpy())
    expected = set(roots.tolist()).union(*(nx.descendants(kept, r) for r in roots.tolist()))
    assert set(np.flatnonzero(found)) == expected
