"""Derivatives agree with captum, with finite differences and with a loop; the network is left."""

from collections import namedtuple
from typing import Any

import numpy as np
import pytest
import torch
from captum.attr import LayerGradientXActivation
from cases import CASES
from torch import nn
from torch.nn.utils import parametrize

import graphnn
from graphnn import GraphError, Network, NeuronGraph
from graphnn.attribution import gradient, gradient_x_value


def random_network(graph, rng, **options):
    net = Network(graph, dtype=torch.float64, generator=rng, **options)
    with torch.no_grad():
        net.bias.uniform_(-0.5, 0.5, generator=rng)
    return net


def samples(net, rng, count=5) -> Any:
    parts = {
        name: torch.randn(count, ids.numel(), generator=rng, dtype=net.weight.dtype)
        for name, ids in net.graph.inputs.items()
    }
    return parts if len(parts) > 1 else parts[next(iter(parts))]


def joined(outputs):
    return outputs if isinstance(outputs, torch.Tensor) else torch.cat(tuple(outputs), -1)


def score(outputs):
    """A function of all outputs that no output is alone in."""
    every = joined(outputs)
    return (every * torch.arange(1, every.shape[1] + 1)).sum(1).tanh()


def run_by_hand(net, x, shift_pre, shift_value):
    """The scores, with the preactivations and the values shifted by (B, N) each."""
    graph, activation = net.graph, net.graph.activation_table
    given = torch.cat(list(x.values()), 1) if isinstance(x, dict) else x
    columns = {n: given[:, i] for i, n in enumerate(graph.input_ids.tolist())}
    bias = dict(zip(graph.bias_neurons.tolist(), net.bias.detach(), strict=True))
    source, target = graph.edge_index.tolist()
    incoming = [[] for _ in range(graph.num_neurons)]
    for edge, neuron in enumerate(target):
        incoming[neuron].append(edge)
    value = {}
    for n in graph.level.argsort().tolist():
        pre = columns.get(n, given.new_zeros(given.shape[0]) + bias.get(n, 0.0)) + shift_pre[:, n]
        for e in incoming[n]:
            pre = pre + net.weight[e].detach() * value[source[e]]
        value[n] = activation[graph.activation_code[n]](pre) + shift_value[:, n]
    return score(torch.stack([value[n] for n in graph.output_ids.tolist()], 1))


@pytest.mark.parametrize("backend", ["fused_cpu", "reference"])
@pytest.mark.parametrize("name", [n for n in CASES if "depth" not in n and "10,000" not in n])
def test_agrees_with_a_loop_over_the_neurons(name, backend, rng):
    net = random_network(CASES[name](), rng, backend=backend)
    x = samples(net, rng)
    shifts = torch.zeros(2, 5, net.graph.num_neurons, dtype=torch.float64, requires_grad=True)
    (expected,) = torch.autograd.grad(run_by_hand(net, x, *shifts).sum(), shifts)
    target = net.graph.edge_index[1]
    wanted_by: dict[Any, Any] = {
        "preactivation": expected[0],
        "value": expected[1],
        "edge": expected[0][:, target],
    }
    for wrt, wanted in wanted_by.items():
        found = gradient(net, x, score, wrt=wrt)
        assert not found.requires_grad
        torch.testing.assert_close(found, wanted, rtol=1e-11, atol=1e-12)


@pytest.mark.parametrize("name", ["block over two levels", "random", "groups", "dense"])
def test_times_what_it_is_by(name, rng):
    net = random_network(CASES[name](), rng)
    x = samples(net, rng)
    trace = net.trace(**x) if isinstance(x, dict) else net.trace(x)
    at: dict[Any, Any] = {
        "preactivation": trace.preactivations,
        "value": trace.values,
        "edge": trace.contributions(),
    }
    for wrt, numbers in at.items():
        expected = gradient(net, x, score, wrt=wrt) * numbers
        torch.testing.assert_close(gradient_x_value(net, x, score, wrt=wrt), expected)


