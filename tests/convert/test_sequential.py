import copy
import warnings
from typing import Any

import pytest
import torch
from cases import ON_CPU, TOLERANCE
from torch import nn
from torch.nn.utils import parametrizations, prune
from torch.nn.utils.parametrize import register_parametrization

import graphnn
from graphnn import parametrize
from graphnn.convert.activation_layer import NeuronActivation
from graphnn.convert.sequential import from_sequential
from graphnn.parametrize import Frozen

ACTIVATIONS = [
    nn.ReLU(),
    nn.ReLU(inplace=True),
    nn.ReLU6(),
    nn.LeakyReLU(0.2),
    nn.ELU(0.5),
    nn.SELU(),
    nn.CELU(0.7),
    nn.GELU(),
    nn.GELU("tanh"),
    nn.SiLU(),
    nn.Mish(),
    nn.Softplus(),
    nn.Softplus(2, 1),
    nn.Softsign(),
    nn.Sigmoid(),
    nn.Tanh(),
    nn.Hardtanh(-0.3, 0.4),
    nn.Hardsigmoid(),
    nn.Hardswish(),
    NeuronActivation("gauss"),
    NeuronActivation(["sin", "relu", "square", "abs", "sin"]),
]


def with_one_relu(relu):
    return [nn.Linear(5, 4), relu, nn.Linear(4, 4), relu, nn.Linear(4, 2)]


# No BatchNorm: parameters match one to one, so that every gradient can be compared.
PLAIN = {
    "one Linear": lambda: [nn.Linear(5, 3)],
    "without bias": lambda: [nn.Linear(5, 4, bias=False), nn.ReLU(), nn.Linear(4, 3, bias=False)],
    "some without bias": lambda: [nn.Linear(5, 4, bias=False), nn.Tanh(), nn.Linear(4, 3)],
    "deep": lambda: [m for _ in range(6) for m in (nn.Linear(5, 5), nn.Tanh())],
    "one neuron": lambda: [nn.Linear(5, 1), nn.Sigmoid(), nn.Linear(1, 3)],
    "Linear after Linear": lambda: [nn.Linear(5, 4), nn.Linear(4, 4), nn.ReLU(), nn.Linear(4, 2)],
    "activation first": lambda: [nn.Tanh(), nn.Linear(5, 3)],
    "activations first": lambda: [nn.Tanh(), nn.ELU(), nn.Linear(5, 3)],
    "activation after activation": lambda: [nn.Linear(5, 3), nn.ELU(), nn.Tanh(), nn.Linear(3, 2)],
    "activations last": lambda: [nn.Linear(5, 3), nn.ELU(), nn.Softsign(), nn.Sigmoid()],
    "mixed activation first": lambda: [
        NeuronActivation(["sin", "relu", "tanh", "abs", "identity"]),
        nn.Linear(5, 2),
    ],
    "Dropouts": lambda: [
        nn.Dropout(0.9),
        nn.Linear(5, 4),
        nn.Dropout1d(),
        nn.ReLU(),
        nn.AlphaDropout(),
        nn.Linear(4, 3),
        nn.Dropout(),
    ],
    "Identity and Flatten": lambda: [
        nn.Flatten(),
        nn.Identity(),
        nn.Linear(5, 4),
        nn.Flatten(),
        nn.ReLU(),
        nn.Identity(),
        nn.Linear(4, 3),
    ],
    "nested": lambda: [
        nn.Sequential(nn.Linear(5, 4), nn.Sequential(nn.ReLU())),
        nn.Sequential(),
        nn.Sequential(nn.Sequential(nn.Linear(4, 3), nn.Softmax(1)), nn.Dropout()),
    ],
    "Softmax": lambda: [nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 4), nn.Softmax(-1)],
    "Softmax after an activation": lambda: [nn.Linear(5, 3), nn.Tanh(), nn.Softmax(dim=1)],
    "LogSoftmax": lambda: [nn.Linear(5, 3), nn.LogSoftmax(-1), nn.Identity(), nn.Flatten()],
    "one activation module used twice": lambda: with_one_relu(nn.ReLU()),
    **{
        f"{layer!r}": lambda layer=layer: [nn.Linear(5, 5), copy.deepcopy(layer), nn.Linear(5, 3)]
        for layer in ACTIVATIONS
    },
}

