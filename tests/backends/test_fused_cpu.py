"""What the compiled CPU backend promises beyond the conformance table."""

import math
import os
import signal
import subprocess
import sys
import threading
import time
import weakref

import numpy as np
import pytest
import torch
from cases import CASES

import graphnn
from graphnn.backends import fused_cpu_schedule


def sparse_network(rng, num_levels=6, width=80, fan_in=7, activation="tanh", **options):
    """A layered network no level of which is a block."""
    source, target = [], []
    for level in range(num_levels):
        for neuron in range(width):
            chosen = torch.randperm(width, generator=rng)[:fan_in] + level * width
            source += chosen.tolist()
            target += [(level + 1) * width + neuron] * fan_in
    graph = graphnn.NeuronGraph([source, target], activation=activation)
    return graphnn.Network(graph, backend="fused_cpu", generator=rng, **options)


def gradients(net, x):
    """Outputs and all gradients of a fixed loss."""
    x = x.clone().requires_grad_()
    outputs = net(x)
    return outputs.detach(), *torch.autograd.grad(outputs.square().sum(), (net.weight, net.bias, x))


def test_auto_takes_it_for_sparse_networks(rng):
    net = sparse_network(rng)
    net.backend = "auto"
    assert net.backend_report(torch.zeros(2, 80)).backend == "fused_cpu"


def mixed_network(rng, share, **options):
    """Four levels of 150: one to one, `share` of the edges with a few skips, and one to one."""
    first = torch.stack([torch.arange(150), torch.arange(150, 300)])
    wired = (torch.rand(150, 150, generator=rng) < share).nonzero().t().flip(0)
    middle = wired + torch.tensor([[150], [300]])
    last = torch.stack([torch.arange(300, 450), torch.arange(450, 600)])
    skips = torch.stack([torch.arange(0, 150, 30), torch.arange(300, 450, 30)])
    edges = torch.cat([first, middle, last, skips], 1)
    shuffled = edges[:, torch.randperm(edges.shape[1], generator=rng)]
    graph = graphnn.NeuronGraph(shuffled, activation="tanh")
    return graphnn.Network(graph, generator=rng, **options)


@pytest.mark.parametrize(("share", "how"), [(0.2, "message passing"), (0.9, "matrix product")])
def test_auto_runs_dense_levels_as_products(rng, share, how):
    net = mixed_network(rng, share)
    report = net.backend_report(torch.zeros(1, 150))
    assert report.backend == "fused_cpu"
    assert [level[-1] for level in report.levels] == ["message passing", how, "message passing"]


@pytest.mark.parametrize("batch", [0, 1, 17, 200])
@pytest.mark.parametrize("num_threads", [1, 3])
def test_a_level_as_a_product_agrees_with_the_reference(rng, threads, batch, num_threads):
    threads(num_threads)
    net = mixed_network(rng, 0.9, dtype=torch.float64)
    x = torch.randn(batch, 150, generator=rng, dtype=torch.float64)
    net.backend = "fused_cpu"
    own = gradients(net, x)
    net.backend = "reference"
    for a, b in zip(own, gradients(net, x), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-13)


def test_an_infinite_value_does_not_reach_neurons_that_do_not_read_it(rng):
    net = mixed_network(rng, 0.9, backend="fused_cpu")
    x = torch.zeros(3, 150)
    x[1, 0] = math.inf
    first_reader = int((net.graph.edge_index[0] == 0).nonzero()[0])
    with torch.no_grad():
        net.weight[first_reader] = 1.0
    graph = graphnn.NeuronGraph(net.graph.edge_index, activation="identity")
    same = graphnn.Network(graph, net.weight, net.bias, backend="fused_cpu")
    outputs = same(x)
    outputs.nan_to_num(0, 0, 0).sum().backward()
    expected = graphnn.Network(graph, net.weight, net.bias, backend="reference")
    torch.testing.assert_close(outputs, expected(x), equal_nan=True)
    assert outputs.isfinite().any(0).any()
    assert not outputs[1].isfinite().all()


