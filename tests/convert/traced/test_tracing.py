from typing import Any

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize, prune

import graphnn
from graphnn.parametrize import Frozen


class Training(nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = nn.Linear(3, 3)

    def forward(self, x):
        x = self.linear(x)
        return x if self.training else -x


def test_the_module_is_read_in_eval_mode_and_left_in_its_own(agree):
    model = Training()
    model.linear.eval()
    agree(model, (3,))
    fresh = nn.Sequential(Training(), nn.Dropout())
    fresh[1].eval()
    graphnn.from_module(fresh, torch.ones(1, 3))
    assert [m.training for m in fresh.modules()] == [True, True, True, False]


def test_the_modes_come_back_after_an_error():
    model = nn.Sequential(nn.Linear(3, 3), nn.MaxPool1d(2))
    with pytest.raises(graphnn.ConversionError):
        graphnn.from_module(model, torch.ones(1, 3))
    assert model[0].training


def test_the_module_is_not_written_to():
    model = nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    net = graphnn.from_module(model, torch.ones(4, 3))
    net.weight.data.zero_()
    after = model.state_dict()
    assert all(torch.equal(after[name], before[name]) for name in before)


def test_a_layer_that_has_not_run_is_refused():
    model = nn.Sequential(nn.Linear(3, 3), nn.LazyLinear(2))
    with pytest.raises(graphnn.ConversionError, match=r"1 \(LazyLinear\).*Run the model once"):
        graphnn.from_module(model, torch.ones(1, 3))


def test_pruned_and_held_weights_are_read_as_they_are_used(trained):
    model: Any = nn.Sequential(nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 2))
    prune.random_unstructured(model[0], "weight", amount=3)
    mask = torch.tensor([[True, False], [False, False]])
    parametrize.register_parametrization(model[2], "weight", Frozen(mask, 0.25))
    x = torch.randn(4, 3)
    net = graphnn.from_module(model, x, backend="reference")
    assert (net(x) - model(x)).abs().max() <= 1e-6
    assert float(net.weight.detach()[6]) == 0.25
    assert trained(net, "weight").numel() == 9


class Squashed(nn.Linear):
    def forward(self, input):
        return super().forward(input).tanh()


def test_a_subclass_with_its_own_forward_runs_it(agree):
    net = agree(Squashed(3, 2), (3,))
    assert net.graph.activation[3:] == ("tanh", "tanh")


def hook(module, args, output=None):
    return None


@pytest.mark.parametrize("register", ["register_forward_hook", "register_forward_pre_hook"])
def test_hooks_are_refused(register):
    model = nn.Sequential(nn.Sequential(nn.Linear(3, 2)))
    getattr(model[0], register)(hook)
    with pytest.raises(graphnn.ConversionError, match=r"0 \(Sequential\).*hook"):
        graphnn.from_module(model, torch.ones(1, 3))


class Loose(nn.Module):
    def forward(self, *tensors):
        return tensors[0]


class Keyword(nn.Module):
    def forward(self, x, *, scale):
        return x * scale


class Raises(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = nn.Sequential(Broken())

    def forward(self, x):
        return self.inner(x)


class Broken(nn.Module):
    def forward(self, x):
        raise KeyError("nothing here")


@pytest.mark.parametrize(
    ("model", "text"),
    [
        (Loose(), "must name its arguments"),
        (Keyword(), "got 1 inputs"),
        (Raises(), "inner.0 (Broken) cannot be traced"),
    ],
)
def test_forwards_that_cannot_be_traced_are_refused(model, text):
    with pytest.raises(graphnn.ConversionError) as error:
        graphnn.from_module(model, torch.ones(1, 3))
    assert text in str(error.value)


def test_the_line_of_an_error_while_tracing_is_shown():
    with pytest.raises(graphnn.ConversionError, match="raise KeyError"):
        graphnn.from_module(Raises(), torch.ones(1, 3))
