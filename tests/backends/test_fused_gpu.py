"""What the GPU backend promises beyond the conformance table.

On a GPU, or on a CPU in Triton's interpreter (TRITON_INTERPRET=1), which is slow: networks are
small here, and what only large ones do is brought about by lowering the limits.
"""

# A gradient is None before the backward pass, and wrong types are given on purpose.
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false

import os
from itertools import pairwise

import pytest
import torch
from cases import CASES

import graphnn
from graphnn.backends import fused_gpu, fused_gpu_pass, fused_gpu_schedule

ON_GPU = torch.cuda.is_available()
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 4e-2, torch.float16: 5e-3}


@pytest.fixture
def device(without_gpu):
    """Where the backend runs: a GPU, or the CPU that interprets its kernels."""
    if not ON_GPU and os.environ.get("TRITON_INTERPRET") != "1":
        without_gpu("there is no GPU, and Triton's interpreter is off (TRITON_INTERPRET=1)")
    return torch.device("cuda" if ON_GPU else "cpu")


@pytest.fixture
def on_gpu(without_gpu):
    """A real GPU."""
    if not ON_GPU:
        without_gpu("there is no GPU")
    return torch.device("cuda")


@pytest.fixture
def level_by_level(monkeypatch):
    """Runs a launch a level, as wide networks are."""
    monkeypatch.setattr(fused_gpu_pass, "walks", lambda *_: False)


@pytest.fixture
def small_products(monkeypatch):
    """Runs every complete block as a matrix product, as only large ones are."""
    monkeypatch.setattr(fused_gpu_schedule, "LARGE_BLOCK", 1)


def layered(rng, device, sizes=(5, 9, 9, 4), fan_in=3, activation="gelu", dtype=torch.float32):
    """A layered network no level of which is a block."""
    source, target, start = [], [], 0
    for below, above in pairwise(sizes):
        for neuron in range(above):
            chosen = torch.randperm(below, generator=rng)[:fan_in] + start
            source += chosen.tolist()
            target += [start + below + neuron] * fan_in
        start += below
    graph = graphnn.NeuronGraph(
        [source, target], outputs=range(start, sum(sizes)), inputs=range(sizes[0]),
        num_neurons=sum(sizes), activation=activation,
    )  # fmt: skip
    weight = torch.randn(graph.num_edges, generator=rng)
    bias = torch.randn(graph.bias_neurons.numel(), generator=rng)
    return graphnn.Network(graph, weight, bias, "fused_gpu", dtype=dtype, device=device)


def samples(net, batch, rng):
    x = torch.randn(batch, net.in_features, generator=rng)
    return x.to(net.weight.device, net.weight.dtype)


def gradients(net, x):
    """Outputs and all gradients of a fixed loss."""
    x = x.detach().clone().requires_grad_()
    outputs = net(x)
    outputs = outputs if isinstance(outputs, torch.Tensor) else torch.cat(tuple(outputs), -1)
    return outputs.detach(), *torch.autograd.grad(outputs.square().sum(), (net.weight, net.bias, x))


def agree(found, expected, dtype=torch.float32):
    for one, other in zip(found, expected, strict=True):
        one, other = one.double(), other.double()
        if other.numel():
            scale = other.abs().max().clamp(min=1e-30)
            assert (one - other).abs().max() <= ROUNDING[dtype] * scale


def by_reference(net, x):
    twin = graphnn.Network(net.graph, net.weight, net.bias, "reference", dtype=torch.float64)
    return gradients(twin, x.double())


def test_runs_level_by_level(rng, device, level_by_level):
    net = layered(rng, device)
    x = samples(net, 70, rng)
    agree(gradients(net, x), by_reference(net, x))


def test_a_launch_a_level_and_one_launch_give_the_same_bits(rng, device, monkeypatch):
    net = layered(rng, device)
    x = samples(net, 33, rng)
    results = []
    for whole in (True, False):
        monkeypatch.setattr(fused_gpu_pass, "walks", lambda *_, whole=whole: whole)
        outputs, _, _, by_x = gradients(net, x)
        with torch.no_grad():
            results.append((outputs, by_x, net(x), net.trace(x).preactivations))
    for one, other in zip(*results, strict=True):
        assert torch.equal(one, other)