@pytest.mark.parametrize("batch", [1, 2, 15, 16, 17, 32, 33, 63, 64, 65, 200])
@pytest.mark.parametrize("activation", ["relu", "gelu", "softplus", "sin"])
def test_every_tile_width_gives_the_same_bits(rng, batch, activation):
    net = sparse_network(rng, activation=activation)
    x = torch.randn(200, 80, generator=rng)
    with torch.no_grad():
        assert torch.equal(net(x[:batch]), net(x)[:batch])


def test_outputs_do_not_depend_on_threads_and_gradients_repeat(rng, threads):
    net = sparse_network(rng, width=300, fan_in=20)
    x = torch.randn(500, 300, generator=rng)
    threads(1)
    alone = gradients(net, x)
    threads(3)
    first, second = gradients(net, x), gradients(net, x)
    assert torch.equal(alone[0], first[0])
    for one, other in zip(first, second, strict=True):
        assert torch.equal(one, other)
    for one, other in zip(alone, first, strict=True):
        assert torch.allclose(one, other, rtol=1e-4, atol=1e-5 * float(other.abs().max()))


def test_serves_several_python_threads_at_once(rng, threads):
    threads(2)
    net = sparse_network(rng, width=200, fan_in=20)
    inputs = [torch.randn(300, 200, generator=rng) for _ in range(6)]
    wanted = [gradients(net, x) for x in inputs]
    found: dict[int, tuple] = {}

    def work(i):
        found[i] = gradients(net, inputs[i])

    workers = [threading.Thread(target=work, args=(i,)) for i in range(len(inputs))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    for i, right in enumerate(wanted):
        actual = found[i]
        for one, other in zip(right, actual, strict=True):
            assert torch.equal(one, other)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no fork")
@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_works_after_a_fork(rng, threads):
    threads(2)
    net = sparse_network(rng, width=200, fan_in=20)
    x = torch.randn(256, 200, generator=rng)
    with torch.no_grad():
        wanted = net(x).numpy()
        child = os.fork()
        if child == 0:
            # Compared by numpy: torch's own OpenMP threads do not survive a fork.
            os._exit(0 if np.array_equal(net(x).numpy(), wanted) else 1)
    for _ in range(600):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        pytest.fail("the child hangs")
    assert os.waitstatus_to_exitcode(status) == 0


def test_refuses_a_second_derivative(rng):
    net = sparse_network(rng)
    x = torch.randn(3, 80, generator=rng, requires_grad=True)
    (first,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    with pytest.raises(graphnn.BackendError, match=r"'fused_cpu'.*'reference'"):
        first.sum().backward()


def test_gradcheck(rng):
    net = sparse_network(rng, 3, 8, 3, dtype=torch.float64)
    x = torch.randn(3, 8, generator=rng, dtype=torch.float64, requires_grad=True)

    def run(weight, bias, x):
        return torch.func.functional_call(net, {"weight": weight, "bias": bias}, (x,))

    assert torch.autograd.gradcheck(run, (net.weight, net.bias, x))


@pytest.mark.parametrize("needs", ["weight", "bias", "x", "offset"])
def test_each_gradient_alone(rng, needs):
    net = sparse_network(rng)
    leaves = {
        "weight": net.weight.detach().clone(),
        "bias": net.bias.detach().clone(),
        "x": torch.randn(20, 80, generator=rng),
        "offset": torch.randn(20, net.graph.num_neurons, generator=rng),
    }
    leaves[needs].requires_grad_()
    found = []
    for backend in ("fused_cpu", "reference"):
        twin = graphnn.Network(net.graph, leaves["weight"], leaves["bias"], backend=backend)
        twin.requires_grad_(False)
        leaf = getattr(twin, needs, leaves[needs]).requires_grad_()
        trace = twin.trace(leaves["x"], offset=leaves["offset"])
        found.append(torch.autograd.grad(trace.values.square().sum(), leaf)[0])
    assert torch.allclose(*found, rtol=1e-4, atol=1e-5)


def test_changing_the_weight_before_backward_is_noticed(rng):
    net = sparse_network(rng)
    outputs = net(torch.randn(4, 80, generator=rng))
    with torch.no_grad():
        net.weight.add_(1.0)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


def test_the_gradient_reads_what_was_saved(rng):
    net = sparse_network(rng, dtype=torch.float64)
    x = torch.randn(20, 80, generator=rng, dtype=torch.float64)
    expected = gradients(net, x)
    inputs = x.clone().requires_grad_()
    with torch.autograd.graph.saved_tensors_hooks(torch.clone, lambda kept: kept):
        outputs = net(inputs)
    with torch.no_grad():
        net.weight.add_(1.0)
    by_all = torch.autograd.grad(outputs.square().sum(), (net.weight, net.bias, inputs))
    for found, own in zip(by_all, expected[1:], strict=True):
        assert torch.equal(found, own)


def test_inputs_are_let_go_after_the_backward_pass(rng):
    net = sparse_network(rng)
    inputs = torch.randn(20, 80, generator=rng)
    kept = weakref.ref(inputs)
    loss = net(inputs).sum()
    loss.backward()
    del inputs
    assert kept() is None
    assert loss.grad_fn is not None


def test_what_is_remembered_of_batch_sizes_is_bounded(rng):
    net = sparse_network(rng)
    for batch in range(1, 150):
        net(torch.zeros(batch, 80))
    # One sample alone, and what three widths of tiles can be combined to.
    assert len(fused_cpu_schedule.schedule_of(net.plan).compiled) <= 8


def test_names_every_reason(rng):
    graphnn.register_activation("test_fused_cube", lambda x: x**3)
    net = sparse_network(rng, activation="test_fused_cube", dtype=torch.bfloat16)
    with pytest.raises(graphnn.BackendError, match=r"(?s)not in torch.bfloat16.*test_fused_cube"):
        net(torch.zeros(2, 80, dtype=torch.bfloat16))


def test_nan_and_infinity_travel_as_in_torch():
    graph = graphnn.NeuronGraph([[0, 1, 1, 0], [2, 2, 3, 4]], activation="relu")
    weight, bias = torch.tensor([1.0, 1.0, 2.0, -1.0]), torch.zeros(3)
    x = torch.tensor([[torch.nan, 1.0], [torch.inf, 1.0], [-torch.inf, 1.0], [1.0, torch.nan]])
    results = []
    for backend in ("fused_cpu", "reference"):
        net = graphnn.Network(graph, weight, bias, backend=backend)
        results.append(net(x))
    assert torch.equal(results[0].isnan(), results[1].isnan())
    assert torch.equal(results[0].nan_to_num(), results[1].nan_to_num())


def test_padding_lanes_add_nothing(rng):
    # 17 samples in tiles of 16 or 32 leave lanes over; an infinite weight would turn zeros there
    # into NaN gradients.
    graph = CASES["random"]()
    weight = torch.randn(graph.num_edges, generator=rng)
    net = graphnn.Network(graph, weight, backend="fused_cpu", generator=rng)
    x = torch.rand(17, graph.input_ids.numel(), generator=rng) + 1
    whole = gradients(net, x)
    assert all(part.isfinite().all() for part in whole)
    halves = [gradients(net, part) for part in (x[:9], x[9:])]
    summed = halves[0][1] + halves[1][1]
    assert torch.allclose(whole[1], summed, rtol=1e-3, atol=1e-4 * float(summed.abs().max()))


# Tiles of 16; of 32; of 32 and 16: padding repeats the first sample of the last.
@pytest.mark.parametrize(("batch", "repeated"), [(3, 0), (17, 0), (40, 32)])
@pytest.mark.parametrize("infinite", ["input", "weight", "slope"])
def test_infinity_in_a_padded_tile_gives_the_reference_s_gradients(rng, infinite, batch, repeated):
    # Infinite there, 0 * inf would be a NaN that no sample has.
    graph = graphnn.NeuronGraph(
        [[0, 1, 1, 2, 3, 4, 3], [3, 3, 4, 5, 6, 6, 7]],
        activation="square" if infinite == "slope" else "leaky_relu",
    )
    weight = torch.rand(7, generator=rng) + 0.5
    x = torch.rand(batch, 3, generator=rng) + 0.5
    if infinite == "weight":
        weight[4] = torch.inf
    else:
        x[repeated, 1] = torch.inf
    found = []
    for backend in ("fused_cpu", "reference"):
        net = graphnn.Network(graph, weight, torch.zeros(5), backend=backend)
        found.append(gradients(net, x))
    assert any(part.isinf().any() for part in found[1])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


# Parameters that float32 cannot hold show where torch rounds, and where it does not.
@pytest.mark.parametrize(
    "activation",
    ["leaky_relu(0.3)", "elu(0.7)", "selu", "celu(0.7)", "celu(3)", "softplus(0.3, 7)", "relu6",
     "clamp(-0.7, 0.3)", "hardsigmoid", "hardswish", "gelu", "gelu_tanh", "mish", "silu"],
)  # fmt: skip
def test_slopes_are_torchs_in_float64(rng, activation):
    net = sparse_network(rng, 2, 20, 3, activation=activation, dtype=torch.float64)
    x = 5 * torch.randn(40, 20, generator=rng, dtype=torch.float64)
    found = gradients(net, x)
    net.backend = "reference"
    for one, other in zip(found, gradients(net, x), strict=True):
        assert (one - other).abs().max() <= 1e-12 * other.abs().max()


@pytest.mark.parametrize(
    "activation", ["relu", "relu6", "leaky_relu", "elu", "selu", "celu", "clamp(-1, 1)", "tanh"]
)
def test_slopes_at_nan_are_torchs(activation):
    graph = graphnn.NeuronGraph([[0, 1, 1], [2, 2, 3]], activation=activation, bias=False)
    slopes = []
    for backend in ("fused_cpu", "reference"):
        net = graphnn.Network(graph, [1.0, 0.0, 1.0], backend=backend)
        assert net.backend_report(torch.zeros(1, 2)).levels[0][3] == "message passing"
        x = torch.tensor([[torch.nan, 1.0]] * 3, requires_grad=True)
        slopes.append(torch.autograd.grad(net(x).sum(), x)[0])
    assert torch.allclose(*slopes, equal_nan=True)


def test_takes_tensors_that_are_stored_negated(rng):
    net = sparse_network(rng)
    x, cotangent = torch.randn(2, 5, 80, generator=rng)
    negated = torch._neg_view  # pyright: ignore[reportPrivateImportUsage]
    outputs = net(negated(x))
    assert torch.equal(outputs, net(-x))
    found = torch.autograd.grad(outputs, net.weight, negated(cotangent))
    assert torch.equal(found[0], torch.autograd.grad(net(-x), net.weight, -cotangent)[0])


@pytest.mark.parametrize("backend", ["fused_cpu", "scatter"])
def test_refuses_many_gradients_at_once(rng, backend):
    net = sparse_network(rng)
    x = torch.randn(2, 80, generator=rng)
    net.backend = backend
    outputs = net(x)
    cotangents = torch.randn(3, *outputs.shape, generator=rng)
    with pytest.raises(graphnn.BackendError, match=rf"{backend!r}.*is_grads_batched.*'reference'"):
        torch.autograd.grad(outputs, net.weight, cotangents, is_grads_batched=True)
    net.backend = "reference"
    (found,) = torch.autograd.grad(net(x), net.weight, cotangents, is_grads_batched=True)
    assert found.shape == (3, net.graph.num_edges)


def test_kernels_are_kept_by_their_sources_however_imported():
    # numba alone would read code from disk that is older than the files the kernels import.
    code = (
        "from graphnn.backends.fused_cpu_kernels import forward_tiles\n"
        "print(forward_tiles.stats.cache_path)"
    )
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "kernels-" in done.stdout
