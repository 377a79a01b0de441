import copy
import io
from typing import Any

import numpy as np
import pytest
import torch
from cases import ON_CPU
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.utils.parametrize import register_parametrization

import graphnn
from graphnn import parametrize
from graphnn.parametrize import Frozen, Sign, Tied

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


@pytest.mark.parametrize("backend", ON_CPU)
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


# Sign


SIGNS = torch.tensor([1, -1, 0, 1, -1])


def constrain(net, *constraints, name="weight") -> Any:
    for constraint in constraints:
        register_parametrization(net, name, constraint)
    return net


def train(net, rng, steps=30, optimiser=None):
    optimiser = optimiser or torch.optim.SGD(
        net.parameters(), lr=0.3, momentum=0.9, weight_decay=0.1
    )
    x = inputs(rng, net)
    for _ in range(steps):
        optimiser.zero_grad()
        (net(x) - torch.sin(3 * x)).square().sum().backward()
        optimiser.step()
        yield net.weight.detach().clone()


def right(weight, signs=SIGNS):
    return bool((weight * signs.to(weight.dtype) >= 0).all())


@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("kind", ["SGD", "Adam", "AdamW", "RMSprop"])
def test_signs_hold_after_every_step(rng, backend, kind):
    net = constrain(diamond(rng, torch.float32, backend), Sign(SIGNS))
    optimiser = getattr(torch.optim, kind)(net.parameters(), lr=0.5, weight_decay=0.01)
    seen = list(train(net, rng, 30, optimiser))
    assert all(map(right, seen))
    assert not torch.equal(seen[0], seen[-1])


def test_right_signed_values_are_kept_and_wrong_ones_keep_their_magnitude(rng):
    net = diamond(rng)
    with torch.no_grad():
        net.weight.copy_(torch.tensor([0.5, 0.25, -3.0, -0.0, -7.0]))
    constrain(net, Sign(SIGNS))
    assert net.weight.tolist() == [0.5, -0.25, -3.0, 0.0, -7.0]
    net.weight = torch.tensor([-1.0, -1.0, 1.0, 1.0, 1.0], dtype=torch.float64)
    assert net.weight.tolist() == [1.0, -1.0, 1.0, 1.0, -1.0]
    net.reset_parameters(rng)
    assert right(net.weight)
    assert bool((net.weight != 0).all())


def test_the_gradient_is_that_of_the_weight_up_to_its_sign_and_lives_at_zero(rng):
    net = constrain(diamond(rng), Sign(SIGNS))
    original = net.parametrizations.weight.original
    with torch.no_grad():
        original.copy_(torch.tensor([0.0, 0.0, 0.0, -2.0, -2.0]))
    x = inputs(rng, net)
    (own,) = torch.autograd.grad(net(x).sum(), original)
    plain = diamond(rng)
    with torch.no_grad():
        plain.weight.copy_(net.weight)
        plain.bias.copy_(net.bias)
    (expected,) = torch.autograd.grad(plain(x).sum(), plain.weight)
    assert torch.equal(own, expected * torch.tensor([1.0, 1.0, 1.0, -1.0, 1.0]))


def test_a_weight_pushed_against_its_sign_stays_near_zero_and_comes_back(rng):
    net = constrain(
        graphnn.from_edges([("x", "y", 0.5)], bias=False, dtype=torch.float64), Sign([1])
    )
    x = torch.ones(1, 1, dtype=torch.float64)
    optimiser = torch.optim.SGD(net.parameters(), lr=0.05)
    for goal, low, high in ((-1.0, 0.0, 0.2), (2.0, 1.9, 2.1)):
        for _ in range(100):
            optimiser.zero_grad()
            (net(x) - goal).square().sum().backward()
            optimiser.step()
        assert low <= net.weight.item() <= high


# Tied


INDEX = torch.tensor([1, 0, 1, 2, 0])


@pytest.mark.parametrize("backend", ON_CPU)
def test_tied_entries_stay_bitwise_equal_and_share_one_parameter(rng, backend):
    net = constrain(diamond(rng, torch.float32, backend), Tied(INDEX))
    assert net.parametrizations.weight.original.shape == (3,)
    seen = list(train(net, rng))
    for weight in seen:
        assert torch.equal(weight[0], weight[2])
        assert torch.equal(weight[1], weight[4])
    assert not torch.equal(seen[0], seen[-1])


