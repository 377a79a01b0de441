import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import graphnn


class Small(nn.Module):
    """Convolution, pooling, a layer that is used twice, a residual sum, a batch norm."""

    def __init__(self, norm=True):
        super().__init__()
        self.conv = nn.Conv1d(2, 3, 3, padding=1)
        self.norm = nn.BatchNorm1d(3) if norm else nn.Identity()
        self.linear = nn.Linear(9, 9)
        self.head = nn.Linear(9, 2)

    def forward(self, x):
        x = F.avg_pool1d(torch.tanh(self.norm(self.conv(x))), 2).flatten(1)
        x = x + self.linear(torch.tanh(self.linear(x)))
        return self.head(x)


def shaken(model, rng):
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                low = 0.5 if name.endswith("running_var") else -0.7
                value.uniform_(low, 1.2, generator=rng)
    return model


def trained(net, rng, *shapes):
    optimiser = torch.optim.SGD(net.parameters(), 0.05)
    for _ in range(4):
        xs = [torch.randn(8, *shape, generator=rng, dtype=net.weight.dtype) for shape in shapes]
        optimiser.zero_grad()
        net(*xs).square().mean().backward()
        optimiser.step()
    return net


@pytest.mark.parametrize("norm", [False, True])
def test_a_trained_network_goes_back_into_its_module(rng, norm):
    model = shaken(Small(norm), rng).double()
    x = torch.randn(5, 2, 6, generator=rng, dtype=torch.float64)
    net = graphnn.from_module(model, x, backend="reference")
    before = copy.deepcopy(model.state_dict())
    trained(net, rng, (12,))
    assert (net(x.flatten(1)) - model.eval()(x)).abs().max() > 1e-3
    graphnn.export_weights(copy.deepcopy(net), model.train())
    assert model.training
    assert (net(x.flatten(1)) - model.eval()(x)).abs().max() <= 1e-12
    after = model.state_dict()
    for name in before:
        if name.startswith("norm"):
            assert torch.equal(before[name], after[name])
    assert not torch.equal(before["linear.weight"], after["linear.weight"])


def test_an_untouched_network_changes_nothing(rng):
    model = shaken(Small(norm=False), rng)
    net = graphnn.from_module(model, torch.ones(1, 2, 6), backend="reference")
    before = copy.deepcopy(model.state_dict())
    graphnn.export_weights(net, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


STACKS = {
    "bias": nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)),
    "no bias": nn.Sequential(nn.Linear(4, 5, bias=False), nn.BatchNorm1d(5), nn.Tanh()),
    "before": nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)),
    "alone": nn.Sequential(nn.Linear(4, 3), nn.Tanh(), nn.BatchNorm1d(3), nn.Tanh()),
    "softmax": nn.Sequential(nn.ReLU(), nn.Linear(4, 3), nn.ReLU(), nn.Tanh(), nn.Softmax(-1)),
}


@pytest.mark.parametrize("name", STACKS)
def test_a_network_of_from_sequential_goes_back(rng, name):
    model = shaken(STACKS[name], rng).double()
    net = trained(graphnn.from_sequential(model, backend="reference"), rng, (4,))
    graphnn.export_weights(net, model)
    x = torch.randn(6, 4, generator=rng, dtype=torch.float64)
    assert (net(x) - model.eval()(x)).abs().max() <= 1e-12


def test_shared_tensors_stay_shared(rng):
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.Linear(3, 3)).double()
    model[2].weight = model[0].weight
    x = torch.randn(5, 3, generator=rng, dtype=torch.float64)
    net = trained(graphnn.from_module(model, x, backend="reference"), rng, (3,))
    graphnn.export_weights(net, model)
    assert model[2].weight is model[0].weight
    assert (net(x) - model(x)).abs().max() <= 1e-12


def check_refused(net, model, text):
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(graphnn.ConversionError) as error:
        graphnn.export_weights(net, model)
    assert text in str(error.value)
    # Nothing is half-written.
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


@pytest.mark.parametrize(
    ("other", "text"),
    [
        (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 2)), "num_neurons 11, 12"),
        (nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)), "activation relu, tanh"),
        (nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2, bias=False)), "biased"),
        (nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)), "takes 3 values"),
        (
            nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2), nn.Softmax(-1)),
            "output transform",
        ),
    ],
)
def test_another_module_is_refused(other, text):
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    check_refused(graphnn.from_module(model, torch.ones(1, 4)), other, text)


def test_an_edited_network_is_refused():
    model = nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, 2))
    net = graphnn.edit.prune(graphnn.from_module(model, torch.ones(1, 4)), [3])
    check_refused(net, model, "num_edges 29, 30")


def test_edges_that_came_apart_are_refused():
    model = nn.Conv1d(1, 1, 2, bias=False)
    net = graphnn.from_module(model, torch.ones(1, 1, 4))
    loose: Any = graphnn.Network(net.graph, net.weight.detach() + torch.arange(6.0))
    check_refused(loose, nn.Sequential(model), "takes")
    loose._sample_shapes = ((1, 4),)
    check_refused(loose, model, "share 0.weight[0, 0, 0]")


def test_a_constant_that_moved_is_refused():
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Tanh())
    net = graphnn.from_sequential(model)
    loose = graphnn.Network(net.graph, net.weight.detach() + 1, net.bias.detach())
    check_refused(loose, model, "constant 1")


def test_a_batch_norm_that_cannot_hold_a_bias_is_refused(rng):
    model = nn.Sequential(
        nn.Linear(3, 3, bias=False), nn.BatchNorm1d(3, affine=False), nn.Linear(3, 2)
    )
    shaken(model, rng)
    net = graphnn.from_module(model, torch.ones(1, 3))
    free = graphnn.Network(net.graph, net.weight.detach(), net.bias.detach() + 1)
    check_refused(free, model, "affine=False")


def test_weights_under_a_scale_of_zero_are_refused():
    model: Any = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    nn.init.zeros_(model[1].weight)
    net = graphnn.from_sequential(model)
    graphnn.export_weights(net, model)
    net.weight.data += 1
    check_refused(net, model, "weight of 0")


def test_a_parametrized_layer_is_refused():
    model = nn.Sequential(nn.Linear(3, 3))
    nn.utils.parametrizations.weight_norm(model[0])
    net = graphnn.from_sequential(model)
    net.weight.data += 1
    with pytest.raises(graphnn.ConversionError, match="parametrized"):
        graphnn.export_weights(net, model)


def test_what_is_no_network_is_refused():
    other: Any = nn.Linear(2, 2)
    with pytest.raises(graphnn.ConversionError, match=r"graphnn\.Network"):
        graphnn.export_weights(other, nn.Linear(2, 2))
