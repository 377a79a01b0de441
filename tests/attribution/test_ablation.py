"""Held neurons hold, whatever they are; removed ones are as if held at zero."""

import copy
from typing import Any

import pytest
import torch
from cases import CASES
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import graphnn
from graphnn import GraphError, Network, NeuronGraph
from graphnn.attribution import ablate

SHAPES = [name for name in CASES if "depth" not in name and "10,000" not in name]


def network(graph, rng, **options):
    net = Network(graph, dtype=torch.float64, generator=rng, **options)
    with torch.no_grad():
        net.bias.uniform_(-0.5, 0.5, generator=rng)
    return net


def samples(net, rng, count=4):
    return {
        name: torch.randn(count, ids.numel(), generator=rng, dtype=net.weight.dtype)
        for name, ids in net.graph.inputs.items()
    }


def joined(outputs):
    return outputs if isinstance(outputs, torch.Tensor) else torch.cat(tuple(outputs), -1)


def outputs_by_hand(net, x, held):
    """The outputs, neuron by neuron, where the values in `held` (id -> number) are put in."""
    graph, given = net.graph, torch.cat(list(x.values()), 1)
    columns = {n: given[:, i] for i, n in enumerate(graph.input_ids.tolist())}
    bias = dict(zip(graph.bias_neurons.tolist(), net.bias.detach(), strict=True))
    source, target = graph.edge_index.tolist()
    value = {}
    for n in graph.level.argsort(stable=True).tolist():
        total = columns[n] if n in columns else given.new_zeros(len(given)) + bias.get(n, 0.0)
        for e in range(graph.num_edges):
            if target[e] == n:
                total = total + net.weight[e].detach() * value[source[e]]
        value[n] = graph.activation_table[int(graph.activation_code[n])](total)
        if n in held:
            value[n] = torch.full_like(total, held[n])
    return torch.stack([value[n] for n in graph.output_ids.tolist()], 1)


