"""Drawing weights by the true fan-in."""

from typing import Any, cast

import pytest
import torch
from torch import nn
from torch.nn.utils.parametrize import register_parametrization

from graphnn import GraphError, Network, NeuronGraph, from_edges, generate, init
from graphnn.parametrize import Frozen, Sign


@pytest.fixture
def uneven(rng) -> Any:
    """Targets of fan-in 2, 50 and 800; sources of fan-out 1 to 3."""
    target = torch.repeat_interleave(torch.tensor([800, 801, 802]), torch.tensor([2, 50, 800]))
    source = torch.cat([torch.arange(2), torch.arange(50), torch.arange(800)])
    graph = NeuronGraph(torch.stack([source, target]))
    return Network(graph, dtype=torch.float64, generator=rng)


def fans(net):
    source, target = net.graph.edge_index
    return target.bincount()[target], source.bincount()[source]


RULES = {
    "kaiming_uniform_": (init.kaiming_uniform_, lambda i, o: (2 / i).sqrt(), True),
    "kaiming_normal_": (init.kaiming_normal_, lambda i, o: (2 / i).sqrt(), False),
    "kaiming by fan_out": (
        lambda net, **k: init.kaiming_uniform_(net, mode="fan_out", **k),
        lambda i, o: (2 / o).sqrt(),
        True,
    ),
    "kaiming for tanh": (
        lambda net, **k: init.kaiming_normal_(net, nonlinearity="tanh", **k),
        lambda i, o: 5 / 3 / i.sqrt(),
        False,
    ),
    "xavier_uniform_": (init.xavier_uniform_, lambda i, o: (2 / (i + o)).sqrt(), True),
    "xavier_normal_": (
        lambda net, **k: init.xavier_normal_(net, gain=3.0, **k),
        lambda i, o: 3 * (2 / (i + o)).sqrt(),
        False,
    ),
}


@pytest.mark.parametrize("name", RULES)
def test_each_edge_has_the_deviation_of_its_own_fans(rng, uneven, name):
    rule, std, is_uniform = RULES[name]
    draws = torch.stack([rule(uneven, generator=rng).detach().clone() for _ in range(400)])
    fan_in, fan_out = (fan.double() for fan in fans(uneven))
    expected = std(fan_in, fan_out)
    ratio = draws.std(0) / expected
    assert ratio.min() > 0.8
    assert ratio.max() < 1.2
    assert abs(ratio.mean() - 1) < 0.02
    highest = (draws.abs() / expected).max()
    assert highest <= 3**0.5 + 1e-9 if is_uniform else highest > 3


def test_a_dense_level_is_drawn_as_torch_does():
    net = Network(generate.layered([300, 200]))
    layer = nn.Linear(300, 200)
    for own, other in (
        (init.kaiming_uniform_, nn.init.kaiming_uniform_),
        (init.xavier_normal_, nn.init.xavier_normal_),
    ):
        own(net, generator=torch.Generator().manual_seed(0))
        other(layer.weight, generator=torch.Generator().manual_seed(0))
        torch.testing.assert_close(net.weight.view(200, 300), layer.weight)


def test_sparse_draws_a_number_of_weights_a_neuron(rng, uneven):
    weight = init.sparse_(uneven, num_nonzero=15, std=2.0, generator=rng)
    target = uneven.graph.edge_index[1]
    assert [int((weight[target == n] != 0).sum()) for n in (800, 801, 802)] == [2, 15, 15]
    drawn = torch.cat(
        [init.sparse_(uneven, std=2.0, generator=rng).detach()[2:].clone() for _ in range(50)]
    )
    assert drawn[drawn != 0].std() == pytest.approx(2.0, rel=0.1)


def test_sparse_draws_every_edge_as_often(rng):
    net = from_edges([(f"x{i}", "y") for i in range(6)], bias=False)
    hits = sum((init.sparse_(net, 2, generator=rng).detach() != 0).double() for _ in range(900))
    assert (hits - 300).abs().max() < 60  # pyright: ignore[reportAttributeAccessIssue]


