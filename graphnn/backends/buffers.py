"""Memory as compiled code takes it: states in whole vectors, and tensors as arrays."""

from __future__ import annotations

import threading

import numpy as np
import torch
from torch import Tensor

# Bytes of a vector register and of a cache line: a vector across two lines costs two reads.
_LINE = 64
# Bytes from which on numpy asks for large pages, without which first use costs a fault every 4 KiB.
_LARGE = 1 << 22
# Bytes of scratch that a thread keeps for its next call, for each dtype.
_KEPT = 1 << 25

# Named wherever memory is made: a default device must not reach it.
CPU = torch.device("cpu")

# What compiled code computes in.
DTYPES = {torch.float32: np.float32, torch.float64: np.float64}

_own = threading.local()


def numbers(tensor: Tensor) -> np.ndarray:
    """A tensor's numbers as a contiguous array of its shape: its own memory where that is one."""
    # Forced, because a parameter has a gradient, and because the imaginary part of a conjugate is
    # stored with the opposite sign.
    return (tensor if tensor.is_contiguous() else tensor.contiguous()).numpy(force=True)


def empty(count: int, dtype: torch.dtype) -> Tensor:
    """(count,) uninitialised numbers that start on a cache line."""
    size = count * dtype.itemsize
    if size < _LARGE:
        return torch.empty(count, dtype=dtype, device=CPU)
    memory = np.empty(size + _LINE, np.uint8)
    start = -memory.ctypes.data % _LINE
    return torch.from_numpy(memory[start : start + size]).view(dtype)


def scratch(count: int, dtype: torch.dtype) -> np.ndarray:
    """(count,) uninitialised numbers for this thread, until it asks again."""
    kept = getattr(_own, "memory", None)
    if kept is None:
        kept = _own.memory = {}
    memory = kept.get(dtype)
    if memory is None or memory.size < count:
        memory = empty(count, dtype).numpy()
        if count * dtype.itemsize <= _KEPT:
            kept[dtype] = memory
    return memory[:count]