def test_a_sample_does_not_depend_on_its_batch_and_runs_repeat(rng, device):
    net = layered(rng, device, sizes=(5, 6, 4))
    x = samples(net, 67, rng)
    whole = gradients(net, x)
    for one, other in zip(gradients(net, x), whole, strict=True):
        assert torch.equal(one, other)
    for part in (slice(0, 1), slice(11, 45)):
        outputs, _, _, by_x = gradients(net, x[part])
        assert torch.equal(outputs, whole[0][part])
        assert torch.equal(by_x, whole[3][part])


@pytest.mark.parametrize(
    "name", ["dense, some biases", "dense, permuted ids", "block over two levels"]
)
def test_large_blocks_run_as_matrix_products(rng, device, small_products, name):
    net = graphnn.Network(CASES[name](), backend="fused_gpu", generator=rng).to(device)
    x = samples(net, 9, rng)
    report = net.backend_report(x)
    assert "matrix product" in {how for *_, how in report.levels}
    agree(gradients(net, x), by_reference(net, x))


def test_products_and_message_passing_in_one_network(rng, device, small_products):
    # Level 2 is complete over levels 0 and 1, in an order that is not its positions'; its weights
    # are not consecutive, and level 3 is sparse again and reads below it.
    source = [0, 1, 1, 2, 0, 3, 5, 5, 3, 0, 3, 6, 1, 4, 6, 2, 7, 8]
    target = [3, 3, 4, 4, 6, 6, 6, 7, 7, 7, 8, 8, 8, 9, 9, 9, 9, 9]
    names = ["identity"] * 3 + ["tanh", "relu", "sin", "gelu", "tanh", "relu", "softplus"]
    graph = graphnn.NeuronGraph(
        [source, target], inputs=[2, 0, 1, 5], activation=[*names[:5], "identity", *names[6:]],
        outputs=[9, 3, 9, 0, 9],
    )  # fmt: skip
    net = graphnn.Network(graph, backend="fused_gpu", generator=rng).to(device)
    x = samples(net, 5, rng)
    kinds = [how for *_, how in net.backend_report(x).levels]
    assert {"matrix product", "message passing"} <= set(kinds)
    agree(gradients(net, x), by_reference(net, x))
    offset = torch.randn(5, 10, generator=rng).to(device)
    with torch.no_grad():
        found = net.trace(x, offset=offset)
        net.backend = "reference"
        wanted = net.trace(x, offset=offset)
    agree([found.values, found.preactivations], [wanted.values, wanted.preactivations])


def test_a_product_adds_to_what_its_sources_already_have(rng, device, small_products):
    # Levels 0 and 1 are read by products as they lie, and are outputs too.
    edges = [[0, 1, 0, 1, 2, 3, 2, 3, 4, 5], [2, 2, 3, 3, 4, 4, 5, 5, 6, 7]]
    graph = graphnn.NeuronGraph(edges, outputs=[6, 7, 2, 3, 0], activation="tanh")
    net = graphnn.Network(graph, backend="fused_gpu", generator=rng).to(device)
    x = samples(net, 4, rng)
    assert [how for *_, how in net.backend_report(x).levels][2] == "message passing"
    agree(gradients(net, x), by_reference(net, x))


def test_a_network_of_products_only_is_the_reference(rng, device, small_products):
    net = graphnn.Network(CASES["dense"](), backend="fused_gpu", generator=rng).to(device)
    x = samples(net, 6, rng)
    outputs = gradients(net, x)
    net.backend = "reference"
    for one, other in zip(outputs, gradients(net, x), strict=True):
        assert torch.equal(one, other)


