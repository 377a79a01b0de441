"""What the compiled CPU backend promises for networks of complete blocks only."""

import pytest
import torch
from torch import nn

import graphnn


def block(sources, targets):
    """Edges from every source to every target, by target, then source."""
    pairs = torch.cartesian_prod(torch.tensor(targets), torch.tensor(sources))
    return pairs.flip(1).t()


def strided(net):
    """The network's parameters at every second place of longer tensors, and not at the front."""
    return {
        name: torch.stack([value.detach(), value.detach()], 1).flatten()[1:][::2].requires_grad_()
        for name, value in net.named_parameters()
    }


def several_pools(activation="tanh"):
    """Levels that read two levels, in whole and in part; a hidden and a repeated output."""
    edges = [block([0, 1, 2], [3, 4, 5, 6]), block([0, 2, 3, 4, 5, 6], [7, 8])]
    edges += [block([1, 4, 6, 7, 8], [9, 10, 11])]
    return graphnn.NeuronGraph(
        torch.cat(edges, 1),
        outputs=[11, 4, 9, 4, 10],
        activation=activation,
        bias=[False] * 3 + [True] * 4 + [False] * 2 + [True, False, True],
    )


def permuted():
    """Ids, edges, inputs and outputs out of order."""
    edges = torch.cat([block([4, 7, 1], [0, 6, 2, 8]), block([8, 0, 6, 2], [5, 3])], 1)
    shuffled = edges[:, torch.randperm(edges.shape[1], generator=torch.Generator().manual_seed(1))]
    return graphnn.NeuronGraph(shuffled, inputs=[7, 1, 4], outputs=[5, 3], activation="gelu")


def stack(activation="relu"):
    edges = torch.cat([block(range(5), range(5, 12)), block(range(5, 12), range(12, 15))], 1)
    return graphnn.NeuronGraph(edges, activation=activation)


def mixed():
    edges = torch.cat([block(range(3), range(3, 8)), block(range(3, 8), [8, 9])], 1)
    kinds = ["identity"] * 3 + ["sin", "relu", "tanh", "relu", "abs", "gauss", "identity"]
    return graphnn.NeuronGraph(edges, activation=kinds)


def unread():
    """A level that nothing reads, beside an output that reads the inputs."""
    edges = torch.cat([block([0, 1], [2, 3]), block([0, 1, 2, 3], [4])], 1)
    return graphnn.NeuronGraph(edges, outputs=[2], activation="sigmoid")


def columns_turned():
    """A level whose sources, by id, come from the second, the first and the first level."""
    edges = torch.cat([block([1, 5], [0]), block([0, 1, 5], [2, 3])], 1)
    return graphnn.NeuronGraph(edges, activation="tanh")


GRAPHS = {
    "columns turned": columns_turned,
    "hidden outputs": lambda: graphnn.NeuronGraph(
        torch.cat([block([0, 1], [2, 3]), block([2, 3], [4, 5])], 1), outputs=range(2, 6)
    ),
    "several pools": several_pools,
    "several pools, relu": lambda: several_pools("relu"),
    "permuted": permuted,
    "stack": stack,
    "mixed": mixed,
    "unread": unread,
    "inputs only": lambda: graphnn.NeuronGraph(
        torch.empty(2, 0, dtype=torch.long), 2, inputs=[1, 0], outputs=[0, 1, 1]
    ),
    "outputs are the inputs": lambda: graphnn.NeuronGraph(block([0, 1], [2]), outputs=[0, 1]),
}


def network(graph, rng, **options):
    options = {"dtype": torch.float64, "backend": "fused_cpu", **options}
    return graphnn.Network(graph, generator=rng, **options)


def twins(graph, rng, **options):
    net = network(graph, rng, **options)
    return net, graphnn.Network(graph, net.weight, net.bias, backend="reference")


