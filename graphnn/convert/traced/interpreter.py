"""Runs a traced module on neurons."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any, NoReturn

from torch import Tensor, fx, nn
from torch.fx.node import map_arg
from torch.nn.utils import parametrize

from graphnn.assembly.blocks import Assembly
from graphnn.assembly.neurons import Neurons
from graphnn.convert.layer import Layer, Parameter
from graphnn.convert.traced.functions import MOVES, Functions, name_of
from graphnn.convert.traced.layers import Layers
from graphnn.convert.traced.reasons import reason
from graphnn.convert.traced.values import Trained, symbols
from graphnn.errors import ConversionError, GraphNNError


class Interpreter:
    """Performs a graph's operations one by one.

    Args:
        model: The module that was traced.
        graph: Its operations.
    """

    def __init__(self, model: nn.Module, graph: fx.Graph) -> None:
        self.assembly = Assembly()
        # The first dtype and device that a parameter has, and what has it.
        self.placement: dict[str, tuple[Any, str]] = {}
        self._model = model
        self._graph = graph
        functions = Functions(self.assembly)
        self._functions = functions
        self._layers = Layers(functions, self._register)
        self._values: dict[fx.Node, Any] = {}
        # Memory that an operation in place has changed, and where.
        self._overwritten: dict[object, fx.Node] = {}

    def run(self, shapes: Sequence[Sequence[int]]) -> tuple[list[Neurons], Any]:
        """Performs all operations.

        Args:
            shapes: Of one sample of each input.

        Returns:
            (the inputs, what the module returns).

        Raises:
            ConversionError: An operation is none that neurons can do; its place is named.
        """
        inputs = [self.assembly.inputs(shape) for shape in shapes]
        waiting = iter(inputs)
        for node in self._graph.nodes:
            if node.op == "placeholder":
                default = node.args[0] if node.args else None
                self._values[node] = next(waiting, default)
                continue
            try:
                value = self._perform(node)
            except GraphNNError as error:
                self._refuse(node, str(error).removesuffix("."), error)
            except Exception as error:
                self._refuse(node, f"cannot be run on a batch of any size ({error})", error)
            if node.op == "output":
                return inputs, value
            self._values[node] = value
        raise AssertionError("a traced graph ends with its output")

    def _perform(self, node: fx.Node) -> Any:
        args, kwargs = map_arg((node.args, node.kwargs), self._read)
        if node.op == "output":
            return args[0]
        if node.op == "get_attr":
            return self._attribute(str(node.target))
        if node.op == "call_module":
            return self._call_module(node, args, kwargs)
        target: Any = node.target
        if not symbols((args, kwargs)) or hasattr(target, "_fields"):
            # Sizes, constants, and the making of a named tuple.
            own = getattr(args[0], target) if isinstance(target, str) else target
            return own(*args[isinstance(target, str) :], **kwargs)
        name = name_of(target)
        if name is None:
            raise ConversionError(reason(_called(target)))
        function: Any = getattr(Tensor, target, None) if isinstance(target, str) else target
        is_in_place = kwargs.get("inplace") is True or node.meta.get("in_place", False)
        if name.endswith("_") and not name.startswith("_"):
            name, is_in_place = name[:-1], True
            if name in MOVES:
                raise ConversionError("changes the shape of a tensor in place; leave out the _")
        value = self._functions.call(name, function, args, kwargs)
        return self._written(node, args, value) if is_in_place else value

    def _call_module(self, node: fx.Node, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        module = self._model.get_submodule(str(node.target))
        given = (*args, *kwargs.values())
        if len(given) != 1 and symbols(given):
            raise ConversionError(reason(type(module).__name__))
        if not symbols(given):
            raise ConversionError("computes with constants alone. Put the result into a buffer")
        value = self._layers.call(Layer(str(node.target), module), given[0])
        is_in_place = getattr(module, "inplace", False) and value is not given[0]
        return self._written(node, given, value) if is_in_place else value

    def _written(self, node: fx.Node, args: Sequence[Any], value: Any) -> Any:
        """Notes that the first argument's memory now holds the result."""
        first = next((arg for arg in args if isinstance(arg, Neurons)), None)
        if first is not None:
            self._overwritten[first.storage] = node
        return value

    def _read(self, node: fx.Node) -> Any:
        value = self._values[node]
        changed = self._overwritten.get(value.storage) if isinstance(value, Neurons) else None
        if changed is not None:
            raise ConversionError(
                "reads a tensor that was changed in place after it had been computed, by "
                f"{changed.name}. Leave out inplace=True, or the operation in place, there"
            )
        return value

    def _attribute(self, target: str) -> Any:
        path, _, name = target.rpartition(".")
        owner: Any = self._model.get_submodule(path)
        value = getattr(owner, name)
        if parametrize.is_parametrized(owner, name):
            raise ConversionError("is parametrized; only the parameters of layers may be")
        if isinstance(value, nn.Parameter):
            parameter = Parameter(value.detach(), value.requires_grad, None)
            return Trained(self._register(Layer(path, owner), name, parameter))
        return value.detach() if isinstance(value, Tensor) else value

    def _register(self, layer: Layer, name: str, parameter: Parameter) -> Tensor:
        label = f"{layer.path}.{name}" if layer.path else name
        for what, own in (("dtype", parameter.value.dtype), ("device", parameter.value.device)):
            first, by = self.placement.setdefault(what, (own, label))
            if own != first:
                raise ConversionError(
                    f"must have the {what} of all parameters: {label} has {own}, but {by} has "
                    f"{first}. Convert the model with .to()"
                )
        # One tensor may belong to several layers, which then share it.
        is_own = not parametrize.is_parametrized(layer.module, name)
        tensor = layer.module._parameters.get(name) if is_own else None
        key = (id(layer.module), name) if tensor is None else id(tensor)
        held = parameter.held if parameter.trains and parameter.held is not None else False
        return self.assembly.entries.add(
            key, label, parameter.value, held if parameter.trains else True, tensor
        )

    def _refuse(self, node: fx.Node, why: str, error: Exception) -> NoReturn:
        path = str(node.target) if node.op == "call_module" else node.meta.get("path", "")
        layer = Layer(path, self._model.get_submodule(path))
        what = f"{layer}"
        if node.op in ("call_function", "call_method"):
            name = node.target if isinstance(node.target, str) else _called(node.target)
            what = f"{layer}: {name}"
        elif node.op == "get_attr":
            what = f"{layer}: {node.target}"
        raise ConversionError(f"{what} {why}.{node.meta.get('line', '')}") from error


def _called(target: Any) -> str:
    signs = {
        operator.mul: "*", operator.truediv: "/", operator.add: "+", operator.sub: "-",
        operator.matmul: "@", operator.pow: "**", operator.getitem: "[...]",
    }  # fmt: skip
    return signs.get(target, getattr(target, "__name__", str(target)))
