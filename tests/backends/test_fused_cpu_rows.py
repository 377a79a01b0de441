"""Rows of values and gradients that the compiled CPU backend uses again."""

import pytest
import torch

import graphnn
from graphnn.backends import fused_cpu_cut, fused_cpu_pass, fused_cpu_schedule


@pytest.fixture
def small_state(monkeypatch):
    """Has the smallest networks use rows again, too."""
    monkeypatch.setattr(fused_cpu_schedule, "_SMALL_STATE", 0)


@pytest.fixture
def small_steps(monkeypatch, threads):
    """Has two threads share the rows of small levels."""
    threads(2)
    for module in (fused_cpu_cut, fused_cpu_pass):
        monkeypatch.setattr(module, "PRODUCTS_PER_STEP", 1000)
    monkeypatch.setattr(fused_cpu_cut, "_PRODUCTS_PER_THREAD", 1000)


def irregular(rng, num_levels=25):
    """Levels of many widths, three levels back, with unread inputs, constants and early outputs."""
    widths = torch.randint(1, 40, (num_levels,), generator=rng).tolist()
    starts = [0]
    for width in widths:
        starts.append(starts[-1] + width)
    edges = []
    for level in range(1, num_levels):
        lowest, own = starts[max(0, level - 3)], starts[level]
        for neuron in range(own, starts[level + 1]):
            # One of the level below keeps the neuron where it is.
            below = torch.randint(starts[level - 1], own, (1,), generator=rng)
            others = torch.randint(lowest, own, (9,), generator=rng)
            edges += [(int(s), neuron) for s in torch.cat([below, others]).unique()]
    num_neurons = starts[-1] + 2
    edges = torch.tensor(edges)[torch.randperm(len(edges), generator=rng)].t()
    names = ["tanh", "relu", "sin", "gelu"]
    picked = torch.randint(len(names), (num_neurons,), generator=rng).tolist()
    inputs = range(widths[0])
    return graphnn.NeuronGraph(
        edges,
        num_neurons=num_neurons,
        inputs=inputs,
        outputs=[num_neurons - 1, starts[2], *range(starts[-2], starts[-1])],
        activation=["identity" if n in inputs else names[k] for n, k in enumerate(picked)],
    )


@pytest.mark.parametrize("by_input", [True, False])
@pytest.mark.parametrize("batch", [1, 16, 17, 64, 200])
@pytest.mark.parametrize("num_threads", [1, 2])
@pytest.mark.usefixtures("small_state")
def test_rows_used_again_hold_the_reference_s_numbers(rng, threads, num_threads, batch, by_input):
    threads(num_threads)
    agrees_with_the_reference(irregular(rng), rng, batch, by_input)


@pytest.mark.parametrize("by_input", [True, False])
@pytest.mark.parametrize("batch", [1, 16])
@pytest.mark.usefixtures("small_state", "small_steps")
def test_rows_used_again_by_threads_that_share_levels(rng, batch, by_input):
    graph = irregular(rng)
    cut = fused_cpu_pass.Pass(graphnn.build_plan(graph), torch.float64, batch, 2).cut
    assert cut.is_by_rows
    agrees_with_the_reference(graph, rng, batch, by_input)


def agrees_with_the_reference(graph, rng, batch, by_input):
    """Outputs and gradients of the compiled backend are those of the reference."""
    net = graphnn.Network(graph, dtype=torch.float64, generator=rng)
    x = torch.randn(batch, graph.input_ids.numel(), generator=rng, dtype=torch.float64)
    x.requires_grad_(by_input)
    leaves = [net.weight, net.bias] + ([x] if by_input else [])
    found = []
    for backend in ("fused_cpu", "reference"):
        net.backend = backend
        with torch.no_grad():
            inferred = net(x)
        outputs = net(x)
        loss = outputs.square().sum()
        found.append([inferred, outputs, *torch.autograd.grad(loss, leaves)])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-11, atol=1e-12)


@pytest.mark.usefixtures("small_state")
@pytest.mark.parametrize("batch", [1, 16, 40, 64, 200])
def test_gradients_inside_a_network_of_few_rows(rng, batch):
    graph = irregular(rng)
    schedule = fused_cpu_schedule.schedule_of(graphnn.build_plan(graph))
    assert max(schedule.pushed.count, schedule.pulled.count) < graph.num_neurons / 2
    net = graphnn.Network(graph, dtype=torch.float64, generator=rng)
    x = torch.randn(batch, graph.input_ids.numel(), generator=rng, dtype=torch.float64)
    offset = torch.randn(batch, graph.num_neurons, generator=rng, dtype=torch.float64)
    offset.requires_grad_()
    cotangents = torch.randn(2, batch, graph.num_neurons, generator=rng, dtype=torch.float64)
    found = []
    for backend in ("fused_cpu", "reference"):
        net.backend = backend
        trace = net.trace(x, offset=offset)
        found.append(
            torch.autograd.grad((trace.values, trace.preactivations), offset, tuple(cotangents))[0]
        )
    torch.testing.assert_close(*found, rtol=1e-11, atol=1e-12)


def test_threads_that_share_a_level_do_not_overwrite_what_another_reads(rng, threads):
    # Two nets side by side, of two activations: what one run has read last, the other might take.
    threads(2)
    half, num_levels, fan_in = 9000, 4, 33
    edges = []
    for level in range(num_levels):
        for side in (0, half):
            begin = torch.randint(half, (half, 1), generator=rng)
            source = (begin + torch.arange(fan_in) * (half // fan_in)) % half
            target = torch.arange(half).repeat_interleave(fan_in)
            first = 2 * half * level + side
            edges.append(torch.stack([first + source.flatten(), first + 2 * half + target]))
    activation = ["identity"] * 2 * half + (["relu"] * half + ["tanh"] * half) * num_levels
    num_neurons = len(activation)
    outputs = range(num_neurons - 2 * half, num_neurons)
    graph = graphnn.NeuronGraph(torch.cat(edges, 1), activation=activation, outputs=outputs)
    net = graphnn.Network(graph, generator=rng, backend="scatter")
    x = torch.randn(16, 2 * half, generator=rng)
    with torch.no_grad():
        expected = net(x)
        net.backend = "fused_cpu"
        for _ in range(5):
            torch.testing.assert_close(net(x), expected, rtol=1e-4, atol=1e-4)


def test_a_deep_network_needs_the_gradients_of_a_few_levels():
    # Each level reads the level below and the one before that.
    width, num_levels = 20, 1000
    ids = torch.arange(width * num_levels)
    below, before = ids[:-width], ids[: -2 * width]
    source, target = torch.cat([below, before]), torch.cat([below + width, before + 2 * width])
    graph = graphnn.NeuronGraph(torch.stack([source, target]), activation="tanh")
    schedule = fused_cpu_schedule.schedule_of(graphnn.build_plan(graph))
    assert schedule.pulled.count == 3 * width
    assert schedule.pushed.count == 64
    assert schedule.inference_rows.count == 3 * width
