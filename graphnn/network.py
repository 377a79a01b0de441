"""A wiring with its parameters: the module that users train and call."""

from __future__ import annotations

from collections import namedtuple
from collections.abc import Callable, Mapping
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd import forward_ad
from torch.utils import _pytree

from graphnn import autocast, network_inputs, network_summary, parameters
from graphnn.backends import selection
from graphnn.backends.base import Call
from graphnn.backends.transforms import is_plain
from graphnn.errors import GraphError
from graphnn.graph import NeuronGraph
from graphnn.picking import pick
from graphnn.plan import ExecutionPlan, build_plan
from graphnn.trace import Trace

OUTPUT_TRANSFORMS = (None, "softmax", "log_softmax")
_DERIVED = ("_plan", "_output_tuple", "_input_sizes", "_output_sizes")


class Network(nn.Module):
    """A neuron graph with one trainable weight per edge and one bias per biased neuron.

    Args:
        graph: The wiring.
        weight: (E,) starting weights in the order of `graph.edge_index`, or None to draw them.
        bias: (K,) starting biases in the order of `graph.bias_neurons`, or None to draw them.
        backend: "auto" or a name from `graphnn.backends()`.
        output_transform: None, "softmax" or "log_softmax", over each output group.
        dtype: Of the parameters; default: that of `weight`, else of `bias`, else torch's default.
        device: Of the parameters; default: that of `weight`, else of `bias`, else of a graph that
            is not on the CPU, else torch's default.
        generator: Draws the parameters; default: torch's global one.

    Raises:
        GraphError: An argument has the wrong shape or dtype, or torch cannot use the device here.
        BackendError: There is no such backend.

    Drawn weights and biases follow ``U(-1/sqrt(fan_in), 1/sqrt(fan_in))`` with the target's fan-in,
    as nn.Linear's do; the bias of a neuron without incoming edges starts at 0.

    A program of torch.export with several output groups returns their named tuple. A process that
    loads it from a file must know that: make a network with these groups first.

    Example:
        >>> graph = graphnn.NeuronGraph([[0, 0, 1, 2], [1, 2, 3, 3]], activation="identity")
        >>> net = graphnn.Network(graph, weight=[1.0, 2.0, 3.0, -4.0], bias=torch.zeros(3))
        >>> net(torch.tensor([[1.0], [2.0]]))
        tensor([[ -5.],
                [-10.]], grad_fn=...)
    """

    weight: Tensor
    bias: Tensor

    def __init__(
        self,
        graph: NeuronGraph,
        weight: Any = None,
        bias: Any = None,
        backend: str = "auto",
        output_transform: str | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(graph, NeuronGraph):
            raise GraphError(f"graph must be a NeuronGraph (got {type(graph).__name__}).")
        if output_transform not in OUTPUT_TRANSFORMS:
            raise GraphError(
                "output_transform must be None, 'softmax' or 'log_softmax' "
                f"(got {output_transform!r})."
            )
        self._graph = graph
        self._backend = selection.check_name(backend)
        self._output_transform = output_transform
        weight, bias = (
            parameters.read_values(weight, "weight"),
            parameters.read_values(bias, "bias"),
        )
        dtype, device = parameters.placement(weight, bias, dtype, device, graph.device)
        self.weight = nn.Parameter(
            parameters.make(weight, "weight", "num_edges", graph.num_edges, dtype, device)
        )
        num_biases = graph.bias_neurons.numel()
        self.bias = nn.Parameter(
            parameters.make(bias, "bias", "bias_neurons.numel()", num_biases, dtype, device)
        )
        self._plan = build_plan(graph, self.weight.device)
        # Made here, because torch.compile cannot trace the making of a class.
        self._output_tuple = output_tuple(tuple(graph.outputs))
        self._input_sizes, self._output_sizes = _sizes(graph.inputs), _sizes(graph.outputs)
        drawn = [name for name, value in (("weight", weight), ("bias", bias)) if value is None]
        self._draw(drawn, generator)

    @property
    def graph(self) -> NeuronGraph:
        """The wiring."""
        return self._graph

    @property
    def plan(self) -> ExecutionPlan:
        """The schedule, on the network's device."""
        return self._plan

    @property
    def in_features(self) -> int:
        """n_in, over all input groups."""
        return self._graph.input_ids.numel()

    @property
    def out_features(self) -> int:
        """n_out, over all output groups."""
        return self._graph.output_ids.numel()

    @property
    def output_transform(self) -> str | None:
        """None, "softmax" or "log_softmax"."""
        return self._output_transform

    @property
    def backend(self) -> str:
        """A backend's name, or "auto"; settable."""
        return self._backend

    @backend.setter
    def backend(self, name: str) -> None:
        self._backend = selection.check_name(name)

    def reset_parameters(self, generator: torch.Generator | None = None) -> None:
        """Draws all weights and biases again, as on construction.

        Args:
            generator: Draws them; default: torch's global one.
        """
        self._draw(["weight", "bias"], generator)

    @torch.no_grad()
    def _draw(self, names: list[str], generator: torch.Generator | None) -> None:
        parameters.check_generator(generator, self.weight.device)
        for name in names:
            values = getattr(self, name)
            if values.device.type == "meta" or values.numel() == 0:
                continue
            graph = self._graph
            neurons = graph.edge_index[1] if name == "weight" else graph.bias_neurons
            fan_in = graph.fan_in.to(values.dtype if values.dtype.itemsize >= 4 else torch.float32)
            bound = torch.where(fan_in > 0, fan_in.rsqrt(), 0.0)
            drawn = torch.empty_like(values).uniform_(-1, 1, generator=generator)
            drawn.mul_(bound.index_select(0, neurons).to(values.device, values.dtype))
            # Through setattr where a parametrization must invert what it is given.
            if torch.nn.utils.parametrize.is_parametrized(self, name):
                setattr(self, name, drawn)
            else:
                values.copy_(drawn)

    def forward(self, /, *inputs: Tensor, **named: Tensor) -> Any:
        """Runs the network.

        Args:
            inputs: One tensor (*, n) for each input group, in declared order, with equal leading
                dimensions; of the network's dtype (under autocast of any float dtype) and device.
            named: The same by group name.

        Returns:
            (*, n_out), or with several output groups a named tuple of one such tensor for each; of
            the network's dtype, under a GPU's autocast of autocast's.

        Raises:
            GraphError: Groups, shapes, dtypes or devices do not fit (the last two are also a
                BackendError).
            BackendError: The backend asked for by name cannot run this call.
        """
        if len(inputs) == 1 and not named:
            outputs = self._run_plain(inputs[0])
            if outputs is not None:
                return self.split_outputs(outputs)
        flat, leading = self._read_inputs(inputs, named)
        outputs = self._run(Call(self._plan, self.weight, self.bias, flat))
        return self.split_outputs(outputs.reshape(*leading, outputs.shape[-1]))

    def trace(self, /, *inputs: Tensor, offset: Tensor | None = None, **named: Tensor) -> Trace:
        """Runs the network and keeps every neuron's preactivation and value.

        Args:
            inputs: As in `forward`.
            offset: (*, N) added to every preactivation, in neuron order, or None. Its gradient is
                the gradient by the preactivations; its value an intervention.
            named: As in `forward`.

        Returns:
            The `Trace`, differentiable while gradients are on.

        Raises:
            GraphError: As `forward`; or `offset` has the wrong shape.
            BackendError: As `forward`.
        """
        flat, leading = self._read_inputs(inputs, named)
        if offset is not None:
            size = self._graph.num_neurons
            offset = network_inputs.read_offset(offset, leading, size, self.weight)
        weight = self.weight
        call = Call(self._plan, weight, self.bias, flat, offset, "all")
        values, preactivations = self._run(call)
        narrow = autocast.dtype_of(weight)
        # Not the graph's ids, which may be on another device.
        own = pick(values, 1, self._plan.neuron_order[self._plan.output_position])
        return Trace(
            values=values.reshape(*leading, values.shape[-1]),
            preactivations=preactivations.reshape(*leading, values.shape[-1]),
            outputs=self.split_outputs(own.reshape(*leading, own.shape[-1])),
            graph=self._graph,
            # A copy, because an optimiser's step changes the parameter in place.
            weight=weight.clone() if narrow is None else weight.to(narrow),
        )

    def backend_report(self, /, *inputs: Tensor, **named: Tensor) -> selection.BackendReport:
        """Which backend runs each part of this call, and why the others do not.

        Args:
            inputs: As in `forward`.
            named: As in `forward`.

        Returns:
            A report to print or to read.
        """
        flat, _ = self._read_inputs(inputs, named)
        return selection.report(self._backend, Call(self._plan, self.weight, self.bias, flat))

    def _run(self, call: Call) -> Any:
        if not autocast.is_active(call.weight.device):
            return selection.select(self._backend, call).run(*call)
        narrow = autocast.dtype_of(call.weight)
        backend = selection.select(self._backend, call)
        with torch.autocast(call.weight.device.type, enabled=False):
            if narrow is None:
                return backend.run(*call)
            if backend.sums_in_float32:
                return backend.run(*call.to(narrow))
            found = backend.run(*call)
        if isinstance(found, Tensor):
            return found.to(narrow)
        return tuple(part.to(narrow) for part in found)

    def split_outputs(self, joined: Tensor) -> Any:
        """Output groups out of all outputs, transformed.

        Args:
            joined: (*, n_out) values of the output neurons, before the output transform.

        Returns:
            What `forward` returns.
        """
        if len(self._output_sizes) == 1:
            return self._transform(joined)
        parts = joined.split(self._output_sizes, dim=-1)
        # A part is copied: written to in place, a view would change its neighbours' memory owner.
        return self._output_tuple(*(self._transform(part.clone()) for part in parts))

    def _transform(self, values: Tensor) -> Tensor:
        if self._output_transform is None:
            return values
        function = torch.softmax if self._output_transform == "softmax" else torch.log_softmax
        return function(values, -1)

    def _read_inputs(
        self, inputs: tuple[Tensor, ...], named: dict[str, Tensor]
    ) -> tuple[Tensor, tuple[int, ...]]:
        """The inputs as one (B, n_in) tensor, and their leading shape."""
        weight, bias = self.weight, self.bias
        sizes = self._plan.num_edges, self._graph.bias_neurons.numel()
        network_inputs.check_parameters(weight, bias, *sizes)
        read = network_inputs.read_inputs(self._graph.inputs, inputs, named, weight)
        if self._plan.device != weight.device:
            self._plan = build_plan(self._graph, weight.device)
        return read

    def _run_plain(self, x: Tensor) -> Any:
        """The outputs, where nothing has to be asked about the call; else None.

        That is for one tensor (B, n_in) and parameters that are plain and fit. The checks with
        their messages, and the choice of a backend, take longer than a small network.
        """
        own, plan = self._parameters, self._plan
        weight, bias = own.get("weight"), own.get("bias")
        if (
            weight is None
            or bias is None
            or not isinstance(x, Tensor)
            or not is_plain(weight, bias, x)
            or not (x.is_cpu and weight.is_cpu and bias.is_cpu)
            or not x.dtype == bias.dtype == weight.dtype
            or x.layout is not torch.strided
            or x.dim() != 2
            or self._input_sizes != (x.shape[1],)
            or weight.shape != (plan.num_edges,)
            or bias.shape != (self._graph.bias_neurons.numel(),)
            or torch.is_autocast_enabled("cpu")
            or forward_ad._current_level >= 0
        ):
            return None
        run = selection.plain_run(self._backend, plan, weight.dtype)
        return None if run is None else run(plan, weight, bias, x, None, "outputs")

    def __str__(self) -> str:
        return network_summary.of_network(self).text()

    def _repr_html_(self) -> str:
        return network_summary.of_network(self).html()

    def extra_repr(self) -> str:
        """The line that `repr(net)` shows, also where the network is a part of another module."""
        graph = self._graph
        activations = ", ".join(entry.name for entry in graph.activation_table)
        return (
            f"{graph.num_neurons} neurons, {graph.num_edges} edges, {graph.num_levels} levels, "
            f"density {graph.density:.3g}, activations {activations}, "
            f"in_features={self.in_features}, out_features={self.out_features}, "
            f"backend={self._backend!r}, output_transform={self._output_transform!r}"
        )

    def _apply(self, fn: Callable[..., Any], recurse: bool = True) -> Network:
        super()._apply(fn, recurse)
        if self.weight.device.type != "meta":
            self._plan = build_plan(self._graph, self.weight.device)
        return self

    def __getstate__(self) -> dict[str, Any]:
        # Both are derived from the graph: made again, or found beside a shared graph.
        return {name: value for name, value in self.__dict__.items() if name not in _DERIVED}

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._plan = build_plan(self._graph, self.weight.device)
        self._output_tuple = output_tuple(tuple(self._graph.outputs))
        self._input_sizes = _sizes(self._graph.inputs)
        self._output_sizes = _sizes(self._graph.outputs)


def _sizes(groups: Mapping[str, Tensor]) -> tuple[int, ...]:
    return tuple(ids.numel() for ids in groups.values())


@cache
def output_tuple(names: tuple[str, ...]) -> Any:
    """The named tuple class of a network with these output groups."""
    base = namedtuple("Outputs", names)
    base.__reduce__ = lambda self: (_rebuild_outputs, (names, tuple(self)))
    base.__module__ = __name__
    # torch.export.save writes the name, and load finds the class by it. torch keeps the class for
    # ever, so there must never be a second one.
    _pytree._register_namedtuple(
        base, serialized_type_name=f"{__name__}.Outputs({', '.join(names)})"
    )
    return base


def _rebuild_outputs(names: tuple[str, ...], values: tuple[Tensor, ...]) -> Any:
    return output_tuple(names)(*values)
