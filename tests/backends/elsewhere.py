"""A stand-in for an accelerator where there is none; for a process of its own, which it changes.

Inside `Elsewhere`, tensors can be made on `DEVICE` or moved there. They are computed on the CPU but
say that they are elsewhere: numpy cannot read them, and an operation on tensors of both devices
fails, as it does with CUDA. What crosses is counted.
"""

import torch
from torch.overrides import TorchFunctionMode
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map


class _Module(backend_registration._DummyBackendModule):
    def get_amp_supported_dtype(self):
        return [torch.float16]


backend_registration._setup_privateuseone_for_python_backend("elsewhere", _Module())
DEVICE = torch.device("elsewhere:0")
# These may read a tensor of one device and write one of the other.
_CROSSING = {"aten::_to_copy", "aten::copy_"}


class _There(torch.Tensor):
    """A tensor that says it is on `DEVICE`, around one on the CPU."""

    @staticmethod
    def __new__(cls, inner):
        made = torch.Tensor._make_wrapper_subclass(
            cls, inner.shape, strides=inner.stride(), dtype=inner.dtype, device=DEVICE
        )
        made.inner = inner
        return made

    def as_subclass(self, cls):
        # Taking this class off would leave nothing.
        return self

    def tolist(self):
        return self.to("cpu").tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} was called outside of Elsewhere")


def _is_tensor(leaf):
    return isinstance(leaf, torch.Tensor)


class _Dispatch(TorchDispatchMode):
    def __init__(self, counts):
        super().__init__()
        self.counts = counts

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs, name = dict(kwargs or {}), func.name().split(".")[0]
        given = list(filter(_is_tensor, tree_leaves((args, kwargs))))
        there = {id(own.inner): own for own in given if isinstance(own, _There)}
        here = [own for own in given if not isinstance(own, _There) and own.dim()]
        if there and here and name not in _CROSSING:
            raise RuntimeError(f"{name} was given tensors of two devices.")
        to_there = bool(there)
        if kwargs.get("device") is not None:
            to_there = torch.device(kwargs["device"]).type == DEVICE.type
            kwargs["device"] = torch.device("cpu")
        elif name == "aten::copy_":
            to_there = isinstance(args[0], _There)
        if name in (*_CROSSING, "aten::_local_scalar_dense"):
            self._count(there, here, to_there and name != "aten::_local_scalar_dense")
        args, kwargs = tree_map(
            lambda leaf: leaf.inner if isinstance(leaf, _There) else leaf, (args, kwargs)
        )
        found = func(*args, **kwargs)
        if not to_there:
            return found
        return tree_map(
            lambda leaf: there.get(id(leaf), _There(leaf)) if _is_tensor(leaf) else leaf, found
        )

    def _count(self, there, here, to_there):
        if there and not to_there:
            self.counts.waits += 1
            self.counts.largest_out = max(
                self.counts.largest_out, *(own.numel() for own in there.values()), 0
            )
        if here and to_there:
            self.counts.largest_in = max(self.counts.largest_in, *(o.numel() for o in here), 0)


class Elsewhere(TorchFunctionMode):
    """Makes `DEVICE` usable.

    Counts the elements of the largest copy from there and of the largest to there, and how often
    something was copied from there.
    """

    def __init__(self):
        super().__init__()
        self.largest_in = self.largest_out = self.waits = 0
        self._dispatch = _Dispatch(self)

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        # torch.tensor makes what it makes without asking anybody.
        if func is torch.tensor and torch.device(kwargs.get("device") or "cpu").type != "cpu":
            return func(*args, **{**kwargs, "device": "cpu"}).to(kwargs["device"])
        return func(*args, **kwargs)

    def __enter__(self):
        self._dispatch.__enter__()
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._dispatch.__exit__(*error)
