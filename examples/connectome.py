"""A network wired like a nervous system: a connectome's edge list turned into a DAG.

    python examples/connectome.py            # makes one, of C. elegans' size
    python examples/connectome.py edges.csv  # rows: sending neuron, receiving neuron, synapses

Nervous systems have loops and a network has none, so the neurons are put in an order and every
connection that runs against it is dropped. The order is the one of Eades, Lin and Smyth (1993,
doi:10.1016/0020-0190(93)90079-O): again and again, neurons that send to nobody left go to the end,
neurons that hear from nobody left go to the front, and where there is neither, the neuron that
sends the most synapses beyond those it receives goes to the front.

The network then learns to steer: its inputs are left and right sensors in turn, and its outputs
together are to say which side is stimulated more. Weights start at the roots of a neuron's
shares of synapses, with random signs.
"""

import csv
import math
import random
import sys
from collections import Counter

import torch
import torch.nn.functional as F

import graphnn

Synapses = Counter[tuple[str, str]]


def make_connectome() -> Synapses:
    """About 2,400 connections of 80 sensory, 120 inter- and 100 motor neurons, with loops."""
    draw = random.Random(0)
    kinds = {"S": 80, "I": 120, "M": 100}
    neurons = [f"{kind}{i}" for kind, count in kinds.items() for i in range(count)]
    chance = {"SI": 0.09, "II": 0.05, "IM": 0.05, "SM": 0.01, "IS": 0.005, "MI": 0.01, "MM": 0.005}
    pairs = [(a, b) for a in neurons for b in neurons if a != b]
    linked = [(a, b) for a, b in pairs if draw.random() < chance.get(a[0] + b[0], 0.0)]
    return Counter({pair: 1 + int(draw.expovariate(0.3)) for pair in linked})


def read_connectome(path: str) -> Synapses:
    synapses: Synapses = Counter()
    with open(path, encoding="utf-8", newline="") as file:
        for source, target, count, *_ in csv.reader(file):
            if count.strip().isdigit():  # a header is not
                synapses[source, target] += int(count)
    return +synapses


def feed_forward_order(synapses: Synapses) -> list[str]:
    """All neurons, so that few synapses run from a later one to an earlier one."""
    sent: dict[str, Counter[str]] = {neuron: Counter() for ends in synapses for neuron in ends}
    heard: dict[str, Counter[str]] = {neuron: Counter() for neuron in sent}
    for (source, target), count in synapses.items():
        if source != target:
            sent[source][target] = heard[target][source] = count
    front: list[str] = []
    back: list[str] = []
    while sent:
        sinks = [neuron for neuron in sent if not sent[neuron]]
        sources = [neuron for neuron in sent if not heard[neuron]]
        most = max(sent, key=lambda neuron: sent[neuron].total() - heard[neuron].total())
        for neuron in sinks or sources or [most]:
            (back if sinks else front).append(neuron)
            for target in sent.pop(neuron):
                del heard[target][neuron]
            for source in heard.pop(neuron):
                del sent[source][neuron]
    return front + back[::-1]


synapses = read_connectome(sys.argv[1]) if len(sys.argv) > 1 else make_connectome()
place = {neuron: i for i, neuron in enumerate(feed_forward_order(synapses))}
kept = Counter({ends: n for ends, n in synapses.items() if place[ends[0]] < place[ends[1]]})
print(f"{len(place)} neurons, {len(synapses):,} connections; against the order, and dropped, are")
share = 1 - kept.total() / synapses.total()
print(f"{len(synapses) - len(kept):,} connections with {share:.1%} of the synapses")

heard = Counter[str]()
for (_, target), count in kept.items():
    heard[target] += count
sign = random.Random(1)  # an edge list does not say which synapses inhibit
edges = [
    (source, target, sign.choice((-1, 1)) * math.sqrt(count / heard[target]))
    for (source, target), count in kept.items()
]
net = graphnn.from_edges(edges, activation="tanh", bias={})
print(f"as a DAG: {net.graph.num_neurons} neurons, {net.graph.num_edges:,} edges, ", end="")
print(f"{net.graph.num_levels} levels, {net.in_features} inputs, {net.out_features} outputs")

x = torch.rand(2000, net.in_features, generator=torch.Generator().manual_seed(0))
is_left = x[:, ::2].mean(1) > x[:, 1::2].mean(1)
learn, new = slice(0, 1500), slice(1500, None)
optimizer = torch.optim.Adam(net.parameters(), lr=0.01)
for epoch in range(50):
    loss = F.binary_cross_entropy_with_logits(net(x[learn]).mean(1), is_left[learn].float())
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if epoch % 10 == 9:
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
right = ((net(x[new]).mean(1) > 0) == is_left[new]).float().mean().item()
print(f"steers to the right side for {right:.1%} of new stimuli")
assert right > 0.6
