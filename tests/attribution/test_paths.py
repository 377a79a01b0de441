"""Integrated gradients and conductance agree with captum; their sums are reported."""

from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import IntegratedGradients, LayerConductance, LayerIntegratedGradients
from cases import CASES
from torch import nn

import graphnn
from graphnn import GraphError, Network, NeuronGraph
from graphnn.attribution import completeness_error, conductance, integrated_gradients

# Inputs 0, 1; 0 -> 3 skips level 1; 4 -> 6 skips level 2.
SKIPS = NeuronGraph(
    [[0, 1, 0, 1, 2, 0, 3, 2, 4, 5, 2], [2, 2, 4, 4, 3, 3, 5, 5, 6, 6, 6]], activation="tanh"
)


def network(graph, rng, **options):
    net = Network(graph, dtype=torch.float64, generator=rng, **options)
    with torch.no_grad():
        net.bias.uniform_(-0.5, 0.5, generator=rng)
    return net


def converted(dtype):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        model = nn.Sequential(
            nn.Linear(6, 19), nn.Tanh(), nn.Linear(19, 11), nn.ReLU(), nn.Linear(11, 4)
        ).to(dtype)
        return model, torch.randn(9, 6, dtype=dtype), torch.randn(9, 6, dtype=dtype)


def close(found, expected):
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_captum_on_a_converted_stack(dtype):
    model, x, baseline = converted(dtype)
    net, target = graphnn.from_sequential(model), torch.arange(9) % 4
    level = net.graph.level
    found = integrated_gradients(net, x, target, baseline=baseline, steps=20)
    expected: Any = IntegratedGradients(model).attribute(x, baseline, target=target, n_steps=20)
    close(found[:, level == 0], expected)
    passing = conductance(net, x, target, baseline=baseline, steps=20)
    by_value = conductance(net, x, target, baseline=baseline, steps=20, wrt="value")
    for index, own in ((0, 1), (2, 2), (4, 3)):
        neurons = level == own
        captum = LayerIntegratedGradients(model, model[index])
        expected = captum.attribute(x, baseline, target=target, n_steps=20)
        close(found[:, neurons], expected)
        captum = LayerConductance(model, model[index])
        expected = captum.attribute(x, baseline, target=target, n_steps=20)
        close(passing[:, neurons], expected)
        if index < 4:
            captum = LayerConductance(model, model[index + 1])
            expected = captum.attribute(x, baseline, target=target, n_steps=20)
            close(by_value[:, neurons], expected)


def test_agrees_with_captum_over_skip_connections(rng):
    net = network(SKIPS, rng)
    module: Any = graphnn.to_module(net)
    x = torch.randn(7, 2, dtype=torch.float64, generator=rng)
    baseline = torch.full_like(x, 0.25)
    found = integrated_gradients(net, x, 0, baseline=0.25)
    passing = conductance(net, x, 0, baseline=0.25)
    expected: Any = IntegratedGradients(module).attribute(x, baseline, target=0)
    close(found[:, :2], expected)
    for index, level in enumerate(module.levels, 1):
        neurons = net.graph.level == index
        expected = LayerIntegratedGradients(module, level.linear)
        close(found[:, neurons], expected.attribute(x, baseline, target=0))
        expected = LayerConductance(module, level.linear)
        close(passing[:, neurons], expected.attribute(x, baseline, target=0))


def test_sums_are_the_change_where_all_passes_through(rng):
    model, x, _ = converted(torch.float64)
    net = graphnn.from_sequential(model)
    change = (model(x) - model(torch.full_like(x, 0.5)))[:, 2].detach()
    for function, limit in ((integrated_gradients, 0.01), (conductance, 0.05)):
        scores = function(net, x, 2, baseline=0.5)
        error = completeness_error(net, x, 2, scores, baseline=0.5)
        by_hand = [scores[:, net.graph.level == level].sum(1) - change for level in range(4)]
        torch.testing.assert_close(error, torch.stack(by_hand, 1))
        assert error.abs().max() <= limit
    # More steps, a smaller error.
    few = completeness_error(net, x, 2, conductance(net, x, 2, steps=5))
    many = completeness_error(net, x, 2, conductance(net, x, 2, steps=200))
    assert many.abs().max() < few.abs().max() / 10


def test_bypassed_levels_have_no_error(rng):
    net = network(SKIPS, rng)
    x = torch.randn(3, 2, dtype=torch.float64, generator=rng)
    error = completeness_error(net, x, 0, integrated_gradients(net, x, 0))
    # 0 -> 3 goes around level 1, 4 -> 6 around level 2 and 3; level 4 is the output.
    assert error.isnan().any(0).tolist() == [False, True, True, True, False]
    assert error[:, [0, 4]].abs().max() < 1e-6


