"""The module: parameters, shapes, groups, copies, and torch's transforms."""

# A gradient is None before the backward pass, a parametrization is a module that looks like a
# tensor to the type checker, and wrong types are given on purpose.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportIndexIssue=false, reportOptionalIterable=false

import copy
import io
import pickle
import re
import subprocess
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from cases import ON_CPU
from torch import nn
from torch.nn.utils import parametrize

import graphnn
from graphnn import autocast

BACKENDS = ["auto", *ON_CPU]
# Hidden neurons that read different sources, so that not every level is an nn.Linear.
EDGES = [[2, 0, 3, 1, 0, 1], [4, 2, 4, 2, 4, 3]]


def skip_graph(**options):
    return graphnn.NeuronGraph(EDGES, **{"activation": "tanh", **options})


def grouped_graph():
    return graphnn.NeuronGraph(
        [[0, 1, 2, 0, 3, 4, 3], [3, 3, 4, 4, 5, 5, 6]],
        inputs={"left": [1], "right": [0, 2]},
        outputs={"high": [6, 3], "low": [5]},
        activation="tanh",
    )


@pytest.fixture
def net(rng):
    return graphnn.Network(skip_graph(), generator=rng)


@pytest.fixture
def x(rng):
    return torch.randn(6, 2, generator=rng)


# The parameters


def dense_graph():
    source, target = [0, 1, 0, 1, 0, 1, 2, 3, 4], [2, 2, 3, 3, 4, 4, 5, 5, 5]
    return graphnn.NeuronGraph([source, target], activation="relu")


def step_in_place(net):
    net(torch.ones(3, 2)).square().sum().backward()
    torch.optim.SGD(net.parameters(), lr=0.1).step()


def replace(net):
    net.weight = nn.Parameter(net.weight.detach() + 1)
    net.bias = nn.Parameter(net.bias.detach() - 1)


def swap_data(net):
    net.weight.data = 2 * net.weight.data


def load(net):
    net.load_state_dict({name: -value for name, value in net.state_dict().items()})


def load_assigned(net):
    state = {name: nn.Parameter(value + 3) for name, value in net.state_dict().items()}
    net.load_state_dict(state, assign=True)


def parametrized(net):
    parametrize.register_parametrization(net, "weight", nn.Softplus())


def unparametrized(net):
    parametrized(net)
    parametrize.remove_parametrizations(net, "weight")


def strided(net):
    numbers = torch.linspace(-1, 1, 2 * net.weight.numel() + 5)
    net.weight = nn.Parameter(numbers[5::2])
    net.bias = nn.Parameter(torch.linspace(-1, 1, 2 * net.bias.numel() + 3)[3:][::2])


def after_a_meta_device(net):
    state = net.state_dict()
    net.to("meta").to_empty(device="cpu").load_state_dict(state)


CHANGES = {
    change.__name__: change
    for change in (
        step_in_place, replace, swap_data, load, load_assigned, parametrized, unparametrized,
        strided, after_a_meta_device, nn.Module.double, nn.Module.bfloat16,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CHANGES))
@pytest.mark.parametrize("graph", [skip_graph, dense_graph])
def test_a_change_of_the_parameters_is_seen_by_the_next_call(rng, graph, name):
    net = graphnn.Network(graph(), generator=rng)
    x = torch.randn(6, 2, generator=rng)
    net(x).sum().backward()
    with torch.inference_mode():
        net(x)
    net.zero_grad()
    CHANGES[name](net)
    x = x.to(net.weight.dtype)
    fresh = graphnn.Network(net.graph, net.weight, net.bias, backend="reference")
    for batch in (6, 1, 5):
        with torch.inference_mode():
            torch.testing.assert_close(net(x[:batch]), fresh(x[:batch]))
        gradients = []
        for own in (net, fresh):
            leaf = x[:batch].clone().requires_grad_()
            # The weights of a parametrized network are another tensor whenever they are asked for.
            by = [leaf, own.bias] if name == "parametrized" else [leaf, own.bias, own.weight]
            gradients.append(torch.autograd.grad(own(leaf).sum(), by))
        torch.testing.assert_close(*gradients)


@pytest.mark.parametrize("graph", [skip_graph, dense_graph])
def test_the_backend_can_be_changed_between_calls(rng, graph):
    net = graphnn.Network(graph(), generator=rng)
    x = torch.ones(2, 2)
    outputs = net(x)
    for backend in (*ON_CPU, "auto"):
        net.backend = backend
        torch.testing.assert_close(net(x), outputs)
        assert net.backend_report(x).backend in (backend, "fused_cpu")


