import copy
import pickle
from typing import Any

import pytest
import torch
from cases import CASES, TOLERANCE
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

import graphnn
from graphnn.convert import module as convert_module
from graphnn.parametrize import Frozen

SMOOTH = ["identity", "tanh", "sigmoid", "sin", "gauss", "softplus(2, 20)", "gelu", "celu(0.7)"]


def to_module(net, masked=False) -> Any:
    return convert_module.to_module(net, masked)


def close(actual, expected, what=""):
    assert actual.shape == expected.shape
    assert actual.dtype == expected.dtype
    if expected.numel():
        error = (actual - expected).abs().max()
        limit = TOLERANCE[expected.dtype] * expected.abs().max().clamp(min=1e-30)
        assert error <= limit, f"{what}: {error}"


def joined(outputs):
    return outputs if isinstance(outputs, torch.Tensor) else torch.cat(tuple(outputs), -1)


def network(graph, rng, dtype=torch.float64, output_transform=None):
    net = graphnn.Network(
        graph, dtype=dtype, generator=rng, backend="reference", output_transform=output_transform
    )
    with torch.no_grad():
        net.bias.uniform_(-1, 1, generator=rng)
    return net


def by_edge(net, gradients, name):
    """Gradients by a module's parameters, put at the edges or biases that they belong to."""
    gathered = torch.zeros_like(getattr(net, name))
    for index, level in enumerate(graphnn.build_plan(net.graph).levels):
        gradient = gradients.get(f"levels.{index}.linear.{name}")
        if name == "weight":
            gathered[level.edges] = gradient[level.rows, level.columns]
        elif gradient is not None:
            gathered[level.bias] = gradient[slice(None) if level.biased is None else level.biased]
    return gathered


def run(module, x, sizes, by_output):
    """Outputs, and gradients by name; "x" that by the inputs."""
    x = x.clone().requires_grad_()
    leaves = {"x": x, **dict(module.named_parameters())}
    outputs = joined(module(*x.split(sizes, -1)))
    gradients = torch.autograd.grad(
        (outputs * by_output).sum(),
        list(leaves.values()),
        allow_unused=True,
        materialize_grads=True,
    )
    return outputs, dict(zip(leaves, gradients, strict=True))


def check(net, rng, samples=6):
    module = to_module(net)
    sizes = [ids.numel() for ids in net.graph.inputs.values()]
    x = torch.randn(samples, sum(sizes), generator=rng, dtype=net.weight.dtype)
    by_output = torch.randn(samples, net.out_features, generator=rng, dtype=x.dtype)
    wanted, wanted_by = run(net, x, sizes, by_output)
    outputs, by = run(module, x, sizes, by_output)
    close(outputs, wanted, "outputs")
    close(by["x"], wanted_by["x"], "gradient by x")
    for name in ("weight", "bias"):
        close(by_edge(net, by, name), wanted_by[name], f"gradient by {name}")
    return module


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", CASES)
def test_outputs_and_gradients_agree(rng, name, dtype):
    check(network(CASES[name](), rng, dtype), rng)


@st.composite
def dags(draw):
    count = draw(st.integers(1, 12))
    pairs = [(s, t) for t in range(count) for s in range(t)]
    edges = draw(st.lists(st.sampled_from(pairs), unique=True)) if pairs else []
    ids = draw(st.permutations(range(count)))
    targets = {t for _, t in edges}
    roots = [n for n in range(count) if n not in targets]
    inputs = draw(st.lists(st.sampled_from(roots), unique=True))
    split = draw(st.integers(0, len(inputs)))
    outputs = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=6))
    more = draw(st.lists(st.integers(0, count - 1), min_size=1, max_size=3))
    activation = draw(st.lists(st.sampled_from(SMOOTH), min_size=count, max_size=count))
    bias = draw(st.lists(st.booleans(), min_size=count, max_size=count))
    place = {neuron: ids[neuron] for neuron in range(count)}
    held = {place[n] for n in inputs}
    return graphnn.NeuronGraph(
        torch.tensor([[place[s], place[t]] for s, t in edges], dtype=torch.long).reshape(-1, 2).t(),
        num_neurons=count,
        inputs={"a": [place[n] for n in inputs[:split]], "b": [place[n] for n in inputs[split:]]},
        outputs={"y": [place[n] for n in outputs], "z": [place[n] for n in more]},
        activation=["identity" if i in held else activation[i] for i in range(count)],
        bias=[i not in held and bias[i] for i in range(count)],
    )