def test_a_constant_goes_around_nothing(rng):
    # The constant 1 feeds 3, over level 2; an output below the last level goes around it.
    graph = NeuronGraph([[0, 2, 1, 4], [2, 4, 3, 3]], inputs=[0], outputs=[3], activation="sigmoid")
    x = torch.ones(2, 1, dtype=torch.float64)
    net = network(graph, rng)
    error = completeness_error(net, x, 0, integrated_gradients(net, x, 0))
    assert not error.isnan().any()
    assert error.abs().max() < 1e-9
    arguments = {**graph.arguments(), "outputs": [3, 2]}
    net = network(NeuronGraph(**arguments), rng)
    error = completeness_error(net, x, 0, integrated_gradients(net, x, 0))
    assert error.isnan().any(0).tolist() == [False, False, True, True]


def test_chosen_levels_only(rng):
    net = network(SKIPS, rng)
    x = torch.randn(3, 2, dtype=torch.float64, generator=rng)
    every = integrated_gradients(net, x, 0, steps=7)
    some = integrated_gradients(net, x, 0, steps=7, levels=[0, 2])
    asked = (net.graph.level == 0) | (net.graph.level == 2)
    assert torch.equal(some[:, asked], every[:, asked])
    assert some[:, ~asked].isnan().all()


def test_groups_and_baselines_of_every_form(rng):
    net = network(CASES["groups"](), rng)
    x = {
        name: torch.randn(4, ids.numel(), dtype=torch.float64, generator=rng)
        for name, ids in net.graph.inputs.items()
    }

    def target(outputs):
        return outputs.o1.sum(1) * outputs.o2[:, 0]

    same = [
        0.5,
        np.float32(0.5),
        dict.fromkeys(x, 0.5),
        [0.5, torch.full((2,), 0.5)],
        (torch.full((4, 1), 0.5), np.full((1, 2), 0.5)),
    ]
    first = conductance(net, x, target, baseline=same[0], steps=4)
    for baseline in same[1:]:
        found = conductance(net, tuple(x.values()), target, baseline=baseline, steps=4)
        assert torch.equal(found, first)
    scores = integrated_gradients(net, x, target, baseline=0.5)
    error = completeness_error(net, x, target, scores, baseline=0.5)
    assert error[:, 0].abs().max() < 1e-9


@pytest.mark.parametrize("function", [integrated_gradients, conductance])
def test_works_under_inference_mode_and_leaves_gradients_alone(function, rng):
    net = network(SKIPS, rng).train()
    x = torch.randn(3, 2, dtype=torch.float64, generator=rng)
    expected = function(net, x, 0, steps=3)
    with torch.inference_mode():
        found = function(net, x * 1.0, torch.zeros(3, dtype=torch.long), steps=3)
    assert torch.equal(found, expected)
    assert net.weight.grad is None
    assert net.training


X = torch.ones(3, 2, dtype=torch.float64)


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ({"steps": 0}, r"steps must be an integer of at least 1 \(got 0\)"),
        ({"steps": 2.5}, r"got 2\.5"),
        ({"baseline": torch.ones(2, 2)}, r"expand to the shape \(3, 2\).*\(got \(2, 2\)"),
        ({"baseline": "mean"}, "baseline must be a number"),
        ({"baseline": {"image": 0.0}}, r"baseline must hold the input groups 'input'"),
        ({"target": 1}, r"target must be a class index in 0 \.\.\. 0"),
        ({"x": X[:0]}, "at least one sample"),
    ],
)
@pytest.mark.parametrize("function", [integrated_gradients, conductance])
def test_what_cannot_be_is_refused(function, arguments, match, rng):
    with pytest.raises(GraphError, match=match):
        function(network(SKIPS, rng), **{"x": X, "target": 0, **arguments})


def test_levels_wrt_and_scores_are_checked(rng):
    net, wrong = network(SKIPS, rng), "edge"
    edge: Any = wrong
    with pytest.raises(GraphError, match=r"levels must hold integers in 0 \.\.\. 4 \(got 5\)"):
        integrated_gradients(net, X, 0, levels=[5])
    with pytest.raises(GraphError, match=r"wrt must be one of 'preactivation', 'value' \(got"):
        conductance(net, X, 0, wrt=edge)
    with pytest.raises(GraphError, match=r"of shape \(3, 7\).*\(got \(7,\), torch.float"):
        completeness_error(net, X, 0, torch.zeros(7))
    with pytest.raises(GraphError, match=r"scores must be real numbers.*torch.int64"):
        completeness_error(net, X, 0, torch.zeros(3, 7, dtype=torch.int64))
    levels: Any = 3
    with pytest.raises(GraphError, match=r"levels must be a sequence of levels.*got 3"):
        integrated_gradients(net, X, 0, levels=levels)
    with pytest.raises(GraphError, match=r"levels must hold integers.*got True"):
        integrated_gradients(net, X, 0, levels=[True])