@pytest.mark.parametrize("graph", [skip_graph, dense_graph])
def test_after_plain_calls_forward_mode_still_has_its_derivative(rng, graph):
    net = graphnn.Network(graph(), generator=rng)
    x, direction = torch.randn(3, 2, generator=rng), torch.randn(3, 2, generator=rng)
    net(x)
    reference = graphnn.Network(net.graph, net.weight, net.bias, backend="reference")
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, direction)
        found, wanted = (
            torch.autograd.forward_ad.unpack_dual(own(dual)).tangent for own in (net, reference)
        )
    torch.testing.assert_close(found, wanted)
    assert found is not None


def test_parameters(net):
    assert list(net.state_dict()) == ["weight", "bias"]
    assert [tuple(p.shape) for p in net.parameters()] == [(6,), (3,)]
    assert (net.in_features, net.out_features) == (2, 1)
    assert net.graph == skip_graph()
    assert net.backend == "auto"
    assert net.output_transform is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_draws_as_nn_linear_does(rng, dtype):
    # Neurons of fan-in 1, 4 and 100 on one level, 4000 of each.
    sizes = [1] * 4000 + [4] * 4000 + [100] * 4000
    target = torch.arange(100, 12_100).repeat_interleave(torch.tensor(sizes))
    source = torch.cat([torch.arange(size) for size in sizes])
    graph = graphnn.NeuronGraph(torch.stack([source, target]))
    net = graphnn.Network(graph, dtype=dtype, generator=rng)
    fan_in = graph.fan_in[target]
    for size in (1, 4, 100):
        bound = size**-0.5
        drawn = {
            "weight": net.weight.detach()[fan_in == size],
            "bias": net.bias.detach()[torch.tensor(sizes) == size],
        }
        linear = nn.Linear(size, 4000).weight
        assert linear.abs().max() <= bound
        for name, values in drawn.items():
            assert values.abs().max() <= bound, name
            assert values.abs().max() > 0.995 * bound, name
            # A uniform variable's variance is bound ** 2 / 3; four standard errors around it.
            error = 4 * bound**2 / values.numel() ** 0.5
            assert values.var().item() == pytest.approx(bound**2 / 3, abs=error), name
            assert abs(values.mean().item()) < 4 * bound / (3 * values.numel()) ** 0.5, name


def test_the_bias_of_a_constant_starts_at_zero(rng):
    net = graphnn.Network(graphnn.NeuronGraph([[0, 1], [2, 2]], inputs=[0]), generator=rng)
    assert net.bias[0] == 0
    assert net.bias[1] != 0


def test_a_generator_draws_all_and_leaves_the_global_state_alone():
    before = torch.get_rng_state()
    one, other = (
        graphnn.Network(skip_graph(), generator=torch.Generator().manual_seed(3)) for _ in range(2)
    )
    assert torch.equal(one.weight, other.weight)
    assert torch.equal(one.bias, other.bias)
    one.reset_parameters(torch.Generator().manual_seed(4))
    assert not torch.equal(one.weight, other.weight)
    one.reset_parameters(torch.Generator().manual_seed(3))
    assert torch.equal(one.weight, other.weight)
    graphnn.Network(skip_graph(), torch.ones(6), torch.ones(3))
    assert torch.equal(before, torch.get_rng_state())


def test_without_a_generator_the_global_state_draws_and_is_not_reseeded():
    before = torch.get_rng_state()
    one = graphnn.Network(skip_graph())
    after = torch.get_rng_state()
    assert not torch.equal(before, after)
    assert not torch.equal(one.weight, graphnn.Network(skip_graph()).weight)
    # nn.Linear draws through the same stream, so a seed set by the user governs both.
    with torch.random.fork_rng():
        torch.set_rng_state(before)
        assert torch.equal(one.weight, graphnn.Network(skip_graph()).weight)
        assert torch.equal(after, torch.get_rng_state())


def test_given_parameters_are_kept_bit_for_bit_and_copied():
    weight, bias = torch.randn(6, dtype=torch.float64), np.array([0.1, -0.0, np.inf])
    net = graphnn.Network(skip_graph(), weight, bias)
    assert net.weight.dtype == net.bias.dtype == torch.float64
    assert torch.equal(net.weight, weight)
    assert net.bias.detach().numpy().tobytes() == bias.tobytes()
    weight.zero_()
    assert net.weight.ne(0).all()
    assert net.weight.is_leaf
    assert net.weight.requires_grad


