import operator
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphnn


class Apply(nn.Module):
    """A layer on both sides of a function, so that there are neurons to move and parameters."""

    def __init__(self, function, size_in, size_out):
        super().__init__()
        self.first = nn.Linear(size_in, size_in)
        self.last = nn.Linear(size_out, 2)
        self.function = function

    def forward(self, x):
        return self.last(self.function(self.first(x)))


MOVES = {
    "view by sizes": lambda x: x.view(x.size(0), 3, -1).flatten(1),
    "view by shape": lambda x: x.reshape(x.shape[0], 4, 3).permute(0, 2, 1).reshape(x.size(0), -1),
    "transpose": lambda x: torch.transpose(x.unflatten(1, (2, 6)), 1, -1).flatten(1),
    "squeeze": lambda x: torch.squeeze(x.unsqueeze(1).unsqueeze(-1), 1).squeeze(-1),
    "slices": lambda x: torch.cat([x[:, ::2], x[..., 1::2]], -1),
    "indices": lambda x: x[:, [3, 1, 2, 0, 4, 5, 7, 6, 8, 9, 11, 10]],
    "unequal split": lambda x: torch.cat(x.split([2, 3, 7], dim=1)[::-1], dim=1),
    "chunk and stack": lambda x: torch.stack(torch.chunk(x, 3, 1), 2).flatten(1),
    "unbind": lambda x: torch.cat(x.view(-1, 2, 6).unbind(1), 1),
    "narrow and select": lambda x: torch.cat([x.narrow(1, 0, 11), x.select(1, 11)[:, None]], 1),
    "flip and roll": lambda x: torch.roll(x.flip(-1), 3, 1),
    "index_select": lambda x: x.index_select(1, torch.arange(11, -1, -1)),
    "contiguous clone": lambda x: x.view(-1, 3, 4).transpose(1, 2).contiguous().clone().flatten(1),
    "repeated elements": lambda x: torch.cat([x[:, :6], x[:, :6]], 1),
    "expanded elements": lambda x: x[:, :4, None].expand(-1, 4, 3).flatten(1),
    "movedim": lambda x: x.view(-1, 2, 2, 3).movedim(1, 3).flatten(1),
}


@pytest.mark.parametrize("name", MOVES)
def test_moves_agree(agree, name):
    agree(Apply(MOVES[name], 12, 12), (12,))


CONSTANT = torch.tensor([0.5, -2.0, 3.0, 0.25, 1.0, -1.0])
ARITHMETIC = {
    "a sum of a tensor with itself": lambda x: x + x,
    "a difference with itself, moved": lambda x: x - x.flip(1),
    "a constant minus": lambda x: 1.5 - x,
    "a constant plus": lambda x: 2.0 + x,
    "a multiple is added": lambda x: torch.add(x.relu(), x.tanh(), alpha=-0.5),
    "subtracted from": lambda x: torch.sub(x.sin(), x.abs(), alpha=2),
    "rsub": lambda x: torch.rsub(x, 3.0),
    "factors": lambda x: 2.0 * x * 0.3 / 7,
    "negation": lambda x: -x.square(),
    "vectors of constants": lambda x: (x * CONSTANT.to(torch.float32)) + CONSTANT,
    "normalised": lambda x: (x - 0.5) / 0.25,
    "in place": lambda x: x.mul_(2).add_(1).relu_(),
    "augmented": lambda x: operator.iadd(x * 1, 2.0),
    "broadcast sum": lambda x: (x.view(-1, 2, 3) + x[:, :3].unsqueeze(1)).flatten(1),
    "mean and sum": lambda x: torch.cat(
        [
            x.view(-1, 2, 3).mean(1),
            x.view(-1, 2, 3).sum((1, 2), keepdim=True).expand(-1, 1, 3)[:, 0],
        ],
        1,
    ),
    "a mean of repeated elements": lambda x: torch.cat([x, x], 1).view(-1, 6, 2).mean(2),
}


