import copy
import pickle

import pytest
import torch
from cases import ACTIVATIONS
from torch import nn

import graphnn
from graphnn.activation import resolve
from graphnn.convert.activation_layer import (
    ACTIVATION_LAYERS,
    NeuronActivation,
    read_activation_layer,
    write_activation_layer,
)

LAYERS = {
    "relu": nn.ReLU(inplace=True),
    "relu6": nn.ReLU6(),
    "leaky_relu": nn.LeakyReLU(),
    "leaky_relu(0.2)": nn.LeakyReLU(0.2),
    "elu(0.5)": nn.ELU(0.5),
    "selu": nn.SELU(),
    "celu(0.7)": nn.CELU(0.7),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU("tanh"),
    "silu": nn.SiLU(),
    "mish": nn.Mish(),
    "softplus": nn.Softplus(),
    "softplus(2, 5)": nn.Softplus(2, 5),
    "softsign": nn.Softsign(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "clamp(-1, 1)": nn.Hardtanh(),
    "clamp(-0.5, 0.25)": nn.Hardtanh(-0.5, 0.25),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(),
}


@pytest.mark.parametrize("name", LAYERS)
def test_torch_layers_are_read(rng, name):
    layer = LAYERS[name]
    assert read_activation_layer(layer, type(layer)) == name
    x = 4 * torch.randn(50, generator=rng)
    assert torch.equal(resolve(name)(x), layer(x.clone()))


@pytest.mark.parametrize("name", [*LAYERS, *ACTIVATIONS])
def test_what_is_written_reads_back_and_computes_the_same(rng, name):
    layer = write_activation_layer([resolve(name)] * 3)
    x = 4 * torch.randn(20, 3, generator=rng)
    assert torch.equal(layer(x.clone()), resolve(name)(x))
    if name == "identity":
        assert type(layer) is nn.Identity
    else:
        assert type(layer) in ACTIVATION_LAYERS
        assert read_activation_layer(layer, type(layer)) == resolve(name).name


def test_a_clamp_to_one_value_has_no_torch_layer():
    layer = write_activation_layer([resolve("clamp(2, 2)")])
    assert layer(torch.tensor([-1.0, 5.0])).tolist() == [2.0, 2.0]


def test_mixed_activations_are_applied_by_feature(rng):
    names = ["tanh", "square", "relu", "tanh", "identity", "leaky_relu(0.2)"]
    layer = NeuronActivation(names)
    x = torch.randn(2, 3, 6, generator=rng, dtype=torch.float64, requires_grad=True)
    expected = torch.stack([resolve(n)(x[..., i]) for i, n in enumerate(names)], -1)
    assert torch.equal(layer(x), expected)
    assert torch.autograd.gradcheck(layer, (x,))
    assert layer.activation == tuple(names)
    assert not list(layer.parameters())
    assert layer.state_dict() == {}


@pytest.mark.parametrize("names", ["gauss", ["sin", "sin"], ["sin", "abs"]])
def test_neuron_activation_copies_pickles_and_compiles(rng, names):
    layer = NeuronActivation(names)
    x = torch.randn(4, 2, generator=rng)
    expected = layer(x)
    assert torch.equal(copy.deepcopy(layer)(x), expected)
    assert torch.equal(pickle.loads(pickle.dumps(layer))(x), expected)
    assert torch.equal(torch.compile(layer, fullgraph=True, backend="eager")(x), expected)
    assert layer.activation == (names if isinstance(names, str) else tuple(names))


def test_it_shows_its_names():
    assert repr(NeuronActivation(["relu", "sin"])) == "NeuronActivation(relu, sin, features=2)"
    assert repr(NeuronActivation("elu(0.5)")) == "NeuronActivation(elu(0.5))"


@pytest.mark.parametrize(
    ("names", "message"),
    [
        ([], "one name, or one per feature"),
        ("rleu", "Did you mean 'relu'"),
        (["relu", 3], "got int"),
    ],
)
def test_names_that_are_none(names, message):
    with pytest.raises(graphnn.GraphError, match=message):
        NeuronActivation(names)


def test_another_number_of_features_is_refused():
    with pytest.raises(graphnn.GraphError, match=r"shape \(\*, 2\).*got \(5, 3\)"):
        NeuronActivation(["relu", "sin"])(torch.zeros(5, 3))
