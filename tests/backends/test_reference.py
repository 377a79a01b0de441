"""What is the reference's own: derivatives of any order, under every torch transform."""

# A gradient is None before the backward pass, a parametrization is a module that looks like a
# tensor to the type checker, and wrong types are given on purpose.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportIndexIssue=false, reportOptionalIterable=false

import pytest
import torch
from cases import CASES

import graphnn

SMALL = [
    name for name in CASES if "500" not in name and "10,000" not in name and "wide" not in name
]


class Traced(torch.nn.Module):
    """Makes `trace` the module's call, so that functional_call reaches it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, offset):
        sizes = [ids.numel() for ids in self.net.graph.inputs.values()]
        trace = self.net.trace(*x.split(sizes, -1), offset=offset)
        return trace.values, trace.preactivations


def network(name, rng):
    return graphnn.Network(CASES[name](), dtype=torch.float64, generator=rng, backend="reference")


# Kinks at 0 make a numerical derivative wrong there; "all activations" has one of every kind.
@pytest.mark.parametrize("name", [name for name in SMALL if name != "all activations"])
def test_gradgradcheck(rng, name):
    net = network(name, rng)
    x = torch.randn(2, net.in_features, generator=rng, dtype=torch.float64)
    offset = torch.randn(2, net.graph.num_neurons, generator=rng, dtype=torch.float64)
    leaves = (net.weight, net.bias, x, offset)
    leaves = tuple(leaf.detach().clone().requires_grad_() for leaf in leaves)

    def run(weight, bias, x, offset):
        parameters = {"net.weight": weight, "net.bias": bias}
        return torch.func.functional_call(Traced(net), parameters, (x, offset))

    assert torch.autograd.gradcheck(run, leaves, fast_mode=True)
    assert torch.autograd.gradgradcheck(run, leaves, fast_mode=True)


def test_a_third_derivative(rng):
    # y = (w x) ** 2 ** 2 = w ** 4 x ** 4 through two squares.
    graph = graphnn.NeuronGraph([[0, 1], [1, 2]], activation="square", bias=False)
    net = graphnn.Network(graph, [3.0, 1.0], [], dtype=torch.float64, backend="reference")
    y = x = torch.tensor([2.0], dtype=torch.float64, requires_grad=True)
    y = net(x)
    for expected in (81 * 4 * 8, 81 * 12 * 4, 81 * 24 * 2, 81 * 24):
        (y,) = torch.autograd.grad(y, x, create_graph=True)
        assert y.item() == pytest.approx(expected)


def test_a_gradient_penalty_trains(rng):
    net = network("random", rng)
    x = torch.randn(4, net.in_features, generator=rng, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    penalty = slope.square().sum()
    (by_weight,) = torch.autograd.grad(penalty, net.weight)
    with torch.no_grad():
        net.weight -= 1e-6 * by_weight
    (smaller,) = torch.autograd.grad(net(x).sum(), x)
    assert smaller.square().sum() < penalty


@pytest.mark.parametrize("name", ["random", "dense, permuted ids", "constant hidden neuron"])
def test_under_torch_func(rng, name):
    net = network(name, rng)
    x = torch.randn(5, net.in_features, generator=rng, dtype=torch.float64)
    torch.testing.assert_close(torch.vmap(net)(x), net(x))
    one = x[0]
    forward, reverse = torch.func.jacfwd(net)(one), torch.func.jacrev(net)(one)
    torch.testing.assert_close(forward, reverse)
    each = torch.vmap(torch.func.jacrev(net))(x)
    torch.testing.assert_close(each[0], reverse)


def test_runs_every_call():
    net = graphnn.Network(CASES["random"](), backend="reference")
    assert net.backend_report(torch.ones(1, net.in_features)).backend == "reference"
