"""Two named inputs and two named outputs.

    h  = g(W1 x1 + V1 x2 + b)
    o1 = f(W2 h + b1)
    o2 = f(V2 h + b2)

Seven parameter tensors by hand; one weight vector and one bias vector as a graph.
"""

import torch
from torch import Tensor, nn

import graphnn

SIZES = {"x1": 3, "x2": 2, "h": 4, "o1": 2, "o2": 1}
W1, V1 = nn.Linear(3, 4), nn.Linear(2, 4, bias=False)
W2, V2 = nn.Linear(4, 2), nn.Linear(4, 1)
by_hand = nn.ModuleList([W1, V1, W2, V2])
assert len(list(by_hand.parameters())) == 7


def run_by_hand(x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor]:
    """The net as one writes it with nn.Linear."""
    h = torch.tanh(W1(x1) + V1(x2))
    return torch.sigmoid(W2(h)), torch.sigmoid(V2(h))


# Every neuron gets a label, and every matrix element becomes an edge, row by row.
neurons = {group: [f"{group}[{i}]" for i in range(size)] for group, size in SIZES.items()}
matrices = [("x1", "h", W1), ("x2", "h", V1), ("h", "o1", W2), ("h", "o2", V2)]
net = graphnn.from_edges(
    [
        (source, target, linear.weight[row, column].item())
        for sources, targets, linear in matrices
        for row, target in enumerate(neurons[targets])
        for column, source in enumerate(neurons[sources])
    ],
    inputs={"x1": neurons["x1"], "x2": neurons["x2"]},
    outputs={"o1": neurons["o1"], "o2": neurons["o2"]},
    activation="tanh",
    output_activation="sigmoid",
    bias={
        label: value
        for group, linear in (("h", W1), ("o1", W2), ("o2", V2))
        for label, value in zip(neurons[group], linear.bias.tolist(), strict=True)
    },
)
print(net)

generator = torch.Generator().manual_seed(0)
x1, x2 = torch.randn(16, 3, generator=generator), torch.randn(16, 2, generator=generator)
wanted1, wanted2 = torch.rand(16, 2, generator=generator), torch.rand(16, 1, generator=generator)
weights = [linear.weight for *_, linear in matrices]
optimizer = torch.optim.SGD([*net.parameters(), *by_hand.parameters()], lr=0.5)
for step in range(10):
    result = net(x1=x1, x2=x2)
    o1, o2 = run_by_hand(x1, x2)
    torch.testing.assert_close(result.o1, o1)
    torch.testing.assert_close(result.o2, o2)

    loss = ((result.o1 - wanted1) ** 2).mean() + ((result.o2 - wanted2) ** 2).mean()
    loss_by_hand = ((o1 - wanted1) ** 2).mean() + ((o2 - wanted2) ** 2).mean()
    (ours,) = torch.autograd.grad(loss, [net.weight], retain_graph=True)
    hand = torch.autograd.grad(loss_by_hand, weights, retain_graph=True)
    torch.testing.assert_close(ours, torch.cat([gradient.flatten() for gradient in hand]))

    optimizer.zero_grad()
    (loss + loss_by_hand).backward()
    optimizer.step()
    print(f"step {step}: loss {loss.item():.6f}, by hand {loss_by_hand.item():.6f}")
torch.testing.assert_close(net.weight, torch.cat([weight.flatten() for weight in weights]))
