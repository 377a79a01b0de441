"""What happens where a GPU's memory is too small for a call."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeVar

import torch

from graphnn.backends import fused_gpu_graphs
from graphnn.backends.base import Call, Keep
from graphnn.backends.fused_gpu_schedule import Schedule
from graphnn.backends.fused_gpu_tiles import stride_of
from graphnn.errors import BackendError
from graphnn.exhausted import first_words, gigabytes, is_out_of_memory
from graphnn.plan import ExecutionPlan

_Result = TypeVar("_Result")


@dataclass(frozen=True)
class Size:
    """What a call's memory follows from: it holds none of its tensors.

    Args:
        plan: The schedule.
        batch: B.
        dtype: Of all numbers.
        device: Where they are.
        keep: Of `Backend.run`.
        has_offset: Whether there is an offset.
    """

    plan: ExecutionPlan
    batch: int
    dtype: torch.dtype
    device: torch.device
    keep: Keep
    has_offset: bool

    @classmethod
    def of(cls, call: Call) -> Size:
        """A call's."""
        inputs, has_offset = call.inputs, call.offset is not None
        return cls(call.plan, inputs.shape[0], inputs.dtype, inputs.device, call.keep, has_offset)


def within_memory(
    compute: Callable[[], _Result], again: Callable[[], _Result], size: Size, trains: bool
) -> _Result:
    """The result of `compute`, else of `again`, or a BackendError that says what would fit.

    Args:
        compute: May run out of memory.
        again: The same in less memory where that can be; called after all captures are released.
        size: Of what they compute.
        trains: Whether the state is kept for gradients.
    """
    said = ""
    for attempt in (compute, again):
        try:
            return attempt()
        except RuntimeError as error:
            if not is_out_of_memory(error):
                raise
            said = first_words(error)
        # Done out here, where nothing holds the frames of the failed call and their tensors.
        if not fused_gpu_graphs.is_capturing(size.device):
            fused_gpu_graphs.release_all()
            if size.device.type == "cuda":
                torch.cuda.empty_cache()
    raise BackendError(_too_little(size, trains, said))


def _too_little(size: Size, trains: bool, said: str) -> str:
    plan = size.plan
    a_sample, fixed = needed_bytes(size, trains)
    needed = fixed + a_sample * stride_of(size.batch)
    what = "a training step" if trains else "this call"
    text = (
        f"backend 'fused_gpu' has too little memory on {size.device} for {plan.num_neurons} "
        f"neurons, {plan.num_edges} edges and {size.batch} samples in {size.dtype}: {what} takes "
        f"about {gigabytes(needed)} beside the network"
    )
    if size.device.type == "cuda":
        free, total = torch.cuda.mem_get_info(size.device)
        fit = max(0, free - fixed) // a_sample
        text += (
            f", and {gigabytes(free)} of {gigabytes(total)} are free, enough for about {fit} "
            "samples"
        )
    advice = "Give smaller batches"
    if trains:
        advice += ", or run under torch.no_grad(), which keeps only what is still read"
    return f"{text} ({said}). {advice}."


def needed_bytes(size: Size, trains: bool) -> tuple[int, int]:
    """Bytes that a call takes for each sample, and for its edges.

    Args:
        size: Of the call.
        trains: Whether gradients follow.
    """
    plan, a_number = size.plan, size.dtype.itemsize
    own: Schedule | None = plan.derived.get("fused_gpu")
    neurons, outputs = plan.num_neurons, plan.output_position.numel()
    if size.keep == "all":
        # Values and preactivations, as states and as results.
        a_sample = 4 * neurons
    elif trains:
        a_sample = (2 if own is None or own.keeps_pre else 1) * neurons + 2 * outputs
    else:
        a_sample = (neurons if own is None else own.ring.size) + outputs
    if size.has_offset:
        a_sample += neurons
    # Weights by source, and gradients by source and by edge.
    fixed = plan.num_edges * (2 * a_number + max(a_number, 4)) if trains else 0
    return max(1, a_number * a_sample), fixed
