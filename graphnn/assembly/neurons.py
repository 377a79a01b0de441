"""Tensors of neuron ids, on which operations that only move elements run as they are."""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import Tensor

from graphnn.errors import ConversionError

# Two samples are carried along, the second with other ids, so that every operation which moves
# values between samples, or takes the batch for a feature, shows in its result.
NUM_SAMPLES = 2
_OFFSET = 1 << 40


@dataclass(frozen=True, eq=False)
class Neurons:
    """A batch-first tensor of a model; every element is a neuron.

    Args:
        ids: (2, *) int64: the ids of one sample, and the same plus an offset.
        storage: Shared with the tensors that are views of the same memory in the model.
    """

    ids: Tensor
    storage: object = field(default_factory=object)

    @classmethod
    def of(cls, ids: Tensor) -> Neurons:
        """The tensor whose sample has these ids (*)."""
        return cls(torch.stack([ids, ids + _OFFSET]))

    @property
    def sample(self) -> Tensor:
        """(*) ids, without the batch dimension."""
        return self.ids[0]

    def moved(self, ids: Tensor) -> Neurons:
        """What an operation made of `ids` by moving elements.

        Raises:
            ConversionError: The result is not batch-first, or mixes samples.
        """
        check_batch(ids)
        return Neurons(ids, self.storage)


def check_batch(ids: Tensor) -> None:
    """Refuses ids that are not two samples, one after the other in dimension 0.

    Raises:
        ConversionError: They are not.
    """
    is_batch = ids.dim() > 0 and ids.shape[0] == NUM_SAMPLES
    if not is_batch or (
        ids.numel() and (int(ids[0].max()) >= _OFFSET or not torch.equal(ids[0] + _OFFSET, ids[1]))
    ):
        raise ConversionError(
            "must leave dimension 0 to the batch, since a network treats every sample alone; this "
            "moves values between samples or fixes their number. Keep the batch in dimension 0 and "
            "take its size from the tensor, as x.shape[0]"
        )


def joined_shape(one: Neurons, other: Neurons) -> tuple[Tensor, Tensor]:
    """The ids (*) of one sample of two tensors, broadcast against each other.

    Raises:
        ConversionError: The shapes do not fit, or the batch of one meets a feature of the other.
    """
    try:
        pair = torch.broadcast_tensors(one.ids, other.ids)
    except RuntimeError as error:
        raise ConversionError(f"joins shapes that do not fit ({error})") from None
    for ids in pair:
        check_batch(ids)
    return pair[0][0], pair[1][0]


def constant_sample(value: Tensor | float, neurons: Neurons) -> tuple[Tensor, Tensor]:
    """The ids (*) of a sample and float64 constants (*), broadcast against each other.

    Raises:
        ConversionError: The shapes do not fit, or the constant differs between samples.
    """
    constant = torch.as_tensor(value, dtype=torch.float64, device="cpu").detach()
    try:
        ids, constant = torch.broadcast_tensors(neurons.ids, constant)
    except RuntimeError as error:
        raise ConversionError(f"joins shapes that do not fit ({error})") from None
    check_batch(ids)
    if not torch.equal(constant[0], constant[1]):
        raise ConversionError("joins a tensor with a constant that differs between samples")
    return ids[0], constant[0]
