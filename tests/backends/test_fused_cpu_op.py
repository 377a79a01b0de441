"""The compiled CPU backend as an operator: under tracers, transforms and torch.export."""

# What functions of functions take is not known to the type checker.
# pyright: reportCallIssue=false, reportArgumentType=false

import gc
import subprocess
import sys
import weakref

import pytest
import torch
from torch.func import functional_call, grad, hessian, jacrev, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_map

import graphnn
from graphnn.backends.fused_cpu_op import arguments_of

OPERATORS = torch.ops.graphnn


def network(seed=0, backend="fused_cpu", dtype=torch.float64):
    """4 inputs, 30 hidden neurons on 4 levels, 3 outputs; skips, mixed activations, few biases."""
    rng = torch.Generator().manual_seed(seed)
    wired = graphnn.generate.random_dag(4, 30, 3, fan_in=5, depth=4, generator=rng)
    graph = graphnn.NeuronGraph(
        wired.edge_index[:, torch.randperm(wired.num_edges, generator=rng)],
        inputs=range(4),
        outputs=[34, 36, 35, 10],
        activation=["identity"] * 4 + ["tanh", "softplus(2, 20)", "leaky_relu(0.3)"] * 11,
        bias=[False] * 4 + [True, False, True] * 11,
    )
    return graphnn.Network(graph, backend=backend, dtype=dtype, generator=rng)


def twin(net):
    return graphnn.Network(net.graph, net.weight.detach(), net.bias.detach(), backend="reference")


@pytest.fixture
def net():
    return network()


@pytest.fixture
def x(rng):
    return torch.randn(6, 4, generator=rng, dtype=torch.float64)


@pytest.fixture
def compiled():
    """torch.compile without graph breaks, from nothing."""
    torch._dynamo.reset()

    def compiled(function, compiler="aot_eager", **options):
        return torch.compile(function, fullgraph=True, backend=compiler, **options)

    return compiled


def step(net, call, x):
    """The result and all gradients of one step."""
    x = x.clone().requires_grad_()
    result = call(x)
    return result, *torch.autograd.grad(result.square().sum(), (net.weight, net.bias, x))


def assert_same_bits(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        assert torch.equal(one, other)


def assert_close(found, wanted):
    torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-11)


class Traced(torch.nn.Module):
    """One number of everything that a trace holds."""

    def __init__(self, net):
        super().__init__()
        self.net = net

    def forward(self, x, offset):
        trace = self.net.trace(x, offset=offset)
        return trace.values.square().sum() + trace.preactivations.sin().sum()


# The operators themselves


def test_the_network_is_not_all_products(net, x):
    assert "message passing" in {level[-1] for level in net.backend_report(x).levels}


def operator_arguments(net, x, keep):
    offset = torch.ones(len(x), net.graph.num_neurons, dtype=x.dtype) if keep == "all" else None
    if offset is not None:
        offset.requires_grad_()
    return net.weight, net.bias, x.requires_grad_(), offset, *arguments_of(net.plan), keep


@pytest.mark.parametrize("keep", ["outputs", "all"])
@pytest.mark.parametrize("name", ["fused_cpu", "fused_cpu_train"])
def test_opcheck(net, x, name, keep):
    operator = getattr(OPERATORS, name).default
    torch.library.opcheck(operator, operator_arguments(net, x, keep))


def test_opcheck_of_the_gradient(net, x):
    with torch.no_grad():
        arguments = operator_arguments(net, x, "outputs")
        outputs, _, state, count = OPERATORS.fused_cpu_train(*arguments)
    numbers = [t.detach() for t in arguments[:3]]
    for needs in ([True] * 4, [False, True, False, True]):
        torch.library.opcheck(
            OPERATORS.fused_cpu_backward.default,
            (*numbers, state, count, outputs, None, None, *arguments[4:7], needs),
        )


