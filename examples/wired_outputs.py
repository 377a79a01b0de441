"""The first two hidden neurons feed output one, the next two feed output two.

As a graph that is four edges. As an nn.Linear(4, 2) it takes a mask on the *weight*; a mask on the
activations looks alike, runs without an error at some batch sizes, and is another function.
"""

import torch
from torch import nn

import graphnn

net = graphnn.from_edges(
    [("h1", "out1", 0.5), ("h2", "out1", -1.0), ("h3", "out2", 2.0), ("h4", "out2", 0.25)],
    inputs=["h1", "h2", "h3", "h4"],
    outputs=["out1", "out2"],
    bias={"out1": 0.1, "out2": -0.2},
)
print(net)

# The same layer by hand: a dense weight (out, in), multiplied by its mask at every call.
mask = torch.tensor([[1.0, 1.0, 0.0, 0.0], [0.0, 0.0, 1.0, 1.0]])
weight = nn.Parameter(torch.tensor([[0.5, -1.0, 0.0, 0.0], [0.0, 0.0, 2.0, 0.25]]))
bias = nn.Parameter(torch.tensor([0.1, -0.2]))


def wired(h: torch.Tensor) -> torch.Tensor:
    """The hand-masked layer."""
    return nn.functional.linear(h, weight * mask, bias)


# Outputs, gradients and parameters are equal, and stay so through training.
generator = torch.Generator().manual_seed(0)
h = torch.randn(8, 4, generator=generator)
wanted = torch.randn(8, 2, generator=generator)
optimizer = torch.optim.SGD([*net.parameters(), weight, bias], lr=0.1)
edges = mask.bool()
for _ in range(20):
    torch.testing.assert_close(net(h), wired(h))
    loss, loss_by_hand = ((net(h) - wanted) ** 2).mean(), ((wired(h) - wanted) ** 2).mean()
    ours = torch.autograd.grad(loss, [net.weight, net.bias], retain_graph=True)
    hand = torch.autograd.grad(loss_by_hand, [weight, bias], retain_graph=True)
    torch.testing.assert_close(ours, (hand[0][edges], hand[1]))
    optimizer.zero_grad()
    (loss + loss_by_hand).backward()
    optimizer.step()
torch.testing.assert_close(net.weight, weight[edges])
print(f"after 20 steps both have the weights {[round(w, 3) for w in net.weight.tolist()]}")


# The trap: the mask is (outputs, inputs) and the activations are (samples, inputs), so the two can
# be multiplied wherever broadcasting allows. With two samples, one mask row falls on each of them.
def trap(h: torch.Tensor) -> torch.Tensor:
    """WRONG: masks samples, not connections."""
    return nn.functional.linear(h * mask, weight, bias)


for samples in (1, 2, 3):
    h = torch.randn(samples, 4, generator=generator)
    right = wired(h)
    torch.testing.assert_close(net(h), right)
    try:
        wrong = trap(h)
    except RuntimeError:
        print(f"{samples} samples: the wrong mask raises an error")
        assert samples == 3
    else:
        print(f"{samples} samples: the wrong mask runs, off by {(wrong - right).abs().max():.2f}")
        assert samples in (1, 2)
        assert not torch.allclose(wrong, right, atol=0.01)
