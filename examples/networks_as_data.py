"""Networks as training data: a graph network tells how a network behaves without running it.

300 random networks become PyTorch Geometric graphs, each labelled with the spread of its outputs on
random inputs. A message-passing model reads nothing but wiring, weights, biases and activations and
predicts that number for networks that it has not seen.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch_geometric.data import Batch
from torch_geometric.loader import DataLoader
from torch_geometric.nn import GraphConv

import graphnn

GENERATOR = torch.Generator().manual_seed(0)


def draw(low: int, high: int) -> int:
    return int(torch.randint(low, high, (1,), generator=GENERATOR))


def random_network() -> graphnn.Network:
    """4 inputs, 4 to 8 hidden neurons of one activation, one output; edges and their size vary."""
    hidden = draw(4, 9)
    source, target = torch.triu_indices(4 + hidden + 1, 4 + hidden + 1, offset=1)
    possible = (target >= 4) & (torch.rand(source.shape, generator=GENERATOR) < 0.4)
    possible |= target - source == 1
    edges = torch.stack([source, target])[:, possible & (target >= 4)]
    activation = ("tanh", "relu", "sigmoid")[draw(0, 3)]
    net = graphnn.from_edges(edges, [0, 1, 2, 3], [4 + hidden], activation, generator=GENERATOR)
    with torch.no_grad():
        net.weight *= 1 + draw(0, 3)
    return net


def log_spread(net: graphnn.Network) -> Tensor:
    with torch.no_grad():
        return net(torch.randn(256, 4, generator=GENERATOR)).std().log()


class Reader(nn.Module):
    """Passes messages along the edges, each times its squared weight, and reads at the outputs."""

    def __init__(self, width: int = 16, num_steps: int = 4) -> None:
        super().__init__()
        self.activation = nn.Embedding(len(graphnn.activation.built_in()), width)
        self.start = nn.Linear(3, width)
        self.steps = nn.ModuleList(GraphConv(width, width) for _ in range(num_steps))
        self.end = nn.Linear(width, 1)

    def forward(self, batch: Any) -> Tensor:
        """One number for each network of a batch."""
        bias, activation, level, role = batch.x.unbind(1)
        start = self.start(torch.stack([bias, level, role], 1)) + self.activation(activation.long())
        h = start.tanh()
        for step in self.steps:
            h = F.softplus(step(h, batch.edge_index, batch.edge_attr.square()))
        return self.end(h[role >= 2].log1p()).flatten()


# The tensors are small: several threads would wait for each other more than they work.
torch.set_num_threads(1)
networks = [random_network() for _ in range(300)]
graphs: list[Any] = [graphnn.to_pyg(net) for net in networks]
for net, graph in zip(networks, graphs, strict=True):
    graph.y = log_spread(net).reshape(1)
print(networks[0], graphs[0], sep="\n")

# A batch is one big graph, and comes apart into the very same networks.
batch: Any = Batch.from_data_list(graphs)
for net, graph in zip(networks, batch.to_data_list(), strict=True):
    again = graphnn.from_pyg(graph)
    assert again.graph == net.graph
    assert torch.equal(again.weight, net.weight)

(seen,) = DataLoader(graphs[:200], batch_size=200)
with torch.random.fork_rng(devices=[]):
    torch.manual_seed(0)
    reader = Reader()
optimizer = torch.optim.Adam(reader.parameters(), lr=0.02)
for _ in range(60):
    loss = F.mse_loss(reader(seen), seen.y)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()

unseen: Any = Batch.from_data_list(graphs[200:])
with torch.no_grad():
    error = F.mse_loss(reader(unseen), unseen.y)
explained = 1 - error / unseen.y.var()
print(f"100 unseen networks: {explained:.0%} of the variance of their spread is explained")
assert explained > 0.7
