"""A module's operations by torch.fx, each with its place in the module and in the source."""

from __future__ import annotations

import dis
import inspect
import linecache
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Any, NoReturn

import torch
from torch import fx, nn
from torch.fx.proxy import TraceError

from graphnn import errors
from graphnn.convert.activation_layer import NeuronActivation
from graphnn.convert.layer import Layer
from graphnn.errors import ConversionError

_LIBRARIES = tuple(str(Path(str(package.__file__)).parent) for package in (torch, errors))
_CONTAINERS = (nn.Sequential, nn.ModuleList, nn.ModuleDict, nn.ParameterList, nn.ParameterDict)
# From this argument of BINARY_OP on, the operator is one of +=, &=, ...
_FIRST_IN_PLACE = 13


def traced(model: nn.Module, num_inputs: int) -> tuple[nn.Module, fx.Graph, list[str]]:
    """A module's operations in eval mode.

    Args:
        model: Left as it is, in its mode.
        num_inputs: How many arguments are given; the others keep their defaults.

    Returns:
        (the module that paths start from: `model`, or a Sequential of it where it is one of torch's
        layers; the graph; the names of the arguments that are given).

    Raises:
        ConversionError: The arguments do not fit, or the operations depend on values; the module's
            path and the line are named.
    """
    names, defaults = _arguments(model, num_inputs)
    for path, module in model.named_modules():
        layer = Layer(path, module)
        layer.check_initialised()
        layer.check_hooks()
    tracer = _Tracer()
    root = nn.Sequential(model) if tracer.is_leaf_module(model, "") else model
    with _eval_mode(root):
        try:
            graph = tracer.trace(root, concrete_args=defaults or None)
        except ConversionError:
            raise
        except Exception as error:
            tracer.refuse(error)
    return root, graph, names


@contextmanager
def _eval_mode(model: nn.Module) -> Iterator[None]:
    modes = [(module, module.training) for module in model.modules()]
    try:
        model.eval()
        yield
    finally:
        for module, mode in modes:
            module.training = mode


def _arguments(model: nn.Module, num_inputs: int) -> tuple[list[str], dict[str, Any]]:
    parameters = list(inspect.signature(model.forward).parameters.values())
    names = []
    for parameter in parameters:
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            raise ConversionError(
                f"the forward of {type(model).__name__} must name its arguments (got "
                f"{parameter}). Wrap the module in one whose forward does."
            )
        names.append(parameter.name)
    required = [p.name for p in parameters if p.default is p.empty]
    if not len(required) <= num_inputs <= len(names):
        raise ConversionError(
            f"one example input must be given for each of the arguments of "
            f"{type(model).__name__}.forward, {', '.join(names) or 'of which there are none'} (got "
            f"{num_inputs} inputs)."
        )
    keyword = [p.name for p in parameters if p.kind is p.KEYWORD_ONLY and p.name in required]
    if keyword:
        raise ConversionError(
            f"the inputs of {type(model).__name__}.forward must be positional arguments, but "
            f"{keyword[0]!r} is keyword-only."
        )
    return names[:num_inputs], {p.name: p.default for p in parameters[num_inputs:]}


class _Tracer(fx.Tracer):
    """Stops at torch's own layers; keeps for every operation where it stands."""

    def __init__(self) -> None:
        super().__init__()
        self._paths: list[str] = []

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        if isinstance(m, _CONTAINERS):
            return False
        return isinstance(m, NeuronActivation) or m.__module__.startswith("torch.nn")

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self._paths.append(self.path_of_module(m))
        value = super().call_module(m, forward, args, kwargs)
        # Not in a finally: after an error the path is where it happened.
        self._paths.pop()
        return value

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        node = super().create_node(*args, **kwargs)
        node.meta["path"] = self._paths[-1] if self._paths else ""
        frame = _user_frame(sys._getframe())
        if frame is not None:
            node.meta["line"] = _line(frame.f_code.co_filename, frame.f_lineno)
            node.meta["in_place"] = _is_augmented(frame)
        return node

    def refuse(self, error: Exception) -> NoReturn:
        """Turns what went wrong while tracing into a ConversionError with its place."""
        path = self._paths[-1] if self._paths else ""
        module = self.root.get_submodule(path)
        traceback, line = error.__traceback__, ""
        while traceback is not None:
            name = traceback.tb_frame.f_code.co_filename
            if _is_user_file(name):
                line = _line(name, traceback.tb_lineno)
            traceback = traceback.tb_next
        depends = isinstance(error, TraceError)
        reason = (
            "decides by the values or the shape of a tensor, but a network has one wiring for all "
            "inputs. Decide by something that is known before, or convert the parts."
            if depends
            else f"cannot be traced by torch.fx: {error}."
        )
        raise ConversionError(f"{described(path, module)} {reason}{line}") from error


def described(path: str, module: nn.Module) -> str:
    """A module as messages name it."""
    return str(Layer(path, module))


def _is_user_file(name: str) -> bool:
    return not name.startswith((*_LIBRARIES, "<frozen"))


def _user_frame(frame: FrameType | None) -> FrameType | None:
    while frame is not None and not _is_user_file(frame.f_code.co_filename):
        frame = frame.f_back
    return frame


def _line(filename: str, number: int) -> str:
    text = linecache.getline(filename, number).strip()
    shown = f": {text}" if text else ""
    return f"\n  {filename}:{number}{shown}"


def _is_augmented(frame: FrameType) -> bool:
    """Whether the frame runs an operator such as +=, which torch does in place and fx does not."""
    code, last = frame.f_code.co_code, frame.f_lasti
    return code[last] == dis.opmap["BINARY_OP"] and code[last + 1] >= _FIRST_IN_PLACE
