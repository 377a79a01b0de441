"""The graphs that every backend is held against, and the loop that says what is right."""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

import graphnn

# The backends that run on a CPU without an interpreter.
ON_CPU = tuple(name for name in graphnn.backends() if name != "fused_gpu")

# max |a - b| <= tolerance * max |b|. These are the contract's figures; they never soften.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}

ACTIVATIONS = {
    "identity": lambda x: x,
    "relu": lambda x: x.clamp(min=0),
    "relu6": lambda x: x.clamp(0, 6),
    "leaky_relu(0.2)": lambda x: torch.where(x > 0, x, 0.2 * x),
    "elu(0.5)": lambda x: torch.where(x > 0, x, 0.5 * torch.expm1(x.clamp(max=0))),
    "selu": lambda x: F.selu(x),
    # torch's own float64 gradient rounds 1 / alpha to float32, so alpha is a power of two here.
    "celu(0.5)": lambda x: torch.where(x > 0, x, 0.5 * torch.expm1(x.clamp(max=0) / 0.5)),
    "gelu": lambda x: 0.5 * x * (1 + torch.erf(x / 2**0.5)),
    "gelu_tanh": lambda x: (
        0.5 * x * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (x + 0.044715 * x**3)))
    ),
    "silu": lambda x: x / (1 + torch.exp(-x)),
    "mish": lambda x: x * torch.tanh(torch.log1p(torch.exp(x))),
    "softplus(2, 20)": lambda x: torch.log1p(torch.exp(2 * x)) / 2,
    "softsign": lambda x: x / (1 + x.abs()),
    "sigmoid": lambda x: 1 / (1 + torch.exp(-x)),
    "tanh": lambda x: torch.tanh(x),
    "clamp(-0.5, 0.25)": lambda x: x.clamp(-0.5, 0.25),
    # torch's own float64 gradient rounds 1 / 6 to float32, and agreeing with torch comes first.
    "hardsigmoid": lambda x: F.hardsigmoid(x),
    "hardswish": lambda x: x * ((x + 3) / 6).clamp(0, 1),
    "sin": lambda x: torch.sin(x),
    "gauss": lambda x: torch.exp(-(x**2)),
    "abs": lambda x: x.abs(),
    "square": lambda x: x**2,
}


def oracle(
    graph: graphnn.NeuronGraph, weight: Tensor, bias: Tensor, x: Tensor, offset: Tensor
) -> tuple[Tensor, Tensor]:
    """(values, preactivations), each (B, N), one neuron after the other."""
    source, target = graph.edge_index.tolist()
    incoming = [[] for _ in range(graph.num_neurons)]
    for edge, neuron in enumerate(target):
        incoming[neuron].append(edge)
    own_bias = dict(zip(graph.bias_neurons.tolist(), bias, strict=True))
    given = dict(zip(graph.input_ids.tolist(), x.unbind(1), strict=True))
    value: list[Tensor] = [x.new_empty(0)] * graph.num_neurons
    pre = list(value)
    shift = offset.unbind(1)
    for neuron in graph.level.argsort().tolist():
        total = given.get(neuron, x.new_zeros(x.shape[0]) + own_bias.get(neuron, 0.0))
        if incoming[neuron]:
            edges = incoming[neuron]
            total = total + weight[edges] @ torch.stack([value[source[e]] for e in edges])
        pre[neuron] = total + shift[neuron]
        value[neuron] = ACTIVATIONS[graph.activation[neuron]](pre[neuron])
    return torch.stack(value, 1), torch.stack(pre, 1)


def _dag(num_neurons: int, fan_in: int, seed: int, **options) -> graphnn.NeuronGraph:
    """A random DAG with permuted ids and shuffled edges."""
    generator = torch.Generator().manual_seed(seed)
    pairs = []
    for neuron in range(4, num_neurons):
        width = min(neuron, fan_in)
        sources = torch.randperm(neuron, generator=generator)[:width]
        pairs += [(source, neuron) for source in sources.tolist()]
    order = torch.randperm(len(pairs), generator=generator)
    ids = torch.randperm(num_neurons, generator=generator)
    edges = ids[torch.tensor(pairs)[order].t()]
    return graphnn.NeuronGraph(edges, num_neurons=num_neurons, **options)


def _dense(sizes: tuple[int, ...], activation: str, **options) -> graphnn.NeuronGraph:
    pieces, start = [], 0
    for below, above in pairwise(sizes):
        source = torch.arange(below).repeat(above) + start
        target = torch.arange(above).repeat_interleave(below) + start + below
        pieces.append(torch.stack([source, target]))
        start += below
    return graphnn.NeuronGraph(torch.cat(pieces, 1), activation=activation, **options)


def _chain(length: int) -> graphnn.NeuronGraph:
    ids = torch.arange(length)
    return graphnn.NeuronGraph(torch.stack([ids[:-1], ids[1:]]), activation="tanh")