@pytest.mark.parametrize(
    "weight",
    [
        [1, 2, 3, 4, 5, 6],
        torch.arange(1, 7),
        np.arange(1, 7, dtype=np.uint8),
        torch.arange(1.0, 7).repeat_interleave(2)[::2],
        nn.Parameter(torch.arange(1.0, 7)),
        np.arange(1, 7, dtype=np.float32)[::-1][::-1],
    ],
)
def test_weights_in_any_form(weight):
    net = graphnn.Network(skip_graph(), weight, bias=[0, 0, 0])
    assert torch.equal(net.weight, torch.arange(1.0, 7))
    assert net.weight.is_contiguous()
    assert net.bias.dtype == torch.float32


def test_dtype_of_the_parameters():
    graph = skip_graph()
    for dtype in (torch.float16, torch.bfloat16, torch.float32, torch.float64):
        given = graphnn.Network(graph, torch.ones(6, dtype=dtype))
        asked = graphnn.Network(graph, torch.ones(6), dtype=dtype)
        drawn = graphnn.Network(graph, dtype=dtype)
        for net in (given, asked, drawn, graphnn.Network(graph).to(dtype)):
            assert net.weight.dtype == net.bias.dtype == dtype
            assert net(torch.ones(2, 2, dtype=dtype)).dtype == dtype
            assert net.weight.isfinite().all()
    by_bias = graphnn.Network(graph, bias=torch.ones(3, dtype=torch.float64))
    assert by_bias.weight.dtype == torch.float64


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"graph": "graph"}, r"graph must be a NeuronGraph \(got str\)"),
        ({"weight": torch.ones(5)}, r"weight must have shape \(6,\).*graph\.num_edges.*\(5,\)"),
        ({"weight": torch.ones(6, 1)}, r"weight must have shape \(6,\).*\(6, 1\)"),
        ({"weight": torch.tensor(1.0)}, r"weight must have shape \(6,\).*\(got shape \(\)\)"),
        ({"bias": torch.ones(5)}, r"bias must have shape \(3,\).*bias_neurons.*\(5,\)"),
        ({"weight": torch.ones(6, dtype=torch.complex64)}, r"weight must hold real numbers"),
        ({"bias": [True, False, True]}, r"bias must hold real numbers \(got torch\.bool"),
        ({"weight": "abc"}, r"weight must be a tensor, an array or a list of numbers"),
        ({"weight": [None] * 6}, r"weight must be a tensor, an array or a list of numbers"),
        ({"weight": [[1.0], [1.0, 2.0]]}, r"weight must be a tensor, an array or a list"),
        ({"weight": torch.ones(6).to_sparse()}, r"weight must be a dense tensor"),
        ({"output_transform": "sigmoid"}, r"None, 'softmax' or 'log_softmax' \(got 'sigmoid'\)"),
        ({"dtype": torch.int32}, r"dtype must be one of torch\.float32.*\(got torch\.int32\)"),
        ({"dtype": "float32"}, r"dtype must be one of torch\.float32.*\(got float32\)"),
        ({"generator": 42}, r"generator must be a torch\.Generator \(got int\)"),
    ],
)
def test_refuses_arguments(arguments, message):
    with pytest.raises(graphnn.GraphError, match=message):
        graphnn.Network(**{"graph": skip_graph(), **arguments})


def test_refuses_a_generator_of_another_kind_on_reset(net):
    before = net.weight.detach().clone()
    with pytest.raises(graphnn.GraphError, match=r"generator must be a torch\.Generator"):
        net.reset_parameters(np.random.default_rng(0))
    assert torch.equal(net.weight, before)


# The call


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("leading", [(), (1,), (4,), (2, 3), (0,), (3, 0), (1, 2, 1)])
def test_shapes_are_nn_linears(rng, backend, leading):
    net = graphnn.Network(skip_graph(outputs=[4, 2, 4]), generator=rng, backend=backend)
    x = torch.randn(*leading, 2, generator=rng)
    outputs = net(x)
    assert outputs.shape == nn.Linear(2, 3)(x).shape == (*leading, 3)
    assert torch.equal(outputs.reshape(-1, 3), net(x.reshape(-1, 2)))


@pytest.mark.parametrize("backend", BACKENDS)
def test_an_empty_batch_has_zero_gradients(backend):
    net = graphnn.Network(skip_graph(), backend=backend)
    x = torch.empty(0, 2, requires_grad=True)
    net(x).sum().backward()
    assert net.weight.grad.eq(0).all()
    assert net.bias.grad.eq(0).all()
    assert x.grad.shape == (0, 2)


