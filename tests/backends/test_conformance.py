"""Every backend against the oracle: every case, dtype, device and batch size, with gradients."""

import os
from functools import cache

import pytest
import torch
from cases import ACTIVATIONS, CASES, TOLERANCE, oracle
from hypothesis import given, settings
from hypothesis import strategies as st

import graphnn

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
BATCHES = [0, 1, 3, 17, 64, 1000]
# Triton's interpreter takes about 10 ms for a level and 64 samples.
INTERPRETS = os.environ.get("TRITON_INTERPRET") == "1"
INTERPRETED_LEVELS, INTERPRETED_FAN_IN, INTERPRETED_BATCHES = 12, 50, (0, 3)


def draw(graph, batch, seed=0):
    """float64 weight, bias, x, offset and the cotangents of outputs, values, preactivations."""
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape):
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    fan_in = graph.fan_in[graph.edge_index[1]].clamp(min=1)
    n = graph.num_neurons
    return {
        "weight": normal(graph.num_edges) * fan_in.rsqrt(),
        "bias": normal(graph.bias_neurons.numel()) * 0.3,
        "x": normal(batch, graph.input_ids.numel()),
        "offset": normal(batch, n) * 0.1,
        "by_output": normal(batch, graph.output_ids.numel()),
        "by_value": normal(batch, n),
        "by_pre": normal(batch, n),
    }


@cache
def case(name):
    return CASES[name]()


@cache
def expected(name, batch):
    return solve(case(name), draw(case(name), batch))


def gradients(loss, leaves):
    """Gradients of a loss by its leaves, zero where it does not depend on one."""
    if not loss.requires_grad:
        return [torch.zeros_like(leaf) for leaf in leaves]
    return torch.autograd.grad(loss, leaves, allow_unused=True, materialize_grads=True)


def solve(graph, numbers):
    """The oracle's outputs and gradients: without and with everything kept."""
    leaves = [numbers[k].clone().requires_grad_() for k in ("weight", "bias", "x", "offset")]
    weight, bias, x, offset = leaves
    values, pres = oracle(graph, weight, bias, x, offset)
    outputs = values[:, graph.output_ids]
    plain, _ = oracle(graph, weight, bias, x, torch.zeros_like(offset))
    kept = (values * numbers["by_value"]).sum() + (pres * numbers["by_pre"]).sum()
    own = plain[:, graph.output_ids]
    return {
        "outputs": own,
        "by_outputs": gradients((own * numbers["by_output"]).sum(), leaves[:3]),
        "values": values,
        "pres": pres,
        "traced outputs": outputs,
        "by_trace": gradients(kept + (outputs * numbers["by_output"]).sum(), leaves),
    }


def close(actual, wanted, dtype, what):
    assert actual.dtype == dtype, what
    assert actual.shape == wanted.shape, what
    if wanted.numel() == 0:
        return
    error = (actual.cpu().double() - wanted).abs().max()
    assert error <= TOLERANCE[dtype] * wanted.abs().max().clamp(min=1e-30), f"{what}: {error}"


@pytest.fixture(scope="session")
def runs_here(without_gpu):
    """Skips a backend that is not for the device, and what would take Triton's interpreter long."""

    def check(backend, graph, batch, device):
        if backend == "fused_cpu" and device == "cuda":
            pytest.skip("runs on the CPU")
        if backend != "fused_gpu" or device == "cuda":
            return
        if torch.cuda.is_available():
            pytest.skip("runs on the GPU")
        if not INTERPRETS:
            without_gpu("there is no GPU, and Triton's interpreter is off (TRITON_INTERPRET=1)")
        fan_in = int(graph.fan_in.max())
        if graph.num_levels > INTERPRETED_LEVELS or fan_in > INTERPRETED_FAN_IN:
            pytest.skip("takes Triton's interpreter long")
        if batch not in INTERPRETED_BATCHES:
            pytest.skip("this batch takes Triton's interpreter long")

    return check


def home(backend):
    """The device that a backend is made for."""
    return DEVICES[-1] if backend == "fused_gpu" else "cpu"


def joined(outputs):
    return outputs if isinstance(outputs, torch.Tensor) else torch.cat(tuple(outputs), -1)


def network(graph, numbers, backend, dtype, device):
    net = graphnn.Network(
        graph, numbers["weight"], numbers["bias"], backend=backend, dtype=dtype, device=device
    )
    sizes = [ids.numel() for ids in graph.inputs.values()]
    x = numbers["x"].to(device, dtype).requires_grad_()
    return net, x, x.split(sizes, -1)


