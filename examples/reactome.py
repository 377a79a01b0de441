"""A network whose wiring is a hierarchy of biological pathways, as in Reactome.

    python examples/reactome.py                              # makes a small hierarchy of its own
    python examples/reactome.py ReactomePathwaysRelation.txt # rows: parent <tab> child

Turned round, every pathway feeds its parents: the most specific pathways are the inputs, the top
ones the outputs. Patients are simulated: each input's activity is random, and who is ill is decided
by one pathway hidden in the middle. The network learns to tell who is ill, and because its neurons
are pathways, its strongest edges then say where the cause lies.
"""

import random
import sys
import tempfile
from collections import defaultdict
from itertools import pairwise
from pathlib import Path

import torch
import torch.nn.functional as F

import graphnn


def make_hierarchy(num_levels: int = 6, width: int = 40) -> list[tuple[str, str]]:
    """(parent, child) pairs: every pathway has a parent one level above, some have another."""
    draw = random.Random(0)
    levels = [
        [f"P{level}-{i}" for i in range(4 + level * width // 5)] for level in range(num_levels)
    ]
    pairs = set()
    for above, below in pairwise(levels):
        pairs |= {(draw.choice(above), child) for child in below}
        pairs |= {(draw.choice(levels[0]), child) for child in draw.sample(below, 1)}
    return sorted(pairs)


if len(sys.argv) > 1:
    rows = Path(sys.argv[1]).read_text(encoding="utf-8").splitlines()
    relation = [(parent, child) for parent, child in (row.split("\t") for row in rows)]
else:
    relation = make_hierarchy()

# A pathway starts as the scaled sum of its children.
children = defaultdict(list)
for parent, child in relation:
    children[parent].append(child)
edges = [(child, parent, len(children[parent]) ** -0.5) for parent, child in relation]
net = graphnn.from_edges(edges, activation="tanh", bias=False)
graph = net.graph
print(f"{graph.num_neurons:,} pathways, {graph.num_edges:,} edges, {graph.num_levels} levels")
print(f"{net.in_features:,} inputs, {net.out_features:,} outputs")


def specific(pathway: str) -> set[str]:
    """The most specific pathways below one."""
    below = children.get(pathway, [])
    return set().union(*map(specific, below)) if below else {pathway}


# The cause: of the pathways that are neither input nor output, the one with most inputs below.
names = graph.names or ()
inputs = [names[i] for i in graph.input_ids.tolist()]
ends = {names[i] for i in graph.output_ids.tolist()} | set(inputs)
cause = max(sorted(set(children) - ends), key=lambda pathway: len(specific(pathway)))
generator = torch.Generator().manual_seed(0)
x = torch.randn(5000, len(inputs), generator=generator)
members = torch.tensor([name in specific(cause) for name in inputs])
ill = (x[:, members].sum(1) > 0).float()
print(f"the cause is {cause}, with {int(members.sum())} specific pathways below")

learn, new = slice(0, 4000), slice(4000, None)
optimizer = torch.optim.Adam(net.parameters(), lr=0.1)
for epoch in range(30):
    loss = F.binary_cross_entropy_with_logits(net(x[learn]).sum(1), ill[learn])
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    if epoch % 10 == 9:
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
right = ((net(x[new]).sum(1) > 0) == ill[new].bool()).float().mean().item()
print(f"right on {right:.1%} of new patients")
assert right > 0.7

# What carries the verdict in those who are ill: weight times source value, largest mean first.
trace = net.trace(x[new][ill[new] == 1])
strongest = trace.top_edges(5)
for source, target in graph.edge_index[:, strongest].t().tolist():
    print(f"  {names[source]} -> {names[target]}{' (from the cause)' * (names[source] == cause)}")
assert cause in [names[i] for i in graph.edge_index[:, strongest].flatten().tolist()]

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "pathways.graphml"
    graphnn.write_graphml(net, path, trace=trace, sample=0)
    again = graphnn.read_graphml(path)
    print(f"GraphML of {path.stat().st_size / 1000:,.0f} kB with one patient's values, and back")
assert again.graph == graph
assert torch.equal(again.weight, net.weight)