@pytest.mark.parametrize("backend", BACKENDS)
def test_layout_of_the_input_does_not_matter(rng, backend):
    net = graphnn.Network(skip_graph(), generator=rng, backend=backend, dtype=torch.float64)
    base = torch.randn(5, 4, generator=rng, dtype=torch.float64)
    row = torch.randn(1, 2, generator=rng, dtype=torch.float64)
    strided = (base[:, ::2], base[:, :2].flip(0), base.t()[1:3].t(), base[::2, 1:3])
    for x in (*strided, row.expand(5, 2)):
        for leaf in (x.clone(), x.detach()):
            leaf = leaf.requires_grad_()
            (gradient,) = torch.autograd.grad(net(leaf).square().sum(), leaf)
            plain = x.clone().requires_grad_()
            (expected,) = torch.autograd.grad(net(plain).square().sum(), plain)
            assert torch.equal(net(x), net(x.contiguous()))
            torch.testing.assert_close(gradient, expected)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize(
    "graph",
    [
        graphnn.NeuronGraph([[], []], 2),
        graphnn.NeuronGraph([[0, 1], [2, 2]], outputs=[0, 1]),
        graphnn.NeuronGraph([[0, 1, 0], [2, 2, 3]], outputs={"a": [0, 1], "b": [2, 3]}),
        graphnn.NeuronGraph([[0, 1, 0, 1], [2, 2, 3, 3]]),
    ],
)
def test_outputs_never_share_memory(backend, graph):
    net = graphnn.Network(graph, backend=backend)
    x = torch.ones(3, 2)
    for context in (torch.no_grad(), torch.enable_grad()):
        with context:
            outputs = net(x)
        parts = [outputs] if isinstance(outputs, torch.Tensor) else list(outputs)
        with torch.no_grad():
            for i, part in enumerate(parts):
                others = [other.clone() for other in parts[i + 1 :]]
                part.fill_(9)
                assert all(map(torch.equal, parts[i + 1 :], others))
        assert x.eq(1).all()


@pytest.mark.parametrize("backend", BACKENDS)
def test_outputs_can_be_changed_in_place_before_the_backward_pass(backend):
    # As after an nn.Linear: identity outputs of a complete level, and of one that is not.
    for edges in ([[0, 1, 0, 1], [2, 2, 3, 3]], [[0, 1, 0], [2, 2, 3]]):
        net = graphnn.Network(graphnn.NeuronGraph(edges), backend=backend)
        outputs = net(torch.tensor([[1.0, 2.0]]))
        outputs *= 3
        outputs.sum().backward()
        assert net.weight.grad.tolist() == [3 * (source + 1) for source in edges[0]]


def test_groups_in_order_or_by_name(rng):
    net = graphnn.Network(grouped_graph(), generator=rng)
    left, right = torch.randn(4, 1, generator=rng), torch.randn(4, 2, generator=rng)
    outputs = net(left, right)
    assert type(outputs)._fields == ("high", "low")
    assert outputs.high.shape == (4, 2)
    assert outputs.low.shape == (4, 1)
    by_name = net(right=right, left=left)
    assert all(map(torch.equal, outputs, by_name))
    trace = net.trace(left, right)
    assert all(map(torch.equal, outputs, trace.outputs))
    assert torch.equal(trace.values[:, [1, 0, 2]], torch.cat([left, right], -1))
    assert torch.equal(trace.values[:, [6, 3, 5]], torch.cat(outputs, -1))
    assert type(outputs) is type(by_name) is type(trace.outputs)


def test_outputs_of_groups_are_a_pickleable_tuple(rng):
    net = graphnn.Network(grouped_graph(), generator=rng)
    with torch.no_grad():
        outputs = net(torch.ones(2, 1), torch.ones(2, 2))
    loaded = pickle.loads(pickle.dumps(outputs))
    assert type(loaded) is type(outputs)
    assert all(map(torch.equal, loaded, outputs))


def test_a_single_group_may_come_by_name(net, x):
    assert torch.equal(net(input=x), net(x))
    assert torch.equal(net.trace(input=x).outputs, net(x))


@pytest.mark.parametrize("name", ["count", "index", "weight", "forward", "inputs", "graph"])
def test_groups_may_have_any_name(name):
    inputs, outputs = {name: [0], "b": [1]}, {name: [3], "c": [2]}
    graph = graphnn.NeuronGraph([[0, 1], [2, 3]], inputs=inputs, outputs=outputs)
    net = graphnn.Network(graph, [1.0, 2.0], [0.0, 0.0])
    outputs = net(**{"b": torch.ones(1), name: torch.ones(1)})
    assert getattr(outputs, name) == 2


