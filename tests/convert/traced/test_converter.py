from collections import namedtuple
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphnn


class LeNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv1 = nn.Conv2d(1, 6, 5)
        self.conv2 = nn.Conv2d(6, 16, 5)
        self.linear1 = nn.Linear(400, 120)
        self.linear2 = nn.Linear(120, 84)
        self.linear3 = nn.Linear(84, 10)

    def forward(self, image):
        x = F.avg_pool2d(torch.tanh(self.conv1(image)), 2)
        x = F.avg_pool2d(self.conv2(x).tanh(), (2, 2))
        x = x.view(x.size(0), -1)
        return self.linear3(F.relu(self.linear2(F.relu(self.linear1(x)))))


def test_lenet_agrees_and_has_as_many_parameters(agree):
    model = LeNet()
    net = agree(model, (1, 32, 32))
    assert sum(p.numel() for p in net.parameters()) == sum(p.numel() for p in model.parameters())
    # Each activation is the neuron of its convolution, each pooling a neuron of its own.
    assert net.graph.num_neurons == 1024 + 6 * (28**2 + 14**2) + 16 * (10**2 + 5**2) + 120 + 84 + 10
    assert net.graph.num_levels == 8
    assert list(net.graph.inputs) == ["image"]


class ResidualMLP(nn.Module):
    def __init__(self, width=6):
        super().__init__()
        self.first = nn.Linear(4, width)
        self.up = nn.ModuleList(nn.Linear(width, 9) for _ in range(2))
        self.down = nn.ModuleList(nn.Linear(9, width) for _ in range(2))

    def forward(self, x):
        x = torch.relu(self.first(x))
        for up, down in zip(self.up, self.down, strict=True):
            x = x + down(F.gelu(up(x)))
        return x


def test_a_residual_mlp_agrees_and_adds_in_its_own_neurons(rng, trained):
    model = ResidualMLP().double()
    x = torch.randn(5, 4, generator=rng, dtype=torch.float64)
    net = graphnn.from_module(model, x, backend="reference")
    expected, actual = model(x), net(x)
    assert (actual - expected).abs().max() <= 1e-11
    expected.square().sum().backward()
    actual.square().sum().backward()
    assert net.graph.num_neurons == 4 + 6 + 2 * (9 + 6)
    used = [model.first, model.up[0], model.down[0], model.up[1], model.down[1]]
    for name in ("weight", "bias"):
        parameter = trained(net, name)
        own = torch.cat([getattr(layer, name).grad.reshape(-1) for layer in used])
        assert (parameter.grad - own).abs().max() <= 1e-11 * own.abs().max()
    # The 1s of the residual connections are no parameters.
    assert net.graph.num_edges == sum(layer.weight.numel() for layer in used) + 12


class TwoByTwo(nn.Module):
    def __init__(self):
        super().__init__()
        self.w1 = nn.Linear(3, 5)
        self.v1 = nn.Linear(4, 5, bias=False)
        self.w2 = nn.Linear(5, 2)
        self.v2 = nn.Linear(5, 3)

    def forward(self, left, right):
        h = torch.tanh(self.w1(left) + self.v1(right))
        return torch.sigmoid(self.w2(h)), self.v2(h)


def test_two_inputs_and_two_outputs_are_groups(agree):
    net = agree(TwoByTwo(), (3,), (4,))
    assert net.graph.num_neurons == 3 + 4 + 5 + 2 + 3
    assert net.graph.num_edges == 15 + 20 + 10 + 15
    assert {name: ids.numel() for name, ids in net.graph.inputs.items()} == {"left": 3, "right": 4}
    assert list(net.graph.outputs) == ["output_0", "output_1"]


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.wide = nn.Conv1d(2, 3, 5, padding=2)
        self.narrow = nn.Conv1d(2, 3, 1)
        self.head = nn.Linear(8 * 6, 4)

    def forward(self, x):
        pooled = F.avg_pool1d(x, 3, stride=1, padding=1)
        joined = torch.cat([torch.relu(self.wide(x)), self.narrow(x).sin(), pooled], dim=1)
        first, second = joined.chunk(2, dim=1)
        return self.head(torch.cat((second, first), 1).flatten(1))


