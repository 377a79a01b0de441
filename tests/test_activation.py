"""Activation names, their parameters, and adding one's own."""

# A gradient is None before the backward pass, a parametrization is a module that looks like a
# tensor to the type checker, and wrong types are given on purpose.
# pyright: reportOptionalMemberAccess=false, reportOptionalSubscript=false
# pyright: reportAttributeAccessIssue=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportIndexIssue=false, reportOptionalIterable=false

import pytest
import torch
from torch import nn

import graphnn

# What torch calls the function of each name.
MODULES = {
    "identity": nn.Identity(),
    "relu": nn.ReLU(),
    "relu6": nn.ReLU6(),
    "leaky_relu": nn.LeakyReLU(),
    "leaky_relu(0.2)": nn.LeakyReLU(0.2),
    "elu": nn.ELU(),
    "elu(0.5)": nn.ELU(0.5),
    "selu": nn.SELU(),
    "celu": nn.CELU(),
    "celu(0.5)": nn.CELU(0.5),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU("tanh"),
    "silu": nn.SiLU(),
    "mish": nn.Mish(),
    "softplus": nn.Softplus(),
    "softplus(2, 20)": nn.Softplus(2, 20),
    "softplus(0.5, 1)": nn.Softplus(0.5, 1),
    "softsign": nn.Softsign(),
    "sigmoid": nn.Sigmoid(),
    "tanh": nn.Tanh(),
    "clamp(-1, 1)": nn.Hardtanh(),
    "clamp(0, 32)": nn.Hardtanh(0, 32),
    "hardsigmoid": nn.Hardsigmoid(),
    "hardswish": nn.Hardswish(),
    "sin": torch.sin,
    "gauss": lambda x: torch.exp(-x.pow(2)),
    "abs": torch.abs,
    "square": torch.square,
}

# The backends that run any torch function; compiled ones have code for the contract's names only.
EAGER = ["scatter", "reference"]

graphnn.register_activation("test_cube", lambda x: x**3)
graphnn.register_activation("test_step", lambda x: (x > 0).to(x.dtype))
graphnn.register_activation("test_bool", lambda x: x > 0)
graphnn.register_activation("test_sum", lambda x: x.sum())


def hidden(activation):
    """Two inputs -> two neurons -> one output, which is not a stack of complete levels."""
    names = ["identity", "identity", activation, "tanh", "identity"]
    return graphnn.NeuronGraph([[0, 1, 1, 2, 3], [2, 2, 3, 4, 4]], activation=names)


@pytest.mark.parametrize("name", MODULES)
def test_is_torchs_function(name):
    x = torch.linspace(-40, 40, 161, dtype=torch.float64)
    torch.testing.assert_close(graphnn.activation.resolve(name)(x), MODULES[name](x))


def test_every_name_of_the_contract_is_tried():
    names = {graphnn.activation.resolve(name).function for name in MODULES}
    assert names == graphnn.activation.built_in()


@pytest.mark.parametrize(
    ("written", "name", "parameters"),
    [
        ("relu", "relu", ()),
        (" relu ( ) ", "relu", ()),
        ("elu", "elu", (1.0,)),
        ("elu(1.0)", "elu", (1.0,)),
        ("elu(5e-1)", "elu(0.5)", (0.5,)),
        ("leaky_relu(0.01)", "leaky_relu", (0.01,)),
        ("leaky_relu(-1)", "leaky_relu(-1)", (-1.0,)),
        ("softplus(2)", "softplus(2, 20)", (2.0, 20.0)),
        ("softplus( 1 ,20 )", "softplus", (1.0, 20.0)),
        ("clamp", "clamp(-1, 1)", (-1.0, 1.0)),
        ("clamp(0, 32.0)", "clamp(0, 32)", (0.0, 32.0)),
        ("clamp(-0.1,0.1)", "clamp(-0.1, 0.1)", (-0.1, 0.1)),
        ("elu(0.1234567890123456789)", "elu(0.12345678901234568)", (0.12345678901234568,)),
    ],
)
def test_canonical_name(written, name, parameters):
    activation = graphnn.activation.resolve(written)
    assert (activation.name, activation.parameters) == (name, parameters)
    assert graphnn.activation.resolve(activation.name) == activation


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("rellu", r"got 'rellu'\)\. Did you mean 'relu'"),
        ("ReLU", r"Did you mean 'relu'"),
        ("leakyrelu(0.2)", r"Did you mean 'leaky_relu'"),
        ("zzzzzz", r"must be one of identity, relu, .*got 'zzzzzz'\)\. Use graphnn\.register"),
        ("", r"must be one of"),
        ("relu(", r"must be one of"),
        ("elu(1)(2)", r"must be one of"),
        ("relu(1)", r"'relu\(1\)' must have at most 0 parameters \(got 1\)"),
        ("elu(1, 2)", r"at most 1 parameters \(got 2\)"),
        ("elu(x)", r"must be numbers, such as 'elu\(0\.5\)' \(got 'elu\(x\)'\)"),
        ("elu(1,)", r"must be numbers"),
        ("elu(nan)", r"must be finite"),
        ("clamp(0, inf)", r"must be finite"),
        ("clamp(2, 1)", r"low <= high \(got 'clamp\(2, 1\)'\)"),
        ("celu(0)", r"alpha must not be 0"),
        ("softplus(0)", r"beta must not be 0"),
        (None, r"must be a name, such as 'relu' \(got NoneType"),
        (["relu"], r"must be a name, such as 'relu' \(got list"),
        (torch.relu, r"must be a name"),
    ],
)
def test_refuses(name, message):
    with pytest.raises(graphnn.GraphError, match=message):
        graphnn.activation.resolve(name)


