"""The errors of graphnn.

::

    ValueError
    └── GraphNNError
        ├── GraphError        a wiring, or an argument, that cannot be
        ├── BackendError      a call that the asked-for backend cannot run
        │   └── PlacementError    a GraphError too: a tensor that is not where the weights are
        ├── ConversionError   a model or object that is not a neuron graph
        └── FormatError       a file that does not hold what it should
"""


class GraphNNError(ValueError):
    """Base class of every error that graphnn raises on purpose."""


class GraphError(GraphNNError):
    """A wiring or an argument breaks a rule; the message names the first offender."""


class BackendError(GraphNNError):
    """A backend asked for by name cannot run the call; the message holds every reason."""


class PlacementError(GraphError, BackendError):
    """A tensor's device or dtype is not the weights': a wrong argument, for every backend."""


class ConversionError(GraphNNError):
    """A model or object is no neuron graph; the message names the layer, module or node."""


class FormatError(GraphNNError):
    """A file does not hold what its format promises; the message names file and place."""
