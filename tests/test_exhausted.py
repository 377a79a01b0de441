"""A device whose memory is too small to build on."""

import pytest
import torch

import graphnn
from graphnn import algorithms, device_topology, exhausted, graph


class Elsewhere(torch.Tensor):
    """A tensor that says that it is on another device."""

    device = torch.device("cuda", 0)


@pytest.fixture
def device_of_32_mib(monkeypatch):
    """Has torch tell of a GPU with so much free memory."""
    emptied = []
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _device: (1 << 25, 1 << 30))
    monkeypatch.setattr(torch.cuda, "empty_cache", lambda: emptied.append(1))
    return emptied


FULL = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0 has more to say"),
    RuntimeError("CUDA out of memory. Tried to allocate 9.00 GiB. But as another class"),
]
MESSAGE = (
    r"^cuda:0 has too little memory to build a network of 3 edges there, which takes about 48 "
    r"bytes an edge, and as many a neuron: 0.00 GiB, and 0.03 GiB are free, enough for about "
    r"699050 edges \(CUDA out of memory. Tried to allocate 9.00 GiB\). Build it on the CPU, and "
    r"move it with .to\(\).$"
)


@pytest.mark.parametrize("error", FULL)
def test_says_what_would_fit(device_of_32_mib, monkeypatch, error):
    def fails(*_arguments):
        raise error

    monkeypatch.setattr(graph.SortedEdges, "of", fails)
    edges = torch.tensor([[0, 1, 2], [1, 2, 3]])
    monkeypatch.setattr(graph.wiring, "read_edge_index", lambda _given: edges)
    with pytest.raises(graphnn.BackendError, match=MESSAGE) as caught:
        graphnn.NeuronGraph(edges.as_subclass(Elsewhere))
    # Nothing holds the frames of what failed, and their tensors.
    assert caught.value.__context__ is None
    assert caught.value.__cause__ is None
    assert device_of_32_mib == [1]


def test_a_plan_says_it_too(device_of_32_mib):
    def fails():
        raise FULL[0]

    with pytest.raises(graphnn.BackendError, match=MESSAGE):
        exhausted.built(fails, torch.device("cuda", 0), 3)


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_other_errors_stay_what_they_are(device):
    def fails():
        raise RuntimeError("an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal"):
        exhausted.built(fails, torch.device(device), 3)


def test_memory_that_ends_is_no_mistake_of_the_wiring(monkeypatch):
    def full(*_arguments, **_named):
        raise FULL[0]

    monkeypatch.setattr(algorithms, "on", lambda _device: device_topology)
    monkeypatch.setattr(torch, "zeros", full)
    with pytest.raises(torch.OutOfMemoryError):
        device_topology.row_pointers(torch.tensor([0, 1]), 2)


def test_a_plan_that_does_not_fit_leaves_its_graph_usable(monkeypatch):
    from graphnn import plan

    own = graphnn.NeuronGraph([[0, 1], [1, 2]])

    def fails(_graph):
        raise FULL[0]

    with monkeypatch.context() as patch:
        patch.setattr(plan, "_build", fails)
        with pytest.raises(torch.OutOfMemoryError):
            graphnn.build_plan(own)
    assert graphnn.build_plan(own).num_levels == 3


def test_on_a_gpu_that_is_full(without_gpu):
    if not torch.cuda.is_available():
        without_gpu("there is no GPU")
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info()[0]
    edges = torch.arange(1 << 22, device="cuda")
    edges = torch.stack([edges, edges + (1 << 22)])
    held = torch.empty(free - (3 << 26), dtype=torch.uint8, device="cuda")
    with pytest.raises(graphnn.BackendError, match=r"to build a network of 4194304 edges there"):
        graphnn.build_plan(graphnn.NeuronGraph(edges))
    del held
    torch.cuda.empty_cache()
    assert graphnn.NeuronGraph(edges).num_edges == 1 << 22