def test_branches_that_are_joined_agree(agree):
    agree(Branches(), (2, 6))


class Twice(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(nn.Linear(6, 6), nn.Tanh())
        self.conv = nn.Conv1d(1, 1, 3)

    def forward(self, x):
        x = self.inner(self.inner(x))
        return self.conv(self.conv(x[:, None])).squeeze(1)


def test_a_module_that_is_used_twice_is_tied(agree, trained):
    net = agree(Twice(), (6,))
    assert net.graph.num_edges == 2 * 36 + 3 * (4 + 2)
    assert [trained(net, name).numel() for name in ("weight", "bias")] == [36 + 3, 6 + 1]


def test_a_parameter_that_two_layers_share_is_tied(agree, trained):
    model = nn.Sequential(nn.Linear(5, 5), nn.ReLU(), nn.Linear(5, 5))
    model[2].weight = model[0].weight
    net = agree(model, (5,))
    assert [trained(net, name).numel() for name in ("weight", "bias")] == [25, 10]


class Block(nn.Module):
    def __init__(self, channels_in, channels, stride):
        super().__init__()
        self.conv1 = nn.Conv2d(channels_in, channels, 3, stride, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(channels)
        self.conv2 = nn.Conv2d(channels, channels, 3, 1, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(channels)
        self.relu = nn.ReLU(inplace=True)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut = nn.Sequential(
                nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels)
            )

    def forward(self, x):
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += self.shortcut(x)
        return self.relu(y)


def resnet():
    return nn.Sequential(
        Block(2, 2, 1), Block(2, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(3, 4)
    )


def test_a_small_resnet_agrees_and_folds_its_batch_norms(agree):
    model = resnet()
    net = agree(model, (2, 6, 6), folds=True)
    assert model.training
    assert all(module.training for module in model.modules())
    convolutions = [m.weight.numel() for m in model.modules() if isinstance(m, nn.Conv2d)]
    assert net.parametrizations.weight.original.numel() == sum(convolutions) + 12


@pytest.mark.parametrize(
    "model",
    [
        nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, 3)),
        nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh()),
        nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3), nn.ReLU(), nn.BatchNorm1d(3)),
        nn.Sequential(nn.Linear(4, 3), nn.ReLU(), nn.BatchNorm1d(3), nn.Linear(3, 2, bias=False)),
        nn.Sequential(nn.ReLU(), nn.Linear(4, 3), nn.Dropout(), nn.ReLU(), nn.Tanh()),
        nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2), nn.LogSoftmax(-1)),
        nn.Sequential(nn.Linear(4, 3), nn.BatchNorm1d(3, affine=False), nn.Linear(3, 3)),
    ],
    ids=str,
)
def test_a_stack_gives_the_network_of_from_sequential(agree, model):
    agree(model, (4,), folds=True)
    net = graphnn.from_module(model, torch.ones(1, 4, dtype=torch.float64), backend="reference")
    expected = graphnn.from_sequential(model, backend="reference")
    assert net.graph == expected.graph
    assert net.output_transform == expected.output_transform
    assert (net.weight - expected.weight).abs().max() <= 1e-15
    assert net.bias.numel() == 0 or (net.bias - expected.bias).abs().max() <= 1e-15
    sizes = [p.numel() for p in expected.parameters()]
    assert [p.numel() for p in net.parameters()] == sizes


def test_what_requires_no_gradient_is_not_trained(trained):
    model: Any = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    model[0].requires_grad_(False)
    # Neurons that are at 0 would leave the weights above without gradients.
    model[0].bias.fill_(3)
    net = graphnn.from_module(model, torch.ones(1, 3), backend="reference")
    assert [trained(net, name).numel() for name in ("weight", "bias")] == [8, 2]
    net(torch.ones(1, 3)).sum().backward()
    before = net.weight.detach().clone()
    torch.optim.SGD(net.parameters(), 0.1).step()
    assert torch.equal(net.weight[:12], before[:12])
    assert not torch.equal(net.weight[12:], before[12:])


