import copy
from typing import Any

import pytest
import torch
from cases import CASES, TOLERANCE
from torch import nn
from torch.nn.utils.parametrize import is_parametrized, register_parametrization

import graphnn
from graphnn import parametrize
from graphnn.convert import linear_stack
from graphnn.convert.activation_layer import NeuronActivation
from graphnn.convert.sequential import from_sequential
from graphnn.parametrize import Frozen

MODELS = {
    "one Linear": lambda: [nn.Linear(5, 3)],
    "classifier": lambda: [nn.Linear(5, 8), nn.ReLU(), nn.Linear(8, 3), nn.Softmax(dim=-1)],
    "without bias": lambda: [nn.Linear(5, 4, bias=False), nn.Mish(), nn.Linear(4, 3)],
    "Linear after Linear": lambda: [nn.Linear(5, 4), nn.Linear(4, 3), nn.LogSoftmax(dim=-1)],
    "activations without Linear": lambda: [
        nn.Tanh(),
        nn.Linear(5, 4),
        nn.ELU(0.3),
        nn.Hardtanh(-2.0, 0.5),
        nn.Linear(4, 4),
        nn.Sigmoid(),
        nn.GELU("tanh"),
    ],
    "graphnn's activations": lambda: [
        nn.Linear(5, 4),
        NeuronActivation("gauss"),
        nn.Linear(4, 3),
        NeuronActivation(("sin", "relu", "abs")),
    ],
    "deep": lambda: [m for _ in range(30) for m in (nn.Linear(5, 5), nn.Tanh())],
}
LAYERED = [
    "no inputs",
    "one edge",
    "dense",
    "dense without bias",
    "dense, some biases",
    "dense, permuted ids",
]


def to_sequential(net, masked=False) -> Any:
    return linear_stack.to_sequential(net, masked)


def held_entries(net, name) -> Any:
    return parametrize.frozen_mask(net, name)


def close(actual, expected):
    error = (actual - expected).abs().max()
    assert error <= TOLERANCE[expected.dtype] * expected.abs().max().clamp(min=1e-30)


def sparse(rng, dtype=torch.float64):
    """3-4-3 with missing edges, biases and a constant, shuffled ids, edges, inputs and outputs."""
    edges = [[9, 4], [0, 4], [2, 1], [9, 1], [0, 7], [4, 3], [7, 3], [1, 5], [4, 5], [8, 6], [1, 6]]
    activation = dict.fromkeys(range(10), "identity")
    activation |= {4: "tanh", 1: "square", 7: "tanh", 8: "sigmoid"}
    graph = graphnn.NeuronGraph(
        torch.tensor(edges).t(),
        inputs=[9, 2, 0],
        outputs=[6, 3, 5],
        activation=list(activation.values()),
        bias=[i in (1, 8, 3, 5, 6) for i in range(10)],
    )
    net = graphnn.Network(graph, dtype=dtype, generator=rng, backend="reference")
    with torch.no_grad():
        net.bias.uniform_(-1, 1, generator=rng)
    return net


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("name", MODELS)
def test_round_trip_gives_the_same_layers_and_bits(rng, name, dtype):
    model = nn.Sequential(*MODELS[name]()).to(dtype)
    back = to_sequential(from_sequential(model))
    assert repr(back) == repr(model)
    x = torch.randn(9, 5, generator=rng, dtype=dtype)
    assert torch.equal(back(x), model(x))
    for own, other in zip(model.parameters(), back.parameters(), strict=True):
        assert torch.equal(own, other)
        assert own.data_ptr() != other.data_ptr()


def test_the_network_comes_back_too(rng):
    for layers in MODELS.values():
        net = from_sequential(nn.Sequential(*layers()))
        again = from_sequential(to_sequential(net))
        assert again.graph == net.graph
        assert again.output_transform == net.output_transform
        assert torch.equal(again.weight, net.weight)
        assert torch.equal(again.bias, net.bias)


@pytest.mark.parametrize("name", LAYERED)
def test_layered_graphs(rng, name):
    net = graphnn.Network(CASES[name](), dtype=torch.float64, generator=rng, backend="reference")
    x = torch.randn(7, net.in_features, generator=rng, dtype=torch.float64)
    close(to_sequential(net)(x), net(x))


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_missing_edges_mixed_activations_and_any_order(rng, dtype, masked):
    net = sparse(rng, dtype)
    stack = to_sequential(net, masked=masked)
    x = torch.randn(7, 3, generator=rng, dtype=dtype, requires_grad=True)
    close(stack(x), net(x))
    by_output = torch.randn(7, 3, generator=rng, dtype=dtype)
    close(*(torch.autograd.grad((m(x) * by_output).sum(), x)[0] for m in (stack, net)))
    first, activation, second = stack
    assert (first.weight == 0).sum() == 4 * 3 - 5
    assert (second.weight == 0).sum() == 3 * 4 - 6
    # Rows of the last level are in the order of the outputs, columns in that of the inputs.
    weight = net.weight.tolist()
    assert first.weight[0].tolist() == [weight[3], weight[2], 0]
    assert second.weight[1].tolist() == [0, weight[5], weight[6], 0]
    assert activation.activation == ("square", "tanh", "tanh", "sigmoid")


def test_masked_zeros_stay_zero_in_training(rng):
    net = sparse(rng)
    for masked in (False, True):
        stack = to_sequential(net, masked=masked)
        optimiser = torch.optim.SGD(stack.parameters(), lr=0.1, momentum=0.9)
        x = torch.randn(7, 3, generator=rng, dtype=torch.float64)
        for _ in range(3):
            optimiser.zero_grad()
            stack(x).square().sum().backward()
            optimiser.step()
        zeros = int((stack[0].weight == 0).sum() + (stack[2].weight == 0).sum())
        zeros += int((stack[0].bias == 0).sum())
        # With a constant's row, unmasked zeros at the first level do receive gradients.
        assert (zeros == 7 + 6 + 2) == masked