def test_an_activation_is_a_value():
    one, other = graphnn.activation.resolve("elu(0.5)"), graphnn.activation.resolve("elu( 0.50 )")
    assert one == other
    assert len({one, other, graphnn.activation.resolve("elu")}) == 2


@pytest.mark.parametrize("backend", EAGER)
def test_a_registered_activation_runs_and_has_a_gradient(backend):
    net = graphnn.Network(hidden("test_cube"), torch.arange(1.0, 6), torch.zeros(3), backend)
    net(torch.tensor([[1.0, 2.0]])).backward()
    # 4 * (1 * 1 + 2 * 2) ** 3 has the gradient 4 * 3 * 25 times the source values.
    assert net.weight.grad[:2].tolist() == [300.0, 600.0]
    assert net.weight.grad[3] == 125


@pytest.mark.parametrize("backend", sorted(set(graphnn.backends()) - set(EAGER)))
def test_backends_without_code_for_it_say_so(backend):
    net = graphnn.Network(hidden("test_cube"))
    x = torch.ones(2, 2)
    assert "test_cube" in "".join(net.backend_report(x).reasons[backend])
    net.backend = backend
    with pytest.raises(graphnn.BackendError, match=f"backend '{backend}' cannot run.*test_cube"):
        net(x)


@pytest.mark.parametrize("backend", EAGER)
@pytest.mark.parametrize("everywhere", [True, False])
def test_a_step_has_gradient_zero(backend, everywhere):
    names = "test_step" if everywhere else ["identity"] * 2 + ["test_step"] * 2 + ["identity"]
    graph = graphnn.NeuronGraph([[0, 1, 1, 2, 3], [2, 2, 3, 4, 4]], activation=names)
    x = torch.ones(3, 2, requires_grad=True)
    net = graphnn.Network(graph, torch.ones(5), torch.zeros(3), backend)
    (net(x).sum() + 0 * x.sum()).backward()
    assert x.grad.eq(0).all()
    if not everywhere:
        assert net.weight.grad.tolist() == [0, 0, 0, 3, 3]


def test_a_registered_activation_runs_under_torch_func():
    net = graphnn.Network(hidden("test_cube"), torch.ones(5), torch.zeros(3))
    slope = torch.func.grad(lambda x: net(x).sum())(torch.tensor([1.0, 1.0]))
    tanh = 1 - torch.tanh(torch.tensor(1.0)) ** 2
    torch.testing.assert_close(slope, torch.stack([torch.tensor(12.0), 12 + tanh]))


@pytest.mark.parametrize("backend", EAGER)
@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("test_bool", r"'test_bool' must keep shape and dtype: .*got .*torch\.bool back"),
        ("test_sum", r"'test_sum' must keep shape and dtype: .*\(got \(\), torch\.float32 back"),
    ],
)
def test_a_registered_function_must_keep_shape_and_dtype(backend, name, message):
    net = graphnn.Network(hidden(name), backend=backend)
    with pytest.raises(graphnn.GraphError, match=message):
        net(torch.ones(2, 2))


def test_a_trained_activation_gets_its_gradient_or_is_refused():
    slope = nn.Parameter(torch.tensor(0.25))
    graphnn.register_activation("test_prelu", lambda x: torch.where(x > 0, x, slope * x))
    net = graphnn.Network(hidden("test_prelu"), torch.ones(5), torch.zeros(3))
    x = torch.tensor([[-1.0, -2.0]])
    report = net.backend_report(x)
    assert report.backend == "reference"
    assert "'test_prelu' has parameters of its own" in report.reasons["scatter"][0]
    net(x).backward()
    assert slope.grad == -3
    net.backend = "scatter"
    with pytest.raises(graphnn.BackendError, match="'test_prelu' has parameters of its own"):
        net(x)
    with torch.no_grad():
        assert net(x).isfinite().all()


def test_registering_again_replaces():
    for factor in (2, 3):
        graphnn.register_activation("test_factor", lambda x, factor=factor: factor * x)
        assert graphnn.activation.resolve("test_factor")(torch.ones(1)) == factor


def test_any_identifier_can_be_registered():
    graphnn.register_activation("écart_2", torch.sin)
    assert graphnn.activation.resolve("écart_2").name == "écart_2"
    with pytest.raises(graphnn.GraphError, match="at most 0 parameters"):
        graphnn.activation.resolve("écart_2(1)")


@pytest.mark.parametrize(
    ("name", "function", "message"),
    [
        ("relu", torch.relu, "'relu' is a built-in activation"),
        ("my relu", torch.relu, "must be an identifier"),
        ("", torch.relu, "must be an identifier"),
        (3, torch.relu, "must be an identifier"),
        ("test_uncallable", 3, "must be callable on a tensor .got int"),
    ],
)
def test_register_refuses(name, function, message):
    with pytest.raises(graphnn.GraphError, match=message):
        graphnn.register_activation(name, function)


def test_clamp_takes_both_bounds_or_none():
    assert graphnn.activation.resolve("clamp").name == "clamp(-1, 1)"
    with pytest.raises(graphnn.GraphError, match=r"both bounds.*clamp\(1\)"):
        graphnn.activation.resolve("clamp(1)")
