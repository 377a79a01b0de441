"""Which neurons and edges an output comes from, and what happens without them.

A score is a function of a sample's outputs, such as the logit of a class, taken before the output
transform. Attributions are per sample and per neuron, (B, N), or per edge, (B, E), detached, of the
network's dtype. None of them touches the `grad` of a parameter or changes the network: it is run in
eval mode, with its parameters out of autograd's sight.
"""

from graphnn.attribution.ablation import ablate as ablate
from graphnn.attribution.circuit import circuit_edges as circuit_edges
from graphnn.attribution.circuit import top_circuit as top_circuit
from graphnn.attribution.curve import AblationCurve as AblationCurve
from graphnn.attribution.curve import ablation_curve as ablation_curve
from graphnn.attribution.gradients import gradient as gradient
from graphnn.attribution.gradients import gradient_x_value as gradient_x_value
from graphnn.attribution.paths import completeness_error as completeness_error
from graphnn.attribution.paths import conductance as conductance
from graphnn.attribution.paths import integrated_gradients as integrated_gradients
from graphnn.attribution.ranking import aggregate as aggregate
from graphnn.attribution.ranking import rank as rank