def test_blocks_of_samples_share_few_rows_of_weight_gradients(rng, device, monkeypatch):
    net = layered(rng, device, sizes=(4, 5, 3), activation="relu")
    x = samples(net, 70, rng)
    expected = by_reference(net, x)
    for whole in (True, False):
        monkeypatch.setattr(fused_gpu_pass, "walks", lambda *_, whole=whole: whole)
        # Room for two, then for one share of all edges' gradients.
        for room in (2 * 4 * net.graph.num_edges, 1):
            monkeypatch.setattr(fused_gpu_pass, "_SHARE_BYTES", room)
            agree(gradients(net, x), expected)


def test_inference_reuses_rows_and_cuts_the_batch(rng, device, level_by_level, monkeypatch):
    net = layered(rng, device, sizes=(6,) * 6, activation="relu")
    x = samples(net, 70, rng)
    with_gradients = net(x).detach()
    made = []
    original = fused_gpu_pass.Pass._empty

    def recorded(self, rows):
        made.append(rows * self.stride)
        return original(self, rows)

    monkeypatch.setattr(fused_gpu_pass.Pass, "_empty", recorded)
    with torch.no_grad():
        assert torch.equal(net(x), with_gradients)
        # Two of six levels are in use at a time; rows have room for whole blocks.
        assert made == [12 * 128]
        made.clear()
        monkeypatch.setattr(fused_gpu_pass, "_SMALL_STATE", 1)
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda *_: (1, 1))
        assert torch.equal(net(x), with_gradients)
        assert made == [12 * 64, 12 * 8]


def test_rows_are_kept_for_late_readers(rng, device):
    # A skip from the inputs to the last level, and an output that is an early neuron.
    ids = torch.arange(8)
    edges = torch.cat([torch.stack([ids[:-1], ids[1:]]), torch.tensor([[0], [7]])], 1)
    for outputs in ([7], [7, 2]):
        graph = graphnn.NeuronGraph(edges, outputs=outputs, activation="tanh")
        net = graphnn.Network(graph, backend="fused_gpu", generator=rng).to(device)
        x = samples(net, 3, rng)
        with torch.no_grad():
            plain = net(x)
        assert torch.equal(plain, net(x))
        net.backend = "reference"
        torch.testing.assert_close(plain, net(x).detach())


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_adds_in_float32(rng, device, dtype):
    net = layered(rng, device, sizes=(300, 4, 3), fan_in=3, activation="relu", dtype=dtype)
    x = samples(net, 5, rng)
    found = gradients(net, x)
    assert all(part.dtype == dtype for part in found)
    agree(found, by_reference(net, x), dtype)
    # 1 + 2000 * 2 ** -9 is lost in a sum that is rounded to eight bits after every edge.
    wide = torch.stack([torch.arange(401), torch.full((401,), 402)])
    graph = graphnn.NeuronGraph(
        torch.cat([wide, torch.tensor([[0], [401]])], 1), bias=False, inputs=[*range(401)]
    )
    weight = torch.full((402,), 2.0**-9)
    weight[0] = 1
    net = graphnn.Network(graph, weight, [], "fused_gpu", dtype=dtype, device=device)
    total = net(torch.ones(1, 401, dtype=dtype, device=device))[0, 1].item()
    assert total == pytest.approx(1 + 400 / 512, rel=2**-8)


@pytest.mark.parametrize(
    "activation",
    ["leaky_relu(0.3)", "leaky_relu(-0.5)", "elu(0.7)", "elu(-0.7)", "selu", "celu(0.7)",
     "softplus(0.3, 7)", "relu6", "clamp(-0.7, 0.3)", "hardsigmoid", "tanh", "sigmoid", "mish"],
)  # fmt: skip
def test_slopes_are_torchs_in_float64(rng, device, activation):
    net = layered(rng, device, (20, 20, 4), 3, activation, torch.float64)
    x = 4 * samples(net, 7, rng)
    found = gradients(net, x)
    net.backend = "reference"
    agree(found, gradients(net, x), torch.float64)


