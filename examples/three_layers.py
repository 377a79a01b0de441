"""A net of 1-2-3-1 neurons and its triplets (source value, edge weight, target value).

Every nn.Sequential of Linears is a graph: 1 x 2 + 2 x 3 + 3 x 1 = 11 edges, each with its weight.
"""

import torch
from torch import nn

import graphnn

model = nn.Sequential(
    nn.Linear(1, 2), nn.Tanh(),
    nn.Linear(2, 3), nn.Tanh(),
    nn.Linear(3, 1),
)  # fmt: skip
net = graphnn.from_sequential(model)
print(net)

# The same function, with the same parameters.
x = torch.tensor([[0.5], [-1.0], [2.0]])
torch.testing.assert_close(net(x), model(x))

# A trace keeps what one call computed: values (B, N), one column for each of the 7 neurons.
trace = net.trace(x)
assert trace.values.shape == (3, 7)

# One tensor (B, edges, 3) for each level of connections: 2, 6 and 3 triplets for each sample.
triplets = trace.triplets()
assert [level.shape[1] for level in triplets] == [2, 6, 3]

names = ["x", "a1", "a2", "b1", "b2", "b3", "y"]
for number, level in enumerate(triplets, start=1):
    print(f"level {number}, first sample:")
    edges = net.graph.edge_index[:, net.graph.edges_of_level(number)].t().tolist()
    for (source, target), triplet in zip(edges, level[0].tolist(), strict=True):
        value, weight, reached = triplet
        print(f"  {names[source]} {value:+.3f} --({weight:+.3f})--> {names[target]} {reached:+.3f}")
        assert value == trace.values[0, source].item()
        assert reached == trace.values[0, target].item()

# For a level that came from an nn.Linear(i, o) the triplets are the dense (o, i) grid: value times
# weight, summed over i, plus the bias is what the next layer's neurons add up.
grid = triplets[1].view(3, 3, 2, 3)
messages = (grid[..., 0] * grid[..., 1]).sum(dim=2)
torch.testing.assert_close(messages + net.bias[2:5], trace.preactivations[:, 3:6])

# target="preactivation" gives the targets before their activation.
before = trace.triplets(target="preactivation")[1]
torch.testing.assert_close(torch.tanh(before[..., 2]), triplets[1][..., 2])
print("2, 6 and 3 triplets, equal to what the nn.Sequential computes")