def test_a_group_gets_the_sum_of_its_entries_gradients(rng):
    net = constrain(diamond(rng), Tied(INDEX))
    x = inputs(rng, net)
    (own,) = torch.autograd.grad(net(x).sum(), net.parametrizations.weight.original)
    plain = diamond(rng)
    with torch.no_grad():
        plain.weight.copy_(net.weight)
        plain.bias.copy_(net.bias)
    (each,) = torch.autograd.grad(plain(x).sum(), plain.weight)
    torch.testing.assert_close(own, torch.stack([each[[1, 4]].sum(), each[[0, 2]].sum(), each[3]]))


def test_a_group_takes_the_value_of_its_first_entry(rng):
    net = diamond(rng)
    before = net.weight.tolist()
    constrain(net, Tied(INDEX))
    first = [before[1], before[0], before[3]]
    assert net.parametrizations.weight.original.tolist() == first
    assert net.weight.tolist() == [first[i] for i in INDEX.tolist()]


def test_a_matrix_is_tied_in_its_shape():
    layer: Any = nn.Linear(2, 2)
    register_parametrization(layer, "weight", Tied([[0, 1], [1, 0]]))
    (a, b), (c, d) = layer.weight.tolist()
    assert (a, b) == (d, c)


# Together


def moments(net, rng):
    weights = list(train(net, rng))
    assert not torch.equal(weights[0], weights[-1])
    return weights


def test_frozen_then_sign(rng):
    net = constrain(diamond(rng), Frozen(MASK, [0.5, 2.0]), Sign(SIGNS))
    assert net.parametrizations.weight.original.shape == (3,)
    for weight in moments(net, rng):
        assert right(weight)
        assert weight[MASK].tolist() == [0.5, 2.0]


def test_sign_then_frozen(rng):
    net = constrain(diamond(rng), Sign(SIGNS), Frozen(MASK, [-0.5, 2.0]))
    assert torch.equal(held(net, "weight"), MASK)
    for weight in moments(net, rng):
        assert right(weight[~MASK], SIGNS[~MASK])
        assert weight[MASK].tolist() == [-0.5, 2.0]


@pytest.mark.parametrize("order", ["sign first", "frozen first"])
def test_tied_then_the_others(rng, order):
    signs = torch.tensor([1, -1, 1, 0, -1])
    others = [Sign(signs), Frozen(MASK, 0.75)]
    net = constrain(
        diamond(rng), Tied(INDEX), *(others if order == "sign first" else reversed(others))
    )
    assert net.parametrizations.weight.original.shape == (3,)
    for weight in moments(net, rng):
        assert right(weight, signs)
        assert weight[MASK].tolist() == [0.75, 0.75]
        assert weight[1] == weight[4]


def test_held_entries_of_two_masks_are_held(rng):
    net = constrain(diamond(rng), Frozen(MASK, 1.0), Frozen(MASK.roll(1), 2.0))
    assert held(net, "weight").tolist() == [True, True, False, True, True]
    for weight in moments(net, rng):
        assert weight[[0, 1, 3, 4]].tolist() == [1.0, 2.0, 1.0, 2.0]


def test_assignment_goes_through_all_of_them(rng):
    net = constrain(diamond(rng), Tied(INDEX), Sign(SIGNS.abs()), Frozen(MASK, 0.5))
    net.weight = torch.tensor([9.0, -2.0, 3.0, 9.0, 4.0], dtype=torch.float64)
    assert net.weight.tolist() == [0.5, 2.0, 9.0, 0.5, 2.0]


@pytest.mark.parametrize("first", [Frozen(MASK, 1.0), Sign(SIGNS)])
def test_tied_must_be_first(rng, first):
    net = constrain(diamond(rng), first)
    before = net.weight.detach().clone()
    with pytest.raises(graphnn.GraphError, match="Tied must be the first parametrization"):
        register_parametrization(net, "weight", Tied(INDEX))
    assert torch.equal(net.weight, before)


CONSTRAINTS = {
    "sign": lambda: [Sign(SIGNS)],
    "tied": lambda: [Tied(INDEX)],
    "tied, sign, frozen": lambda: [Tied(INDEX), Sign([1, 1, 1, 0, 1]), Frozen(MASK, 0.5)],
    "frozen, sign": lambda: [Frozen(MASK, 0.5), Sign(SIGNS)],
}


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_trained_state_saves_and_loads(rng, name):
    net = constrain(diamond(rng), *CONSTRAINTS[name]())
    moments(net, rng)
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other = constrain(diamond(rng), *CONSTRAINTS[name]())
    assert not torch.equal(other.weight, net.weight)
    other.load_state_dict(torch.load(file, weights_only=True))
    assert torch.equal(other.weight, net.weight)
    x = inputs(rng, net)
    assert torch.equal(other(x), net(x))


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_a_deepcopy_trains_by_itself_and_under_the_same_constraints(rng, name):
    net = constrain(diamond(rng), *CONSTRAINTS[name]())
    before = net.weight.detach().clone()
    twin = copy.deepcopy(net)
    weights = moments(twin, rng)
    assert torch.equal(net.weight, before)
    for part in net.parametrizations.weight:
        if isinstance(part, Sign):
            assert all(right(weight, part.sign) for weight in weights)