@pytest.mark.parametrize("transform", ["softmax", "log_softmax"])
def test_output_transform_over_each_group(rng, transform):
    x = [torch.randn(4, 1, generator=rng), torch.randn(4, 2, generator=rng)]
    net = graphnn.Network(grouped_graph(), output_transform=transform, generator=rng)
    plain = graphnn.Network(grouped_graph(), net.weight, net.bias)
    function = getattr(torch, transform)
    for actual, logits in zip(net(*x), plain(*x), strict=True):
        assert torch.equal(actual, function(logits, -1))
    assert torch.equal(net.trace(*x).values, plain.trace(*x).values)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda n, x: n(), r"one input .* for each of the groups 'left', 'right' \(got 0 inputs\)"),
        (lambda n, x: n(x[:, :1]), r"\(got 1 inputs\)"),
        (lambda n, x: n(x, left=x), r"either in order or by name, not both"),
        (lambda n, x: n(left=x), r"for the groups 'left', 'right' \(got 'left'\)"),
        (lambda n, x: n(left=x, wrong=x), r"\(got 'left', 'wrong'\)"),
        (lambda n, x: n(x, x), r"input 'left' must have shape \(\*, 1\).*\(got \(6, 2\)\)"),
        (lambda n, x: n(x[:, :1], x[0]), r"same leading dimensions, but 'right' has \(\) after"),
        (lambda n, x: n(torch.tensor(1.0), x), r"input 'left' must have shape .*\(got \(\)\)"),
        (lambda n, x: n(x.numpy(), x), r"input 'left' must be a tensor \(got ndarray\)"),
        (lambda n, x: n([[1.0]], x), r"input 'left' must be a tensor \(got list\)"),
        (lambda n, x: n(x[:, :1].double(), x), r"'left' must have the weights' dtype torch\.floa"),
        (lambda n, x: n(x[:, :1], x.long()), r"'right' must have .*\(got torch\.int64\)\. Convert"),
        (lambda n, x: n(x[:, :1].to("meta"), x), r"'left' must be where the weights are.* on meta"),
    ],
)
def test_refuses_inputs(x, call, message):
    net = graphnn.Network(grouped_graph())
    for method in (net, net.trace, net.backend_report):
        with pytest.raises(graphnn.GraphError, match=message):
            call(method, x)


@pytest.mark.parametrize(
    "change", [lambda x: x.double(), lambda x: x.to("meta"), lambda x: x.long()]
)
def test_what_is_placed_elsewhere_is_no_call_for_any_backend_either(net, x, change):
    offset = change(torch.zeros(len(x), net.graph.num_neurons))
    for call in (lambda: net(change(x)), lambda: net.trace(x, offset=offset)):
        with pytest.raises(graphnn.GraphError) as caught:
            call()
        assert isinstance(caught.value, graphnn.BackendError)


def test_refuses_what_is_not_dense(net, x):
    for method in (net, net.trace):
        with pytest.raises(graphnn.GraphError, match=r"'input' must be a dense .*sparse_coo"):
            method(x.to_sparse())
    offset = torch.zeros(len(x), net.graph.num_neurons).to_sparse()
    with pytest.raises(graphnn.GraphError, match=r"offset must be a dense .*sparse_coo"):
        net.trace(x, offset=offset)


def test_refuses_parameters_of_two_dtypes(net, x):
    net.bias = nn.Parameter(net.bias.double())
    with pytest.raises(graphnn.GraphError, match=r"weight and bias must have one dtype and device"):
        net(x)


@pytest.mark.parametrize("name", ["weight", "bias"])
@pytest.mark.parametrize("more", [-1, 1])
def test_refuses_parameters_of_another_size(net, x, name, more):
    size = getattr(net, name).numel()
    # With memory on both sides, so that reading beyond would not show.
    wrong = torch.zeros(size + 8)[1 : 1 + size + more]
    message = rf"{name} must have shape \({size},\).*\(got \({size + more},\)\)"
    with pytest.raises(graphnn.GraphError, match=message):
        torch.func.functional_call(net, {name: wrong}, (x,))


@pytest.mark.parametrize("backend", BACKENDS)
def test_huge_values_behave_as_in_torch(backend):
    net = graphnn.Network(
        graphnn.NeuronGraph([[0, 1, 0], [2, 2, 3]]), [1e38, 1e38, 1.0], [0.0, 0.0], backend=backend
    )
    assert net(torch.tensor([10.0, 0.0])).tolist() == [float("inf"), 10]
    # Not 10 and -10: their products are finite inside a fused multiply-add, and infinite outside.
    assert net(torch.tensor([float("inf"), -float("inf")]))[0].isnan()
    assert net(torch.tensor([float("nan"), 1.0])).isnan().all()
    assert net(torch.tensor([1.0, float("nan")])).isnan().tolist() == [True, False]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("needed", ["weight", "bias", "x"])