FOLDED = {
    "after Linear": lambda: [nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 3)],
    "after Linear without bias": lambda: [
        nn.Linear(5, 4, bias=False),
        nn.BatchNorm1d(4),
        nn.Tanh(),
    ],
    "after Linear and Dropout": lambda: [nn.Linear(5, 4), nn.Dropout(), nn.BatchNorm1d(4)],
    "before the first Linear": lambda: [nn.BatchNorm1d(5), nn.Linear(5, 3)],
    "before Linear": lambda: [nn.Linear(5, 4), nn.ReLU(), nn.BatchNorm1d(4), nn.Linear(4, 3)],
    "before Linear without bias": lambda: [
        nn.BatchNorm1d(5),
        nn.Linear(5, 3, bias=False),
        nn.ELU(),
    ],
    "twice before": lambda: [nn.BatchNorm1d(5), nn.BatchNorm1d(5), nn.Linear(5, 3)],
    "twice after": lambda: [nn.Linear(5, 3), nn.BatchNorm1d(3), nn.BatchNorm1d(3)],
    "on both sides": lambda: [nn.BatchNorm1d(5), nn.Linear(5, 3), nn.BatchNorm1d(3), nn.Tanh()],
    "not affine": lambda: [nn.BatchNorm1d(5, affine=False), nn.Linear(5, 3)],
    "between Linears": lambda: [nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Linear(4, 3)],
    "between activations": lambda: [
        nn.Linear(5, 4),
        nn.Tanh(),
        nn.BatchNorm1d(4),
        nn.ELU(),
        nn.Linear(4, 2),
    ],
    "first, before an activation": lambda: [nn.BatchNorm1d(5), nn.Tanh(), nn.Linear(5, 2)],
    "last, after an activation": lambda: [nn.Linear(5, 4), nn.Tanh(), nn.BatchNorm1d(4)],
    "after an early activation": lambda: [nn.Tanh(), nn.BatchNorm1d(5), nn.Linear(5, 4)],
}


def held_entries(net, name) -> Any:
    return parametrize.frozen_mask(net, name)


def build(rng, layers, dtype=torch.float64) -> Any:
    model = nn.Sequential(*layers).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.uniform_(-1, 1, generator=rng)
        for name, buffer in model.named_buffers():
            if name.endswith("running_mean"):
                buffer.uniform_(-1, 1, generator=rng)
            elif name.endswith("running_var"):
                buffer.uniform_(0.3, 2, generator=rng)
    return model


def close(actual, expected):
    assert actual.dtype == expected.dtype
    assert actual.shape == expected.shape
    error = (actual - expected).abs().max()
    assert error <= TOLERANCE[expected.dtype] * expected.abs().max().clamp(min=1e-30)


def gradients(module, x, by_output):
    x = x.clone().requires_grad_()
    outputs = module(x)
    (outputs * by_output).sum().backward()
    return outputs, x.grad


def inputs(rng, model, dtype=torch.float64, samples=9):
    x = torch.randn(samples, 5, generator=rng, dtype=dtype)
    with torch.no_grad():
        width = copy.deepcopy(model).eval()(x).shape[1]
    return x, torch.randn(samples, width, generator=rng, dtype=dtype)


def free(net, name):
    """The parameter that is trained, and its gradient, as one flat pair."""
    parameter = dict(net.named_parameters()).get(name)
    if parameter is None:
        parameter = net.parametrizations[name].original
    return parameter


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("name", PLAIN)
def test_outputs_parameters_and_every_gradient_agree(rng, name, backend, dtype):
    model = build(rng, PLAIN[name](), dtype)
    net = from_sequential(model, backend=backend)
    assert net.backend == backend
    x, by_output = inputs(rng, model, dtype)
    model.eval()
    expected, by_x = gradients(model, x, by_output)
    outputs, net_by_x = gradients(net, x, by_output)
    close(outputs, expected)
    close(net_by_x, by_x)
    linears = [m for m in model.modules() if isinstance(m, nn.Linear)]
    weights: Any = [linear.weight for linear in linears]
    biases: Any = [linear.bias for linear in linears if linear.bias is not None]
    for parameter, own in (("weight", weights), ("bias", biases)):
        flat = free(net, parameter)
        copied = torch.cat([p.reshape(-1) for p in own]) if own else torch.empty(0, dtype=dtype)
        assert torch.equal(flat, copied)
        if own:
            close(flat.grad, torch.cat([p.grad.reshape(-1) for p in own]))
    count = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in net.parameters()) == count


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("backend", ON_CPU)
@pytest.mark.parametrize("name", FOLDED)
def test_batch_norm_folds(rng, name, backend, dtype):
    model = build(rng, FOLDED[name](), dtype)
    net = from_sequential(model, backend=backend)
    x, by_output = inputs(rng, model, dtype)
    model.eval()
    expected, by_x = gradients(model, x, by_output)
    outputs, net_by_x = gradients(net, x, by_output)
    close(outputs, expected)
    close(net_by_x, by_x)


