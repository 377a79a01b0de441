"""The numbers of a model's parameters, each known by one integer: its entry."""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Owner:
    """A parameter of the model.

    Args:
        label: How messages call it, such as "conv1.weight".
        first: Its first entry; the others follow row-major.
        value: (*) float64.
        source: What it was read from: the parameter itself, the module that it was computed from,
            or None.
    """

    label: str
    first: int
    value: Tensor
    source: Any

    @property
    def entries(self) -> Tensor:
        """(*) int64, in the shape of the parameter."""
        count = self.value.numel()
        ids = torch.arange(self.first, self.first + count, device="cpu")
        return ids.view(self.value.shape)


class Entries:
    """All parameters that a model's operations read, in the order of their first use."""

    def __init__(self) -> None:
        self.owners: list[Owner] = []
        self._by_key: dict[Hashable, Owner] = {}
        self._held: list[Tensor] = []
        self._uses: dict[int, int] = {}
        self._count = 0

    def add(
        self,
        key: Hashable,
        label: str,
        value: Tensor,
        held: Tensor | bool,
        source: Any = None,
    ) -> Tensor:
        """Registers a parameter, once for each key.

        Args:
            key: What tells one parameter from others.
            label: How messages call it.
            value: (*) numbers.
            held: Which of them are not trained: a mask, or one bool for all.
            source: What it was read from.

        Returns:
            (*) int64 entries.
        """
        if key not in self._by_key:
            owner = Owner(label, self._count, value.detach().cpu().double(), source)
            mask = torch.as_tensor(held, device="cpu").expand(value.shape).reshape(-1)
            self._by_key[key] = owner
            self.owners.append(owner)
            self._held.append(mask)
            self._count += value.numel()
        return self._by_key[key].entries

    def use(self, entries: Tensor) -> int:
        """Notes that an operation reads a parameter; gives its first entry, -1 for an empty one."""
        first = int(entries.min()) if entries.numel() else -1
        owner = self.owner_of(first) if first >= 0 else None
        if owner is None:
            return -1
        self._uses[owner.first] = self._uses.get(owner.first, 0) + 1
        return owner.first

    def owner_of(self, entry: int) -> Owner:
        """The parameter that an entry belongs to."""
        return next(o for o in reversed(self.owners) if o.first <= entry)

    def is_used_once(self, first: int) -> bool:
        """Whether one operation only reads the parameter that begins with this entry."""
        return self._uses.get(first, 0) <= 1

    @property
    def values(self) -> Tensor:
        """(P,) float64."""
        own = [owner.value.reshape(-1) for owner in self.owners]
        return torch.cat([torch.empty(0, dtype=torch.float64, device="cpu"), *own])

    @property
    def held(self) -> Tensor:
        """(P,) bool: which entries are not trained."""
        return torch.cat([torch.empty(0, dtype=torch.bool, device="cpu"), *self._held])