@settings(max_examples=100, deadline=None)
@given(graph=dags(), seed=st.integers(0, 2**31))
def test_random_networks_agree(graph, seed):
    generator = torch.Generator().manual_seed(seed)
    check(network(graph, generator), generator, samples=3)


def skip(rng, **options):
    graph = graphnn.NeuronGraph(
        [[0, 1, 2, 0, 3, 1, 4], [2, 3, 3, 4, 4, 5, 5]],
        activation=["identity"] * 2 + ["tanh", "sin", "tanh", "identity"],
        **options,
    )
    return network(graph, rng)


def test_a_level_reads_only_its_distinct_sources(rng):
    module = to_module(skip(rng))
    assert [tuple(level.linear.weight.shape) for level in module.levels] == [
        (1, 1),
        (1, 2),
        (1, 2),
        (1, 2),
    ]
    assert [type(level.activation) for level in module.levels[2:]] == [nn.Tanh, nn.Identity]


def test_calls_are_those_of_the_network(rng):
    net = network(CASES["groups"](), rng)
    module = to_module(net)
    x2 = torch.randn(2, 3, 1, generator=rng, dtype=torch.float64)
    x1 = torch.randn(2, 3, 2, generator=rng, dtype=torch.float64)
    wanted = net(x2, x1)
    for outputs in (module(x2, x1), module(x1=x1, x2=x2)):
        assert outputs._fields == wanted._fields == ("o2", "o1")
        close(outputs.o1, wanted.o1)
        close(outputs.o2, wanted.o2)
        assert outputs.o2.shape == (2, 3, 1)


@pytest.mark.parametrize("transform", ["softmax", "log_softmax"])
@pytest.mark.parametrize("name", ["groups", "dense"])
def test_output_transforms(rng, name, transform):
    check(network(CASES[name](), rng, output_transform=transform), rng)


def test_outputs_never_alias_inputs(rng):
    for name in ("all inputs are outputs", "no edges at all", "input that is also output"):
        net = network(CASES[name](), rng)
        x = torch.randn(4, net.in_features, generator=rng, dtype=torch.float64)
        before = x.clone()
        to_module(net)(x).mul_(0)
        assert torch.equal(x, before)


def test_an_empty_batch(rng):
    module = to_module(skip(rng))
    assert module(torch.zeros(0, 2, dtype=torch.float64)).shape == (0, 1)


def test_levels_can_be_hooked_one_by_one(rng):
    net = skip(rng)
    module = to_module(net)
    x = torch.randn(5, 2, generator=rng, dtype=torch.float64)
    trace = net.trace(x)
    values, preactivations = {}, {}
    for index, level in enumerate(module.levels):
        level.register_forward_hook(lambda m, i, o, index=index: values.update({index: o}))
        level.linear.register_forward_hook(
            lambda m, i, o, index=index: preactivations.update({index: o})
        )
    module(x)
    for index in range(4):
        close(values[index], trace.values[:, [index + 2]])
        close(preactivations[index], trace.preactivations[:, [index + 2]])


def test_an_intervention_by_a_hook_reaches_the_outputs(rng):
    net = skip(rng)
    module = to_module(net)
    module.levels[2].register_forward_hook(lambda m, i, o: torch.zeros_like(o))
    x = torch.randn(5, 2, generator=rng, dtype=torch.float64)
    edge = int(net.graph.edge_ids([1], [5]))
    expected = net.weight[edge] * x[:, [1]] + net.bias[-1]
    close(module(x), expected)


@pytest.mark.parametrize("name", ["groups", "all activations", "constant hidden neuron"])
@pytest.mark.parametrize("masked", [False, True])
def test_runs_compiled_without_graph_breaks(rng, name, masked):
    net = network(CASES[name](), rng)
    module = to_module(net, masked=masked)
    sizes = [ids.numel() for ids in net.graph.inputs.values()]
    x = torch.randn(4, sum(sizes), generator=rng, dtype=torch.float64).split(sizes, -1)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    close(joined(compiled(*x)), joined(module(*x)))
    joined(compiled(*x)).sum().backward()
    assert all(p.grad is not None for p in module.parameters() if p.numel())