@pytest.mark.parametrize("keep", ["outputs", "all"])
def test_gradcheck(net, x, keep):
    *tensors, plan, activations, rows, keep = operator_arguments(net, x[:2].detach(), keep)

    def run(*tensors):
        offset = (None,) if len(tensors) == 3 else ()
        first, second = OPERATORS.fused_cpu(*tensors, *offset, plan, activations, rows, keep)
        return first if keep == "outputs" else (first, second)

    assert torch.autograd.gradcheck(run, tuple(t for t in tensors if t is not None))


def test_the_operator_of_the_gradient_has_no_derivative(net, x):
    arguments = operator_arguments(net, x, "outputs")
    outputs, _, state, count = OPERATORS.fused_cpu_train(*arguments)
    gradients = OPERATORS.fused_cpu_backward(
        *arguments[:3], state, count, outputs, None, None, *arguments[4:7], [True] * 4
    )
    with pytest.raises(graphnn.BackendError, match=r"'fused_cpu'.*'reference'"):
        gradients[0].sum().backward()


def test_plans_are_told_apart_and_let_go(x):
    # Copies of the plans' tensors, as a loaded program has them; freed memory is used again.
    watched = []
    for seed in range(8):
        net = network(seed % 3)
        tensors, activations, rows = arguments_of(net.plan)
        copies = [tensor.clone() for tensor in tensors]
        watched.append(weakref.ref(copies[0].untyped_storage()))
        with torch.no_grad():
            for _ in range(2):
                found, _ = OPERATORS.fused_cpu(
                    net.weight, net.bias, x, None, copies, activations, rows, "outputs"
                )
                assert torch.equal(found, net(x))
        del copies
    gc.collect()
    assert [storage() for storage in watched] == [None] * 8


# Tracers


@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiled_for_any_batch_size(net, x, compiled, compiler):
    call = compiled(net, compiler, dynamic=True)
    for part in (x, x[:3], x.repeat(7, 1), x[:1]):
        assert_same_bits(step(net, call, part), step(net, net, part))
    with torch.no_grad():
        assert torch.equal(call(x), net(x))


# torch's own inductor says so when it is imported.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiled_by_inductor(net, x, compiled):
    call = compiled(net, "inductor", dynamic=True)
    for part in (x, x.repeat(7, 1)):
        assert_same_bits(step(net, call, part), step(net, net, part))


def test_compiled_traces(net, x, compiled):
    def trace(x):
        return net.trace(x).values

    assert_same_bits(step(net, compiled(trace), x), step(net, trace, x))


def test_compiled_code_tells_networks_apart(x, compiled):
    call = compiled(lambda net, x: net(x), "eager")
    for net in (network(0), network(1), network(0)):
        assert_same_bits(step(net, lambda x, net=net: call(net, x), x), step(net, net, x))


def test_compiled_blocks_are_torchs_own_products(x, compiled):
    layers = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.Tanh(), torch.nn.Linear(5, 2))
    net = graphnn.from_sequential(layers.double(), backend="fused_cpu")
    seen = []

    def look(graph, _):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph

    assert_same_bits(step(net, compiled(net, look), x), step(net, net, x))
    assert seen
    assert not any("graphnn" in name for name in seen)


def test_the_thread_count_is_the_calls(threads, compiled):
    # Large enough to be shared between threads.
    graph = graphnn.generate.random_sparse([300, 300, 300, 10], density=0.2)
    net = graphnn.Network(graph, backend="fused_cpu")
    x = torch.linspace(-1, 1, 100 * 300).reshape(100, 300)
    threads(1)
    call = compiled(net)
    assert_same_bits(step(net, call, x), step(net, net, x))
    threads(3)
    wanted = step(net, net, x)
    again = x.clone().requires_grad_()
    outputs = call(again)
    threads(1)
    gradients = torch.autograd.grad(outputs.square().sum(), (net.weight, net.bias, again))
    assert_same_bits((outputs, *gradients), wanted)


def test_make_fx_sees_the_operator(net, x):
    traced = make_fx(net)(x)
    assert "graphnn.fused_cpu" in traced.code
    assert torch.equal(traced(2 * x), net(2 * x))


