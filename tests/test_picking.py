"""Picked numbers, and gradients that repeat on every device."""

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

import graphnn
from graphnn.picking import pick


@pytest.mark.parametrize("dim", [0, 1, -1])
def test_both_ways_are_index_select(dim):
    numbers = torch.arange(12.0).view(3, 4)
    places = torch.tensor([2, 0, 2, 1])
    expected = numbers.index_select(dim, places)
    assert torch.equal(pick(numbers, dim, places), expected)
    elsewhere = pick(numbers.to("meta"), dim, places.to("meta"))
    assert elsewhere.shape == expected.shape


class Log(TorchDispatchMode):
    """The names of all operations."""

    def __init__(self):
        super().__init__()
        self.names = set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.names.add(func.overloadpacket.__name__)
        return func(*args, **(kwargs or {}))


def test_no_gradient_is_added_in_any_order_elsewhere():
    numbers = torch.zeros(3, 4, device="meta", requires_grad=True)
    with Log() as log:
        pick(numbers, 1, torch.zeros(9, dtype=torch.int64, device="meta")).sum().backward()
    assert not {name for name in log.names if "index_add" in name or "scatter_add" in name}
    assert {name for name in log.names if "index_put" in name}


def test_gradients_of_a_trace_repeat(rng):
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    graph = graphnn.generate.random_sparse([40, 300, 3], fan_in=30, generator=rng)
    ends = graph.output_ids.repeat(50)
    graph = graphnn.NeuronGraph(graph.edge_index, inputs=graph.input_ids, outputs=ends)
    net = graphnn.Network(graph, generator=rng).to(device)
    x = torch.randn(64, 40, generator=rng).to(device)

    def gradient(trained):
        offset = torch.zeros(64, graph.num_neurons, device=device, requires_grad=True)
        trace = net.trace(x, offset=offset)
        return torch.autograd.grad(trained(trace).square().sum(), offset)[0]

    for trained in (lambda trace: trace.contributions(), lambda trace: trace.outputs):
        first = gradient(trained)
        assert all(torch.equal(gradient(trained), first) for _ in range(5))
