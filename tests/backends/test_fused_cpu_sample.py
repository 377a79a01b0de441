"""One sample through a converted stack on the CPU, which is compiled code of its own."""

from itertools import pairwise

import pytest
import torch
from torch import nn
from torch.autograd import forward_ad
from torch.fx.experimental.proxy_tensor import make_fx

import graphnn
from graphnn.backends import fused_cpu_sample


def stack(rng, sizes, inner: type[nn.Module] = nn.ReLU, dtype=torch.float32):
    layers = []
    for sources, size in pairwise(sizes):
        layers += [nn.Linear(sources, size, dtype=dtype), inner()]
        for parameter in layers[-2].parameters():
            nn.init.uniform_(parameter, -(sources**-0.5), sources**-0.5, generator=rng)
    return nn.Sequential(*layers[:-1])


@pytest.fixture
def taken(monkeypatch):
    """Grows by the number of edges at each call that takes the compiled way of one sample."""
    calls, run = [], fused_cpu_sample.run_sample

    def counted(plan, *rest):
        calls.append(plan.num_edges)
        return run(plan, *rest)

    monkeypatch.setattr(fused_cpu_sample, "run_sample", counted)
    return calls


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


# Rows and columns below, at, and between the widths of vectors, and the parts of four rows.
SIZES = [
    (1, 1),
    (3, 1, 2),
    (15, 16, 17, 5),
    (64, 4, 130, 3),
    (127, 65, 128, 1),
    (257, 6, 7),
    (784, 512, 512, 10),
]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("inner", [nn.ReLU, nn.SiLU, nn.Identity])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("products", [False, True])
@pytest.mark.usefixtures("one_thread")
def test_agrees_with_torch(rng, taken, monkeypatch, sizes, inner, dtype, products):
    if products:
        # As with several threads and many edges.
        monkeypatch.setattr(fused_cpu_sample, "is_for", lambda plan, batch: False)
    model = stack(rng, sizes, inner, dtype)
    net = graphnn.from_sequential(model)
    x = torch.randn(1, sizes[0], generator=rng, dtype=dtype, requires_grad=True)
    cotangent = torch.randn(1, sizes[-1], generator=rng, dtype=dtype)
    outputs, wanted = net(x), model(x)
    with torch.no_grad():
        assert torch.equal(net(x), outputs)
    assert len(taken) == (0 if products else 2)
    found = torch.autograd.grad(outputs, (net.weight, net.bias, x), cotangent)
    parameters = list(model.parameters())
    by_model = torch.autograd.grad(wanted, (*parameters, x), cotangent)
    weights = torch.cat([part.flatten() for part in by_model[:-1:2]])
    expected = (wanted, weights, torch.cat(by_model[1:-1:2]), by_model[-1])
    limit = 1e-5 if dtype == torch.float32 else 1e-12
    for one, other in zip((outputs, *found), expected, strict=True):
        # A single small output may be what large ones leave.
        assert (one - other).abs().max() <= limit * max(0.1, other.abs().max())


def scattered(activation):
    """A stack whose inputs are numbered between its other neurons."""
    edges = [(s, t) for t in (0, 2, 3, 5) for s in (1, 4, 7)]
    edges += [(s, t) for t in (6, 8) for s in (0, 2, 3, 5)]
    edge_index = torch.tensor(edges).t()
    return graphnn.NeuronGraph(edge_index, inputs=[1, 4, 7], outputs=[6, 8], activation=activation)


@pytest.mark.parametrize("activation", ["tanh", "silu", "identity"])
def test_a_trace_agrees_with_the_reference(rng, taken, activation):
    options = {"dtype": torch.float64, "generator": rng}
    net = graphnn.Network(scattered(activation), backend="fused_cpu", **options)
    twin = graphnn.Network(net.graph, net.weight, net.bias, backend="reference")
    x = torch.randn(1, 3, generator=rng, dtype=torch.float64, requires_grad=True)
    seeds = torch.randn(2, 1, 9, generator=rng, dtype=torch.float64)
    results = []
    for own in (net, twin):
        leaves, trace = (own.weight, own.bias, x), own.trace(x)
        by_value, by_pre = (trace.values * seeds[0]).sum(), (trace.preactivations * seeds[1]).sum()
        results.append([trace.values, trace.preactivations])
        for loss in (by_value, by_pre, by_value + by_pre):
            results[-1] += torch.autograd.grad(loss, leaves, retain_graph=True)
    torch.testing.assert_close(*results, rtol=1e-12, atol=1e-13)
    assert len(taken) == 1


@pytest.mark.parametrize("inner", [nn.ReLU, nn.SiLU])
def test_a_trace_has_the_bits_of_the_outputs(rng, taken, inner):
    net = graphnn.from_sequential(stack(rng, (33, 70, 40, 6), inner))
    x = torch.randn(1, 33, generator=rng)
    outputs = net(x)
    assert torch.equal(net.trace(x).outputs, outputs)
    with torch.no_grad():
        assert torch.equal(net.trace(x).outputs, outputs)
    trace = net.trace(x)
    found = torch.autograd.grad(trace.outputs.sum(), net.weight)
    assert torch.equal(*found, *torch.autograd.grad(outputs.sum(), net.weight))
    assert len(taken) == 4


