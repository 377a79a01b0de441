import types
from collections import OrderedDict

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

import graphnn
from graphnn.convert.layer import Layer, iterate_layers
from graphnn.convert.sequential import from_sequential


class Doubling(nn.Linear):
    def forward(self, input):
        return 2 * super().forward(input)


class Named(nn.Linear):
    """Another name for the same computation."""


class Backwards(nn.Sequential):
    def forward(self, input):
        for module in reversed(self):
            input = module(input)
        return input


def watch(module, arguments, output):
    return None


def with_hook(register):
    model = nn.Sequential(nn.Linear(3, 4), nn.ReLU())
    register(model)
    return model


def shadowed():
    layer = nn.Linear(3, 4)
    layer.forward = types.MethodType(lambda self, x: x, layer)
    return layer


def tied():
    first, second = nn.Linear(3, 3), nn.Linear(3, 3)
    second.weight = first.weight
    return [first, nn.ReLU(), nn.Sequential(second)]


def twice():
    layer = nn.Linear(3, 3)
    return [layer, nn.Sequential(nn.ReLU(), layer)]


def test_layers_come_in_the_order_in_which_they_run():
    relu = nn.ReLU()
    model = nn.Sequential(
        OrderedDict(
            first=nn.Linear(3, 4),
            act=relu,
            block=nn.Sequential(nn.Linear(4, 4), relu),
            end=nn.Tanh(),
        )
    )
    layers = list(iterate_layers(model))
    assert [str(layer) for layer, _ in layers] == [
        "first (Linear)",
        "act (ReLU)",
        "block.0 (Linear)",
        "block.1 (ReLU)",
        "end (Tanh)",
    ]
    assert [kind for _, kind in layers] == [nn.Linear, nn.ReLU, nn.Linear, nn.ReLU, nn.Tanh]


def test_a_subclass_that_computes_the_same_is_its_base(rng):
    model = nn.Sequential(Named(3, 2), nn.ReLU())
    x = torch.randn(4, 3, generator=rng)
    torch.testing.assert_close(from_sequential(model)(x), model(x))
    assert Layer("0", Doubling(3, 2)).kind() is None


def test_a_lazy_layer_is_read_once_it_has_run():
    model = nn.Sequential(nn.LazyLinear(2), nn.ReLU())
    model(torch.zeros(1, 3))
    assert from_sequential(model).in_features == 3


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        ([nn.Sequential(nn.Conv2d(1, 1, 2))], r"^0\.0 \(Conv2d\) cannot be read as neurons"),
        ([nn.Linear(3, 4), nn.Sequential(nn.PReLU())], r"^1\.0 \(PReLU\) cannot be read"),
        ([nn.Linear(3, 4), nn.LayerNorm(4)], r"^1 \(LayerNorm\) cannot be read"),
        ([nn.BatchNorm2d(4)], r"^0 \(BatchNorm2d\) cannot be read"),
        ([nn.ModuleList([nn.Linear(3, 4)])], r"^0 \(ModuleList\) cannot be read"),
        ([nn.LSTM(3, 4)], r"^0 \(LSTM\) cannot be read"),
        ([Doubling(3, 4)], r"^0 \(Doubling\) cannot be read.*torch's own forward"),
        ([shadowed()], r"^0 \(Linear\) cannot be read"),
        ([nn.Sequential(Backwards(nn.Linear(3, 3)))], r"^0\.0 \(Backwards\) cannot be read"),
        (tied(), r"^2\.0 \(Linear\) must not share parameters with 0 \(Linear\)"),
        ([nn.LazyLinear(3)], r"^0 \(LazyLinear\) must know its sizes.*Run the model once"),
        ([nn.Linear(3, 4), nn.LazyBatchNorm1d()], r"^1 \(LazyBatchNorm1d\) must know its sizes"),
    ],
)
def test_layers_that_are_refused(layers, message):
    with pytest.raises(graphnn.ConversionError, match=message):
        from_sequential(nn.Sequential(*layers))


@pytest.mark.parametrize(
    ("layer", "is_read"),
    [
        (nn.Conv2d(1, 1, 2), True),
        (nn.AvgPool1d(2), True),
        (nn.Unflatten(1, (1, 4)), True),
        (nn.MaxPool2d(2), False),
        (nn.LSTM(3, 4), False),
    ],
)
def test_layers_that_from_module_reads_are_sent_there(layer, is_read):
    with pytest.raises(graphnn.ConversionError) as refused:
        from_sequential(nn.Sequential(layer))
    assert ("graphnn.from_module(model, example_input) reads" in str(refused.value)) == is_read


def test_one_layer_at_two_places_is_refused_naming_both():
    with pytest.raises(
        graphnn.ConversionError,
        match=r"^1\.1 \(Linear\) must not share parameters with 0 \(Linear\)",
    ):
        from_sequential(nn.Sequential(*twice()))


@pytest.mark.parametrize(
    ("register", "message"),
    [
        (
            lambda m: m[0].register_forward_hook(watch),
            r"^0 \(Linear\) must have no forward hooks.*watch",
        ),
        (
            lambda m: m[1].register_forward_pre_hook(watch),
            r"^1 \(ReLU\) must have no forward hooks",
        ),
        (
            lambda m: m.register_forward_hook(watch),
            r"^model \(Sequential\) must have no forward hooks",
        ),
    ],
)
def test_forward_hooks_are_refused(register, message):
    with pytest.raises(graphnn.ConversionError, match=message):
        from_sequential(with_hook(register))


def test_a_removed_hook_and_a_backward_hook_are_not_in_the_way():
    model = nn.Sequential(nn.Linear(3, 4))
    model[0].register_forward_hook(watch).remove()
    model[0].register_full_backward_hook(watch)
    from_sequential(model)


def test_pruning_is_no_foreign_hook():
    model = nn.Sequential(nn.Linear(3, 4))
    prune.random_unstructured(model[0], "weight", amount=3)
    assert (from_sequential(model).weight == 0).sum() == 3


@pytest.mark.parametrize(
    "model",
    [nn.Linear(3, 2), nn.ModuleList([nn.Linear(3, 2)]), Backwards(nn.Linear(3, 3)), "model", None],
)
def test_only_sequentials_are_taken(model):
    with pytest.raises(graphnn.ConversionError, match=r"must be an nn\.Sequential.*from_module"):
        from_sequential(model)