def gradients(loss, leaves, **options):
    """Gradients by the leaves, zero where the loss does not depend on one."""
    if not loss.requires_grad:
        return tuple(torch.zeros_like(leaf) for leaf in leaves)
    return torch.autograd.grad(loss, leaves, materialize_grads=True, **options)


def assert_close(found, wanted):
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("batch", [0, 1, 6])
@pytest.mark.parametrize("name", GRAPHS)
def test_agrees_with_the_reference(rng, name, batch):
    graph = GRAPHS[name]()
    leaves = torch.randn(batch, graph.input_ids.numel(), generator=rng, dtype=torch.float64)
    offset = torch.randn(batch, graph.num_neurons, generator=rng, dtype=torch.float64)
    results = []
    for net in twins(graph, rng):
        report = net.backend_report(leaves)
        assert all(how == "matrix product" for *_, how in report.levels)
        x, shift = leaves.clone().requires_grad_(), offset.clone().requires_grad_()
        outputs = net(x)
        first = gradients(outputs.square().sum(), (net.weight, net.bias, x))
        trace = net.trace(x, offset=shift)
        loss = trace.values.square().sum() + trace.preactivations.sin().sum()
        all_leaves = (net.weight, net.bias, x, shift)
        second = gradients(loss, all_leaves, retain_graph=True)
        # Only one of the two results has a gradient.
        third = gradients(trace.preactivations.sin().sum(), all_leaves)
        with torch.no_grad():
            assert torch.equal(net(x), outputs)
            assert torch.equal(net.trace(x, offset=shift).values, trace.values)
        results.append((outputs, trace.values, *first, *second, *third))
    assert_close(*results)


# Parameters that are not the defaults, and values on both sides of every kink.
@pytest.mark.parametrize(
    "activation",
    ["identity", "relu", "relu6", "leaky_relu(0.3)", "leaky_relu(-0.2)", "elu(0.7)", "selu",
     "celu(0.7)", "gelu", "gelu_tanh", "silu", "mish", "softplus(2, 1)", "softsign", "sigmoid",
     "tanh", "clamp(-0.7, 0.3)", "hardsigmoid", "hardswish", "sin", "gauss", "abs", "square"],
)  # fmt: skip
def test_every_slope_is_torchs(rng, activation):
    x = 5 * torch.randn(40, 5, generator=rng, dtype=torch.float64)
    results = []
    for net in twins(stack(activation), rng):
        leaves = (net.weight, net.bias)
        results.append([])
        for part in (x, *x.split(1)):
            outputs = net(part)
            found = torch.autograd.grad(outputs.square().sum(), leaves)
            results[-1] += [outputs, *found]
    assert_close(*results)


@pytest.mark.parametrize("activation", ["relu", "identity", "gelu"])
@pytest.mark.parametrize("needs", [("weight",), ("bias",), ("x",), ("weight", "x")])
@pytest.mark.parametrize("batch", [1, 4])
def test_a_stack_gives_only_the_gradients_that_are_needed(rng, activation, needs, batch):
    x = torch.randn(batch, 5, generator=rng, dtype=torch.float64)
    found = []
    for net in twins(stack(activation), rng):
        net.requires_grad_(False)
        leaves = [{"weight": net.weight, "bias": net.bias, "x": x}[name] for name in needs]
        for leaf in leaves:
            leaf.requires_grad_()
        found += [torch.autograd.grad(net(x).square().sum(), leaves)]
    assert_close(*found)


@pytest.mark.parametrize("batch", [1, 4])
def test_parameters_may_be_strided(rng, batch):
    net, twin = twins(stack(), rng)
    x = torch.randn(batch, 5, generator=rng, dtype=torch.float64)
    parameters = strided(net)
    outputs = torch.func.functional_call(net, parameters, (x,))
    found = torch.autograd.grad(outputs.square().sum(), list(parameters.values()))
    wanted = torch.autograd.grad(twin(x).square().sum(), [twin.weight, twin.bias])
    assert_close((outputs, *found), (twin(x), *wanted))


