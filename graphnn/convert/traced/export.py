"""From a trained network back into the module that it was converted from."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from graphnn.assembly.entries import Owner
from graphnn.assembly.merging import CONSTANT, Coefficients
from graphnn.convert.layer import Layer
from graphnn.convert.traced.converter import Conversion, sample_shapes
from graphnn.convert.traced.layers import norm_coefficients
from graphnn.errors import ConversionError
from graphnn.graph import NeuronGraph
from graphnn.network import Network

# What solving for a folded parameter may add to the rounding of the model's own dtype.
_ROUNDINGS = 64


@torch.no_grad()
def export_weights(net: Network, model: nn.Module) -> None:
    """Writes a network's weights and biases into the module that it was converted from.

    The module is converted again, in thought, and must give the same wiring. Afterwards
    ``model.eval()`` computes what the network computes. A layer with a folded BatchNorm gets the
    weights that give the network's under the BatchNorm as it is. The BatchNorm is left alone,
    unless the layer has no bias, which its own bias then holds, or it is not folded at all.

    Args:
        net: From `from_module` or `from_sequential`, trained. One that was loaded from a file
            does not know its model's input shape; its inputs are taken as (B, n).
        model: The module, or another one of the same structure. Written to in place.

    Raises:
        ConversionError: The wiring is not the module's, edges that share a parameter differ, or no
            values of the module's parameters give the network's. The module is then as it was.

    Example:
        >>> model = torch.nn.Linear(2, 1)
        >>> net = graphnn.from_module(model, torch.ones(1, 2))
        >>> _ = net.weight.data.fill_(3.0)
        >>> graphnn.export_weights(net, model)
        >>> model.weight
        Parameter containing:
        tensor([[3., 3.]], requires_grad=True)
    """
    if not isinstance(net, Network):
        raise ConversionError(f"net must be a graphnn.Network (got {type(net).__name__}).")
    shapes = sample_shapes(net)
    before = _converted(net, model, shapes)
    writer = _Writer({}, before, net.weight.dtype)
    try:
        writer.write(before.merged.weight, _numbers(net.weight))
        # A shift that a BatchNorm before a layer gives its bias depends on the layer's weights.
        middle = _converted(net, model, shapes)
        writer.write(middle.merged.bias, _numbers(net.bias))
        _check_result(net, _converted(net, model, shapes))
    except ConversionError:
        writer.restore()
        raise


def _numbers(values: Tensor) -> Tensor:
    return values.detach().cpu().double()


def _converted(net: Network, model: nn.Module, shapes: tuple[tuple[int, ...], ...]) -> Conversion:
    try:
        conversion = Conversion.of(model, shapes)
    except ConversionError as error:
        raise ConversionError(
            f"model must be the module that net was converted from, but it cannot be converted for "
            f"samples of shape {', '.join(map(str, shapes))}: {error}"
        ) from error
    difference = _difference(net.graph.to("cpu"), conversion.graph)
    if difference is None and net.output_transform != conversion.transform:
        difference = f"output transform {net.output_transform!r}, {conversion.transform!r}"
    if difference is not None:
        raise ConversionError(
            f"model must be the module that net was converted from, but their wirings differ: the "
            f"network's, then the module's: {difference}."
        )
    return conversion


def _difference(one: NeuronGraph, other: NeuronGraph) -> str | None:
    """The first thing in which two wirings differ, names of neurons aside."""
    for what in ("num_neurons", "num_edges", "num_levels"):
        if getattr(one, what) != getattr(other, what):
            return f"{what} {getattr(one, what)}, {getattr(other, what)}"
    differs = (one.edge_index != other.edge_index).any(0)
    if bool(differs.any()):
        edge = int(differs.int().argmax())
        pairs = [" -> ".join(map(str, g.edge_index[:, edge].tolist())) for g in (one, other)]
        return f"edge {edge} is {pairs[0]}, {pairs[1]}"
    for neuron, names in enumerate(zip(one.activation, other.activation, strict=True)):
        if names[0] != names[1]:
            return f"neuron {neuron} has the activation {names[0]}, {names[1]}"
    if not torch.equal(one.bias_neurons, other.bias_neurons):
        return f"{one.bias_neurons.numel()} biased neurons, {other.bias_neurons.numel()}, or others"
    for own, others in ((one.inputs, other.inputs), (one.outputs, other.outputs)):
        if [ids.tolist() for ids in own.values()] != [ids.tolist() for ids in others.values()]:
            return f"the groups {', '.join(own)}, {', '.join(others)} hold other neurons"
    return None


def _check_result(net: Network, after: Conversion) -> None:
    for name in ("weight", "bias"):
        wanted, got = _numbers(getattr(net, name)), getattr(after.merged, name).value
        if not wanted.numel():
            continue
        limit = _ROUNDINGS * torch.finfo(net.weight.dtype).eps * (1 + wanted.abs().max())
        off = (wanted - got).abs()
        if bool(off.max() > limit):
            place = int(off.argmax())
            raise ConversionError(
                f"model cannot hold the network's {name}es: {name}[{place}] is "
                f"{float(wanted[place]):.6g}, but the module's best is {float(got[place]):.6g}. "
                "Parameters with requires_grad=False in net follow from the module alone."
            )


@dataclass(frozen=True, eq=False)
class _Writer:
    """Writes parameters, and knows what was there before.

    Args:
        saved: Every tensor that was written to, with a copy.
        conversion: Of the module before.
        dtype: Of the network.
    """

    saved: dict[Tensor, Tensor]
    conversion: Conversion
    dtype: torch.dtype

    def restore(self) -> None:
        for tensor, copy in self.saved.items():
            tensor.copy_(copy)

    def write(self, made_of: Coefficients, wanted: Tensor) -> None:
        """Solves ``factor * parameter + addend = wanted`` for every parameter, and writes it."""
        dtype = self.dtype
        is_constant = made_of.entry == CONSTANT
        _check_constants(made_of.value[is_constant], wanted[is_constant], dtype, is_constant)
        trained = ~is_constant
        entry, wanted = made_of.entry[trained], wanted[trained]
        factor, addend = made_of.factor[trained], made_of.addend[trained]
        if entry.numel() == 0:
            return
        known = wanted.new_full((int(entry.max()) + 1,), float("nan"))
        known[entry] = wanted
        self._check_ties(known[entry] != wanted, entry)
        lost = (factor == 0) & (wanted.to(dtype) != addend.to(dtype))
        if bool(lost.any()):
            owner = self._owner(int(entry[lost][0]))
            raise ConversionError(
                f"{owner.label} is scaled by a BatchNorm's weight of 0, so that it cannot give the "
                "network's weights. Train the BatchNorm's weight away from 0, or do not fold it."
            )
        solved = torch.where(factor == 0, float("nan"), (wanted - addend) / factor)
        known[entry] = solved
        for owner in self.conversion.entries.owners:
            own = known[owner.first : owner.first + owner.value.numel()]
            # Numbers that no edge reads, or that are scaled by 0, stay as they are.
            padded = known.new_full((owner.value.numel(),), float("nan"))
            padded[: own.numel()] = own
            value = torch.where(padded.isnan(), owner.value.reshape(-1), padded)
            self._put(owner, value.view(owner.value.shape))

    def _owner(self, entry: int) -> Owner:
        return self.conversion.entries.owner_of(entry)

    def _check_ties(self, differs: Tensor, entry: Tensor) -> None:
        if not bool(differs.any()):
            return
        number = int(entry[differs][0])
        owner = self._owner(number)
        place = torch.unravel_index(
            torch.tensor(number - owner.first, device="cpu"), owner.value.shape
        )
        where = ", ".join(str(int(i)) for i in place)
        raise ConversionError(
            f"edges that share {owner.label}[{where}] must have one weight, but theirs differ. "
            "Train with the Tied that from_module registers; files do not keep it."
        )

    def _put(self, owner: Owner, value: Tensor) -> None:
        if torch.equal(value, owner.value):
            return
        if isinstance(owner.source, nn.Module):
            self._put_norm(owner, value)
        elif isinstance(owner.source, Tensor):
            self._copy(owner.source, value)
        else:
            raise ConversionError(
                f"{owner.label} cannot be written: it is parametrized or pruned in the module, "
                "or no parameter holds it. Remove the parametrization (torch.nn.utils.parametrize."
                "remove_parametrizations, torch.nn.utils.prune.remove), or give the layer a bias."
            )

    def _put_norm(self, owner: Owner, value: Tensor) -> None:
        """Puts a scale or a shift into a batch norm's weight and bias."""
        norm = owner.source
        if norm.weight is None or norm.bias is None:
            raise ConversionError(
                f"{owner.label} cannot be written: the BatchNorm has no parameters (affine=False)."
            )
        scale, shift, _ = norm_coefficients(Layer(owner.label.rpartition(".")[0], norm))
        if owner.label.endswith("scale"):
            deviation = (norm.running_var.double() + norm.eps).sqrt()
            self._copy(norm.weight, value.to(deviation.device) * deviation)
            scale = value.to(scale.device)
            value = shift
        self._copy(norm.bias, value.to(scale.device) + norm.running_mean.double() * scale)

    def _copy(self, tensor: Tensor, value: Tensor) -> None:
        self.saved.setdefault(tensor, tensor.clone())
        tensor.copy_(value)


def _check_constants(
    expected: Tensor, wanted: Tensor, dtype: torch.dtype, is_constant: Tensor
) -> None:
    differs = expected.to(dtype) != wanted.to(dtype)
    if bool(differs.any()):
        place = int(is_constant.nonzero()[differs][0])
        raise ConversionError(
            f"entry {place} of the network must be the module's constant "
            f"{float(expected[differs][0]):.6g}, but it is {float(wanted[differs][0]):.6g}. Keep "
            "the Frozen that from_module registers."
        )
