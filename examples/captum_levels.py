"""Captum on a network with skip connections, level by level.

`to_module` gives every level as a torch module that runs once a call, so captum can hook each of
them. Below, three of captum's attributions agree with graphnn's, which has all levels at once.
"""

import torch
from captum.attr import (
    IntegratedGradients,
    LayerConductance,
    LayerGradientXActivation,
    LayerIntegratedGradients,
)

import graphnn
from graphnn.attribution import (
    completeness_error,
    conductance,
    gradient_x_value,
    integrated_gradients,
)

# The inputs 0 ... 3 also feed level 2, and level 1 the outputs: edges over one level.
graph = graphnn.NeuronGraph(
    torch.cat(
        [
            torch.cartesian_prod(torch.arange(4), torch.arange(4, 9)),
            torch.cartesian_prod(torch.tensor([0, 3, 4, 5, 6, 7, 8]), torch.arange(9, 12)),
            torch.cartesian_prod(torch.tensor([4, 5, 9, 10, 11]), torch.arange(12, 14)),
        ]
    ).t(),
    activation=["identity"] * 4 + ["tanh"] * 8 + ["identity"] * 2,
)
generator = torch.Generator().manual_seed(0)
net = graphnn.Network(graph, generator=generator, dtype=torch.float64)
module = graphnn.to_module(net)
x = torch.randn(16, 4, generator=generator, dtype=torch.float64)
print(net)

scores = {
    "gradient x value": gradient_x_value(net, x, target=0, wrt="preactivation"),
    "conductance": conductance(net, x, target=0),
    "integrated gradients": integrated_gradients(net, x, target=0),
}
oracles = {
    "gradient x value": LayerGradientXActivation,
    "conductance": LayerConductance,
    "integrated gradients": LayerIntegratedGradients,
}
for name, found in scores.items():
    for number, level in enumerate(module.levels, start=1):
        expected = oracles[name](module, level.linear).attribute(x, target=0)
        torch.testing.assert_close(found[:, graph.level == number], expected, rtol=1e-5, atol=1e-8)
    print(f"{name}: levels 1 to {graph.num_levels - 1} agree with captum")
expected = IntegratedGradients(module).attribute(x, target=0)
torch.testing.assert_close(scores["integrated gradients"][:, :4], expected, rtol=1e-5, atol=1e-8)

# Sums over a level are the change of the output only where nothing goes around the level.
error = completeness_error(net, x, 0, scores["integrated gradients"]).abs().amax(0)
for number, worst in enumerate(error.tolist()):
    print(f"level {number}: " + ("bypassed" if worst != worst else f"off by at most {worst:.1e}"))
