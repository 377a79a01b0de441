"""Levels of the compiled CPU backend that run as matrix products."""

import math
import tracemalloc

import pytest
import torch

import graphnn
from graphnn.backends import fused_cpu_schedule

# Neurons and sources of the dense level: less than a panel, several, and ragged words and groups.
SHAPES = [(150, 150), (211, 784), (17, 1000), (1000, 20), (103, 385)]


def dense_network(
    rng, neurons, sources, *, share=0.8, step=1, shuffled=False, activation="tanh", **options
):
    """A level with `share` of the edges from every `step`-th input, and seven sparse outputs."""
    cells = torch.rand(neurons, sources, generator=rng) < share
    cells[0] = True
    target, source = cells.nonzero().t()
    first = torch.stack([step * source, step * sources + target])
    chosen = torch.rand(7, neurons, generator=rng) < 0.3
    chosen[:, 0] = True
    target, source = chosen.nonzero().t()
    last = torch.stack([step * sources + source, step * sources + neurons + target])
    edges = torch.cat([first, last], 1)
    if shuffled:
        edges = edges[:, torch.randperm(edges.shape[1], generator=rng)]
    size = step * sources + neurons + 7
    inputs = torch.arange(step * sources)
    names = ["identity"] * inputs.numel() + [activation] * (size - inputs.numel())
    graph = graphnn.NeuronGraph(edges, num_neurons=size, inputs=inputs.tolist(), activation=names)
    return graphnn.Network(graph, generator=rng, backend="fused_cpu", **options)


def gradients(net, x):
    """Outputs and all gradients of a fixed loss."""
    x = x.clone().requires_grad_()
    outputs = net(x)
    return outputs.detach(), *torch.autograd.grad(outputs.square().sum(), (net.weight, net.bias, x))


def how_levels_run(net):
    report = net.backend_report(torch.zeros(1, net.graph.input_ids.numel(), dtype=net.weight.dtype))
    return [level[-1] for level in report.levels]


def close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def by_reference(net, x):
    net.backend = "reference"
    try:
        return gradients(net, x)
    finally:
        net.backend = "fused_cpu"


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("shuffled", [False, True])
def test_any_shape_agrees_with_the_reference(rng, threads, shape, num_threads, shuffled):
    threads(num_threads)
    net = dense_network(rng, *shape, shuffled=shuffled, dtype=torch.float64)
    assert how_levels_run(net)[0] == "matrix product"
    for batch in (0, 1, 2, 17, 48, 300):
        x = torch.randn(batch, shape[1], generator=rng, dtype=torch.float64)
        close(gradients(net, x), by_reference(net, x), 1e-11)


@pytest.mark.parametrize("batch", [1, 33, 200])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_sources_that_are_not_consecutive(rng, threads, batch, dtype):
    threads(2)
    net = dense_network(rng, 200, 450, step=2, dtype=dtype)
    assert how_levels_run(net)[0] == "matrix product"
    x = torch.randn(batch, 900, generator=rng, dtype=dtype)
    tolerance = 1e-11 if dtype == torch.float64 else 1e-4
    close(gradients(net, x), by_reference(net, x), tolerance)


@pytest.mark.parametrize("activation", ["gelu", "relu"])
def test_preactivations(rng, activation):
    net = dense_network(rng, 150, 150, activation=activation, dtype=torch.float64)
    x = torch.randn(20, 150, generator=rng, dtype=torch.float64)
    own = net.trace(x)
    net.backend = "reference"
    expected = net.trace(x)
    close((own.values, own.preactivations), (expected.values, expected.preactivations), 1e-12)


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("activation", ["tanh", "gelu", "mixed"])
def test_a_level_that_reads_several_levels_of_shuffled_neurons(
    rng, threads, activation, num_threads
):
    threads(num_threads)
    # Neurons have their own activations, and ids that tell nothing of the levels.
    sizes = (90, 140, 150)
    starts = (0, 90, 230)
    pieces = []
    for below, above in ((0, 1), (0, 2), (1, 2)):
        cells = torch.rand(sizes[above], sizes[below], generator=rng) < 0.7
        cells[torch.arange(sizes[above]), torch.arange(sizes[above]) % sizes[below]] = True
        target, source = cells.nonzero().t()
        pieces.append(torch.stack([starts[below] + source, starts[above] + target]))
    edges, ids = torch.cat(pieces, 1), torch.randperm(sum(sizes), generator=rng)
    edges = ids[edges[:, torch.randperm(edges.shape[1], generator=rng)]]
    of_neuron = ["tanh", "gelu", "relu", "sin"] if activation == "mixed" else [activation]
    names = [of_neuron[i % len(of_neuron)] for i in range(sum(sizes))]
    for i in range(sizes[0]):
        names[int(ids[i])] = "identity"
    graph = graphnn.NeuronGraph(edges, inputs=ids[: sizes[0]].tolist(), activation=names)
    net = graphnn.Network(graph, generator=rng, backend="fused_cpu", dtype=torch.float64)
    assert how_levels_run(net)[1] == "matrix product"
    for batch in (1, 33, 130):
        x = torch.randn(batch, sizes[0], generator=rng, dtype=torch.float64)
        close(gradients(net, x), by_reference(net, x), 1e-11)