@pytest.mark.parametrize(
    ("name", "edges", "levels"),
    [
        ("after Linear", 20 + 12, 3),
        ("before the first Linear", 15, 2),
        ("between Linears", 20 + 12, 3),
        ("between activations", 20 + 4 + 8, 4),
        ("first, before an activation", 5 + 10, 3),
        ("last, after an activation", 20 + 4, 3),
        ("after an early activation", 5 + 20, 3),
    ],
)
def test_batch_norm_adds_edges_only_where_it_cannot_fold(rng, name, edges, levels):
    graph = from_sequential(build(rng, FOLDED[name]())).graph
    assert (graph.num_edges, graph.num_levels) == (edges, levels)


def test_a_folded_one_to_one_level_holds_scale_and_shift(rng):
    model = build(rng, [nn.Linear(5, 2), nn.Tanh(), nn.BatchNorm1d(2)])
    net = from_sequential(model)
    norm = model[2]
    scale = norm.weight / (norm.running_var + norm.eps).sqrt()
    torch.testing.assert_close(net.weight[-2:], scale)
    torch.testing.assert_close(net.bias[-2:], norm.bias - norm.running_mean * scale)
    assert net.graph.edge_index[:, -2:].tolist() == [[5, 6], [7, 8]]


def test_a_norm_without_parameters_becomes_constants(rng):
    model = build(rng, [nn.Linear(5, 2), nn.Tanh(), nn.BatchNorm1d(2, affine=False)])
    net = from_sequential(model)
    assert held_entries(net, "weight").tolist() == [False] * 10 + [True] * 2
    assert held_entries(net, "bias").tolist() == [False] * 2 + [True] * 2


def test_folding_is_done_in_double_precision(rng):
    model = build(rng, [nn.Linear(5, 4), nn.BatchNorm1d(4)], torch.float32)
    net = from_sequential(model)
    exact = from_sequential(copy.deepcopy(model).double())
    assert torch.equal(net.weight, exact.weight.float())
    assert torch.equal(from_sequential(model, dtype=torch.float64).weight, exact.weight)


def test_numbering_is_layer_by_layer_and_row_major(rng):
    net = from_sequential(build(rng, [nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1)]))
    graph = net.graph
    assert graph.edge_index.tolist() == [[0, 1, 0, 1, 0, 1, 2, 3, 4], [2, 2, 3, 3, 4, 4, 5, 5, 5]]
    assert graph.activation == ("identity",) * 2 + ("relu",) * 3 + ("identity",)
    assert {k: v.tolist() for k, v in graph.inputs.items()} == {"input": [0, 1]}
    assert {k: v.tolist() for k, v in graph.outputs.items()} == {"output": [5]}
    assert graph.bias_neurons.tolist() == [2, 3, 4, 5]


def test_zero_weights_stay_edges(rng):
    model = build(rng, [nn.Linear(3, 3)])
    with torch.no_grad():
        model[0].weight[1] = 0
    assert from_sequential(model).graph.num_edges == 9


def test_a_trained_model_in_training_mode_is_read_as_in_eval_mode(rng):
    model = build(
        rng, [nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Dropout(), nn.Linear(4, 2)]
    )
    x = torch.randn(9, 5, generator=rng, dtype=torch.float64)
    model.train()
    net = from_sequential(model)
    assert model.training
    close(net(x), model.eval()(x))


def test_the_model_is_left_alone_and_shares_nothing(rng):
    model = build(rng, [nn.Tanh(), nn.BatchNorm1d(5), nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)])
    before = copy.deepcopy(model.state_dict())
    state = torch.random.get_rng_state()
    net = from_sequential(model)
    assert torch.equal(torch.random.get_rng_state(), state)
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
    after = model.state_dict()
    assert list(before) == list(after)
    assert all(torch.equal(before[key], after[key]) for key in before)
    assert all(p.grad is None for p in model.parameters())