@pytest.mark.parametrize("name", ARITHMETIC)
def test_arithmetic_agrees(agree, name):
    agree(Apply(ARITHMETIC[name], 6, 6), (6,))


ACTIVATIONS = [
    torch.relu, F.relu, F.relu6, F.elu, F.selu, F.celu, F.gelu, F.silu, F.mish, F.softplus,
    F.softsign, torch.sigmoid, F.hardsigmoid, F.hardswish, torch.sin, torch.abs, torch.square,
    F.hardtanh,
    F.leaky_relu,
]  # fmt: skip


@pytest.mark.parametrize("function", ACTIVATIONS, ids=lambda f: f.__name__)
def test_activations_agree(agree, function):
    net = agree(Apply(function, 3, 3), (3,))
    # The activation belongs to the layer's neurons.
    assert net.graph.num_neurons == 3 + 3 + 2


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (lambda x: F.leaky_relu(x, 0.3), "leaky_relu(0.3)"),
        (lambda x: F.leaky_relu(x, negative_slope=0.2, inplace=True), "leaky_relu(0.2)"),
        (lambda x: F.elu(x, alpha=0.5), "elu(0.5)"),
        (lambda x: F.gelu(x, approximate="tanh"), "gelu_tanh"),
        (lambda x: F.softplus(x, beta=2, threshold=10), "softplus(2, 10)"),
        (lambda x: x.clamp(-0.1, 0.2), "clamp(-0.1, 0.2)"),
        (lambda x: torch.clamp(x, min=0, max=1), "clamp(0, 1)"),
        (lambda x: x.clamp(min=0), "relu"),
        (lambda x: x.relu(), "relu"),
        (lambda x: x.tanh(), "tanh"),
        (lambda x: x.sigmoid_(), "sigmoid"),
        (lambda x: x.abs(), "abs"),
        (lambda x: F.hardtanh(x, -0.3, 0.4), "clamp(-0.3, 0.4)"),
        (lambda x: x**2, "square"),
        (lambda x: torch.pow(x, 2), "square"),
        (lambda x: F.dropout(x, 0.5, training=False).relu(), "relu"),
    ],
)
def test_arguments_of_activations_are_read(agree, function, name):
    net = agree(Apply(function, 3, 3), (3,))
    assert net.graph.activation[3:6] == (name,) * 3


