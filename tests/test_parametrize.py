import copy
from typing import Any

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils.parametrize import register_parametrization

import graphnn
from graphnn import parametrize
from graphnn.parametrize import Frozen

MASK = torch.tensor([True, False, False, True, False])


def diamond(rng, dtype=torch.float64, backend="reference") -> Any:
    graph = graphnn.NeuronGraph([[0, 0, 1, 2, 0], [1, 2, 3, 3, 3]], activation="tanh")
    return graphnn.Network(graph, backend=backend, dtype=dtype, generator=rng)


def freeze(net, mask: Any = MASK, value: Any = 0.5, name="weight") -> Any:
    register_parametrization(net, name, Frozen(mask, value))
    return net


def held(module, name) -> Any:
    return parametrize.frozen_mask(module, name)


def inputs(rng, net, samples=6):
    return torch.randn(samples, 1, generator=rng, dtype=net.weight.dtype)


@pytest.mark.parametrize(
    "value",
    [
        0.5,
        torch.tensor(0.5),
        [0.5, 0.5],
        torch.full((5,), 0.5, dtype=torch.float64),
        torch.tensor([0.5, 9.0, 9.0, 0.5, 9.0]),
    ],
    ids=["number", "0-d", "per frozen entry", "per entry", "free entries unused"],
)
def test_frozen_entries_have_their_value_and_free_ones_keep_theirs(rng, value):
    net = diamond(rng)
    before = net.weight.detach().clone()
    freeze(net, value=value)
    assert torch.equal(net.weight[~MASK], before[~MASK])
    assert net.weight[MASK].tolist() == [0.5, 0.5]
    assert torch.equal(held(net, "weight"), MASK)


def test_only_free_entries_are_parameters(rng):
    net = freeze(diamond(rng))
    assert sum(p.numel() for p in net.parameters()) == 3 + net.bias.numel()
    assert net.parametrizations.weight.original.shape == (3,)


def test_python_numbers_keep_double_precision_in_a_double_network(rng):
    assert freeze(diamond(rng), value=0.1).weight[0].item() == 0.1
    assert freeze(diamond(rng, torch.float32), value=0.1).weight.dtype == torch.float32


@pytest.mark.parametrize("backend", graphnn.backends())
def test_optimisers_never_move_frozen_entries(rng, backend):
    net = freeze(diamond(rng, torch.float32, backend))
    start = net.weight.detach().clone()
    optimiser = torch.optim.SGD(net.parameters(), lr=0.1, momentum=0.9, weight_decay=0.5)
    x = inputs(rng, net)
    for _ in range(5):
        optimiser.zero_grad()
        net(x).square().sum().backward()
        optimiser.step()
    assert torch.equal(net.weight[MASK], start[MASK])
    assert (net.weight[~MASK] != start[~MASK]).all()


def test_gradients_are_those_of_the_free_entries(rng):
    net = diamond(rng)
    x = inputs(rng, net)
    with torch.no_grad():
        net.weight[MASK] = 0.5
    (expected,) = torch.autograd.grad(net(x).sum(), net.weight)
    freeze(net)
    (actual,) = torch.autograd.grad(net(x).sum(), net.parametrizations.weight.original)
    assert torch.equal(actual, expected[~MASK])


def test_first_and_second_derivatives(rng):
    net = freeze(diamond(rng))
    x = inputs(rng, net, 2).requires_grad_()

    def run(free, x):
        return functional_call(net, {"parametrizations.weight.original": free}, (x,))

    free = net.parametrizations.weight.original.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (free, x))
    assert torch.autograd.gradgradcheck(run, (free, x))


def test_per_sample_gradients(rng):
    net = freeze(diamond(rng))
    x = inputs(rng, net, 3)
    free = net.parametrizations.weight.original.detach()

    def loss(free, x):
        return functional_call(net, {"parametrizations.weight.original": free}, (x,)).sum()

    per_sample = vmap(grad(loss), in_dims=(None, 0))(free, x)
    torch.testing.assert_close(per_sample.sum(0), grad(loss)(free, x))


def test_runs_compiled_without_graph_breaks(rng):
    layer = nn.Linear(3, 2, bias=False)
    register_parametrization(layer, "weight", Frozen(torch.eye(2, 3).bool(), 0.0))
    x = torch.randn(4, 3, generator=rng)
    compiled = torch.compile(layer, fullgraph=True, backend="eager")
    assert torch.equal(compiled(x), layer(x))


def test_assignment_keeps_the_free_entries(rng):
    net = freeze(diamond(rng))
    net.weight = torch.arange(5, dtype=torch.float64)
    assert net.weight.tolist() == [0.5, 1.0, 2.0, 0.5, 4.0]


def test_drawing_again_leaves_frozen_entries(rng):
    net = freeze(diamond(rng))
    before = net.weight.detach().clone()
    net.reset_parameters(rng)
    assert torch.equal(net.weight[MASK], before[MASK])
    assert (net.weight[~MASK] != before[~MASK]).all()