def test_constant_edges_are_never_trained(rng):
    model = build(rng, [nn.Tanh(), nn.Linear(5, 3), nn.ELU(), nn.Sigmoid()], torch.float32)
    net = from_sequential(model)
    held = held_entries(net, "weight")
    assert held.tolist() == [True] * 5 + [False] * 15 + [True] * 3
    optimiser = torch.optim.AdamW(net.parameters(), lr=0.1, weight_decay=0.5)
    twin = torch.optim.AdamW(model.parameters(), lr=0.1, weight_decay=0.5)
    x, by_output = inputs(rng, model, torch.float32)
    for _ in range(3):
        for module, step in ((net, optimiser), (model, twin)):
            step.zero_grad()
            (module(x) * by_output).sum().backward()
            step.step()
    assert (net.weight[held] == 1).all()
    torch.testing.assert_close(net(x), model(x), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_keeps_its_bits(rng, dtype):
    model = build(rng, [nn.Linear(5, 3), nn.ReLU(), nn.Linear(3, 2)]).to(dtype)
    net = from_sequential(model)
    assert net.weight.dtype == dtype
    assert torch.equal(net.weight[:15], model[0].weight.reshape(-1))


def test_dtype_and_device_can_be_asked_for(rng):
    model = build(rng, [nn.Linear(5, 3)], torch.float32)
    net = from_sequential(model, dtype=torch.float64, device="cpu")
    assert net.weight.dtype == net.bias.dtype == torch.float64
    assert torch.equal(net.weight, model[0].weight.double().reshape(-1))
    with pytest.raises(graphnn.GraphError, match="dtype must be one of"):
        from_sequential(model, dtype=torch.int32)
    with pytest.raises(graphnn.BackendError, match="backend must be"):
        from_sequential(model, backend="fast")


def test_models_on_the_meta_device_give_a_wiring():
    with torch.device("meta"):
        model = nn.Sequential(nn.Linear(3, 2), nn.BatchNorm1d(2), nn.ReLU())
        net = from_sequential(model)
    assert net.weight.device.type == "meta"
    assert net.graph.num_edges == 6


def test_parameters_that_require_no_gradient_are_not_trained(rng):
    model = build(rng, [nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 2)])
    model.requires_grad_(False)
    net = from_sequential(model)
    assert not net.weight.requires_grad
    assert not net.bias.requires_grad
    assert sum(p.numel() for p in net.parameters()) == 34

    model[2].requires_grad_(True)
    net = from_sequential(model)
    assert held_entries(net, "weight").tolist() == [True] * 20 + [False] * 8
    assert held_entries(net, "bias").tolist() == [True] * 4 + [False] * 2
    trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
    assert sum(p.numel() for p in net.parameters() if p.requires_grad) == trained


def test_an_untrained_model_with_constants_counts_its_own_parameters(rng):
    model = build(rng, [nn.Tanh(), nn.Linear(5, 4)]).requires_grad_(False)
    net = from_sequential(model)
    assert sum(p.numel() for p in net.parameters()) == 24
    assert not any(p.requires_grad for p in net.parameters())


def test_parametrized_layers_give_their_effective_weight(rng):
    model = build(rng, [nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)])
    parametrizations.weight_norm(model[0])
    with torch.no_grad():
        model[0].parametrizations.weight.original0.mul_(3)
    net = from_sequential(model)
    assert torch.equal(net.weight[:20], model[0].weight.reshape(-1))


def test_reading_a_parametrization_does_not_advance_it(rng):
    model = build(rng, [nn.Linear(5, 4), nn.ReLU()])
    with warnings.catch_warnings():
        parametrizations.spectral_norm(model[0])
    before = copy.deepcopy(model.state_dict())
    net = from_sequential(model.train())
    after = model.state_dict()
    assert all(torch.equal(before[key], after[key]) for key in before)
    x = torch.randn(9, 5, generator=rng, dtype=torch.float64)
    close(net(x), model.eval()(x))


def test_entries_that_a_layer_holds_stay_held(rng):
    model = build(rng, [nn.Linear(3, 2), nn.ReLU(), nn.Linear(2, 1)])
    mask = torch.tensor([[True, False, False], [False, True, False]])
    register_parametrization(model[0], "weight", Frozen(mask, 0.0))
    register_parametrization(model[0], "bias", Frozen([True, False], 2.0))
    net = from_sequential(model)
    assert held_entries(net, "weight").tolist() == [*mask.reshape(-1).tolist(), False, False]
    assert held_entries(net, "bias").tolist() == [True, False, False]
    assert net.bias[0] == 2
    count = sum(p.numel() for p in model.parameters())
    assert sum(p.numel() for p in net.parameters()) == count