@pytest.mark.parametrize("name", CONSTRAINTS)
def test_derivatives_under_constraints(rng, name):
    net = constrain(diamond(rng), *CONSTRAINTS[name]())
    x = inputs(rng, net, 2)

    def run(original):
        return functional_call(net, {"parametrizations.weight.original": original}, (x,))

    start = net.parametrizations.weight.original.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(run, (start,))
    assert torch.autograd.gradgradcheck(run, (start,))


def test_editing_and_saving_take_the_effective_weights(rng, tmp_path):
    net = constrain(diamond(rng, torch.float32), *CONSTRAINTS["tied, sign, frozen"]())
    moments(net, rng)
    pruned = graphnn.edit.prune(net, [4])
    assert torch.equal(pruned.weight, net.weight[:4])
    graphnn.save(net, tmp_path / "net.safetensors")
    loaded = graphnn.load(tmp_path / "net.safetensors")
    assert torch.equal(loaded.weight, net.weight)
    for plain in (pruned, loaded):
        assert not nn.utils.parametrize.is_parametrized(plain)
        assert plain.weight.requires_grad
    assert nn.utils.parametrize.is_parametrized(net, "weight")


def test_they_follow_their_module_to_another_dtype(rng):
    net = constrain(diamond(rng, torch.float32), *CONSTRAINTS["tied, sign, frozen"]())
    net.double()
    assert net.weight.dtype == torch.float64
    assert net(inputs(rng, net)).dtype == torch.float64


@pytest.mark.parametrize(
    "sign",
    [
        [1.0, -1.0, 0.0, 1.0, -1.0],
        torch.tensor([1.0, -1.0, -0.0, 1.0, -1.0], dtype=torch.bfloat16, requires_grad=True),
        np.array([1, -1, 0, 1, -1], np.float64),
        np.array([1, -1, 0, 1, -1], np.int16),
    ],
)
def test_signs_are_numbers_of_any_dtype(sign):
    held = Sign(sign).sign
    assert held.dtype == torch.int8
    assert held.tolist() == [1, -1, 0, 1, -1]


def test_signs_are_copied():
    sign = torch.tensor([1, -1], dtype=torch.int8)
    part = Sign(sign)
    sign.zero_()
    assert part.sign.tolist() == [1, -1]


def test_they_show_themselves():
    assert "num_positive=2, num_negative=2, num_free=1" in repr(Sign(SIGNS))
    assert "num_entries=5, num_groups=3" in repr(Tied(INDEX))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Sign([1, 2, 0]), r"sign must hold the numbers .* \(got 2 at place 1\)"),
        (lambda: Sign([1.0, 0.5, -2.0]), r"\(got 0\.5 at place 1\)"),
        (lambda: Sign([1.0, float("nan")]), r"\(got nan at place 1\)"),
        (lambda: Sign(np.array([1, 255], np.uint8)), r"\(got 255 at place 1\)"),
        (lambda: Sign([True]), r"\(got bool of shape .* torch\.where\(mask, 1, -1\)"),
        (lambda: Sign([1j]), r"\(got complex128 of shape"),
        (lambda: Sign("+-"), r"\(got <U2"),
        (lambda: Tied([0, 2, 2]), r"none is in group 1 \(the highest is 2\)"),
        (lambda: Tied([0, -1]), r"\(got -1 at place 1\)"),
        (lambda: Tied([0, 10**15]), r"none is in group 1 .*return_inverse=True"),
        (lambda: Tied([0.0]), r"index must hold the integers .* \(got float64"),
    ],
)
def test_constraints_that_make_no_sense(make, message):
    with pytest.raises(graphnn.GraphError, match=message):
        make()


@pytest.mark.parametrize("make", [Sign, Tied])
def test_constraints_of_another_shape_leave_the_network_alone(rng, make):
    net = diamond(rng)
    before = net.weight
    with pytest.raises(graphnn.GraphError, match=r"of shape \(2,\) and a tensor of shape \(5,\)"):
        register_parametrization(net, "weight", make([1, 0]))
    assert net.weight is before