def test_the_numbers_are_those_of_message_passing(rng, threads, monkeypatch):
    net = dense_network(rng, 211, 400)
    x = torch.randn(200, 400, generator=rng)
    with torch.no_grad():
        whole = net(x)
        for part in (slice(0, 1), slice(5, 8), slice(11, 28), slice(40, 200)):
            assert torch.equal(net(x[part]), whole[part])
        threads(3)
        assert torch.equal(net(x), whole)
        monkeypatch.setattr(fused_cpu_schedule, "_CROSSOVER", 2.0)
        graph = graphnn.NeuronGraph(
            net.graph.edge_index,
            inputs=net.graph.input_ids.tolist(),
            activation=["identity"] * 400 + ["tanh"] * 218,
        )
        same = graphnn.Network(graph, net.weight, net.bias, backend="fused_cpu")
        assert how_levels_run(same) == ["message passing"] * 2
        assert torch.equal(same(x), whole)


def test_gradients_that_are_not_finite_stay_on_their_edges(rng):
    net = dense_network(rng, 150, 150, activation="identity", dtype=torch.float64)
    x = torch.randn(40, 150, generator=rng, dtype=torch.float64)
    found = []
    for backend in ("fused_cpu", "reference"):
        net.backend = backend
        own = x.clone().requires_grad_()
        seed = torch.ones(40, net.graph.output_ids.numel(), dtype=torch.float64)
        seed[3, 0] = math.inf
        found.append(torch.autograd.grad(net(own), (net.weight, net.bias, own), seed))
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11, equal_nan=True)
    by_input = found[0][2]
    assert not by_input[3].isfinite().all()
    assert by_input[4].isfinite().all()


# Tiles of 16; of 32; of 32 and 16: padding repeats the first sample of the last.
@pytest.mark.parametrize(("batch", "repeated"), [(3, 0), (17, 0), (40, 32)])
@pytest.mark.parametrize("infinite", ["input", "weight"])
def test_infinity_in_a_padded_tile_gives_the_reference_s_gradients(rng, infinite, batch, repeated):
    net = dense_network(rng, 150, 150, activation="leaky_relu", dtype=torch.float64)
    x = torch.rand(batch, 150, generator=rng, dtype=torch.float64) + 0.5
    if infinite == "input":
        x[repeated, 5] = math.inf
    else:
        with torch.no_grad():
            net.weight[7] = math.inf
    found = []
    for backend in ("fused_cpu", "reference"):
        net.backend = backend
        own = x.clone().requires_grad_()
        found.append(torch.autograd.grad(net(own).sum(), (net.weight, net.bias, own)))
    assert any(part.isinf().any() for part in found[1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-11, equal_nan=True)


def test_gradients_by_weight_alone_are_the_same(rng):
    net = dense_network(rng, 200, 300)
    x = torch.randn(100, 300, generator=rng)
    wanted = gradients(net, x)[1]
    alone = torch.autograd.grad(net(x).square().sum(), net.weight)[0]
    assert torch.equal(alone, wanted)


def test_gradients_repeat(rng, threads):
    threads(3)
    net = dense_network(rng, 200, 700)
    x = torch.randn(300, 700, generator=rng)
    for one, other in zip(gradients(net, x), gradients(net, x), strict=True):
        assert torch.equal(one, other)


def test_no_matrix_is_kept(rng, threads):
    threads(2)
    net, batch = dense_network(rng, 2000, 2000, share=0.5), 256
    x = torch.randn(batch, 2000, generator=rng)
    gradients(net, x)
    tracemalloc.start()
    try:
        gradients(net, x)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 3 * 4 * net.graph.num_neurons * batch + 8 * net.graph.num_edges
