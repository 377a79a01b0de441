"""What the GPU backend's tests share."""

from itertools import pairwise

import torch

import graphnn

ON_GPU = torch.cuda.is_available()
ROUNDING = {torch.float32: 1e-5, torch.float64: 1e-12, torch.bfloat16: 4e-2, torch.float16: 5e-3}


def layered(rng, device, sizes=(5, 9, 9, 4), fan_in=3, activation="gelu", dtype=torch.float32):
    """A layered network no level of which is a block."""
    source, target, start = [], [], 0
    for below, above in pairwise(sizes):
        for neuron in range(above):
            chosen = torch.randperm(below, generator=rng)[:fan_in] + start
            source += chosen.tolist()
            target += [start + below + neuron] * fan_in
        start += below
    graph = graphnn.NeuronGraph(
        [source, target], outputs=range(start, sum(sizes)), inputs=range(sizes[0]),
        num_neurons=sum(sizes), activation=activation,
    )  # fmt: skip
    weight = torch.randn(graph.num_edges, generator=rng)
    bias = torch.randn(graph.bias_neurons.numel(), generator=rng)
    return graphnn.Network(graph, weight, bias, "fused_gpu", dtype=dtype, device=device)


def samples(net, batch, rng):
    x = torch.randn(batch, net.in_features, generator=rng)
    return x.to(net.weight.device, net.weight.dtype)


def gradients(net, x):
    """Outputs and all gradients of a fixed loss."""
    x = x.detach().clone().requires_grad_()
    outputs = net(x)
    outputs = outputs if isinstance(outputs, torch.Tensor) else torch.cat(tuple(outputs), -1)
    return outputs.detach(), *torch.autograd.grad(outputs.square().sum(), (net.weight, net.bias, x))


def agree(found, expected, dtype=torch.float32):
    for one, other in zip(found, expected, strict=True):
        one, other = one.double(), other.double()
        if other.numel():
            scale = other.abs().max().clamp(min=1e-30)
            assert (one - other).abs().max() <= ROUNDING[dtype] * scale


def by_reference(net, x):
    twin = graphnn.Network(net.graph, net.weight, net.bias, "reference", dtype=torch.float64)
    return gradients(twin, x.double())
