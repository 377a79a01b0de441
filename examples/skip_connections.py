"""A small net with skip connections and hand-set, also negative, weights, computed by hand.

x1 --( 2.0)--> a --( 1.0)--> b --(-3.0)--> y
x2 --(-1.0)--> a             b <--( 0.5)-- x1    skips a level
                             y <--( 4.0)-- a     skips a level
                             y <--(-2.0)-- x2    skips two levels
"""

import torch

import graphnn

net = graphnn.from_edges(
    [
        ("x1", "a", 2.0),
        ("x2", "a", -1.0),
        ("a", "b", 1.0),
        ("x1", "b", 0.5),
        ("b", "y", -3.0),
        ("a", "y", 4.0),
        ("x2", "y", -2.0),
    ],
    inputs=["x1", "x2"],
    activation="relu",  # of a and b; the output y is linear
    bias={"b": -1.0, "y": 0.25},  # a starts at 0
)
# Labels get their ids in the order in which they first appear.
names = ["x1", "a", "x2", "b", "y"]
assert net.graph.names == tuple(names)
level = dict(zip(names, net.graph.level.tolist(), strict=True))
assert level == {"x1": 0, "x2": 0, "a": 1, "b": 2, "y": 3}

# Two samples, by hand:
#   x1 = 1, x2 = 3:  a = relu(2 - 3)      = 0    b = relu(0 + 0.5 - 1) = 0
#                    y = -3*0 + 4*0 - 2*3 + 0.25 = -5.75
#   x1 = 2, x2 = 1:  a = relu(4 - 1)      = 3    b = relu(3 + 1 - 1)   = 3
#                    y = -3*3 + 4*3 - 2*1 + 0.25 = 1.25
x = torch.tensor([[1.0, 3.0], [2.0, 1.0]])
trace = net.trace(x)
value = {name: trace.values[:, i].tolist() for i, name in enumerate(names)}
print(value)
assert value["a"] == [0.0, 3.0]
assert value["b"] == [0.0, 3.0]
assert value["y"] == [-5.75, 1.25]
assert torch.equal(net(x), trace.outputs)

# How much each edge carries, weight * source value, in the second sample.
carried = trace.contributions()[1].tolist()
for (source, target), amount in zip(net.graph.edge_index.t().tolist(), carried, strict=True):
    print(f"  {names[source]:>2} -> {names[target]}: {amount:+.2f}")

# dy/dx1 in the second sample, where a and b are open: 2 * (4 - 3 * 1) - 3 * 0.5
x.requires_grad_()
(gradient,) = torch.autograd.grad(net(x)[1, 0], x)
assert gradient[1, 0].item() == 2 * (4 - 3) - 3 * 0.5

# Also the skipping weights learn: dy/dw is the value of the source.
(by_weight,) = torch.autograd.grad(net(x)[1, 0], net.weight)
skips = net.graph.edge_ids(net.graph.ids(["a", "x2"]), net.graph.ids(["y", "y"]))
assert by_weight[skips].tolist() == [3.0, 1.0]

# A cycle would not be a network: the refusal names it.
try:
    graphnn.from_edges([("a", "b"), ("b", "c"), ("c", "a")])
except graphnn.GraphError as error:
    print(error)
else:
    raise AssertionError("a cycle was accepted")
