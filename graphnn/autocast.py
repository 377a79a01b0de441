"""What torch.autocast has a network do."""

from __future__ import annotations

import torch
from torch import Tensor


def is_active(device: torch.device) -> bool:
    """Whether autocast is on for a kind of device."""
    kind = device.type
    # Asking about a device that has no autocast, such as meta, is an error.
    return kind != "meta" and torch.is_autocast_enabled(kind)


def dtype_of(weight: Tensor) -> torch.dtype | None:
    """What autocast has a network compute in and return; None where that is its own dtype.

    On a GPU it is what nn.Linear would take: float64 stays. On a CPU all stays as it is.
    """
    if weight.device.type != "cuda" or not is_active(weight.device):
        return None
    dtype = torch.get_autocast_dtype("cuda")
    return None if weight.dtype in (dtype, torch.float64) else dtype