def test_slopes_at_nan_and_kinks_are_torchs(device):
    names = ["relu", "relu6", "leaky_relu", "elu", "selu", "clamp(-1, 1)", "tanh", "hardswish"]
    names.append("abs")
    edges = [[0] * len(names) + [1], [*range(2, len(names) + 2), 2]]
    graph = graphnn.NeuronGraph(edges, activation=["identity"] * 2 + names, bias=False)
    slopes = []
    for backend in ("fused_gpu", "reference"):
        net = graphnn.Network(graph, [1.0] * len(names) + [0.0], backend=backend, device=device)
        x = torch.tensor([[torch.nan, 0.0], [0, 0], [1, 0], [-1, 0], [6, 0], [3, 0], [-3, 0]])
        x = x.to(device).requires_grad_()
        outputs = net(x)
        slopes.append([torch.autograd.grad(o.sum(), x, retain_graph=True)[0] for o in outputs.T])
    for one, other in zip(*slopes, strict=True):
        torch.testing.assert_close(one, other, equal_nan=True)


@pytest.mark.parametrize("needs", ["weight", "bias", "x", "offset"])
def test_each_gradient_alone(rng, device, needs):
    net = layered(rng, device)
    leaves = {
        "weight": net.weight.detach().clone(),
        "bias": net.bias.detach().clone(),
        "x": samples(net, 4, rng),
        "offset": torch.randn(4, net.graph.num_neurons, generator=rng).to(device),
    }
    leaves[needs].requires_grad_()
    found = []
    for backend in ("fused_gpu", "reference"):
        twin = graphnn.Network(net.graph, leaves["weight"], leaves["bias"], backend=backend)
        twin.requires_grad_(False)
        leaf = getattr(twin, needs, leaves[needs]).requires_grad_()
        trace = twin.trace(leaves["x"], offset=leaves["offset"])
        found.append(torch.autograd.grad(trace.values.square().sum(), leaf))
    agree(*found)


def test_reads_the_weight_as_it_is_and_notices_a_change_before_backward(rng, device):
    net = layered(rng, device)
    x = samples(net, 4, rng)
    first = net(x)
    with torch.no_grad():
        net.weight.mul_(2)
    assert not torch.equal(net(x), first)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        first.sum().backward()


def test_refuses_second_derivatives_and_many_gradients_at_once(rng, device):
    net = layered(rng, device)
    x = samples(net, 3, rng).requires_grad_()
    (slope,) = torch.autograd.grad(net(x).sum(), x, create_graph=True)
    with pytest.raises(graphnn.BackendError, match=r"'fused_gpu'.*'reference'"):
        slope.sum().backward()
    outputs = net(x)
    several = torch.ones(2, *outputs.shape, device=device)
    with pytest.raises(graphnn.BackendError, match=r"'fused_gpu'.*is_grads_batched"):
        torch.autograd.grad(outputs, x, several, is_grads_batched=True)


def test_backward_can_run_twice(rng, device):
    net = layered(rng, device)
    loss = net(samples(net, 5, rng)).square().sum()
    first = torch.autograd.grad(loss, net.weight, retain_graph=True)[0]
    assert torch.equal(torch.autograd.grad(loss, net.weight)[0], first)


def test_too_little_memory_is_told_and_the_process_goes_on(rng, device, monkeypatch):
    net = layered(rng, device)
    x = samples(net, 5, rng)
    expected = gradients(net, x)
    original = fused_gpu_pass.Pass._empty

    def fails(self, rows):
        raise torch.OutOfMemoryError("tried to allocate 3.00 GiB. And much more.")

    monkeypatch.setattr(fused_gpu_pass.Pass, "_empty", fails)
    message = (
        r"'fused_gpu' has too little memory on .* for 27 neurons, 66 edges and 5 samples in "
        r"torch.float32.*\(tried to allocate 3.00 GiB\).*smaller batches"
    )
    for call in (net, net.trace, torch.no_grad()(net)):
        with pytest.raises(graphnn.BackendError, match=message) as caught:
            call(x)
        assert caught.value.__cause__ is None
        assert caught.value.__context__ is None
    monkeypatch.setattr(fused_gpu_pass.Pass, "_empty", original)
    outputs = net(x)
    monkeypatch.setattr(fused_gpu_pass.Pass, "_empty", fails)
    with pytest.raises(graphnn.BackendError, match=message):
        outputs.sum().backward()
    monkeypatch.setattr(fused_gpu_pass.Pass, "_empty", original)
    for one, other in zip(gradients(net, x), expected, strict=True):
        assert torch.equal(one, other)