@pytest.mark.parametrize("needs", ["weight", "bias", "offset", "x"])
@pytest.mark.parametrize("name", ["several pools", "permuted", "mixed"])
def test_each_gradient_alone(rng, name, needs):
    graph = GRAPHS[name]()
    x = torch.randn(4, graph.input_ids.numel(), generator=rng, dtype=torch.float64)
    offset = torch.randn(4, graph.num_neurons, generator=rng, dtype=torch.float64)
    found = []
    for net in twins(graph, rng):
        net.requires_grad_(False)
        leaf = {"weight": net.weight, "bias": net.bias, "x": x, "offset": offset}[needs]
        leaf = leaf.requires_grad_()
        loss = net.trace(x, offset=offset).values.square().sum()
        found.append(torch.autograd.grad(loss, leaf))
    assert_close(*found)


@pytest.mark.parametrize("batch", [17, 300])
@pytest.mark.parametrize("inner", [nn.ReLU, nn.GELU])
def test_gives_the_bits_of_the_sequential_it_came_from(rng, batch, inner):
    layers = nn.Sequential(nn.Linear(30, 40), inner(), nn.Linear(40, 20), nn.Tanh())
    net = graphnn.from_sequential(layers)
    x, cotangent = torch.randn(batch, 30, generator=rng), torch.randn(batch, 20, generator=rng)
    with torch.inference_mode():
        assert torch.equal(net(x), layers(x))
    outputs, wanted = net(x), layers(x)
    assert torch.equal(outputs, wanted)
    outputs.backward(cotangent)
    wanted.backward(cotangent)
    weights = [layers[i].weight.grad.flatten() for i in (0, 2)]  # pyright: ignore
    assert torch.equal(net.weight.grad, torch.cat(weights))  # pyright: ignore[reportArgumentType]
    biases = [layers[i].bias.grad for i in (0, 2)]  # pyright: ignore
    assert torch.equal(net.bias.grad, torch.cat(biases))  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("name", GRAPHS)
def test_the_callers_tensors_stay_as_they_are(rng, name, batch):
    net = network(GRAPHS[name](), rng)
    x = torch.randn(batch, net.in_features, generator=rng, dtype=torch.float64, requires_grad=True)
    outputs = net(x)
    cotangent = torch.randn(outputs.shape, generator=rng, dtype=torch.float64)
    before = [t.detach().clone() for t in (x, net.weight, net.bias, outputs, cotangent)]
    outputs.backward(cotangent)
    assert x.grad is not None
    for tensor, same in zip((x, net.weight, net.bias, outputs, cotangent), before, strict=True):
        assert torch.equal(tensor, same)
    x.grad.zero_()
    with torch.no_grad():
        outputs.zero_()
    assert torch.equal(x, before[0])
    assert torch.equal(cotangent, before[-1])


@pytest.mark.parametrize("of", ["weight", "bias", "x", "the cotangent"])
@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("graph", [permuted, stack])
def test_a_second_derivative_raises_and_names_reference(rng, of, batch, graph):
    net = network(graph(), rng)
    size = net.in_features
    x = torch.randn(batch, size, generator=rng, dtype=torch.float64, requires_grad=True)
    outputs = net(x)
    cotangent = torch.ones_like(outputs, requires_grad=True)
    (slope,) = torch.autograd.grad(outputs, net.weight, cotangent, create_graph=True)
    plain = torch.autograd.grad(net(x), net.weight, cotangent)
    assert torch.equal(slope, plain[0])
    leaf = {"weight": net.weight, "bias": net.bias, "x": x, "the cotangent": cotangent}[of]
    with pytest.raises(graphnn.BackendError, match=r"'fused_cpu'.*second one.*'reference'"):
        torch.autograd.grad(slope.square().sum(), leaf)