def test_exported_saved_and_loaded_by_another_process(net, x, tmp_path):
    # One tuple for the arguments, and one for `*inputs` within it.
    dynamic = (({0: torch.export.Dim("batch")},),)
    program = torch.export.export(net, (x,), dynamic_shapes=dynamic)
    assert "graphnn.fused_cpu" in program.graph_module.code
    torch.export.save(program, tmp_path / "net.pt2")
    parts = [x, x[:1], x.repeat(7, 1), x[:0]]
    torch.save([(part, *map(torch.detach, step(net, net, part))) for part in parts],
               tmp_path / "wanted.pt")  # fmt: skip
    code = (
        "import sys, torch, graphnn\n"
        "module = torch.export.load(sys.argv[1] + '/net.pt2').module()\n"
        "for x, *wanted in torch.load(sys.argv[1] + '/wanted.pt'):\n"
        "    x.requires_grad_()\n"
        "    outputs = module(x)\n"
        "    leaves = (module.weight, module.bias, x)\n"
        "    found = torch.autograd.grad(outputs.square().sum(), leaves)\n"
        "    for one, other in zip((outputs, *found), wanted, strict=True):\n"
        "        assert torch.equal(one, other), (x.shape, one, other)\n"
        "print('the same')\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == "the same\n", done.stderr


@pytest.mark.filterwarnings("ignore")  # TorchScript is on its way out.
def test_traced_by_torchscript(net, x):
    traced = torch.jit.trace(net, x)
    other = torch.cat([x, 2 * x])
    assert_same_bits(step(net, traced, other), step(net, net, other))


# torch.func


def loss(net, weight, bias, x):
    return functional_call(net, {"weight": weight, "bias": bias}, (x,)).square().sum()


def numbers(net):
    return net.weight.detach(), net.bias.detach()


@pytest.mark.parametrize("samples", [1, 3])
def test_per_sample_gradients(net, x, samples):
    slices = x.reshape(-1, samples, 4)
    each = vmap(grad(lambda *a: loss(net, *a), (0, 1, 2)), (None, None, 0))(*numbers(net), slices)
    for i, part in enumerate(slices):
        _, *wanted = step(net, net, part)
        assert_close([gradient[i] for gradient in each], wanted)


@pytest.mark.parametrize("dims", [(0, None, None), (None, 0, 0), (0, 0, 0)])
def test_ensembles(net, x, dims):
    rows = (*numbers(net), x)
    many = tuple(t if d is None else torch.stack([t, 2 * t, -t])
                 for t, d in zip(rows, dims, strict=True))  # fmt: skip
    for run in (lambda *a: loss(net, *a), grad(lambda *a: loss(net, *a), (0, 1, 2))):
        found = vmap(run, dims)(*many)
        for i in range(3):
            own = (t if d is None else t[i] for t, d in zip(many, dims, strict=True))
            wanted = run(*own)
            tree_map(lambda one, other, i=i: assert_close(one[i], other), found, wanted)


@pytest.mark.parametrize("dims", [(None, None, 0), (0, None, None), (0, 0, 0)])
def test_no_slices(net, x, dims):
    rows = (*numbers(net), x)
    none = [t if d is None else t.new_empty(0, *t.shape) for t, d in zip(rows, dims, strict=True)]
    outputs = vmap(lambda *a: functional_call(net, {"weight": a[0], "bias": a[1]}, a[2]), dims)
    assert outputs(*none).shape == (0, *net(x).shape)
    found = vmap(grad(lambda *a: loss(net, *a), (0, 1, 2)), dims)(*none)
    assert [gradient.shape for gradient in found] == [(0, *t.shape) for t in rows]


# Of f(weight, x), the outputs.
TRANSFORMS = {
    "vmap": lambda f, w, x: vmap(f, (None, 0))(w, x),
    "vmap twice": lambda f, w, x: vmap(vmap(f, (None, 0)), (None, 0))(w, x),
    "jacrev": lambda f, w, x: jacrev(f, (0, 1))(w, x),
    "vmap twice of jacrev": lambda f, w, x: vmap(vmap(jacrev(f, (0, 1)), (None, 0)), (None, 0))(
        w, x
    ),
    "jacrev of vmap": lambda f, w, x: jacrev(vmap(f, (None, 0)))(w, x),
    "grad of vmap": lambda f, w, x: grad(lambda w: vmap(f, (None, 0))(w, x).sin().sum())(w),
    "vmap of a pullback": lambda f, w, x: vmap(torch.func.vjp(f, w, x)[1])(
        f(w, x).expand(5, 2, 3, 4)
    ),
}


@pytest.mark.parametrize("name", TRANSFORMS)
def test_transforms_agree_with_the_reference(net, x, name):
    def run(own):
        def outputs(weight, x):
            return functional_call(own, {"weight": weight}, (x,))

        with torch.no_grad() if name == "vmap" else torch.enable_grad():
            return TRANSFORMS[name](outputs, net.weight.detach(), x.view(2, 3, 4))

    assert_close(run(net), run(twin(net)))


@pytest.mark.parametrize("dims", [(None, 0, 0), (None, 0, None), (None, None, 0)])
def test_per_sample_gradients_of_a_trace(net, x, dims):
    offset = torch.linspace(-1, 1, 6 * net.graph.num_neurons, dtype=x.dtype).view(6, -1)
    found = []
    for own in (net, twin(net)):
        module = Traced(own)

        def run(weight, x, offset, module=module):
            return functional_call(module, {"net.weight": weight}, (x, offset))

        rows = (t if d is not None else t[0] for t, d in zip((x, offset), dims[1:], strict=True))
        found.append(vmap(grad(run, (0, 1, 2)), dims)(net.weight.detach(), *rows))
    assert_close(*found)


def test_many_gradients_back_by_vmap(net, x):
    outputs = net(x)
    cotangents = torch.stack([outputs.detach(), torch.ones_like(outputs)])
    found = vmap(lambda c: torch.autograd.grad(outputs, net.weight, c, retain_graph=True)[0])(
        cotangents
    )
    for one, cotangent in zip(found, cotangents, strict=True):
        assert_close(one, torch.autograd.grad(outputs, net.weight, cotangent, retain_graph=True)[0])


# Second derivatives


SECOND = {
    "gradient of a gradient": lambda f: lambda x: grad(lambda x: grad(f)(x).sum())(x),
    "hessian": hessian,
    "forward mode": lambda f: lambda x: torch.func.jvp(grad(f), (x,), (x,))[1],
}


@pytest.mark.parametrize("name", SECOND)
def test_auto_leaves_higher_derivatives_to_the_reference(net, x, compiled, name):
    def run(own):
        return SECOND[name](lambda x: own(x).square().sum())

    wanted = run(twin(net))(x[0])
    with pytest.raises(graphnn.BackendError, match="backend 'fused_cpu' cannot run this call: it"):
        run(net)(x[0])
    net.backend = "auto"
    assert_close(run(net)(x[0]), wanted)
    assert_close(compiled(run(net), "eager")(x[0]), wanted)


@pytest.mark.parametrize("transform", [lambda f: f, lambda f: vmap(f, (None, None, 0))])
def test_a_gradient_taken_by_func_is_not_differentiated(net, x, transform):
    taken = transform(grad(lambda *a: loss(net, *a), (0, 1)))(net.weight, net.bias, x)
    for gradient in taken:
        with pytest.raises(graphnn.BackendError, match=r"'fused_cpu'.*'reference'"):
            gradient.sum().backward(retain_graph=True)


def test_a_compiled_gradient_is_not_differentiated(net, x, compiled):
    x.requires_grad_()
    (first,) = torch.autograd.grad(compiled(net, "eager")(x).sum(), x, create_graph=True)
    with pytest.raises(graphnn.BackendError, match=r"'fused_cpu'.*'reference'"):
        first.sum().backward()
    # torch itself refuses: what it has compiled has first derivatives only.
    with pytest.raises(RuntimeError, match=r"create_graph=False|double backward"):
        torch.autograd.grad(compiled(net)(x).sum(), x, create_graph=True)[0].sum().backward()