@pytest.mark.parametrize("name", ["groups", "random"])
def test_copies_and_pickles(rng, name):
    net = network(CASES[name](), rng)
    module = to_module(net)
    sizes = [ids.numel() for ids in net.graph.inputs.values()]
    x = torch.randn(4, sum(sizes), generator=rng, dtype=torch.float64).split(sizes, -1)
    for twin in (copy.deepcopy(module), pickle.loads(pickle.dumps(module))):
        assert torch.equal(joined(twin(*x)), joined(module(*x)))
    again = to_module(network(net.graph, rng))
    again.load_state_dict(module.state_dict())
    assert torch.equal(joined(again(*x)), joined(module(*x)))
    assert all(key.startswith("levels.") for key in module.state_dict())


def test_a_thousand_levels(rng):
    source, target = [0], [1]
    for neuron in range(2, 1001):
        source += [neuron - 1, neuron - 2]
        target += [neuron, neuron]
    net = network(graphnn.NeuronGraph([source, target], activation="tanh"), rng)
    module = check(net, rng)
    assert len(module.levels) == 1000


def test_masked_training_follows_the_network(rng):
    net = network(CASES["random"](), rng)
    module = to_module(net, masked=True)
    assert sum(p.numel() for p in module.parameters()) == sum(p.numel() for p in net.parameters())
    x = torch.randn(7, net.in_features, generator=rng, dtype=torch.float64)
    for own in (net, module):
        optimiser = torch.optim.SGD(own.parameters(), lr=1e-3, momentum=0.9, weight_decay=0.1)
        for _ in range(4):
            optimiser.zero_grad()
            own(x).square().mean().backward()
            optimiser.step()
    torch.testing.assert_close(module(x), net(x))


def test_unmasked_zeros_are_trained(rng):
    net = network(CASES["random"](), rng)
    module = to_module(net)
    module(torch.randn(7, net.in_features, generator=rng, dtype=torch.float64)).sum().backward()
    levels = graphnn.build_plan(net.graph).levels
    missing = 0
    for level, own in zip(levels, module.levels, strict=True):
        gradient = own.linear.weight.grad.clone()
        gradient[level.rows, level.columns] = 0
        missing += int((gradient != 0).sum())
    assert missing > 0


def test_what_is_held_in_the_network_is_held_in_the_module(rng):
    net = skip(rng)
    held = torch.tensor([True, False, True, False, False, False, False])
    register_parametrization(net, "weight", Frozen(held, 3.0))
    module = to_module(net, masked=True)
    assert sum(p.numel() for p in module.parameters() if p.requires_grad) == 5 + 4
    assert not module.levels[0].linear.weight.requires_grad
    x = torch.randn(7, 2, generator=rng, dtype=torch.float64)
    close(module(x), net(x))


def test_parameters_are_copies_and_nothing_is_drawn(rng):
    net = skip(rng)
    before = net.weight.detach().clone()
    state = torch.random.get_rng_state()
    module = to_module(net)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.zero_()
    assert torch.equal(net.weight, before)


def test_moves_to_another_dtype(rng):
    module = to_module(network(CASES["all activations"](), rng)).float()
    assert module(torch.zeros(2, 5)).dtype == torch.float32


def test_calls_that_do_not_fit(rng):
    module = to_module(network(CASES["groups"](), rng))
    one, two = torch.zeros(3, 1).double(), torch.zeros(3, 2).double()
    with pytest.raises(graphnn.GraphError, match=r"groups x2, x1 \(got 1 inputs\)"):
        module(one)
    with pytest.raises(graphnn.GraphError, match=r"got 1 in order and the names x1"):
        module(one, x1=two)
    with pytest.raises(graphnn.GraphError, match="the names x1, x3"):
        module(x1=two, x3=one)
    with pytest.raises(graphnn.GraphError, match=r"input 'x1' must have shape \(\*, 2\).*\(3, 1\)"):
        module(one, one)
    with pytest.raises(graphnn.GraphError, match=r"input 'x2' must have shape"):
        module(torch.tensor(1.0), two)


def test_only_networks_are_taken():
    with pytest.raises(graphnn.ConversionError, match=r"graphnn.Network \(got Linear\)"):
        to_module(nn.Linear(3, 2))
