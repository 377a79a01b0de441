"""From a whole nn.Module to a network."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from graphnn.assembly.entries import Entries
from graphnn.assembly.finishing import make_graph, make_network
from graphnn.assembly.merging import Merged, merge
from graphnn.assembly.neurons import Neurons
from graphnn.convert.traced.interpreter import Interpreter
from graphnn.convert.traced.tracing import traced
from graphnn.convert.traced.values import Transformed
from graphnn.errors import ConversionError, GraphError
from graphnn.graph import NeuronGraph
from graphnn.network import Network

# The attribute under which a network keeps the shapes of the samples that its model takes.
_SHAPES = "_sample_shapes"


def from_module(
    model: nn.Module,
    *example_inputs: Tensor,
    backend: str = "auto",
    dtype: torch.dtype | None = None,
    device: torch.device | str | None = None,
) -> Network:
    """Converts a module into a network that computes the same as ``model.eval()``.

    The module is traced by torch.fx. Every element of a sample is a neuron, numbered row-major:
    call the network as ``net(x.flatten(1))`` where the module takes ``x``, and view its outputs in
    the module's shapes. Input groups have the names of forward's arguments. The one output group is
    "output"; of several, a dict or a named tuple gives the names, else they are "output_0", ....

    - Edges run row-major over each weight, layer by layer. Edges that read one number of a
      parameter, as in a convolution or in a layer that is used twice, share it: `Tied` on
      ``net.weight``, whose groups are the numbers of the parameters in the order of their first
      use. Biases likewise. Without BatchNorm the parameter count is the module's.
    - Sums take over the edges of what they add, activations those of what they read. A summand
      keeps neurons of its own, and edges of weight 1 to the sum, where something else reads it too,
      where it reads what another summand reads, or where both have a bias.
    - The weights of average pooling, of constant factors and of edges that pass a value on are
      constants: a `Frozen` on ``net.weight`` holds them, as it holds what requires no gradient.
    - BatchNorm folds, in float64, into the layer before it, else into the Linear after it; where
      another reader or a shared weight forbids that, it becomes one-to-one edges.
    - A softmax or log_softmax over the features at the end becomes ``output_transform``.

    Args:
        model: Made of Linear, Conv1d to Conv3d, average pooling, BatchNorm, activations, Dropout,
            sums, constant factors, ``x @ parameter``, and what only moves elements: view, permute,
            cat, stack, chunk, split, slices and the like. Left as it is.
        example_inputs: Tensors (B, *), batch first; only their shapes count, and not that of the
            batch. Arguments of forward that are left out keep their defaults.
        backend: Of the network.
        dtype: Of the parameters; default: the model's.
        device: Of the parameters; default: the model's.

    Returns:
        The network.

    Raises:
        ConversionError: Something in the module is not a neuron graph: products of computed values,
            max-pooling, decisions by values, .... Its path and its line of source are named.
        GraphError: `dtype` is none that a network can have.
        BackendError: There is no such backend.

    Source: "torch.fx: Practical Program Capture and Transformation for Deep Learning in Python"
    (https://arxiv.org/abs/2112.08429).

    Example:
        >>> nn = torch.nn
        >>> model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.AvgPool2d(2), nn.Flatten())
        >>> x = torch.ones(5, 1, 4, 4)
        >>> net = graphnn.from_module(model, x)
        >>> net.graph
        NeuronGraph(26 neurons, 80 edges, 3 levels; input: 16, output: 2)
        >>> torch.allclose(net(x.flatten(1)), model(x), atol=1e-6)
        True
        >>> [p.numel() for p in net.parameters()]
        [18, 2]
    """
    shapes = _shapes(example_inputs)
    conversion = Conversion.of(model, shapes)
    first = example_inputs[0]
    own_dtype, own_device = conversion.placement or (first.dtype, first.device)
    net = make_network(
        conversion.graph,
        conversion.merged,
        conversion.entries,
        dtype=own_dtype if dtype is None else dtype,
        device=own_device if device is None else device,
        backend=backend,
        output_transform=conversion.transform,
    )
    setattr(net, _SHAPES, shapes)
    return net


def sample_shapes(net: Network) -> tuple[tuple[int, ...], ...]:
    """The shapes of one sample of each input of the module that a network was converted from.

    Flat ones, as a stack of Linear takes them, where the network does not know.
    """
    flat = tuple((ids.numel(),) for ids in net.graph.inputs.values())
    return getattr(net, _SHAPES, flat)


@dataclass(frozen=True, eq=False)
class Conversion:
    """What a module is as a network, and which parameter each number is made of.

    Args:
        graph: The wiring.
        merged: What weights and biases are made of.
        entries: The module's parameters.
        transform: None, "softmax" or "log_softmax".
        placement: The dtype and device of the module's parameters, or None where it has none.
    """

    graph: NeuronGraph
    merged: Merged
    entries: Entries
    transform: str | None
    placement: tuple[torch.dtype, torch.device] | None

    @classmethod
    @torch.no_grad()
    def of(cls, model: nn.Module, shapes: Sequence[Sequence[int]]) -> Conversion:
        """Traces a module and puts its neurons together.

        Args:
            model: The module.
            shapes: Of one sample of each input.

        Raises:
            ConversionError: Something in the module is not a neuron graph.
        """
        if not isinstance(model, nn.Module):
            raise ConversionError(f"model must be an nn.Module (got {type(model).__name__}).")
        root, operations, names = traced(model, len(shapes))
        interpreter = Interpreter(root, operations)
        inputs, returned = interpreter.run(shapes)
        outputs, transform = _outputs(returned)
        assembly = interpreter.assembly
        ids = {name: x.sample.reshape(-1) for name, x in outputs.items()}
        merged = merge(assembly, torch.cat(list(ids.values())))
        groups = {name: x.sample.reshape(-1) for name, x in zip(names, inputs, strict=True)}
        try:
            graph = make_graph(merged, groups, ids)
        except GraphError as error:
            raise ConversionError(f"{type(model).__name__} is no neuron graph: {error}") from error
        own = interpreter.placement
        placement = (own["dtype"][0], own["device"][0]) if own else None
        return cls(graph, merged, assembly.entries, transform, placement)


def _shapes(example_inputs: tuple[Any, ...]) -> tuple[tuple[int, ...], ...]:
    if not example_inputs:
        raise ConversionError(
            "an example of every input must be given, batch first: "
            "graphnn.from_module(model, x) (got none)."
        )
    for place, x in enumerate(example_inputs):
        if not isinstance(x, Tensor) or x.dim() == 0:
            shape = tuple(x.shape) if isinstance(x, Tensor) else type(x).__name__
            raise ConversionError(
                f"example inputs must be tensors (B, *), batch first, but number {place} is "
                f"{shape}."
            )
    return tuple(tuple(x.shape[1:]) for x in example_inputs)


def _outputs(returned: Any) -> tuple[dict[str, Neurons], str | None]:
    """Output groups by name, and what is applied to them last."""
    if isinstance(returned, dict):
        named = {str(name): value for name, value in returned.items()}
    elif isinstance(returned, list | tuple):
        fields = getattr(returned, "_fields", [f"output_{i}" for i in range(len(returned))])
        named = dict(zip(fields, returned, strict=True))
    else:
        named = {"output": returned}
    outputs, transforms = {}, {}
    for name, value in named.items():
        if isinstance(value, Transformed):
            transforms[name], value = value.transform, value.neurons
        if not isinstance(value, Neurons):
            raise ConversionError(
                f"the model must return tensors that depend on its inputs: one, or a flat tuple or "
                f"dict of them (got {type(value).__name__} as {name!r})."
            )
        outputs[name] = value
    kinds = {transforms.get(name) for name in outputs}
    if len(kinds) > 1:
        raise ConversionError(
            "a softmax at the end must be on every output, since a network has one output "
            f"transform for all groups (got one on {', '.join(transforms)} only, or two kinds). "
            "Leave it out of the model, and apply it to the network's outputs."
        )
    return outputs, next(iter(kinds)) if kinds else None
