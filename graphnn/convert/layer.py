"""Reading torch layers one by one: what each is, whether it can be trusted, what it holds."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy
from torch.nn.utils import parametrize, prune

from graphnn.convert.activation_layer import ACTIVATION_LAYERS
from graphnn.errors import ConversionError
from graphnn.parametrize import frozen_mask

DROPPED_LAYERS: tuple[type[nn.Module], ...] = (
    nn.Identity,
    nn.Dropout,
    nn.Dropout1d,
    nn.Dropout2d,
    nn.Dropout3d,
    nn.AlphaDropout,
    nn.FeatureAlphaDropout,
)
STACK_LAYERS: tuple[type[nn.Module], ...] = (
    nn.Linear,
    nn.BatchNorm1d,
    nn.Flatten,
    nn.Softmax,
    nn.LogSoftmax,
    nn.Sequential,
    *DROPPED_LAYERS,
    *ACTIVATION_LAYERS,
)
_DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)


@dataclass(frozen=True, eq=False)
class Parameter:
    """A layer's parameter, detached.

    Args:
        value: May be the layer's own storage: not to be written to.
        trains: Whether any of it requires a gradient.
        held: Which entries a `Frozen` holds, or None.
    """

    value: Tensor
    trains: bool
    held: Tensor | None


@dataclass(frozen=True, eq=False)
class Layer:
    """One layer of a model, with the path that messages name it by.

    Args:
        path: Its place, such as "1.0"; empty for the model itself.
        module: The layer.
    """

    path: str
    module: Any

    def __str__(self) -> str:
        return f"{self.path or 'model'} ({type(self.module).__name__})"

    def refuse(self, reason: str) -> NoReturn:
        """Raises the ConversionError "path (class) reason"."""
        raise ConversionError(f"{self} {reason}")

    def kind(self, known: Sequence[type[nn.Module]] = STACK_LAYERS) -> type[nn.Module] | None:
        """The known class whose forward this layer runs, or None.

        A subclass is its base only while it leaves `forward` alone.

        Args:
            known: Classes.
        """
        own = type(self.module)
        for base in own.__mro__:
            if base in known:
                untouched = own.forward is base.forward and "forward" not in vars(self.module)
                return base if untouched else None
        return None

    def check_initialised(self) -> None:
        """Refuses a lazy layer that does not know its sizes yet."""
        own = (*self.module._parameters.values(), *self.module._buffers.values())
        if any(is_lazy(value) for value in own):
            self.refuse("must know its sizes, but has not run yet. Run the model once.")

    def check_hooks(self) -> None:
        """Refuses hooks that may change what the layer computes; pruning's are understood."""
        before = self.module._forward_pre_hooks.values()
        hooks = [hook for hook in before if not isinstance(hook, prune.BasePruningMethod)]
        hooks += self.module._forward_hooks.values()
        if hooks:
            name = getattr(hooks[0], "__name__", type(hooks[0]).__name__)
            self.refuse(
                f"must have no forward hooks, which may change its values (got {name}). Remove the "
                "hook before converting."
            )

    def parameter(self, name: str) -> Parameter | None:
        """A parameter as the layer uses it in eval mode: pruned and parametrized.

        Args:
            name: "weight" or "bias".

        Returns:
            The parameter, or None where the layer has none.
        """
        module = self.module
        if parametrize.is_parametrized(module, name):
            own = module.parametrizations[name]
            # Some parametrizations update themselves when read in training mode, so a copy is read.
            value = getattr(copy.deepcopy(module).eval(), name)
            held = frozen_mask(module, name)
            trains = any(p.requires_grad for p in own.parameters())
            return self._checked(Parameter(value.detach(), trains, held), name)
        value = getattr(module, name)
        if value is None:
            return None
        trains = value.requires_grad
        for hook in module._forward_pre_hooks.values():
            if isinstance(hook, prune.BasePruningMethod) and hook._tensor_name == name:
                # The attribute is as old as the last forward; the optimiser moves the original.
                value = hook.apply_mask(module)
                trains = getattr(module, name + "_orig").requires_grad
        return self._checked(Parameter(value.detach(), trains, None), name)

    def _checked(self, parameter: Parameter, name: str) -> Parameter:
        value = parameter.value
        if value.layout != torch.strided:
            self.refuse(f"must have a dense {name} (got layout {value.layout}).")
        if value.dtype not in _DTYPES:
            self.refuse(
                f"must have a {name} of real floating-point numbers: "
                f"{', '.join(str(d) for d in _DTYPES)} (got {value.dtype})."
            )
        return parameter


def iterate_layers(model: nn.Module) -> Iterator[tuple[Layer, type[nn.Module]]]:
    """The layers of an nn.Sequential in the order in which they run, nested ones opened.

    Args:
        model: The nn.Sequential.

    Yields:
        (layer, its kind).

    Raises:
        ConversionError: The model is no nn.Sequential, or a layer is unknown, has hooks, is not
            initialised or occurs twice; the layer is named.
    """
    root = Layer("", model)
    if not isinstance(model, nn.Module) or root.kind() is not nn.Sequential:
        raise ConversionError(
            f"model must be an nn.Sequential that runs its layers in order (got "
            f"{type(model).__name__}). Wrap one layer as nn.Sequential(layer); a module with a "
            "forward of its own is read by graphnn.from_module."
        )
    yield from _open(root, first_owner={})


def _open(parent: Layer, first_owner: dict[int, Layer]) -> Iterator[tuple[Layer, type[nn.Module]]]:
    parent.check_hooks()
    # named_children leaves out a module's second occurrence; running a Sequential does not.
    for name, module in parent.module._modules.items():
        layer = Layer(f"{parent.path}.{name}" if parent.path else name, module)
        layer.check_initialised()
        kind = layer.kind()
        if kind is None:
            layer.refuse(
                "cannot be read as neurons and edges. A layer must be an nn.Linear, an activation "
                "that graphnn has a name for, a Dropout, Identity, BatchNorm1d, Flatten, Softmax, "
                f"LogSoftmax or Sequential, with torch's own forward.{_other_reader(layer)}"
            )
        if kind is nn.Sequential:
            yield from _open(layer, first_owner)
            continue
        layer.check_hooks()
        for parameter in layer.module.parameters():
            other = first_owner.setdefault(id(parameter), layer)
            if other is not layer:
                layer.refuse(
                    f"must not share parameters with {other}: every edge of a network owns its "
                    "weight. Give each layer its own (copy.deepcopy)."
                )
        yield layer, kind


def _other_reader(layer: Layer) -> str:
    # Which builds on this module.
    from graphnn.convert.traced.layers import TRACED_LAYERS

    if layer.kind(TRACED_LAYERS) is None:
        return ""
    name = type(layer.module).__name__
    return f" graphnn.from_module(model, example_input) reads an nn.{name}."