def test_a_state_restores_weights_and_what_is_frozen(rng):
    net = freeze(diamond(rng), value=0.25)
    other = freeze(diamond(rng), MASK.roll(1), 0.75)
    other.load_state_dict(net.state_dict())
    assert torch.equal(other.weight, net.weight)
    assert torch.equal(held(other, "weight"), MASK)


def test_a_state_with_another_number_of_frozen_entries_is_refused(rng):
    net = freeze(diamond(rng))
    with pytest.raises(RuntimeError, match="size mismatch"):
        freeze(diamond(rng), torch.ones(5, dtype=torch.bool)).load_state_dict(net.state_dict())


def test_deepcopy_is_independent(rng):
    net = freeze(diamond(rng))
    twin = copy.deepcopy(net)
    x = inputs(rng, net)
    assert torch.equal(twin(x), net(x))
    with torch.no_grad():
        twin.parametrizations.weight.original.zero_()
        twin.parametrizations.weight[0].value.zero_()
    assert net.weight[0] == 0.5
    assert (net.weight != 0).all()


def test_moves_with_its_module(rng):
    net = freeze(diamond(rng, torch.float32), value=0.5)
    net.double()
    assert net.weight.dtype == torch.float64
    assert net(inputs(rng, net)).dtype == torch.float64
    assert net.weight[MASK].tolist() == [0.5, 0.5]


def test_biases(rng):
    net = freeze(diamond(rng), torch.tensor([False, True, False]), -2.0, name="bias")
    assert net.bias[1] == -2.0
    net(inputs(rng, net)).sum().backward()
    assert net.parametrizations.bias.original.grad.shape == (2,)
    assert held(net, "weight") is None


def test_a_matrix(rng):
    layer: Any = nn.Linear(3, 2)
    mask = torch.tensor([[True, False, False], [False, False, True]])
    register_parametrization(layer, "weight", Frozen(mask, [[7.0, 0, 0], [0, 0, 8.0]]))
    assert layer.weight[mask].tolist() == [7.0, 8.0]
    assert layer.parametrizations.weight.original.shape == (4,)
    assert torch.equal(held(layer, "weight"), mask)


@pytest.mark.parametrize("mask", [torch.ones(5).bool(), torch.zeros(5).bool()])
def test_all_or_nothing_frozen(rng, mask):
    net = freeze(diamond(rng), mask)
    net(inputs(rng, net)).sum().backward()
    assert net.parametrizations.weight.original.grad.numel() == int((~mask).sum())
    assert torch.equal(held(net, "weight"), mask)


def test_other_parametrizations_may_follow(rng):
    class Doubled(nn.Module):
        def forward(self, x):
            return 2 * x

    net = freeze(diamond(rng))
    register_parametrization(net, "weight", Doubled())
    assert net.weight[MASK].tolist() == [1.0, 1.0]
    assert torch.equal(held(net, "weight"), MASK)


def test_mask_is_copied_and_shown(rng):
    mask = MASK.clone()
    net = freeze(diamond(rng), mask)
    mask.logical_not_()
    assert torch.equal(held(net, "weight"), MASK)
    assert "num_frozen=2, num_free=3" in repr(net)


@pytest.mark.parametrize(
    ("mask", "value", "message"),
    [
        ([1, 0, 0, 1, 0], 0.5, r"mask must hold bools.*shape \(5,\), torch.int64"),
        (
            MASK,
            [1.0, 2.0, 3.0],
            r"per entry \(5,\), or one per frozen entry \(2,\) \(got shape \(3,\)",
        ),
        (MASK, torch.ones(5, 1), r"got shape \(5, 1\)"),
        (MASK, torch.ones(5, dtype=torch.complex64), "value must hold real numbers"),
        (MASK, torch.tensor(True), r"value must hold real numbers \(got torch.bool\)"),
        (MASK, "0.5", "value must hold real numbers"),
        (MASK, True, r"value must hold real numbers \(got bool\)"),
    ],
)
def test_arguments_that_do_not_fit(mask, value, message):
    with pytest.raises(graphnn.GraphError, match=message):
        Frozen(mask, value)


def test_a_mask_of_another_shape_than_the_tensor_leaves_the_network_alone(rng):
    net = diamond(rng)
    before = net.weight
    with pytest.raises(
        graphnn.GraphError, match=r"mask of shape \(4,\) and a tensor of shape \(5,\)"
    ):
        freeze(net, MASK[:4])
    assert net.weight is before


def test_assigning_another_shape_is_refused(rng):
    net = freeze(diamond(rng))
    with pytest.raises(graphnn.GraphError, match=r"tensor of shape \(3,\)"):
        net.weight = torch.zeros(3, dtype=torch.float64)