def test_weights_by_labels():
    net = from_edges([("a", "h", 1.0), ("b", "h", 2.0), ("h", "y", 3.0)])
    init.weights_(net, {("h", "y"): 9, ("a", "h"): torch.tensor(-0.5)})
    assert net.weight.tolist() == [-0.5, 2.0, 9.0]


def test_weights_by_id_where_there_are_no_names():
    net = from_edges(torch.tensor([[0, 1], [2, 2]]))
    before = net.weight[0].item()
    init.weights_(net, {(1, 2): 0.25})
    assert net.weight.tolist() == [before, 0.25]


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ([("a", "h", 1.0)], r"dict of \(source, target\) -> weight \(got list\)"),
        ({"ah": 1.0}, r"must be pairs \(source, target\) \(got 'ah'\)"),
        ({("a", "h"): 5.0, ("a", "z"): 1.0}, "'z', which no neuron has"),
        ({("a", "h"): 5.0, ("h", "a"): 1.0}, "there is none from 'h' .* to 'a'"),
        ({("a", "h"): 5.0, ("h", "y"): float("nan")}, r"values\[\('h', 'y'\)\] is nan"),
        ({("a", "h"): "5"}, r"is '5'"),
        ({("a", "h"): 5.0, ("h", "y"): -1e39}, r"finite in torch\.float32, .*'y'\)\] is -1e\+39"),
    ],
)
def test_bad_values_set_nothing(values, message):
    net = from_edges([("a", "h", 1.0), ("h", "y", 3.0)])
    with pytest.raises(GraphError, match=message):
        init.weights_(net, values)
    assert net.weight.tolist() == [1.0, 3.0]


@pytest.mark.parametrize(
    "rule", [init.kaiming_uniform_, init.kaiming_normal_, init.xavier_uniform_,
             init.xavier_normal_, init.sparse_]
)  # fmt: skip
def test_it_draws_in_place_from_the_generator_alone(rule, rng):
    net = Network(generate.random_sparse([10, 20, 5], fan_in=4, generator=rng), generator=rng)
    weight, bias = net.weight, net.bias.detach().clone()
    state = torch.get_rng_state()
    first = rule(net, generator=torch.Generator().manual_seed(3)).detach().clone()
    rule(net, generator=rng)
    assert net.weight is weight
    assert weight.requires_grad
    assert not torch.equal(weight, first)
    rule(net, generator=torch.Generator().manual_seed(3))
    assert torch.equal(weight, first)
    assert torch.equal(net.bias, bias)
    assert torch.equal(state, torch.get_rng_state())


def test_constraints_are_kept(rng):
    net: Any = Network(generate.layered([4, 3]), generator=rng)
    mask = torch.arange(12) % 4 == 0
    register_parametrization(net, "weight", Frozen(mask, 0.5))
    register_parametrization(net, "weight", Sign(torch.ones(12, dtype=torch.int64)))
    before = net.weight.detach().clone()
    init.kaiming_normal_(net, generator=rng)
    assert (net.weight[mask] == 0.5).all()
    assert (net.weight > 0).all()
    assert (net.weight[~mask] != before[~mask]).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda net: init.kaiming_normal_(cast(Any, nn.Linear(2, 2))), "must be a graphnn.Network"),
        (lambda net: init.kaiming_normal_(net, mode="in"), r"'fan_in' or 'fan_out' \(got 'in'\)"),
        (
            lambda net: init.kaiming_uniform_(net, nonlinearity="foo"),
            "nonlinearity must have .*foo",
        ),
        (lambda net: init.sparse_(net, 0), r"num_nonzero .* \(got 0\)"),
        (lambda net: init.xavier_normal_(net, generator=cast(Any, 3)), "must be a torch.Generator"),
    ],
)
def test_arguments_that_do_not_fit(call, message):
    with pytest.raises(GraphError, match=message):
        call(Network(generate.layered([2, 2])))
