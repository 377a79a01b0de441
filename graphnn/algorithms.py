"""The one place that says which graph algorithms run on which device.

`compiled_topology` and `device_topology` have the same functions, which take and return tensors of
one device: numba's loops on the CPU, torch operations anywhere. Both are imported where they are
used, because numba is slow to load.
"""

from __future__ import annotations

from types import ModuleType

import torch


def on(device: torch.device) -> ModuleType:
    """The module whose functions work on tensors of `device`."""
    if device.type == "cpu":
        from graphnn import compiled_topology as chosen
    else:
        from graphnn import device_topology as chosen
    return chosen
