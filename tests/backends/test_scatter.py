"""What is the scatter backend's own: its gradient, and the refusal of a second one."""

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
# Kinks at 0, where a numerical gradient is wrong.
SMOOTH = [name for name in SMALL if name != "all activations"]


def network(name, rng, **options):
    return graphnn.Network(
        CASES[name](), dtype=torch.float64, generator=rng, backend="scatter", **options
    )


def leaves_of(net, rng, batch=3):
    x = torch.randn(batch, net.in_features, generator=rng, dtype=torch.float64)
    offset = torch.randn(batch, net.graph.num_neurons, generator=rng, dtype=torch.float64)
    leaves = (net.weight, net.bias, x, offset)
    return tuple(leaf.detach().clone().requires_grad_() for leaf in leaves)


class Traced(torch.nn.Module):
    """Makes `trace` the module's call, so that functional_call reaches it."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, offset):
        sizes = [ids.numel() for ids in self.net.graph.inputs.values()]
        trace = self.net.trace(*x.split(sizes, -1), offset=offset)
        return trace.values, trace.preactivations


@pytest.mark.parametrize("name", SMOOTH)
def test_gradcheck(rng, name):
    net = network(name, rng)

    def run(weight, bias, x, offset):
        parameters = {"net.weight": weight, "net.bias": bias}
        return torch.func.functional_call(Traced(net), parameters, (x, offset))

    assert torch.autograd.gradcheck(run, leaves_of(net, rng), fast_mode=True)


@pytest.mark.parametrize("name", ["random", "dense, permuted ids", "block over two levels"])
def test_backward_can_run_twice(rng, name):
    net = network(name, rng)
    outputs = net(torch.ones(2, net.in_features, dtype=torch.float64)).sum()
    first = torch.autograd.grad(outputs, net.weight, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(outputs, net.weight)[0], first)


@pytest.mark.parametrize("of", ["weight", "x", "the cotangent"])
@pytest.mark.parametrize("traced", [False, True])
def test_a_second_derivative_raises_and_names_reference(rng, of, traced):
    net = network("random", rng)
    x = torch.randn(3, net.in_features, generator=rng, dtype=torch.float64, requires_grad=True)
    outputs = net.trace(x).values if traced else net(x)
    cotangent = torch.ones_like(outputs, requires_grad=True)
    (gradient,) = torch.autograd.grad(outputs, x, cotangent, create_graph=True)
    wanted = {"weight": net.weight, "x": x, "the cotangent": cotangent}[of]
    with pytest.raises(graphnn.BackendError, match=r"second one was asked for.*'reference'"):
        torch.autograd.grad(gradient.square().sum(), wanted)
    net.backend = "reference"
    outputs = net.trace(x).values if traced else net(x)
    (again,) = torch.autograd.grad(outputs, x, cotangent, create_graph=True)
    torch.testing.assert_close(gradient.detach(), again.detach())
    assert torch.autograd.grad(again.square().sum(), wanted)[0].isfinite().all()


def test_create_graph_alone_is_no_second_derivative(rng):
    net = network("random", rng)
    x = torch.ones(2, net.in_features, dtype=torch.float64, requires_grad=True)
    plain = torch.autograd.grad(net(x).sum(), x)[0]
    assert torch.equal(torch.autograd.grad(net(x).sum(), x, create_graph=True)[0], plain)


def test_a_change_of_the_weight_before_the_backward_pass_is_noticed(rng):
    net = network("random", rng)
    outputs = net(torch.ones(2, net.in_features, dtype=torch.float64))
    with torch.no_grad():
        net.weight.mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


def test_with_and_without_gradients_the_same_bits(rng):
    for name in SMALL:
        net = network(name, rng)
        sizes = [ids.numel() for ids in net.graph.inputs.values()]
        x = torch.randn(9, sum(sizes), generator=rng, dtype=torch.float64).split(sizes, -1)
        with torch.no_grad():
            plain = net(*x)
        outputs = net(*x)
        if isinstance(outputs, torch.Tensor):
            outputs, plain = (outputs,), (plain,)
        assert all(map(torch.equal, outputs, plain)), name


def test_samples_are_cut_into_chunks_without_a_trace(rng, monkeypatch):
    from graphnn.backends import scatter

    net = network("random", rng)
    x = torch.randn(50, net.in_features, generator=rng, dtype=torch.float64)

    def run():
        outputs = net(x)
        return outputs, *torch.autograd.grad(outputs.square().sum(), (net.weight, net.bias))

    whole = run()
    monkeypatch.setattr(scatter, "_MESSAGE_ELEMENTS", 100)
    cut = run()
    assert torch.equal(cut[0], whole[0])
    for part, expected in zip(cut[1:], whole[1:], strict=True):
        torch.testing.assert_close(part, expected)


def test_both_of_pygs_reductions_agree_bit_for_bit(rng):
    torch_scatter = pytest.importorskip("torch_scatter")
    ptr = torch.tensor([0, 3, 3, 10, 64])
    messages = torch.randn(64, 7, generator=rng)
    by_torch = torch._segment_reduce(messages, "sum", offsets=ptr, axis=0, unsafe=True)
    assert torch.equal(torch_scatter.segment_csr(messages, ptr, reduce="sum"), by_torch)