def test_is_for_one_sample_and_where_threads_would_not_pay(rng, taken):
    small, large = (graphnn.from_sequential(stack(rng, s)) for s in ((20, 30, 5), (400, 400, 5)))
    before = torch.get_num_threads()
    try:
        for threads, expected in ((1, [750, 162_000]), (2, [750])):
            torch.set_num_threads(threads)
            taken.clear()
            for net in (small, large):
                for batch in (0, 1, 2):
                    net(torch.randn(batch, net.in_features, generator=rng))
            assert taken == expected
    finally:
        torch.set_num_threads(before)


def test_repeats_and_adds_up(rng, taken):
    net = graphnn.from_sequential(stack(rng, (30, 40, 20)))
    x = torch.randn(1, 30, generator=rng)
    outputs = net(x).sum()
    outputs.backward(retain_graph=True)
    assert net.weight.grad is not None
    first = net.weight.grad.clone()
    outputs.backward()
    net(x).sum().backward()
    assert torch.equal(net.weight.grad, 2 * first + first)
    assert len(taken) == 2


def test_inputs_may_have_any_strides(rng, taken):
    model = stack(rng, (8, 6, 3))
    net = graphnn.from_sequential(model)
    wide = torch.randn(16, 3, generator=rng)
    imaginary = torch.view_as_complex(torch.randn(1, 8, 2, generator=rng)).conj().imag
    for x in (wide[::2, 1][None], wide.t()[:1, ::2], imaginary, wide[:1, :1].expand(1, 8)):
        torch.testing.assert_close(net(x), model(x))
    assert len(taken) == 4


@pytest.mark.parametrize("number", [float("inf"), float("nan")])
def test_what_is_not_finite_spreads_as_in_torch(rng, taken, number):
    model = stack(rng, (70, 40, 3), nn.Tanh)
    with torch.no_grad():
        model[0].weight[5, 66] = number  # pyright: ignore
    net = graphnn.from_sequential(model)
    x = torch.randn(1, 70, generator=rng, requires_grad=True)
    cotangent = torch.ones(1, 3)
    wanted = torch.autograd.grad(model(x), (model[0].weight, x), cotangent)  # pyright: ignore
    found = torch.autograd.grad(net(x), (net.weight, x), cotangent)
    torch.testing.assert_close(net(x), model(x), equal_nan=True)
    torch.testing.assert_close(found[0][: 70 * 40].view(40, 70), wanted[0], equal_nan=True)
    torch.testing.assert_close(found[1], wanted[1], equal_nan=True)
    assert len(taken) == 2


def test_outputs_are_the_callers(rng, taken):
    net = graphnn.from_sequential(stack(rng, (8, 6, 3)))
    x = torch.randn(1, 8, generator=rng)
    first = net(x)
    kept = first.clone()
    net(-x)
    assert torch.equal(first, kept)
    assert len(taken) == 2


def test_parameters_of_another_shape_are_refused(rng):
    for name, shape in (("weight", (1, 66)), ("bias", (9, 1)), ("bias", (1, 9))):
        net = graphnn.from_sequential(stack(rng, (8, 6, 3)))
        setattr(net, name, nn.Parameter(getattr(net, name).detach().reshape(shape)))
        with pytest.raises(graphnn.GraphError, match=f"{name} must have shape"):
            net(torch.randn(1, 8, generator=rng))


@pytest.fixture(params=["stack", "skips"])
def either(request, rng):
    """A network of 8 inputs and 3 outputs: a stack, or one that takes the way of tiles."""
    if request.param == "stack":
        return graphnn.from_sequential(stack(rng, (8, 6, 3)))
    graph = graphnn.generate.random_dag(8, 20, 3, fan_in=4, depth=4, generator=rng)
    return graphnn.Network(graph, backend="fused_cpu", generator=rng)


def test_weights_replaced_before_the_backward_pass_are_refused(rng, either):
    loss = either(torch.randn(1, 8, generator=rng)).sum()
    either.weight.data = torch.zeros(5)
    with pytest.raises(graphnn.BackendError, match=r"weight must keep its shape .* \(got \(5,\)\)"):
        loss.backward()


def test_a_backward_pass_inside_of_forward_mode_is_refused(rng, either):
    outputs = either(torch.randn(1, 8, generator=rng))
    with forward_ad.dual_level():
        (plain,) = torch.autograd.grad(outputs, either.weight, torch.ones(1, 3), retain_graph=True)
        assert plain.any()
        seed = forward_ad.make_dual(torch.ones(1, 3), torch.ones(1, 3))
        with pytest.raises(graphnn.BackendError, match="inside of forward-mode"):
            torch.autograd.grad(outputs, either.weight, seed)


def test_a_backward_pass_inside_of_a_transform_is_refused(rng, taken):
    net = graphnn.from_sequential(stack(rng, (8, 6, 3)))
    outputs = net(torch.randn(1, 8, generator=rng))

    def slope(seed):
        return torch.autograd.grad(outputs, net.weight, seed, retain_graph=True)[0].sum()

    for run in (torch.func.functionalize(slope), torch.func.grad(slope), make_fx(slope)):
        with pytest.raises(graphnn.BackendError, match="outside of transforms and tracers"):
            run(torch.ones(1, 3))
    assert len(taken) == 1


def test_what_it_keeps_can_be_packed_away(rng, taken):
    net = graphnn.from_sequential(stack(rng, (8, 6, 3)))
    packed = []

    def pack(tensor):
        packed.append(tensor.numel())
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        net(torch.randn(1, 8, generator=rng)).sum().backward()
    # Weights, inputs, and a value of each neuron above them.
    assert packed == [66, 8, 9]
    assert len(taken) == 1