@pytest.mark.parametrize("name", [n for n in SHAPES if "wide" not in n])
def test_holds_any_neurons_at_any_values(name, rng):
    net = network(CASES[name](), rng)
    x, count = samples(net, rng), net.graph.num_neurons
    for share in (0.2, 0.6, 1.0):
        chosen = (torch.rand(count, generator=rng) <= share).nonzero().flatten()
        values = torch.randn(chosen.numel(), generator=rng, dtype=torch.float64)
        held = ablate(net, chosen, values)
        expected = outputs_by_hand(net, x, dict(zip(chosen.tolist(), values.tolist(), strict=True)))
        torch.testing.assert_close(joined(held(**x)), expected, rtol=1e-12, atol=1e-13)
        assert held.in_features == net.in_features
        assert torch.equal(held.graph.edge_index, net.graph.edge_index)
        zero = ablate(net, chosen)
        expected = outputs_by_hand(net, x, dict.fromkeys(chosen.tolist(), 0.0))
        torch.testing.assert_close(joined(zero(**x)), expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize("name", SHAPES)
def test_removing_is_holding_at_zero(name, rng):
    net = network(CASES[name](), rng)
    graph, x = net.graph, samples(net, rng)
    hidden = torch.ones(graph.num_neurons, dtype=torch.bool)
    hidden[graph.input_ids] = hidden[graph.output_ids] = False
    ids = hidden.nonzero().flatten()[::2]
    gone = ablate(net, ids, remove=True)
    assert gone.graph.num_neurons == graph.num_neurons - ids.numel()
    assert gone.in_features == net.in_features
    assert gone.out_features == net.out_features
    # Exactly the edges of the removed neurons go.
    touched = torch.isin(graph.edge_index, ids).any(0)
    assert torch.equal(gone.weight, net.weight[~touched])
    expected = joined(ablate(net, ids)(**x))
    torch.testing.assert_close(joined(gone(**x)), expected, rtol=1e-12, atol=1e-13)


def test_a_trace_shows_what_is_held(rng):
    net = network(CASES["random"](), rng)
    x = samples(net, rng)["input"]
    hidden = (net.graph.level == 2).nonzero().flatten()
    values = ablate(net, hidden, -1.5).trace(x).values
    assert (values[:, hidden] == -1.5).all()


def test_means_of_a_trace(rng):
    net = network(CASES["random"](), rng)
    x = torch.randn(2, 3, net.in_features, dtype=torch.float64, generator=rng)
    trace = net.trace(x)
    ids = torch.tensor([7, 0, 20])
    means = trace.values.reshape(6, -1).mean(0)[ids]
    by_trace, by_number = ablate(net, ids, trace), ablate(net, ids, means)
    torch.testing.assert_close(by_trace.bias, by_number.bias)
    torch.testing.assert_close(by_trace(x), by_number(x))
    # A trace of an equal graph is a trace of this one.
    assert torch.equal(ablate(copy.deepcopy(net), ids, trace).weight, by_trace.weight)


def test_blocks_stay_blocks(rng):
    net = network(CASES["dense"](), rng)
    held = ablate(net, [0, 10, 25], 0.5)
    for plan in (graphnn.build_plan(net.graph), graphnn.build_plan(held.graph)):
        assert (plan.block_width[1:] > 0).all()
    assert torch.equal(held.graph.level, net.graph.level)
    graphnn.to_sequential(held)


def test_only_what_is_held_changes(rng):
    net = network(CASES["random"](), rng).float()
    graph = net.graph
    neuron = int((graph.level == 2).nonzero()[0])
    # Signalling NaN and -0 survive.
    with torch.no_grad():
        net.weight[graph.edge_index[1] != neuron] = (
            torch.tensor([0x7F800001]).int().view(torch.float32)
        )
        net.bias.fill_(-0.0)
    held = ablate(net, [neuron], 3.0)
    others = graph.edge_index[1] != neuron
    assert torch.equal(held.weight.view(torch.int32)[others], net.weight.view(torch.int32)[others])
    assert (held.weight[~others] == 0).all()
    own = graph.bias_neurons == neuron
    assert torch.equal(held.bias.view(torch.int32)[~own], net.bias.view(torch.int32)[~own])
    assert held.bias[own].item() == 3.0
    assert [a for i, a in enumerate(held.graph.activation) if i != neuron] == [
        a for i, a in enumerate(graph.activation) if i != neuron
    ]


@pytest.mark.parametrize(
    ("activation", "value", "keeps"),
    [
        ("relu", 0.0, True),
        ("relu", 2.5, True),
        ("relu", -1.0, False),
        ("tanh", 0.0, True),
        ("tanh", 0.5, False),
        ("sigmoid", 0.0, False),
        ("clamp(-1, 1)", [0.25, 0.5], True),
        ("clamp(-1, 1)", [0.25, 1.5], False),
    ],
)
@pytest.mark.parametrize("bias", [True, False])
def test_keeps_the_graph_where_activations_give_the_values_back(
    rng, activation, value, keeps, bias
):
    model = nn.Sequential(nn.Linear(3, 6, bias=bias), nn.Linear(6, 2, bias=bias))
    graph = graphnn.from_sequential(model).graph
    names = ["identity"] * 3 + [activation] * 6 + ["identity"] * 2
    net = network(NeuronGraph(graph.edge_index, activation=names, bias=bias), rng)
    x, held = samples(net, rng), [4, 7]
    made = ablate(net, held, value)
    # A neuron without a bias has 0, so another value needs one.
    assert (made.graph is net.graph) == (keeps and (bias or value == 0))
    assert (made.plan is net.plan) == (made.graph is net.graph)
    values = torch.tensor(value).expand(2).tolist()
    expected = outputs_by_hand(net, x, dict(zip(held, values, strict=True)))
    torch.testing.assert_close(made(**x), expected, rtol=1e-12, atol=1e-12)
    changed = [i for i in range(11) if made.graph.activation[i] != net.graph.activation[i]]
    assert set(changed) <= set(held)
    assert bool(changed) != keeps


@pytest.mark.parametrize("backend", ["fused_cpu", "reference", "scatter"])
@pytest.mark.parametrize("name", sorted(graphnn.activation.built_in()))
def test_every_backend_holds_every_activation(rng, name, backend):
    edges = [[0, 1, 0, 1, 2, 3], [2, 2, 3, 3, 4, 4]]
    graph = NeuronGraph(edges, activation=["identity"] * 2 + [name] * 3)
    net = network(graph, rng, backend=backend)
    for value in (0.0, 1.0, 0.3, 30.0, -2.0):
        trace = ablate(net, [2], value).trace(**samples(net, rng, 19))
        assert (trace.values[:, 2] - value).abs().max() <= 1e-12 * abs(value)


def test_an_input_held_at_zero_adds_nothing_over_an_infinite_weight():
    net = Network(NeuronGraph([[0, 1], [2, 2]]), [float("inf"), 2.0], [0.0])
    assert ablate(net, [0])(torch.ones(1, 2)).item() == 2.0


def test_an_input_that_is_an_output_gets_a_constant_in_its_place(rng):
    graph = NeuronGraph(
        [[0, 1], [2, 2]], outputs={"o": [0, 2, 0], "p": [1]}, names=["a", "a held", "b"]
    )
    net = network(graph, rng)
    x = torch.randn(3, 2, dtype=torch.float64, generator=rng)
    held = ablate(net, [0], 7.0)
    assert held.graph.names == ("a", "a held", "b", "a held'")
    assert held.graph.inputs["input"].tolist() == [0, 1]
    outputs = held(x)
    assert outputs.o[:, [0, 2]].eq(7.0).all()
    assert torch.equal(outputs.p, x[:, [1]])
    expected = x[:, 1] * net.weight[1] + 7 * net.weight[0] + net.bias[0]
    torch.testing.assert_close(outputs.o[:, 1], expected)


@pytest.mark.parametrize("remove", [False, True])
def test_settings_stay_and_the_network_is_left_alone(remove, rng):
    net = network(CASES["dense"](), rng, output_transform="softmax", backend="reference").eval()
    net.bias.requires_grad_(False)
    before = copy.deepcopy(net.state_dict())
    made = ablate(net, [9], remove=remove)
    assert made.output_transform == "softmax"
    assert made.backend == "reference"
    assert not made.training
    assert made.weight.requires_grad
    assert not made.bias.requires_grad
    with torch.no_grad():
        made.weight.fill_(1)
    assert all(torch.equal(before[name], net.state_dict()[name]) for name in before)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_keeps_the_dtype(dtype, rng):
    net = network(CASES["dense"](), rng).to(dtype)
    held = ablate(net, [0, 9], 0.1)
    assert held.weight.dtype == held.bias.dtype == dtype
    x = torch.ones(2, 7, dtype=dtype)
    assert (held.trace(x).values[:, 9] == torch.tensor(0.1, dtype=dtype)).all()


@settings(deadline=None, max_examples=40)
@given(st.integers(0, 10**6))
def test_random_networks(seed):
    rng = torch.Generator().manual_seed(seed)
    count = 12
    pairs = torch.triu_indices(count, count, 1)
    pairs = pairs[:, torch.rand(pairs.shape[1], generator=rng) < 0.3]
    edges = torch.randperm(count, generator=rng)[pairs]
    free = (torch.bincount(edges[1], minlength=count) == 0).nonzero().flatten()
    graph = NeuronGraph(
        edges,
        num_neurons=count,
        inputs=free[::2],
        outputs=torch.randint(count, (5,), generator=rng),
        activation="tanh",
        bias=not seed % 2,
    )
    net = network(graph, rng)
    chosen = torch.randperm(count, generator=rng)[: seed % 7]
    values = torch.randn(chosen.numel(), generator=rng, dtype=torch.float64)
    x = samples(net, rng)
    expected = outputs_by_hand(net, x, dict(zip(chosen.tolist(), values.tolist(), strict=True)))
    found = ablate(net, chosen, values)(**x)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-13)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (([28],), r"neurons must be neuron ids in 0 \.\.\. 27"),
        (([9, 9],), "neurons must be distinct"),
        (([9, 10], [1.0]), r"each of the 2 neurons \(got shape \(1,\)\)"),
        (([9], "zero"), "value must be a number"),
        (([9], None), "value must be a number"),
        (([9], True), "value must hold real numbers"),
        (([9], 1j), "value must hold real numbers"),
        (([9, 0], 0.0, True), "neither inputs nor outputs, which stay, but neuron 0 is an input"),
        (([9, 27], 0.0, True), "neuron 27 is an output"),
        (([9, 10], [0.0, 2.0], True), r"value must be 0 with remove=True.*2 for neuron 10"),
    ],
)
def test_what_cannot_be_ablated(arguments, match, rng):
    with pytest.raises(GraphError, match=match):
        ablate(network(CASES["dense"](), rng), *arguments)


def test_traces_that_do_not_fit(rng):
    net, other = network(CASES["dense"](), rng), network(CASES["random"](), rng)
    trace = other.trace(samples(other, rng)["input"])
    with pytest.raises(GraphError, match=r"trace of the network's graph, .*28 neurons.*40 neurons"):
        ablate(net, [9], trace)
    empty = net.trace(torch.ones(0, 7, dtype=torch.float64))
    with pytest.raises(GraphError, match="at least one sample"):
        ablate(net, [9], empty)
    wrong: Any = nn.Linear(2, 2)
    with pytest.raises(GraphError, match=r"net must be a graphnn\.Network"):
        ablate(wrong, [0])