def test_names_every_reason(rng, device):
    graphnn.register_activation("test_gpu_cube", lambda x: x**3)
    net = layered(rng, device, activation="test_gpu_cube")
    with pytest.raises(graphnn.BackendError, match="registered activations test_gpu_cube"):
        net(samples(net, 2, rng))
    with pytest.raises(graphnn.BackendError, match="only torch's own operations"):
        torch.vmap(net)(samples(net, 2, rng))


def test_the_interpreter_is_not_taken_on_its_own(rng, device):
    if ON_GPU:
        pytest.skip("there is a GPU")
    net = layered(rng, device)
    net.backend = "auto"
    report = net.backend_report(samples(net, 2, rng))
    assert report.backend != "fused_gpu"
    assert report.reasons["fused_gpu"] == ["Triton's interpreter is slow: it is for tests"]


def test_without_a_gpu_or_triton_it_says_so(rng, monkeypatch):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    net = layered(rng, "cpu")
    x = samples(net, 2, rng)
    with pytest.raises(graphnn.BackendError, match="are on cpu, not on a GPU") as caught:
        net(x)
    assert "triton" not in str(caught.value)
    monkeypatch.setattr(fused_gpu, "_has_triton", lambda: False)
    with pytest.raises(graphnn.BackendError, match="triton is not installed"):
        net(x)
    net.backend = "auto"
    assert net.backend_report(x).backend != "fused_gpu"


def test_a_plan_elsewhere_is_refused(rng):
    from graphnn.backends.base import Call

    net = layered(rng, "cpu")
    moved = net.plan.to(torch.device("meta"))
    call = Call(moved, net.weight, net.bias, torch.ones(2, 5), torch.ones(2, 27, device="meta"))
    reasons = fused_gpu.FusedGpu().unsupported(call)
    assert "the plan must be where the weights are, on cpu (got meta)" in reasons
    assert "offset must be where the weights are, on cpu (got meta)" in reasons


def test_refuses_a_dtype_without_kernels(rng):
    from graphnn.backends.base import Call

    net = layered(rng, "cpu")
    call = Call(net.plan, net.weight.to(torch.complex64), net.bias, torch.ones(2, 5))
    reasons = "".join(fused_gpu.FusedGpu().unsupported(call))
    assert "it computes in float32, float64, float16, bfloat16, not in torch.complex64" in reasons


def test_a_step_can_be_captured_and_replayed(rng, on_gpu):
    net = layered(rng, on_gpu)
    x = samples(net, 64, rng)
    twin = graphnn.Network(net.graph, net.weight, net.bias, "fused_gpu", device=on_gpu)
    replayed = torch.cuda.make_graphed_callables(twin, (x.clone(),))
    for scale in (1.0, 2.0):
        with torch.no_grad():
            net.weight.mul_(scale)
            twin.weight.mul_(scale)
        for batch in (x, 3 * x):
            net.zero_grad()
            twin.zero_grad()
            net(batch).square().sum().backward()
            replayed(batch).square().sum().backward()
            assert torch.equal(twin.weight.grad, net.weight.grad)


def test_frees_what_a_failed_call_held(rng, on_gpu):
    net = layered(rng, on_gpu, sizes=(64, 4096, 64), fan_in=8)
    torch.cuda.empty_cache()
    free = torch.cuda.mem_get_info(on_gpu)[0]
    # The inputs fit, the state of a training step does not.
    batch = int(0.6 * free / (4 * 4096))
    x = torch.zeros(batch, 64, device=on_gpu)
    with pytest.raises(graphnn.BackendError, match=r"enough for about \d+ samples"):
        net(x).sum().backward()
    small = samples(net, 100, rng)
    agree(gradients(net, small), by_reference(net, small))
    with torch.no_grad():
        assert net(x).shape == (batch, 64)
