"""Neural networks as graphs: neurons are nodes, every edge owns one trainable weight."""

from graphnn import activation as activation
from graphnn.activation import register_activation as register_activation
from graphnn.backends.selection import backends as backends
from graphnn.errors import BackendError as BackendError
from graphnn.errors import ConversionError as ConversionError
from graphnn.errors import FormatError as FormatError
from graphnn.errors import GraphError as GraphError
from graphnn.errors import GraphNNError as GraphNNError
from graphnn.graph import NeuronGraph as NeuronGraph
from graphnn.network import Network as Network
from graphnn.plan import build_plan as build_plan
from graphnn.trace import Trace as Trace
