"""Neurons that read the same sources, which the compiled CPU backend computes four at a time."""

import pytest
import torch

import graphnn
from graphnn.backends import fused_cpu_schedule


def alike(rng, per_group, num_levels=4, groups=6, fan_in=9, activation="tanh", odd=False):
    """Levels whose neuron i reads what all neurons equal to i modulo `groups` read."""
    width = per_group * groups
    edges = []
    for level in range(num_levels):
        reads = torch.stack([torch.randperm(width, generator=rng)[:fan_in] for _ in range(groups)])
        source = reads.repeat(per_group, 1).flatten() + level * width
        target = torch.arange(width).repeat_interleave(fan_in) + (level + 1) * width
        edges.append(torch.stack([source, target]))
    edges = torch.cat(edges, 1)
    if odd:
        # One neuron of the second level reads one source less.
        drop = (edges[1] == 2 * width + 1).nonzero()[0]
        edges = edges[:, torch.arange(edges.shape[1]) != drop]
    inputs, outputs = range(width), range(num_levels * width, (num_levels + 1) * width)
    return graphnn.NeuronGraph(edges, inputs=inputs, outputs=outputs, activation=activation)


def fours_of(graph):
    """How many neurons of each level above the first are computed in fours."""
    schedule = fused_cpu_schedule.schedule_of(graphnn.build_plan(graph))
    return [4 * int(count) for count in schedule.fours.ptr[1:] - schedule.fours.ptr[:-1]][1:]


def test_finds_neurons_that_read_the_same(rng):
    assert fours_of(alike(rng, 4)) == [24] * 4
    assert fours_of(alike(rng, 8)) == [48] * 4
    # Six of a group are one four and two more, and one neuron may differ.
    assert fours_of(alike(rng, 6)) == [0] * 4
    assert fours_of(alike(rng, 4, odd=True)) == [24, 0, 24, 24]
    # Few edges are not worth it.
    assert fours_of(alike(rng, 4, fan_in=3)) == [0] * 4


def wired(groups, num_inputs, activations):
    """Four neurons for each group of sources, one after the other, all of them outputs."""
    target = range(num_inputs, num_inputs + 4 * len(groups))
    edges = [(s, t) for t in target for s in groups[(t - num_inputs) // 4]]
    activation = ["identity"] * num_inputs
    for name in activations:
        activation += [name] * 4
    return graphnn.NeuronGraph(
        list(zip(*edges, strict=True)), inputs=range(num_inputs), outputs=target,
        activation=activation,
    )  # fmt: skip


# Groups of one activation, and of two whose neurons a poor hash would take for one another's.
@pytest.mark.parametrize(
    "groups",
    [
        [[2, 10, 11, 12], [0, 5, 6, 7], [1, 10, 11, 12]],
        [[1, 10, 11, 12], [1, 10, 11, 12], [1, 10, 11, 12]],
        [[3, 4, 5, 6], [0, 2, 4, 6], [16, 17, 20, 21]],
    ],
)
@pytest.mark.parametrize("batch", [1, 5, 100])
def test_fours_are_computed_in_their_own_run(rng, groups, batch):
    graph = wired(groups, 16, ["relu", "relu", "tanh"])
    assert sum(fours_of(graph)) == 12
    net = graphnn.Network(graph, generator=rng, dtype=torch.float64)
    x = torch.randn(batch, 16, generator=rng, dtype=torch.float64, requires_grad=True)
    found = []
    for backend in ("fused_cpu", "reference"):
        net.backend = backend
        outputs = net(x)
        found.append((outputs, *torch.autograd.grad(outputs.square().sum(), (net.weight, x))))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("batch", [1, 2, 17, 40, 64, 200])
@pytest.mark.parametrize("activation", ["relu", "gelu"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_the_bits_are_those_of_neurons_one_by_one(rng, batch, activation, dtype):
    graph = alike(rng, 8, activation=activation)
    net = graphnn.Network(graph, generator=rng, dtype=dtype, backend="fused_cpu")
    x = torch.randn(batch, graph.input_ids.numel(), generator=rng, dtype=dtype)
    # A trace takes neurons one by one, because it writes every row.
    one_by_one = net.trace(x).outputs
    assert torch.equal(net(x), one_by_one)
    with torch.no_grad():
        assert torch.equal(net(x), one_by_one)


@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.parametrize("batch", [1, 17, 100])
@pytest.mark.parametrize("odd", [False, True])
def test_agrees_with_the_reference(rng, threads, num_threads, batch, odd):
    threads(num_threads)
    net = graphnn.Network(alike(rng, 8, odd=odd), generator=rng, dtype=torch.float64)
    shape = batch, net.graph.input_ids.numel()
    x = torch.randn(shape, generator=rng, dtype=torch.float64, requires_grad=True)
    offset = torch.randn(batch, net.graph.num_neurons, generator=rng, dtype=torch.float64)
    found = []
    for backend in ("fused_cpu", "reference"):
        net.backend = backend
        outputs = net(x)
        moved = net.trace(x, offset=offset).outputs
        by_all = torch.autograd.grad(outputs.square().sum(), (net.weight, net.bias, x))
        found.append((outputs, moved, *by_all))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


def test_a_converted_convolution_runs_in_fours(rng):
    model = torch.nn.Sequential(
        torch.nn.Conv2d(2, 8, 3, padding=1), torch.nn.ReLU(), torch.nn.Conv2d(8, 4, 3)
    )
    x = torch.randn(5, 2, 6, 6, generator=rng)
    net = graphnn.from_module(model, x[:1], backend="fused_cpu")
    assert fours_of(net.graph) == [8 * 36, 4 * 16]
    with torch.no_grad():
        torch.testing.assert_close(net(x.flatten(1)), model(x).flatten(1))


@pytest.mark.parametrize("batch", [5, 100])
@pytest.mark.parametrize("num_threads", [1, 2])
def test_gradients_go_back_through_a_convolution(rng, threads, batch, num_threads):
    threads(num_threads)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(4, 8, 3, padding=1), torch.nn.Tanh(), torch.nn.Conv2d(8, 4, 3)
    )
    shape = batch, 4 * 36
    x = torch.randn(shape, generator=rng, dtype=torch.float64, requires_grad=True)
    net = graphnn.from_module(model.double(), x[:1].unflatten(1, (4, 6, 6)))
    pulled = fused_cpu_schedule.schedule_of(net.plan).pulled
    assert [4 * int(n) for n in pulled.fours.ptr[1:] - pulled.fours.ptr[:-1]][:2] == [144, 288]
    leaves = [*net.parameters(), x]
    found = []
    for backend in ("fused_cpu", "reference"):
        net.backend = backend
        outputs = net(x)
        found.append((outputs, *torch.autograd.grad(outputs.square().sum(), leaves)))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)