def test_asks_only_for_the_gradients_that_are_needed(rng, x, backend, needed):
    net = graphnn.Network(skip_graph(), generator=rng, backend=backend)
    full = x.clone().requires_grad_()
    net(full).sum().backward()
    expected = {"weight": net.weight.grad, "bias": net.bias.grad, "x": full.grad}[needed]
    net.zero_grad()
    net.weight.requires_grad_(needed == "weight")
    net.bias.requires_grad_(needed == "bias")
    x = x.clone().requires_grad_(needed == "x")
    net(x).sum().backward()
    found = {"weight": net.weight.grad, "bias": net.bias.grad, "x": x.grad}
    assert torch.equal(found.pop(needed), expected)
    assert all(gradient is None for gradient in found.values())


# Copies


def test_deepcopy_shares_the_wiring_only(net, x):
    twin = copy.deepcopy(net)
    assert twin.graph is net.graph
    assert twin.plan is net.plan
    with torch.no_grad():
        twin.weight.zero_()
    assert net.weight.ne(0).all()


def test_pickles(rng, x):
    net = graphnn.Network(
        skip_graph(), output_transform="softmax", backend="reference", generator=rng
    )
    twin = pickle.loads(pickle.dumps(net))
    assert twin.graph == net.graph
    assert (twin.backend, twin.output_transform) == ("reference", "softmax")
    assert torch.equal(twin(x), net(x))
    file = io.BytesIO()
    torch.save(net, file)
    file.seek(0)
    assert torch.equal(torch.load(file, weights_only=False)(x), net(x))


def test_state_dict_goes_from_network_to_network(net, x):
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = graphnn.Network(skip_graph())
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other(x), net(x))


def test_on_the_meta_device(net, x):
    empty = graphnn.Network(skip_graph(), device="meta")
    assert empty(torch.ones(3, 2, device="meta")).shape == (3, 1)
    with pytest.raises(graphnn.GraphError, match="it is on cpu, they are on meta"):
        empty(x)
    with torch.device("meta"):
        assert graphnn.Network(skip_graph()).weight.device.type == "meta"
    filled = copy.deepcopy(empty).to_empty(device="cpu")
    filled.load_state_dict(net.state_dict())
    assigned = copy.deepcopy(empty)
    assigned.load_state_dict(net.state_dict(), assign=True)
    assert torch.equal(filled(x), net(x))
    assert torch.equal(assigned(x), net(x))
    assert copy.deepcopy(net).to("meta")(x.to("meta")).device.type == "meta"


@pytest.mark.parametrize("device", ["foo", "", 3.5, "xla:0"])
def test_refuses_a_device_that_torch_cannot_use(net, device):
    match = re.escape(f"'cpu' or 'cuda:0' (got {device!r}: ")
    for make in (
        lambda: graphnn.Network(net.graph, device=device),
        lambda: graphnn.from_networkx(graphnn.to_networkx(net), device=device),
        lambda: net.graph.to(device),
        lambda: graphnn.build_plan(net.graph, device),
    ):
        with pytest.raises(graphnn.GraphError, match=match):
            make()


def test_repr(net):
    assert "5 neurons, 6 edges, 3 levels, density 0.75" in repr(net)
    assert "in_features=2, out_features=1" in repr(net)


# Parametrizations


class Doubled(nn.Module):
    def forward(self, values):
        return 2 * values

    def right_inverse(self, values):
        return values / 2


class FirstForAll(nn.Module):
    def forward(self, values):
        return values[:1].expand_as(values)


@pytest.mark.parametrize("backend", BACKENDS)
def test_parametrized(rng, x, backend):
    net = graphnn.Network(skip_graph(), generator=rng, backend=backend)
    plain, weight = net(x), net.weight.detach().clone()
    for name in ("weight", "bias"):
        parametrize.register_parametrization(net, name, Doubled())
    torch.testing.assert_close(net(x), plain)
    net(x).sum().backward()
    assert net.parametrizations.weight.original.grad.ne(0).all()
    assert torch.equal(net.trace(x).weight, weight)
    twin = copy.deepcopy(net)
    assert torch.equal(twin(x), net(x))
    assert twin.plan is net.plan
    twin.load_state_dict(net.state_dict())
    net.reset_parameters(torch.Generator().manual_seed(1))
    fresh = graphnn.Network(skip_graph(), generator=torch.Generator().manual_seed(1))
    assert torch.equal(net.weight, fresh.weight)
    assert torch.equal(net.double().weight, fresh.weight.double())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("edges", [EDGES, [[0, 1, 0, 1], [2, 2, 3, 3]]])
def test_parametrized_to_an_expanded_weight(x, backend, edges):
    net = graphnn.Network(graphnn.NeuronGraph(edges), backend=backend)
    plain = graphnn.Network(net.graph, net.weight[:1].expand_as(net.weight), net.bias)
    parametrize.register_parametrization(net, "weight", FirstForAll())
    torch.testing.assert_close(net(x), plain(x))
    net(x).sum().backward()
    plain(x).sum().backward()
    torch.testing.assert_close(
        net.parametrizations.weight.original.grad[0], plain.weight.grad.sum()
    )