@pytest.mark.parametrize("batch", [1, 2])
def test_refuses_many_gradients_at_once(rng, batch):
    net = network(stack(), rng)
    outputs = net(torch.ones(batch, 5, dtype=torch.float64))
    cotangents = torch.ones(3, *outputs.shape, dtype=torch.float64)
    with pytest.raises(graphnn.BackendError, match=r"'fused_cpu'.*is_grads_batched.*'reference'"):
        torch.autograd.grad(outputs, net.weight, cotangents, is_grads_batched=True)


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("changed", ["weight", "x"])
def test_a_change_before_the_backward_pass_is_noticed(rng, changed, batch):
    net = network(stack(), rng)
    x = torch.randn(batch, 5, generator=rng, dtype=torch.float64)
    outputs = net(x)
    with torch.no_grad():
        {"weight": net.weight, "x": x}[changed].add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        outputs.sum().backward()


def test_a_change_of_the_outputs_is_noticed_or_does_no_harm(rng):
    net = network(stack(), rng)
    for batch in (1, 4):
        x = torch.randn(batch, 5, generator=rng, dtype=torch.float64)
        (wanted,) = torch.autograd.grad(net(x).sum(), net.weight)
        outputs = net(x)
        loss = outputs.sum()
        with torch.no_grad():
            outputs.zero_()
        if batch > 1:
            with pytest.raises(RuntimeError, match="modified by an inplace operation"):
                loss.backward()
        else:
            assert torch.equal(torch.autograd.grad(loss, net.weight)[0], wanted)


@pytest.mark.parametrize("batch", [1, 4])
def test_a_change_of_the_bias_does_no_harm(rng, batch):
    net = network(stack(), rng)
    x = torch.randn(batch, 5, generator=rng, dtype=torch.float64)
    (wanted,) = torch.autograd.grad(net(x).sum(), net.weight)
    outputs = net(x).sum()
    with torch.no_grad():
        net.bias.add_(1)
    assert torch.equal(torch.autograd.grad(outputs, net.weight)[0], wanted)


def test_backward_can_run_twice_and_adds_up(rng):
    net = network(several_pools("relu"), rng)
    outputs = net(torch.ones(3, 3, dtype=torch.float64)).sum()
    outputs.backward(retain_graph=True)
    assert net.weight.grad is not None
    first = net.weight.grad.clone()
    outputs.backward()
    assert torch.equal(net.weight.grad, 2 * first)


@pytest.mark.parametrize("batch", [1, 6])
def test_autocast_does_not_reach_the_backward_pass(rng, batch):
    net = network(stack("silu"), rng, dtype=torch.float32)
    x = torch.randn(batch, 5, generator=rng)
    (wanted,) = torch.autograd.grad(net(x).sum(), net.weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        (found,) = torch.autograd.grad(net(x).sum(), net.weight)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("batch", [1, 6])
def test_a_gradient_of_one_stride_is_taken(rng, batch):
    net, twin = twins(stack("tanh"), rng)
    x = torch.randn(batch, 5, generator=rng, dtype=torch.float64)
    cotangent = torch.ones((), dtype=torch.float64).expand(batch, 3)
    found = [torch.autograd.grad(own(x), (own.weight, own.bias), cotangent) for own in (net, twin)]
    assert_close(*found)


def test_transforms_still_run(rng):
    net, twin = twins(stack("tanh"), rng)
    x = torch.randn(4, 5, generator=rng, dtype=torch.float64)
    found = []
    for own in (net, twin):
        parameters = {name: value.detach() for name, value in own.named_parameters()}

        def loss(parameters, sample, own=own):
            return torch.func.functional_call(own, parameters, (sample,)).square().sum()

        per_sample = torch.func.vmap(torch.func.grad(loss), in_dims=(None, 0))(parameters, x)
        found.append((per_sample["weight"], per_sample["bias"]))
    assert_close(*found)