def test_an_edge_agrees_with_finite_differences_of_its_message(rng):
    net = random_network(CASES["input-to-output skip"](), rng)
    x, step = samples(net, rng), 1e-6
    found = gradient(net, x, 0, wrt="edge")
    for edge, target in enumerate(net.graph.edge_index[1].tolist()):
        offset = torch.zeros(5, net.graph.num_neurons, dtype=torch.float64)
        offset[:, target] = step
        up = net.trace(x, offset=offset).outputs[:, 0]
        down = net.trace(x, offset=-offset).outputs[:, 0]
        difference = ((up - down) / (2 * step)).detach()
        torch.testing.assert_close(found[:, edge], difference, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_agrees_with_captum_on_a_converted_stack(dtype):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(
            nn.Linear(12, 33), nn.ReLU(), nn.Linear(33, 17), nn.GELU(), nn.Linear(17, 5)
        ).to(dtype)
        x = torch.randn(21, 12, dtype=dtype)
    net, target = graphnn.from_sequential(model), torch.arange(21) % 5
    for level, index in ((1, 0), (2, 2), (3, 4)):
        own = net.graph.level == level
        parts: list[Any] = [(model[index], "preactivation")]
        if index < 4:
            parts.append((model[index + 1], "value"))
        for module, wrt in parts:
            plain = LayerGradientXActivation(model, module, multiply_by_inputs=False)
            times = LayerGradientXActivation(model, module)
            for ours, theirs in ((gradient, plain), (gradient_x_value, times)):
                expected: Any = theirs.attribute(x, target=target)
                found = ours(net, x, target, wrt=wrt)[:, own]
                assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()


@pytest.mark.parametrize("name", ["input-to-output skip", "random", "block over two levels"])
def test_agrees_with_captum_on_the_levels_of_to_module(name, rng):
    net = random_network(CASES[name](), rng)
    module, x = graphnn.to_module(net), samples(net, rng)
    for index, level in enumerate(module.levels, 1):
        own = net.graph.level == index
        layer: Any = level.linear
        captum = LayerGradientXActivation(module, layer, multiply_by_inputs=False)
        expected: Any = captum.attribute(x, target=0)
        torch.testing.assert_close(gradient(net, x, 0)[:, own], expected, rtol=1e-9, atol=1e-12)


def test_stops_before_the_output_transform(rng):
    graph = CASES["dense"]()
    net = random_network(graph, rng, output_transform="softmax")
    plain = Network(graph, net.weight, net.bias)
    x = samples(net, rng)
    assert torch.equal(gradient(net, x, 1), gradient(plain, x, 1))
    # A callable sees the same outputs.
    picked = gradient(net, x, lambda outputs: outputs[:, 1])
    assert torch.equal(picked, gradient(plain, x, 1))


@pytest.mark.parametrize(
    "make", [list, tuple, torch.tensor, np.array, lambda t: torch.tensor(t).byte()]
)
def test_one_class_a_sample(make, rng):
    net = random_network(CASES["dense"](), rng)
    x, classes = samples(net, rng), [4, 0, 1, 1, 3]
    rows = [gradient(net, x[[i]], c) for i, c in enumerate(classes)]
    found = gradient(net, x, make(classes))
    torch.testing.assert_close(found, torch.cat(rows))
    three: Any = np.int64(3)
    assert torch.equal(gradient(net, x, torch.tensor(3)), gradient(net, x, three))


def test_a_callable_gets_the_output_groups_by_name(rng):
    net = random_network(CASES["groups"](), rng)
    x = samples(net, rng)
    found = gradient(net, x, lambda outputs: outputs.o1[:, 1] - outputs.o2[:, 0])
    by_order = gradient(net, tuple(x.values()), lambda outputs: outputs[1][:, 1] - outputs[0][:, 0])
    assert torch.equal(found, by_order)
    assert found[:, 3].abs().min() > 0


class Doubled(nn.Module):
    def __init__(self):
        super().__init__()
        self.calls = 0

    def forward(self, weight):
        self.calls += self.training
        return weight * (3.0 if self.training else 2.0)


def test_runs_in_eval_mode_and_leaves_the_network_as_it_was(rng):
    net = random_network(CASES["random"](), rng)
    x, plain = samples(net, rng), Network(net.graph, 2 * net.weight.detach(), net.bias)
    part = Doubled()
    parametrize.register_parametrization(net, "weight", part)
    net.train()
    part.calls = 0
    parts: Any = net.parametrizations
    parts.eval()
    part.train()
    found = gradient(net, x, 0)
    torch.testing.assert_close(found, gradient(plain, x, 0))
    assert part.calls == 0
    # Every module's own mode is back.
    assert net.training
    assert part.training
    assert not parts.training
    assert all(parameter.grad is None for parameter in net.parameters())


def test_the_mode_is_restored_after_an_error(rng):
    class Broken(nn.Module):
        broken = False

        def forward(self, weight):
            if self.broken:
                raise RuntimeError("no weight today")
            return weight

    net = random_network(CASES["dense"](), rng)
    part = Broken()
    parametrize.register_parametrization(net, "weight", part)
    net.train()
    part.broken = True
    with pytest.raises(RuntimeError, match="no weight today"):
        gradient(net, samples(net, rng), 0)
    assert net.training
    assert part.training


def test_parameters_keep_their_gradients_and_their_flags(rng):
    net = random_network(CASES["random"](), rng)
    x = samples(net, rng)
    net(x).sum().backward()
    assert net.weight.grad is not None
    before = net.weight.grad.clone()
    gradient(net, x, 0, wrt="value")
    assert torch.equal(net.weight.grad, before)
    assert net.weight.requires_grad


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode, torch.enable_grad])
@pytest.mark.parametrize("name", ["random", "dense"])
def test_frozen_parameters_and_any_gradient_mode(around, name, rng):
    net = random_network(CASES[name](), rng)
    x = samples(net, rng)
    expected: dict[Any, Any] = {
        wrt: gradient_x_value(net, x, 0, wrt=wrt) for wrt in ("value", "edge")
    }
    net.requires_grad_(False)
    with around():
        # Made in here, x is an inference tensor under inference mode.
        own = x * 1.0
        for wrt, wanted in expected.items():
            found = gradient_x_value(net, own, 0, wrt=wrt)
            assert torch.equal(found, wanted)
            assert not found.requires_grad


