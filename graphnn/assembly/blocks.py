"""Blocks of neurons: what each operation of a model adds to a network under assembly."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from graphnn.assembly.entries import Entries
from graphnn.assembly.neurons import Neurons, constant_sample, joined_shape
from graphnn.errors import ConversionError


@dataclass(eq=False)
class Block:
    """The neurons of one operation, and the edges into them.

    Args:
        role: "linear", "activation", "sum" or "norm": decides what may be merged into it. Or
            "fixed": nothing may.
        first: The lowest id of its neurons, which are consecutive.
        size: Their number.
        source: (e,) int64 ids.
        target: (e,) int64 ids.
        entry: (e,) the parameter entry of each edge, or None: constants.
        constant: (e,) float64, or None.
        bias_entry: (size,) the parameter entry of each bias, or None.
        bias_constant: (size,) float64 constant biases, or None.
        activation: One name, or one per neuron.
        operands: Ids that it reads, one tensor (size,) for each operand of a sum, an activation or
            a norm; the sources of a linear block.
        parameters: The first entries of the parameters that it reads.
    """

    role: str
    first: int
    size: int
    source: Tensor
    target: Tensor
    entry: Tensor | None = None
    constant: Tensor | None = None
    bias_entry: Tensor | None = None
    bias_constant: Tensor | None = None
    activation: str | Sequence[str] = "identity"
    operands: tuple[Tensor, ...] = ()
    parameters: tuple[int, ...] = ()


@dataclass(eq=False)
class Assembly:
    """A network under assembly; blocks are added in an order in which they can be computed."""

    entries: Entries = field(default_factory=Entries)
    blocks: list[Block] = field(default_factory=list)
    num_inputs: int = 0
    num_neurons: int = 0

    def inputs(self, shape: Sequence[int]) -> Neurons:
        """New input neurons; all inputs come before the first block.

        Args:
            shape: Of one sample.
        """
        neurons = self._new(tuple(shape))
        self.num_inputs = self.num_neurons
        return Neurons.of(neurons)

    def _new(self, shape: Sequence[int]) -> Tensor:
        count = torch.Size(shape).numel()
        ids = torch.arange(self.num_neurons, self.num_neurons + count, device="cpu")
        self.num_neurons += count
        return ids.view(tuple(shape))

    def _append(
        self, role: str, new: Tensor, source: Tensor, target: Tensor, **fields: Any
    ) -> None:
        """Adds the block of the neurons that were made last."""
        first = self.num_neurons - new.numel()
        self.blocks.append(Block(role, first, new.numel(), source, target, **fields))

    def distinct(self, ids: Tensor) -> Tensor:
        """`ids` (*) with a new neuron of the same value wherever one repeats.

        Two edges of one operation would else have the same source and target. Negative ids stay.
        """
        flat = ids.reshape(-1)
        if flat.numel() < 2 or bool((flat[1:] > flat[:-1]).all()):
            return ids
        ordered, order = flat.sort(stable=True)
        again = torch.zeros_like(flat, dtype=torch.bool)
        again[order[1:]] = ordered[1:] == ordered[:-1]
        again &= flat >= 0
        if not bool(again.any()):
            return ids
        flat = flat.clone()
        flat[again] = self._one_to_one("fixed", flat[again], 1.0)
        return flat.view(ids.shape)

    def _one_to_one(
        self,
        role: str,
        ids: Tensor,
        constant: Tensor | float,
        activation: str | Sequence[str] = "identity",
        bias_constant: Tensor | None = None,
    ) -> Tensor:
        """New neurons (*) that each read one of `ids` (*) by a constant weight."""
        source = ids.reshape(-1)
        new = self._new(ids.shape)
        weight = torch.as_tensor(constant, dtype=torch.float64, device="cpu").expand(ids.shape)
        bias = None if bias_constant is None else bias_constant.reshape(-1)
        self._append(
            role,
            new,
            source,
            new.reshape(-1),
            constant=weight.reshape(-1),
            bias_constant=bias,
            activation=activation,
            operands=(source,),
        )
        return new

    def linear(self, x: Neurons, weight: Tensor, bias: Tensor | None) -> Neurons:
        """A matrix product over the last dimension.

        Args:
            x: A sample (*, i).
            weight: (o, i) entries.
            bias: (o,) entries, or None.

        Returns:
            A sample (*, o).
        """
        ids = x.sample
        out_features, in_features = weight.shape
        if ids.dim() == 0 or ids.shape[-1] != in_features:
            raise ConversionError(
                f"takes {in_features} values in the last dimension, but a sample has shape "
                f"{tuple(ids.shape)}"
            )
        ids = self.distinct(ids)
        rows = ids.reshape(-1, in_features)
        shape = (rows.shape[0], out_features, in_features)
        new = self._new((*ids.shape[:-1], out_features))
        spread = None if bias is None else bias.expand(new.shape)
        self._weighted(rows[:, None].expand(shape), new, weight.expand(shape), spread, ids, weight)
        return Neurons.of(new)

    def convolution(
        self, ids: Tensor, windows: Tensor, weight: Tensor, bias: Tensor | None, groups: int
    ) -> Neurons:
        """A convolution.

        Args:
            ids: (i, *) distinct ids of the sample that it reads.
            windows: (i, *out, *kernel) distinct ids, negative where nothing is read.
            weight: (o, i / groups, *kernel) entries.
            bias: (o,) entries, or None.
            groups: Blocks of channels that are apart.

        Returns:
            A sample (o, *out).
        """
        num_dims = weight.dim() - 2
        out = windows.shape[1 : 1 + num_dims]
        channels, per_group = weight.shape[:2]
        source = windows.reshape(groups, per_group, out.numel(), -1).transpose(1, 2)
        new = self._new((channels, *out))
        shape = (groups, channels // groups, out.numel(), *source.shape[2:])
        entry = weight.reshape(groups, channels // groups, 1, per_group, -1).expand(shape)
        spread = None
        if bias is not None:
            spread = bias.view(-1, *[1] * num_dims).expand(new.shape)
        self._weighted(source[:, None].expand(shape), new, entry, spread, ids, weight)
        return Neurons.of(new)

    def _weighted(
        self,
        source: Tensor,
        new: Tensor,
        entry: Tensor,
        bias: Tensor | None,
        read: Tensor,
        weight: Tensor,
    ) -> None:
        """Adds a linear block: `source` and `entry` (*, f), in the order of `new`'s neurons."""
        fan_in = source.shape[-1] if source.dim() == 3 else source.shape[-1] * source.shape[-2]
        source, entry = source.reshape(-1), entry.reshape(-1)
        target = new.reshape(-1)[:, None].expand(-1, fan_in).reshape(-1)
        if source.numel() and int(source.min()) < 0:
            real = source >= 0
            source, target, entry = source[real], target[real], entry[real]
        used = [self.entries.use(weight)]
        if bias is not None:
            used.append(self.entries.use(bias))
        self._append(
            "linear",
            new,
            source,
            target,
            entry=entry,
            bias_entry=None if bias is None else bias.reshape(-1),
            operands=(read.reshape(-1),),
            parameters=tuple(used),
        )

    def mean(self, windows: Tensor, num_windows: int, weight: Tensor) -> Neurons:
        """Weighted sums with constant weights.

        Args:
            windows: (*out, *kernel) ids, negative where nothing is read.
            num_windows: The number of leading dimensions that are `out`.
            weight: (*out, *kernel) float64.

        Returns:
            A sample (*out).
        """
        new = self._new(windows.shape[:num_windows])
        source, weight = windows.reshape(-1), weight.reshape(-1)
        fan_in = windows.shape[num_windows:].numel()
        target = new.reshape(-1)[:, None].expand(-1, fan_in).reshape(-1)
        real = source >= 0
        self._append(
            "fixed",
            new,
            source[real],
            target[real],
            constant=weight[real],
            operands=(source[real],),
        )
        return Neurons.of(new)

    def activation(self, x: Neurons, name: str | Sequence[str]) -> Neurons:
        """An activation by its name, or by one name for each element of the last dimension."""
        ids = x.sample
        if isinstance(name, str):
            return Neurons.of(self._one_to_one("activation", ids, 1.0, name))
        if ids.dim() == 0 or ids.shape[-1] != len(name):
            raise ConversionError(
                f"takes {len(name)} values in the last dimension, but a sample has shape "
                f"{tuple(ids.shape)}"
            )
        names = list(name) * ids.shape[:-1].numel()
        return Neurons.of(self._one_to_one("activation", ids, 1.0, names))

    def add(self, x: Neurons, y: Neurons, factor: float = 1.0) -> Neurons:
        """``x + factor * y``, broadcast."""
        one, other = joined_shape(x, y)
        same = one == other
        if bool(same.any()):
            other = other.clone()
            other[same] = self._one_to_one("fixed", other[same], 1.0)
        new = self._new(one.shape)
        one, other, target = one.reshape(-1), other.reshape(-1), new.reshape(-1)
        weight = torch.ones(target.numel(), 2, dtype=torch.float64, device="cpu")
        weight[:, 1] = factor
        self._append(
            "sum",
            new,
            torch.stack([one, other], 1).reshape(-1),
            target.repeat_interleave(2),
            constant=weight.reshape(-1),
            operands=(one, other),
        )
        return Neurons.of(new)

    def scale(self, x: Neurons, factor: Tensor | float) -> Neurons:
        """``x * factor`` with a constant, broadcast."""
        ids, constant = constant_sample(factor, x)
        return Neurons.of(self._one_to_one("fixed", ids, constant))

    def shift(self, x: Neurons, addend: Tensor | float) -> Neurons:
        """``x + addend`` with a constant, broadcast."""
        ids, constant = constant_sample(addend, x)
        return Neurons.of(self._one_to_one("sum", ids, 1.0, bias_constant=constant))

    def trained_scale(self, x: Neurons, entry: Tensor) -> Neurons:
        """``x * parameter`` with a parameter's entries (*), broadcast."""
        ids, entry = self._with_entries(x, entry)
        new = self._new(ids.shape)
        source, target = ids.reshape(-1), new.reshape(-1)
        used = (self.entries.use(entry),)
        self._append(
            "fixed",
            new,
            source,
            target,
            entry=entry.reshape(-1),
            operands=(source,),
            parameters=used,
        )
        return Neurons.of(new)

    def trained_shift(self, x: Neurons, entry: Tensor) -> Neurons:
        """``x + parameter`` with a parameter's entries (*), broadcast."""
        ids, entry = self._with_entries(x, entry)
        new = self._one_to_one("sum", ids, 1.0)
        self.blocks[-1].bias_entry = entry.reshape(-1)
        self.blocks[-1].parameters = (self.entries.use(entry),)
        return Neurons.of(new)

    def _with_entries(self, x: Neurons, entry: Tensor) -> tuple[Tensor, Tensor]:
        try:
            ids, entry = torch.broadcast_tensors(x.ids, entry)
        except RuntimeError as error:
            raise ConversionError(f"joins shapes that do not fit ({error})") from None
        joined = x.moved(ids)
        if not torch.equal(entry[0], entry[1]):
            raise ConversionError("gives the samples of a batch different parameters")
        return joined.sample, entry[0]

    def norm(self, x: Neurons, scale: Tensor, shift: Tensor) -> Neurons:
        """``x * scale + shift`` by channel, which may be folded into its neighbours.

        Args:
            x: A sample (C, *).
            scale: (C,) entries.
            shift: (C,) entries.
        """
        ids = x.sample
        if ids.dim() == 0 or ids.shape[0] != scale.numel():
            raise ConversionError(
                f"takes {scale.numel()} channels, but a sample has shape {tuple(ids.shape)}"
            )
        shape = (-1, *[1] * (ids.dim() - 1))
        new = self._new(ids.shape)
        source, target = ids.reshape(-1), new.reshape(-1)
        self._append(
            "norm",
            new,
            source,
            target,
            entry=scale.view(shape).expand(ids.shape).reshape(-1),
            bias_entry=shift.view(shape).expand(ids.shape).reshape(-1),
            operands=(source,),
            parameters=(self.entries.use(scale), self.entries.use(shift)),
        )
        return Neurons.of(new)
