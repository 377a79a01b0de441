"""Why an operation is no neuron's, and what to use instead."""

from __future__ import annotations

_LARGEST = (
    "takes the largest of several values, which no weighted sum does. Use average pooling or a "
    "convolution with a stride"
)
_PRODUCT = (
    "multiplies or divides computed values by each other, but a neuron adds its sources up by "
    "fixed weights. Keep such a part outside, and convert what comes before and after it"
)
_STATISTICS = (
    "normalises by the values of the sample itself, which no weighted sum does. Use BatchNorm, "
    "whose statistics are fixed in eval mode"
)
_RECURRENT = (
    "carries a state through products of computed values. Convert the feed-forward parts alone"
)
_SOFTMAX = (
    "depends on all values of a level and is no neuron's. A softmax may only be the last step "
    "before an output"
)
_LOOKUP = "looks its values up by integers, but neurons hold numbers. Convert what reads its result"
_DETACHED = "stops gradients, which edges do not. Leave it out, or freeze parameters instead"
_WRITES = "writes into a part of a tensor. Build the tensor with torch.cat instead"

_BY_PART = {
    "maxpool": _LARGEST,
    "max_pool": _LARGEST,
    "amax": _LARGEST,
    "max": _LARGEST,
    "lppool": _LARGEST,
    "attention": _PRODUCT,
    "transformer": _PRODUCT,
    "matmul": _PRODUCT,
    "mul": _PRODUCT,
    "div": _PRODUCT,
    "bmm": _PRODUCT,
    "einsum": _PRODUCT,
    "bilinear": _PRODUCT,
    "outer": _PRODUCT,
    "glu": _PRODUCT,
    "layer_norm": _STATISTICS,
    "layernorm": _STATISTICS,
    "group_norm": _STATISTICS,
    "groupnorm": _STATISTICS,
    "instance_norm": _STATISTICS,
    "instancenorm": _STATISTICS,
    "rms_norm": _STATISTICS,
    "rmsnorm": _STATISTICS,
    "normalize": _STATISTICS,
    "lstm": _RECURRENT,
    "gru": _RECURRENT,
    "rnn": _RECURRENT,
    "softmax": _SOFTMAX,
    "embedding": _LOOKUP,
    "detach": _DETACHED,
    "setitem": _WRITES,
}
_OTHER = (
    "cannot be read as neurons and edges. Known are linear layers, convolutions, average pooling, "
    "BatchNorm, activations, sums, constant factors, and what moves elements (view, cat, split, "
    "...). An activation can be added with graphnn.register_activation and applied as a "
    "graphnn.NeuronActivation"
)


def reason(name: str) -> str:
    """Why an operation cannot be converted.

    Args:
        name: Of a function, a method or a class.

    Returns:
        The end of a sentence, and what to do.
    """
    low = name.lower()
    return next((text for part, text in _BY_PART.items() if part in low), _OTHER)