# Torch's transforms


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("compiler", ["eager", "aot_eager"])
def test_compiles_as_one_graph(net, x, compiler, dynamic):
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True, backend=compiler, dynamic=dynamic)
    for part in (x, x[:3], x.reshape(2, 3, 2)):
        torch.testing.assert_close(compiled(part), net(part))
    compiled(x).square().sum().backward()
    gradient = net.weight.grad.clone()
    net.zero_grad()
    net(x).square().sum().backward()
    torch.testing.assert_close(gradient, net.weight.grad)


def test_compiles_with_groups_and_traces(rng):
    torch._dynamo.reset()
    net = graphnn.Network(grouped_graph(), output_transform="softmax", generator=rng)
    left, right = torch.randn(4, 1, generator=rng), torch.randn(4, 2, generator=rng)
    compiled = torch.compile(net, fullgraph=True, backend="eager")
    for actual, expected in zip(compiled(left, right), net(left, right), strict=True):
        torch.testing.assert_close(actual, expected)
    traced = torch.compile(lambda *x: net.trace(*x).values, fullgraph=True, backend="eager")
    torch.testing.assert_close(traced(left, right), net.trace(left, right).values)


# torch's own inductor says so when it is imported.
@pytest.mark.filterwarnings("ignore:`torch.jit.script_method` is deprecated:DeprecationWarning")
def test_compiles_with_inductor(net, x):
    torch._dynamo.reset()
    compiled = torch.compile(net, fullgraph=True)
    torch.testing.assert_close(compiled(x), net(x))


def test_compiled_by_name_of_a_backend_that_cannot_raises(net, x):
    torch._dynamo.reset()
    net.backend = "scatter"
    with pytest.raises(Exception, match="backend 'scatter' cannot run this call"):
        torch.compile(net, fullgraph=True, backend="eager")(x)


def test_exports_with_any_batch_size(net, x):
    # One tuple for the arguments, and one for `*inputs` within it.
    dynamic = (({0: torch.export.Dim("batch")},),)
    exported = torch.export.export(net, (x,), dynamic_shapes=dynamic).module()
    for part in (x, x[:2], x.repeat(7, 1)):
        torch.testing.assert_close(exported(part), net(part))


def test_an_exported_program_with_groups_is_saved_and_loaded(rng):
    net = graphnn.Network(grouped_graph(), generator=rng)
    given = torch.randn(4, 1, generator=rng), torch.randn(4, 2, generator=rng)
    file = io.BytesIO()
    torch.export.save(torch.export.export(net, given), file)
    file.seek(0)
    found, expected = torch.export.load(file).module()(*given), net(*given)
    assert type(found) is type(expected)
    torch.testing.assert_close((found.high, found.low), tuple(expected))


def test_per_sample_gradients(net, x):
    parameters = dict(net.named_parameters())

    def loss(parameters, sample):
        return torch.func.functional_call(net, parameters, (sample,)).square().sum()

    each = torch.vmap(torch.func.grad(loss), (None, 0))(parameters, x)
    for i in range(len(x)):
        net.zero_grad()
        net(x[i]).square().sum().backward()
        for name, parameter in net.named_parameters():
            torch.testing.assert_close(each[name][i], parameter.grad)


def test_hessian_and_forward_mode(rng):
    net = graphnn.Network(skip_graph(), dtype=torch.float64, generator=rng)
    x = torch.randn(2, generator=rng, dtype=torch.float64)
    hessian = torch.func.hessian(lambda x: net(x).sum())(x)
    torch.testing.assert_close(hessian, hessian.t())
    assert hessian.ne(0).any()
    jacobian = torch.func.jacrev(net)(x)
    torch.testing.assert_close(torch.func.jacfwd(net)(x), jacobian)
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        tangent = torch.autograd.forward_ad.unpack_dual(net(dual)).tangent
    torch.testing.assert_close(tangent, jacobian.sum(-1))