def check(graph, numbers, wanted, backend, dtype, device):
    cast = {name: value.to(device, dtype) for name, value in numbers.items()}
    net, x, groups = network(graph, numbers, backend, dtype, device)
    outputs = joined(net(*groups))
    close(outputs, wanted["outputs"], dtype, "outputs")
    leaves = (net.weight, net.bias, x)
    found = gradients((outputs * cast["by_output"]).sum(), leaves)
    for name, actual, right in zip(
        ("weight", "bias", "x"), found, wanted["by_outputs"], strict=True
    ):
        close(actual, right, dtype, f"gradient by {name}")

    offset = cast["offset"].requires_grad_()
    trace = net.trace(*groups, offset=offset)
    close(trace.values, wanted["values"], dtype, "values")
    close(trace.preactivations, wanted["pres"], dtype, "preactivations")
    close(joined(trace.outputs), wanted["traced outputs"], dtype, "traced outputs")
    loss = (trace.values * cast["by_value"]).sum() + (trace.preactivations * cast["by_pre"]).sum()
    loss = loss + (joined(trace.outputs) * cast["by_output"]).sum()
    found = gradients(loss, (*leaves, offset))
    names = ("weight", "bias", "x", "offset")
    for name, actual, right in zip(names, found, wanted["by_trace"], strict=True):
        close(actual, right, dtype, f"trace's gradient by {name}")


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("batch", BATCHES)
@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", graphnn.backends())
def test_agrees_with_the_oracle(runs_here, backend, name, batch, dtype, device):
    graph = case(name)
    runs_here(backend, graph, batch, device)
    check(graph, draw(graph, batch), expected(name, batch), backend, dtype, device)


def test_the_cases_hold_every_activation():
    functions = {graphnn.activation.resolve(name).function for name in ACTIVATIONS}
    assert functions == graphnn.activation.built_in()


@st.composite
def graphs(draw):
    """Any small DAG: ids permuted, edges shuffled, mixed activations, partial biases."""
    n = draw(st.integers(1, 12))
    pairs = [(a, b) for b in range(n) for a in range(b)]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=40)) if pairs else []
    ids = draw(st.permutations(range(n)))
    edges = torch.tensor([(ids[a], ids[b]) for a, b in chosen], dtype=torch.long).reshape(-1, 2).t()
    targets = set(edges[1].tolist())
    free = [i for i in range(n) if i not in targets]
    inputs = draw(st.lists(st.sampled_from(free), unique=True)) if free else []
    outputs = draw(st.lists(st.integers(0, n - 1), min_size=1, max_size=6))
    names = st.sampled_from(sorted(ACTIVATIONS))
    activation = ["identity" if i in inputs else draw(names) for i in range(n)]
    bias = [i not in inputs and draw(st.booleans()) for i in range(n)]
    return graphnn.NeuronGraph(edges, n, inputs, outputs, activation, bias)


@pytest.mark.parametrize("backend", graphnn.backends())
@settings(max_examples=40, deadline=None)
@given(graph=graphs(), batch=st.integers(0, 5), seed=st.integers(0, 2**20))
def test_agrees_on_drawn_graphs(runs_here, backend, graph, batch, seed):
    device = home(backend)
    runs_here(backend, graph, None, device)
    numbers = draw(graph, batch, seed)
    check(graph, numbers, solve(graph, numbers), backend, torch.float64, device)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", graphnn.backends())
def test_repeats_bit_for_bit(runs_here, backend, name):
    graph, device = case(name), home(backend)
    runs_here(backend, graph, 33, device)
    numbers = draw(graph, 33)

    def once():
        net, x, groups = network(graph, numbers, backend, torch.float32, device)
        outputs = joined(net(*groups))
        loss = (outputs * numbers["by_output"].to(device, torch.float32)).sum()
        leaves = (net.weight, net.bias, x)
        return outputs, *gradients(loss, leaves)

    for first, second in zip(once(), once(), strict=True):
        assert torch.equal(first, second)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("backend", graphnn.backends())
def test_a_sample_does_not_depend_on_its_batch(runs_here, backend, name):
    graph, device = case(name), home(backend)
    runs_here(backend, graph, 64, device)
    numbers = draw(graph, 64)
    net, _, groups = network(graph, numbers, backend, torch.float32, device)
    report = net.backend_report(*groups)
    if any(how == "matrix product" for _, _, _, how in report.levels):
        pytest.skip(f"{name}: has a level that runs as a matrix product")
    whole = joined(net(*groups))
    for part in (slice(0, 1), slice(5, 8), slice(11, 28), slice(40, 64)):
        assert torch.equal(joined(net(*(x[part] for x in groups))), whole[part])