class Parameters(nn.Module):
    """A layer written by hand, with a trained factor."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.empty(5, 3))
        self.gain_weight = nn.Parameter(torch.empty(3))
        self.in_weight = nn.Parameter(torch.empty(3, 4))
        self.bias = nn.Parameter(torch.empty(3))
        self.in_bias = nn.Parameter(torch.empty(3))

    def forward(self, x):
        x = torch.tanh(x @ self.weight + self.bias) * self.gain_weight
        return F.linear(x.relu(), self.in_weight[:, :3].t(), self.in_bias)


def test_parameters_without_a_layer_are_trained(rng):
    model: Any = Parameters().double()
    with torch.no_grad():
        for value in model.parameters():
            value.uniform_(-1, 1, generator=rng)
    x = torch.randn(4, 5, generator=rng, dtype=torch.float64)
    net = graphnn.from_module(model, x, backend="reference")
    assert (net(x) - model(x)).abs().max() <= 1e-12
    net(x).square().sum().backward()
    model(x).square().sum().backward()
    own = [model.weight.grad.t(), model.gain_weight.grad, model.in_weight.grad[:, :3].t()]
    expected = torch.cat([value.reshape(-1) for value in own])
    edges: Any = net.weight.grad
    assert (edges - expected).abs().max() <= 1e-12
    biases = torch.cat([model.bias.grad, model.in_bias.grad])
    neurons: Any = net.bias.grad
    assert (neurons - biases).abs().max() <= 1e-12


def test_convolutions_and_pools_as_functions_agree(agree):
    class Functional(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.empty(4, 1, 3))
            self.bias = nn.Parameter(torch.empty(4))

        def forward(self, x):
            x = F.conv1d(x, self.weight, self.bias, stride=2, padding=1, groups=2)
            return F.adaptive_avg_pool1d(x.relu(), 2)

    agree(Functional(), (2, 9))


def refused(function, *inputs):
    class Wrapped(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = nn.Module()
            self.inner.gain = nn.Parameter(torch.ones(4))
            self.register_buffer("fixed", torch.ones(4))

        def forward(self, x):
            return function(self, x)

    with pytest.raises(graphnn.ConversionError) as error:
        graphnn.from_module(Wrapped(), *(inputs or (torch.ones(2, 4),)))
    text = str(error.value)
    assert "test_functions.py" in text
    return text


@pytest.mark.parametrize(
    ("function", "text"),
    [
        (lambda m, x: x * x, "multiplies"),
        (lambda m, x: x / (x + 1), "divides"),
        (lambda m, x: 1 / x, "divides"),
        (lambda m, x: x @ x.t(), "multiplies"),
        (lambda m, x: torch.einsum("bi,bj->bij", x, x), "multiplies"),
        (lambda m, x: F.scaled_dot_product_attention(x, x, x), "multiplies"),
        (lambda m, x: x.max(1).values, "largest"),
        (lambda m, x: F.max_pool1d(x[:, None], 2), "largest"),
        (lambda m, x: F.layer_norm(x, (4,)), "normalises"),
        (lambda m, x: x.softmax(1) + 1, "softmax"),
        (lambda m, x: torch.relu(F.log_softmax(x, -1)), "log_softmax"),
        (lambda m, x: x.view(-1, 2, 2).softmax(1), "over the features"),
        (lambda m, x: x.detach(), "gradients"),
        (lambda m, x: F.dropout(x), "self.training"),
        (lambda m, x: x**3, "exponent 2"),
        (lambda m, x: torch.exp(x), "cannot be read"),
        (lambda m, x: x.clamp(max=1), "two numbers"),
        (lambda m, x: x.view(-1, 2), "dimension 0"),
        (lambda m, x: x.t(), "dimension 0"),
        (lambda m, x: x[0], "dimension 0"),
        (lambda m, x: x.flatten(), "dimension 0"),
        (lambda m, x: torch.cat([x, x]), "dimension 0"),
        (lambda m, x: x.flip(0), "dimension 0"),
        (lambda m, x: x + x[:1], "dimension 0"),
        (lambda m, x: x.mean(), "dimension 0"),
        (lambda m, x: x.mean(0, keepdim=True) + x, "dimension 0"),
        (lambda m, x: x.reshape(2, 2, 3), "any size"),
        (lambda m, x: x + torch.ones(3), "do not fit"),
        (lambda m, x: torch.cat([x, m.fixed.expand(2, 4)], 1), "constant"),
        (lambda m, x: x * (m.inner.gain * 2), "parameters alone"),
        (lambda m, x: x * m.inner.gain.exp(), "parameters alone"),
        (lambda m, x: x - m.inner.gain, "multiple of a parameter"),
        (lambda m, x: F.linear(x, m.fixed[None]), "nn.Parameter"),
        (lambda m, x: x.unsqueeze_(1), "in place"),
    ],
)  # fmt: skip
def test_what_is_no_neuron_graph_is_refused_with_its_line(function, text):
    message = refused(function)
    assert text in message
    # The line of source is shown.
    assert "lambda m, x:" in message


def test_values_that_decide_are_refused():
    def decide(module, x):
        return x if x.sum() > 0 else -x

    assert "decides by the values" in refused(decide)


def test_a_value_that_was_changed_in_place_is_refused():
    def residual(module, x):
        y = torch.relu_(x)
        return x + y

    assert "changed in place" in refused(residual)

    def view(module, x):
        y = x.view(-1, 2, 2)
        x += 1
        return y.flatten(1)

    assert "changed in place" in refused(view)

    def statement(module, x):
        x.relu_()
        return x

    assert "changed in place" in refused(statement)