def test_masked_counts_only_what_exists(rng):
    net = sparse(rng)
    stack = to_sequential(net, masked=True)
    assert sum(p.numel() for p in stack.parameters()) == sum(p.numel() for p in net.parameters())
    assert not is_parametrized(to_sequential(net)[0])


def test_masked_training_follows_the_network(rng):
    net = sparse(rng)
    stack = to_sequential(net, masked=True)
    x = torch.randn(7, 3, generator=rng, dtype=torch.float64)
    for module in (net, stack):
        optimiser = torch.optim.SGD(module.parameters(), lr=0.05, momentum=0.9, weight_decay=0.1)
        for _ in range(5):
            optimiser.zero_grad()
            module(x).square().sum().backward()
            optimiser.step()
    torch.testing.assert_close(stack(x), net(x))


def test_masked_stack_survives_a_state_and_a_copy(rng):
    stack = to_sequential(sparse(rng), masked=True)
    other = to_sequential(sparse(rng), masked=True)
    other.load_state_dict(stack.state_dict())
    x = torch.randn(7, 3, generator=rng, dtype=torch.float64)
    assert torch.equal(other(x), stack(x))
    assert torch.equal(copy.deepcopy(stack)(x), stack(x))


def test_a_complete_network_needs_no_mask():
    stack = to_sequential(from_sequential(nn.Sequential(nn.Linear(3, 2), nn.ReLU())), masked=True)
    assert not is_parametrized(stack[0])


def test_held_edges_come_back_held(rng):
    net = from_sequential(to_sequential(sparse(rng), masked=True))
    held = held_entries(net, "weight")
    assert int(held.sum()) == 7 + 6
    again = from_sequential(to_sequential(net, masked=True))
    assert torch.equal(held_entries(again, "weight"), held)
    assert torch.equal(again.weight, net.weight)


def test_untrained_parameters_stay_untrained():
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    stack = to_sequential(from_sequential(model))
    assert [p.requires_grad for p in stack.parameters()] == [False, False, True, True]
    with torch.no_grad():
        stack = to_sequential(from_sequential(nn.Sequential(model[2])))
    assert all(p.requires_grad for p in stack.parameters())


def test_one_to_one_edges_that_are_trained_are_a_linear(rng):
    graph = graphnn.NeuronGraph([[0, 1], [2, 3]], activation="tanh", bias=False)
    net = graphnn.Network(graph, torch.ones(2))
    assert [type(m) for m in to_sequential(net)] == [nn.Linear, nn.Tanh]
    register_parametrization(net, "weight", Frozen([True, True], 1.0))
    assert [type(m) for m in to_sequential(net)] == [nn.Tanh]


def test_held_edges_that_cross_over_are_a_linear(rng):
    graph = graphnn.NeuronGraph([[0, 1], [3, 2]], activation="tanh", bias=False)
    net = graphnn.Network(graph, torch.ones(2))
    register_parametrization(net, "weight", Frozen([True, True], 1.0))
    x = torch.randn(4, 2, generator=rng)
    stack = to_sequential(net)
    assert type(stack[0]) is nn.Linear
    torch.testing.assert_close(stack(x), net(x))


def test_it_draws_no_random_numbers_and_keeps_the_network(rng):
    net = sparse(rng)
    before = net.weight.detach().clone()
    state = torch.random.get_rng_state()
    stack = to_sequential(net, masked=True)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        for parameter in stack.parameters():
            parameter.zero_()
    assert torch.equal(net.weight, before)


def graph_of(edges, **options):
    return graphnn.Network(graphnn.NeuronGraph(torch.tensor(edges).t(), **options))


@pytest.mark.parametrize(
    ("net", "message"),
    [
        (
            graph_of([(0, 1), (1, 2), (0, 2)]),
            r"edge 2 skips from neuron 0 on level 0 to neuron 2 on level 2 \(1 such edges",
        ),
        (
            graph_of([(0, 1), (0, 2), (1, 2)], names=["a", "b", "c"]),
            r"edge 1 skips from 'a' \(neuron 0\) on level 0 to 'c' \(neuron 2\) on level 2",
        ),
        (
            graph_of([(0, 2), (2, 3), (3, 4), (1, 4)], inputs=[0]),
            r"edge 3 skips from neuron 1 on level 1 to neuron 4 on level 3",
        ),
        (
            graph_of([(0, 2), (1, 2)], inputs={"left": [0], "right": [1]}),
            "one input, but the network has the input groups 'left', 'right'",
        ),
        (
            graph_of([(0, 1), (0, 2)], outputs={"y": [1], "z": [2]}),
            "one output, but the network has the output groups 'y', 'z'",
        ),
        (graph_of([(0, 1), (1, 2)], outputs=[2, 1]), "the output neuron 1 is on level 1"),
        (graph_of([(0, 1)], outputs=[1, 0]), "the output neuron 0 is on level 0"),
        (graph_of([(0, 1), (0, 2)], outputs=[1, 2, 1]), "neuron 1 occurs 2 times"),
        (graph_of([(0, 1), (0, 2)], outputs=[1]), "must be an output, but neuron 2 is none"),
        (
            graphnn.Network(graphnn.NeuronGraph(torch.empty(2, 0, dtype=torch.long), 3)),
            "at least one neuron that is not an input",
        ),
        (nn.Linear(3, 2), r"net must be a graphnn.Network \(got Linear\)"),
    ],
)
def test_other_networks_are_refused(net, message):
    with pytest.raises(graphnn.ConversionError, match=message):
        to_sequential(net)