def test_ties_and_constants_stay_in_training(rng):
    model: Any = nn.Sequential(nn.AvgPool1d(2), nn.Conv1d(1, 2, 3), nn.Tanh(), nn.AvgPool1d(2))
    net: Any = graphnn.from_module(model, torch.ones(1, 1, 12), backend="reference")
    assert net.parametrizations.weight.original.tolist() == model[1].weight.flatten().tolist()
    optimiser = torch.optim.Adam(net.parameters(), 0.1, weight_decay=0.1)
    for _ in range(3):
        optimiser.zero_grad()
        net(torch.randn(4, 12, generator=rng)).square().sum().backward()
        optimiser.step()
    weights = net.weight.detach()
    kernel = net.parametrizations.weight.original
    assert set(weights.tolist()) == {0.5, *kernel.tolist()}
    assert not torch.equal(kernel, model[1].weight.flatten())
    net.weight = weights
    assert torch.equal(net.weight, weights)


Pair = namedtuple("Pair", ["mean", "spread"])


class Named(nn.Module):
    def __init__(self, kind):
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.kind = kind

    def forward(self, x, scale=2.0, mask=None):
        if mask is not None:
            x = x * mask
        mean, spread = self.linear(x).split(2, 1)
        return self.kind(mean=mean * scale, spread=spread)


@pytest.mark.parametrize("kind", [dict, Pair])
def test_outputs_have_the_names_that_the_module_gives(agree, kind):
    net = agree(Named(kind), (3,))
    assert list(net.graph.outputs) == ["mean", "spread"]


def test_batch_sizes_of_examples_do_not_matter():
    model = ResidualMLP()
    one, many = (graphnn.from_module(model, torch.ones(n, 4)) for n in (1, 7))
    assert one.graph == many.graph


def test_dtype_device_and_backend_are_the_callers():
    model = nn.Linear(3, 2).double()
    net = graphnn.from_module(
        model, torch.ones(1, 3), dtype=torch.float32, backend="scatter", device="cpu"
    )
    assert net.weight.dtype == torch.float32
    assert net.backend == "scatter"
    assert graphnn.from_module(model, torch.ones(1, 3)).weight.dtype == torch.float64


def test_a_module_without_parameters_has_a_network(agree):
    net = agree(nn.AvgPool1d(2), (1, 6))
    assert not net.weight.requires_grad


def test_an_input_may_be_an_output(agree):
    class Through(nn.Module):
        def forward(self, x):
            return x.flip(1), x + x

    agree(Through(), (3,))


def refused(model, *inputs):
    with pytest.raises(graphnn.ConversionError) as error:
        graphnn.from_module(model, *inputs)
    return str(error.value)


def test_a_softmax_on_one_of_two_outputs_is_refused():
    class Half(nn.Module):
        def forward(self, x):
            return x.softmax(1), x

    assert "on every output" in refused(Half(), torch.ones(1, 2))


def test_an_output_that_is_no_tensor_is_refused():
    class Counting(nn.Module):
        def forward(self, x):
            return x, 3

    assert "got int as 'output_1'" in refused(Counting(), torch.ones(1, 2))


@pytest.mark.parametrize(
    ("inputs", "text"),
    [
        ((), "got none"),
        ((torch.tensor(1.0),), "number 0"),
        (([1.0],), "number 0 is list"),
        ((torch.ones(1, 3), torch.ones(1, 3)), "got 2 inputs"),
    ],
)
def test_examples_that_do_not_fit_are_refused(inputs, text):
    assert text in refused(nn.Linear(3, 2), *inputs)


def test_an_argument_that_no_group_may_be_called_is_refused():
    class Shifted(nn.Module):
        def forward(self, offset):
            return offset.relu()

    assert "offset" in refused(Shifted(), torch.ones(1, 3))


def test_what_is_no_module_is_refused():
    assert "nn.Module" in refused(torch.relu, torch.ones(1, 3))
