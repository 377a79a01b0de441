"""A default device is where new parameters go; what exists stays, and is worked on, where it is.

The meta device stands for a GPU: it holds no numbers, so that whatever strays there is found.
"""

import copy

import pytest
import torch
from torch import nn
from torch.nn.utils import parametrize

import graphnn
from graphnn import attribution, edit

CPU = torch.device("cpu")


def make(graph, rng):
    return graphnn.Network(graph, generator=rng)


@pytest.fixture(params=["sparse", "dense"])
def net(request, rng):
    if request.param == "dense":
        return make(graphnn.generate.layered([4, 6, 3], activation="tanh"), rng)
    return make(graphnn.generate.random_dag(4, 12, 3, 3, 3, activation="tanh", generator=rng), rng)


@pytest.fixture
def x(rng):
    return torch.randn(6, 4, generator=rng)


def ablation_curve(net, x):
    scores = attribution.gradient(net, x, 0).mean(0)
    order = torch.Generator(CPU).manual_seed(0)
    return attribution.ablation_curve(net, scores, lambda n: n(x).sum(), 3, generator=order).random


def completeness_error(net, x):
    scores = attribution.integrated_gradients(net, x, 0, steps=3)
    return attribution.completeness_error(net, x, 0, scores).nan_to_num(nan=7.0)


def constraints(net, x):
    count = net.graph.num_edges
    mask = torch.arange(count, device=CPU) == 0
    net = copy.deepcopy(net)
    for part in (
        graphnn.parametrize.Tied(torch.arange(count, device=CPU) // 2),
        graphnn.parametrize.Frozen(mask, torch.zeros((), device=CPU)),
        graphnn.parametrize.Sign(mask.long()),
    ):
        parametrize.register_parametrization(net, "weight", part)
    return net.weight


def weights_by_label(net, x):
    source, target = net.graph.edge_index[:, 0].tolist()
    return graphnn.init.weights_(copy.deepcopy(net), {(source, target): 0.5})


def module_of_means(net, x):
    linear = nn.Linear(2, 1, bias=False, device=CPU)
    nn.init.ones_(linear.weight)
    model = nn.Sequential(nn.AvgPool1d(2), nn.Flatten(), linear)
    return graphnn.from_module(model, x[:, None])(x)


def weights_put_back(net, x):
    model = nn.Sequential(nn.Linear(4, 3, device=CPU), nn.ReLU())
    converted = graphnn.from_module(model, x)
    with torch.no_grad():
        converted.weight.fill_(2)
    graphnn.export_weights(converted, model)
    return model[0].weight


def edges_with_biases(net, x):
    edges = [("a", "b", 2.0), ("b", "c", -1.0)]
    return graphnn.from_edges(edges, bias={"b": 1.5}, device="cpu").bias


def gradients_of_parameters(net, x):
    own = x.clone().requires_grad_()
    trace = net.trace(own, offset=torch.zeros(6, net.graph.num_neurons, device=CPU))
    loss = net(own).square().sum() + trace.values.square().sum()
    return torch.cat([g.flatten() for g in torch.autograd.grad(loss, (net.weight, net.bias, own))])


def gradients_of_slices(net, x):
    def loss(parameters, sample):
        return torch.func.functional_call(net, parameters, sample).square().sum()

    parameters = {name: value.detach() for name, value in net.named_parameters()}
    return torch.func.vmap(torch.func.grad(loss), (None, 0))(parameters, x[:, None])["weight"]


CALLS = {
    "Network": lambda net, x: graphnn.Network(net.graph, net.weight, net.bias).weight,
    "ablate": lambda net, x: attribution.ablate(net, [0, 5], [0.5, 1.0])(x),
    "ablate to a trace": lambda net, x: attribution.ablate(net, [5], net.trace(x))(x),
    "ablate an output": lambda net, x: attribution.ablate(net, net.graph.output_ids[:1])(x),
    "ablation_curve": ablation_curve,
    "add_edges": lambda net, x: edit.add_edges(net, net.graph.output_ids[:2, None], [2.0])(x),
    "aggregate": lambda net, x: attribution.aggregate(net(x), [0, 0, 1, 1, 2, 2]),
    "circuit_edges": lambda net, x: attribution.circuit_edges(net, x, 0, 5),
    "completeness_error": completeness_error,
    "conductance": lambda net, x: attribution.conductance(net, x, 0, steps=3),
    "constraints": constraints,
    "export_weights": weights_put_back,
    "from_edges": edges_with_biases,
    "from_module": module_of_means,
    "from_networkx": lambda net, x: graphnn.from_networkx(graphnn.to_networkx(net), device="cpu")(
        x
    ),
    "gradients of parameters": gradients_of_parameters,
    "gradient by edges": lambda net, x: attribution.gradient(net, x, 0, wrt="edge"),
    "gradient by values": lambda net, x: attribution.gradient(net, x, 0, wrt="value"),
    "gradient of several classes": lambda net, x: attribution.gradient(net, x, [0, 1, 2, 0, 1, 2]),
    "gradients of slices": gradients_of_slices,
    "prune": lambda net, x: edit.prune(net, [0])(x),
    "remove_neurons": lambda net, x: edit.remove_neurons(net, [4])(x),
    "to_module": lambda net, x: graphnn.to_module(net)(x),
    "top_edges": lambda net, x: net.trace(x).top_edges(3),
    "weights_": weights_by_label,
}


@pytest.mark.parametrize("name", sorted(CALLS))
def test_a_network_on_the_cpu_is_worked_on_there(name, net, x):
    # Once with the default device first: nothing may be kept that was made by the other call.
    fresh = copy.deepcopy(net)
    with torch.device("meta"):
        got = CALLS[name](net, x)
    assert got.device == CPU
    assert torch.equal(got, CALLS[name](fresh, x))
