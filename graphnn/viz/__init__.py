"""Pictures of networks: interactive ones with plotly, and ones for papers with matplotlib."""

from graphnn.viz.figure import draw as draw
from graphnn.viz.page import write_html as write_html
from graphnn.viz.paper import plot_activations as plot_activations
from graphnn.viz.paper import plot_degrees as plot_degrees
from graphnn.viz.paper import plot_network as plot_network
from graphnn.viz.paper import plot_sparsity as plot_sparsity
from graphnn.viz.paper import plot_weights as plot_weights