def test_samples_that_require_gradients_get_none(rng):
    net = random_network(CASES["dense"](), rng)
    x = samples(net, rng).requires_grad_()
    gradient(net, x, 0)
    assert x.grad is None


def test_autocast_changes_nothing(rng):
    net = random_network(CASES["dense"](), rng).float()
    x = samples(net, rng)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradient(net, x, 0, wrt="value")
    assert torch.equal(found, gradient(net, x, 0, wrt="value"))


def test_one_backward_for_the_whole_batch(rng):
    # Each sample's scores are one row of the callable's result, called once.
    net, calls = random_network(CASES["dense"](), rng), []

    def target(outputs):
        calls.append(outputs.shape)
        return outputs[:, 0]

    gradient(net, samples(net, rng, 300), target)
    assert calls == [(300, 5)]


Case = namedtuple("Case", ["x", "target", "match"])
X = torch.ones(3, 7, dtype=torch.float64)
WRONG = {
    "class too high": Case(X, 5, r"target must be a class index in 0 \.\.\. 4.*got 5"),
    "class negative": Case(X, -1, r"0 \.\.\. 4.*got -1"),
    "one class too high": Case(
        X, [0, 5, 1], r"target must be class ids in 0 \.\.\. 4.*target\[1\]"
    ),
    "too few classes": Case(X, [0, 1], r"one class index a sample, 3 in all \(got 2\)"),
    "classes that are no integers": Case(X, [0.5, 1.0, 1.0], "target must hold integers"),
    "a mask": Case(X, True, "target must be a class index"),
    "a name": Case(X, "cat", r"target must be a class index.*'cat'"),
    "nothing": Case(X, None, r"target must be a class index.*None"),
    "a sum over samples": Case(X, lambda o: o.sum(), r"shape \(3,\) \(got \(\)\)"),
    "all outputs": Case(X, lambda o: o, r"shape \(3,\) \(got \(3, 5\)\)"),
    "no tensor": Case(X, lambda o: 1.0, r"shape \(3,\) \(got float\)"),
    "a constant": Case(X, lambda o: torch.ones(3), "does not depend on them"),
    "something else": Case(X, lambda o: torch.ones(3, requires_grad=True), "does not come from"),
    "no sample": Case(X[:0], 0, r"at least one sample \(got shape \(0, 7\)"),
    "one sample without its dimension": Case(X[0], 0, r"\(got \(7,\)\)\. One sample is x\[None\]"),
    "too many columns": Case(torch.ones(3, 8), 0, r"shape \(B, 7\).*\(got \(3, 8\)\)"),
    "another dtype": Case(X.float(), 0, r"torch.float64 on cpu \(got torch.float32"),
    "two inputs": Case((X, X), 0, r"one tensor for each of the input groups 'input' \(got 2\)"),
    "an unknown group": Case({"image": X}, 0, r"the input groups 'input' \(got 'image'\)"),
    "an array": Case(X.numpy(), 0, r"\(got ndarray\)"),
}


@pytest.mark.parametrize("case", WRONG.values(), ids=WRONG)
def test_what_cannot_be_attributed_is_refused(case, rng):
    net = random_network(CASES["dense"](), rng)
    for function in (gradient, gradient_x_value):
        with pytest.raises(GraphError, match=case.match):
            function(net, case.x, case.target)


def test_wrt_and_net_are_checked(rng):
    net = random_network(CASES["dense"](), rng)
    wrong: Any = "weight"
    with pytest.raises(GraphError, match=r"wrt must be one of .* \(got 'weight'\)"):
        gradient(net, X, 0, wrt=wrong)
    with pytest.raises(GraphError, match=r"net must be a graphnn\.Network"):
        gradient(nn.Linear(2, 2), X, 0)  # pyright: ignore[reportArgumentType]
    groups = random_network(CASES["groups"](), rng)
    with pytest.raises(GraphError, match="several output groups, here 'o2', 'o1'"):
        gradient(groups, samples(groups, rng), 0)
    uneven = {"x2": torch.ones(2, 1).double(), "x1": torch.ones(3, 2).double()}
    with pytest.raises(GraphError, match=r"same number of samples.*2 for 'x2', 3 for 'x1'"):
        gradient(groups, uneven, score)


def test_constants_and_unread_neurons_have_zero_or_their_own_derivative(rng):
    # 0 -> 2 <- 1 (constant); 3 reads 2 and nobody reads 3.
    graph = NeuronGraph([[0, 1, 2], [2, 2, 3]], inputs=[0], outputs=[2, 2], bias=True)
    net = Network(graph, [2.0, 3.0, 4.0], [1.0, 0.0, 0.0])
    x = torch.ones(1, 1)
    assert gradient(net, x, 1).tolist() == [[2.0, 3.0, 1.0, 0.0]]
    # Both places of a repeated output count.
    both = gradient(net, x, lambda o: o[:, 0] + 10 * o[:, 1], wrt="value")
    assert both.tolist() == [[22.0, 33.0, 11.0, 0.0]]