def _deep_sparse(levels: int) -> graphnn.NeuronGraph:
    """Four neurons a level; each reads two of the level below: no level is a block."""
    source, target = [], []
    for level in range(1, levels):
        for i in range(4):
            source += [4 * (level - 1) + i, 4 * (level - 1) + (i + 1) % 4]
            target += [4 * level + i] * 2
    return graphnn.NeuronGraph([source, target], activation="tanh")


def _all_activations() -> graphnn.NeuronGraph:
    """Two levels with every activation on each, fed by 3 of 5 sources: mixed within a level."""
    names = list(ACTIVATIONS)
    count = len(names)
    source, target = [], []
    for i in range(count):
        source += [(i + k) % 5 for k in range(3)] + [5 + (i + k) % count for k in range(4)]
        target += [5 + i] * 3 + [5 + count + i] * 4
    activation = ["identity"] * 5 + names + names
    return graphnn.NeuronGraph([source, target], activation=activation)


def _wide_fan_in() -> graphnn.NeuronGraph:
    """One neuron with 10,000 sources beside one with 9,999: not a block."""
    source = torch.cat([torch.arange(10_000), torch.arange(1, 10_000)])
    target = torch.cat([torch.full((10_000,), 10_000), torch.full((9_999,), 10_001)])
    return graphnn.NeuronGraph(torch.stack([source, target]))


CASES = {
    "no edges at all": lambda: graphnn.NeuronGraph(torch.zeros(2, 0, dtype=torch.long), 3),
    "no inputs": lambda: graphnn.NeuronGraph([[0], [1]], inputs=[], activation="sigmoid"),
    "one edge": lambda: graphnn.NeuronGraph([[0], [1]], activation="relu"),
    "input-to-output skip": lambda: graphnn.NeuronGraph(
        [[0, 1, 2, 0, 1, 3], [2, 3, 4, 4, 4, 4]], activation="relu"
    ),
    "constant hidden neuron": lambda: graphnn.NeuronGraph(
        [[0, 1, 2, 1], [2, 2, 3, 4]], inputs=[0], activation="softplus(2, 20)"
    ),
    "constant without bias": lambda: graphnn.NeuronGraph(
        [[0, 1, 2], [2, 2, 3]], inputs=[0], activation="sigmoid", bias=[False, False, True, True]
    ),
    "isolated neuron": lambda: graphnn.NeuronGraph(
        [[0, 2], [2, 3]], num_neurons=5, inputs=[0, 1], outputs=[3], activation="tanh"
    ),
    "output that is also hidden": lambda: graphnn.NeuronGraph(
        [[0, 1, 2, 2], [2, 2, 3, 4]], outputs=[4, 2, 3], activation="elu(0.5)"
    ),
    "input that is also output": lambda: graphnn.NeuronGraph(
        [[0, 1], [2, 2]], outputs=[1, 2], activation="relu"
    ),
    "all inputs are outputs": lambda: graphnn.NeuronGraph([[0, 1], [2, 2]], outputs=[0, 1]),
    "repeated output": lambda: graphnn.NeuronGraph(
        [[0, 1, 0], [2, 2, 3]], outputs=[3, 2, 3, 0, 0], activation="silu"
    ),
    "inputs out of order": lambda: graphnn.NeuronGraph(
        [[0, 1, 2, 2], [3, 3, 3, 4]], inputs=[2, 0, 1], outputs=[4, 3], activation="relu"
    ),
    "groups": lambda: graphnn.NeuronGraph(
        [[0, 1, 2, 0, 3, 4, 3], [3, 3, 4, 4, 5, 5, 6]],
        inputs={"x2": [1], "x1": [0, 2]},
        outputs={"o2": [6], "o1": [5, 3]},
        activation="tanh",
    ),
    "depth 500 chain": lambda: _chain(500),
    "depth 500": lambda: _deep_sparse(500),
    "fan-in 10,000": _wide_fan_in,
    "dense": lambda: _dense((7, 16, 5), "relu"),
    "dense without bias": lambda: _dense((7, 16, 5), "gelu", bias=False),
    "dense, some biases": lambda: _dense(
        (3, 4, 2), "tanh", bias=[False] * 3 + [True, False, True, False] + [True, True]
    ),
    "dense, permuted ids": lambda: graphnn.NeuronGraph(
        torch.tensor([5, 3, 0, 4, 1, 2])[_dense((2, 3, 1), "relu").edge_index.flip(1)],
        activation="relu",
    ),
    "block over two levels": lambda: graphnn.NeuronGraph(
        [[3, 2, 3, 2, 1, 3, 2, 1], [1, 1, 4, 4, 0, 0, 0, 5]], activation="relu"
    ),
    "all activations": _all_activations,
    "random": lambda: _dag(40, 5, 0, activation="leaky_relu(0.2)"),
    "random, wide": lambda: _dag(300, 20, 1, activation="sin"),
    "random, without bias": lambda: _dag(60, 3, 2, activation="abs", bias=False),
}