@pytest.mark.parametrize("backend", BACKENDS)
def test_under_autocast_it_stays_in_float32(rng, backend):
    net = graphnn.Network(skip_graph(), generator=rng, backend=backend)
    # Not representable in bfloat16, so that a cast on the way would show.
    x = torch.randn(6, 2, generator=rng)
    plain = net(x)
    with torch.autocast("cpu", torch.bfloat16):
        outputs, trace = net(x), net.trace(x)
        assert net(x.bfloat16()).dtype == torch.float32
    assert outputs.dtype == trace.values.dtype == torch.float32
    assert torch.equal(outputs, plain)
    gradient = torch.autograd.grad(plain.sum(), net.weight)
    assert torch.equal(torch.autograd.grad(outputs.sum(), net.weight)[0], gradient[0])


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_a_gpus_autocast_it_takes_what_a_linear_layer_takes(monkeypatch, dtype):
    gpu = SimpleNamespace(device=torch.device("cuda"), dtype=torch.float32)
    assert autocast.dtype_of(gpu) is None
    monkeypatch.setattr(torch, "is_autocast_enabled", lambda kind: kind == "cuda")
    monkeypatch.setattr(torch, "get_autocast_dtype", {"cuda": dtype}.get)
    assert autocast.dtype_of(gpu) == dtype
    for own in (torch.float64, dtype):
        assert autocast.dtype_of(SimpleNamespace(device=gpu.device, dtype=own)) is None
    assert autocast.dtype_of(torch.ones(1)) is None


def test_a_backend_that_adds_in_half_precision_is_not_asked_to(rng, x, monkeypatch):
    net = graphnn.Network(skip_graph(), generator=rng, backend="reference")
    plain, traced = net(x), net.trace(x)
    expected = torch.autograd.grad(plain.bfloat16().sum(), net.weight)[0]
    monkeypatch.setattr(autocast, "is_active", lambda _device: True)
    monkeypatch.setattr(autocast, "dtype_of", lambda _weight: torch.bfloat16)
    outputs, trace = net(x.double()), net.trace(x)
    assert torch.equal(outputs, plain.bfloat16())
    assert torch.equal(trace.values, traced.values.bfloat16())
    assert torch.equal(trace.preactivations, traced.preactivations.bfloat16())
    assert torch.equal(trace.weight, net.weight.bfloat16())
    assert torch.equal(torch.autograd.grad(outputs.sum(), net.weight)[0], expected)


def test_scatter_takes_its_gradient_in_float32_inside_autocast(rng, x):
    net = graphnn.Network(skip_graph(), generator=rng, backend="scatter")
    expected = torch.autograd.grad(net(x).sum(), net.weight)[0]
    with torch.autocast("cpu", torch.bfloat16):
        found = torch.autograd.grad(net(x).sum(), net.weight)[0]
    assert torch.equal(found, expected)


@pytest.mark.parametrize("backend", BACKENDS)
def test_checkpointed(rng, x, backend):
    net = graphnn.Network(skip_graph(), generator=rng, backend=backend)
    from torch.utils.checkpoint import checkpoint

    checkpoint(net, x, use_reentrant=False).sum().backward()
    found = net.weight.grad.clone()
    net.zero_grad()
    net(x).sum().backward()
    assert torch.equal(found, net.weight.grad)


def test_in_a_sequential_it_trains(rng):
    net = graphnn.Network(skip_graph(), generator=rng)
    model = nn.Sequential(nn.Linear(3, 2), net, nn.Linear(1, 1))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-0.5, 0.5, generator=rng)
    x = torch.randn(16, 3, generator=rng)
    y = x.sum(1, keepdim=True)
    optimizer = torch.optim.Adam(model.parameters(), 0.05)
    losses = []
    for _ in range(100):
        loss = (model(x) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.3 * losses[0], losses[-1]


DISTRIBUTED = """
import sys, tempfile
import torch, graphnn
from torch.nn.parallel import DistributedDataParallel
with tempfile.TemporaryDirectory() as folder:
    torch.distributed.init_process_group(
        "gloo", init_method=f"file://{folder}/store", rank=0, world_size=1
    )
    graph = graphnn.NeuronGraph([[2, 0, 3, 1, 0, 1], [4, 2, 4, 2, 4, 3]], activation="tanh")
    net = graphnn.Network(graph)
    plain = graphnn.Network(graph, net.weight, net.bias)
    parallel = DistributedDataParallel(net)
    x = torch.randn(5, 2)
    parallel(x).sum().backward()
    plain(x).sum().backward()
    torch.testing.assert_close(net.weight.grad, plain.weight.grad)
    torch.testing.assert_close(net.bias.grad, plain.bias.grad)
    assert list(parallel.state_dict()) == ["module.weight", "module.bias"]
    # No parameter may be left without a gradient, or the second step fails.
    for backend in ("fused_cpu", "scatter", "reference"):
        unbiased = graphnn.NeuronGraph(graph.edge_index, bias=False)
        parallel = DistributedDataParallel(graphnn.Network(unbiased, backend=backend))
        for _ in range(2):
            parallel(x).sum().backward()
    torch.distributed.destroy_process_group()
"""


def test_distributed():
    command = [sys.executable, "-c", DISTRIBUTED]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