def test_pruned_layers_give_their_effective_weight(rng):
    model = build(rng, [nn.Linear(5, 4), nn.ReLU(), nn.Linear(4, 3)])
    prune.l1_unstructured(model[0], "weight", amount=0.5)
    prune.random_unstructured(model[2], "bias", amount=1)
    prune.l1_unstructured(model[0], "weight", amount=0.2)
    # An optimiser's step moves the original; the attribute follows at the next forward only.
    with torch.no_grad():
        model[0].weight_orig.mul_(2)
    net = from_sequential(model)
    x = torch.randn(9, 5, generator=rng, dtype=torch.float64)
    close(net(x), model(x))
    assert (net.weight[:20] == 0).sum() == 12


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            [nn.Linear(3, 4), nn.Linear(5, 2)],
            r"1 \(Linear\) takes 5 values, but 4 come from 0 \(Line",
        ),
        (
            [nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Sequential(nn.Linear(5, 2))],
            r"1\.0 \(Linear\) takes 5 values, but 4 come from 0\.0 \(Linear\)",
        ),
        ([nn.Linear(3, 4), nn.BatchNorm1d(5)], r"1 \(BatchNorm1d\) takes 5 values, but 4"),
        ([nn.BatchNorm1d(4), nn.Linear(3, 4)], r"1 \(Linear\) takes 3 values, but 4 come from 0"),
        (
            [nn.Linear(3, 4), NeuronActivation(["relu", "sin"])],
            r"1 \(NeuronActivation\) takes 2 values, but 4",
        ),
        (
            [NeuronActivation(["relu", "sin"]), nn.Linear(3, 4)],
            r"0 \(NeuronActivation\) gives 2 values, but 1 \(Linear\) takes 3",
        ),
        ([nn.Linear(3, 4), nn.Linear(4, 2).double()], r"1 \(Linear\) must have the dtype.*float64"),
        (
            [nn.Linear(3, 4), nn.Linear(4, 2, device="meta")],
            r"1 \(Linear\) must have the device of all layers: it has meta, but 0 \(Linear\)",
        ),
        (
            [nn.Linear(3, 4), nn.BatchNorm1d(4, affine=False, device="meta")],
            r"1 \(BatchNorm1d\) must have the device",
        ),
        (
            [nn.Linear(3, 4, dtype=torch.cfloat)],
            r"0 \(Linear\) must have a weight of real floating",
        ),
        (
            [nn.Linear(3, 4), nn.BatchNorm1d(4, track_running_stats=False)],
            r"1 \(BatchNorm1d\) must have running statistics",
        ),
        (
            [nn.Linear(3, 4), nn.Softmax(-1), nn.Linear(4, 2)],
            r"1 \(Softmax\) must be the last layer, but 2 \(Linear\) follows",
        ),
        ([nn.Linear(3, 4), nn.LogSoftmax(-1), nn.ReLU()], r"1 \(LogSoftmax\) must be the last"),
        ([nn.Linear(3, 4), nn.Softmax(-1), nn.Softmax(-1)], r"1 \(Softmax\) must be the last"),
        ([nn.Linear(3, 4), nn.Softmax(0)], r"1 \(Softmax\) must be over the features.*got dim=0"),
        ([nn.Flatten(0), nn.Linear(3, 4)], r"0 \(Flatten\) must flatten all but the batch"),
        ([nn.Flatten(1, 2), nn.Linear(3, 4)], r"start_dim=1, end_dim=2"),
        ([nn.ReLU(), nn.Dropout()], "at least one nn.Linear"),
        ([], "at least one nn.Linear"),
        ([nn.BatchNorm1d(3), nn.ReLU()], "at least one nn.Linear"),
        (
            [nn.Linear(3, 4), nn.Hardtanh(float("-inf"), 1.0)],
            r"1 \(Hardtanh\) has parameters that no activation has: .*finite",
        ),
    ],
)
def test_what_is_no_neuron_graph_is_refused_by_its_path(layers, message):
    with pytest.raises(graphnn.ConversionError, match=message):
        from_sequential(nn.Sequential(*layers))


@pytest.mark.parametrize("sizes", [(0, 3), (3, 0)])
def test_empty_layers_are_refused(sizes):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        layer = nn.Linear(*sizes)
    with pytest.raises(graphnn.ConversionError, match=r"0 \(Linear\) must have at least one input"):
        from_sequential(nn.Sequential(layer))


def test_sparse_weights_are_refused():
    layer = nn.Linear(3, 2)
    layer.weight = nn.Parameter(layer.weight.detach().to_sparse())
    with pytest.raises(graphnn.ConversionError, match=r"must have a dense weight.*sparse_coo"):
        from_sequential(nn.Sequential(layer))
