"""What the GPU backend promises beyond the conformance table.

On a GPU, or on a CPU in Triton's interpreter (TRITON_INTERPRET=1), which is slow: networks are
small here, and what only large ones do is brought about by lowering the limits.
"""

# A gradient is None before the backward pass, and wrong types are given on purpose.
# pyright: reportOptionalMemberAccess=false, reportAttributeAccessIssue=false
# pyright: reportArgumentType=false

import sysconfig

import pytest
import torch
from cases import CASES
from gpu_networks import ON_GPU, agree, by_reference, gradients, layered, samples

import graphnn
from graphnn.backends import fused_gpu, fused_gpu_pass


@pytest.fixture
def level_by_level(monkeypatch):
    """Runs a launch a level, as wide networks are."""
    monkeypatch.setattr(fused_gpu_pass, "launches", lambda *_: "levels")


def test_runs_level_by_level(rng, device, level_by_level):
    net = layered(rng, device)
    x = samples(net, 70, rng)
    agree(gradients(net, x), by_reference(net, x))


def test_a_launch_a_level_and_one_launch_give_the_same_bits(rng, device, monkeypatch):
    net = layered(rng, device)
    x = samples(net, 33, rng)
    results = []
    for how in ("walk", "levels"):
        monkeypatch.setattr(fused_gpu_pass, "launches", lambda *_, how=how: how)
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


def test_inference_reuses_rows_and_cuts_the_batch(rng, device, level_by_level, monkeypatch):
    net = layered(rng, device, sizes=(6,) * 6, activation="relu")
    x = samples(net, 70, rng)
    with_gradients = net(x).detach()
    made = []
    original = fused_gpu_pass.Pass.empty

    def recorded(self, rows, span=None):
        made.append(rows * (span or self.stride))
        return original(self, rows, span)

    monkeypatch.setattr(fused_gpu_pass.Pass, "empty", recorded)
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


def test_without_a_compiler_it_says_so(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda _device: (9, 0))
    monkeypatch.setattr(fused_gpu, "_has_compiler", fused_gpu._has_compiler.__wrapped__)
    monkeypatch.setattr(fused_gpu.shutil, "which", lambda _name: None)
    headers = sysconfig.get_path("include")
    for compiler, folder, runs in (
        ("cc", headers, True),
        ("cc", "/nowhere", False),
        ("", "", False),
    ):
        monkeypatch.setenv("CC", compiler)
        monkeypatch.setattr(fused_gpu.sysconfig, "get_path", lambda *_, own=folder: own)
        reasons = " ".join(fused_gpu.no_kernels_on(torch.device("cuda")))
        assert ("no C compiler with Python's headers" not in reasons) == runs


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


def test_refuses_tensors_of_other_dtypes(rng):
    from graphnn.backends.base import Call

    net = layered(rng, "cpu")
    call = Call(net.plan, net.weight, net.bias.double(), torch.ones(2, 5).half())
    reasons = fused_gpu.FusedGpu().unsupported(call)
    assert (
        "all tensors must have the weights' dtype torch.float32 (got torch.float16, torch.float64)"
    ) in reasons


def test_a_shorter_state_is_counted_in_32_bits(rng, device, level_by_level, monkeypatch):
    net = layered(rng, device, sizes=(6,) * 6, activation="relu")
    x = samples(net, 5, rng)
    # Inference has room for two of the six levels.
    monkeypatch.setattr(fused_gpu_pass, "_COUNTED_BY_32_BITS", 12 * 8)
    original, kinds = fused_gpu_pass.Pass.launch, []

    def recorded(self, *arguments, **constants):
        kinds.append(self.index)
        original(self, *arguments, **constants)

    monkeypatch.setattr(fused_gpu_pass.Pass, "launch", recorded)
    expected = net(x).detach()
    with torch.no_grad():
        assert torch.equal(net(x), expected)
        shifted = net.trace(x, offset=torch.zeros(5, 36, device=device)).outputs
    assert torch.equal(shifted, expected)
    assert kinds == [torch.int64] * 5 + [torch.int32] * 5 + [torch.int64] * 5


def test_one_output_keeps_no_state_alive_and_can_be_changed(rng, device):
    net = layered(rng, device, sizes=(5, 9, 1))
    x = samples(net, 3, rng)
    with torch.no_grad():
        assert net(x).untyped_storage().nbytes() == 3 * 4
    expected = torch.autograd.grad(net(x).sum(), net.weight)[0]
    outputs = net(x)
    outputs += 1
    assert torch.equal(torch.autograd.grad(outputs.sum(), net.weight)[0], expected)


def test_places_beyond_32_bits_are_counted_in_64(rng, device, monkeypatch):
    net = layered(rng, device, sizes=(4, 5, 3))
    x = samples(net, 5, rng)
    expected = gradients(net, x)
    original = fused_gpu_pass.Pass.launch
    kinds = []

    def recorded(self, *arguments, **constants):
        self.index = torch.int64
        kinds.append(self.index)
        original(self, *arguments, **constants)

    monkeypatch.setattr(fused_gpu_pass.Pass, "launch", recorded)
    for one, other in zip(gradients(net, x), expected, strict=True):
        assert torch.equal(one, other)
    assert kinds


def test_under_autocast_it_computes_in_half_precision(rng, device, half_autocast):
    net = layered(rng, device, activation="tanh")
    x = samples(net, 5, rng)
    numbers = (net.weight.detach(), net.bias.detach())
    twin = graphnn.Network(net.graph, *numbers, "fused_gpu", dtype=torch.bfloat16)
    expected = gradients(twin, x.bfloat16())
    half_autocast()
    given = x.clone().requires_grad_()
    outputs = net(given)
    assert torch.equal(outputs, expected[0])
    found = torch.autograd.grad(outputs.square().sum(), (net.weight, net.bias, given))
    for one, other in zip(found, expected[1:], strict=True):
        assert one.dtype == torch.float32
        assert torch.equal(one, other.float())
    # Inputs and offsets of any float dtype are taken.
    offset = torch.zeros(5, net.graph.num_neurons, dtype=torch.float64, device=device)
    trace = net.trace(x.half(), offset=offset)
    assert trace.values.dtype == trace.preactivations.dtype == torch.bfloat16
    assert trace.outputs.dtype == trace.weight.dtype == torch.bfloat16
    assert trace.triplets()[0].dtype == torch.bfloat16


def test_autocast_as_a_linear_layer_has_it(rng, on_gpu):
    net = layered(rng, on_gpu)
    x = samples(net, 5, rng)
    linear = torch.nn.Linear(5, 3, device="cuda")
    for dtype in (torch.float16, torch.bfloat16):
        with torch.autocast("cuda", dtype):
            outputs = net(x)
            assert outputs.dtype == linear(x).dtype == dtype
        outputs.sum().backward()
        assert net.weight.grad.dtype == linear.weight.dtype == torch.float32
