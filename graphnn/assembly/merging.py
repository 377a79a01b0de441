"""Merging of neurons that only pass values on, so that a network has those its model means.

A sum takes over the edges of the neurons that it adds, an activation those of the neuron that it
reads, and a batch norm is folded into what comes before it or after it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from graphnn.assembly.blocks import Assembly, Block

CONSTANT = -1


@dataclass(eq=False)
class Coefficients:
    """What a network's weights or biases are made of, one element an edge or a biased neuron.

    Args:
        entry: int64: the parameter entry, or `CONSTANT`.
        value: float64: ``factor * parameter + addend``, or the constant.
        factor: float64.
        addend: float64.
    """

    entry: Tensor
    value: Tensor
    factor: Tensor
    addend: Tensor


@dataclass(eq=False)
class Merged:
    """An assembly after merging, with final ids.

    Args:
        edge_index: (2, E) int64.
        weight: Of the E edges.
        biased: (N,) bool.
        bias: Of the K biased neurons, ascending.
        activation: N names.
        final: The final id of every neuron of the assembly, -1 where it was merged.
    """

    edge_index: Tensor
    weight: Coefficients
    biased: Tensor
    bias: Coefficients
    activation: list[str]
    final: Tensor


def merge(assembly: Assembly, outputs: Tensor) -> Merged:
    """Merges what can be merged without two edges of one pair or two biases of one neuron.

    Args:
        assembly: All blocks. Folding adds entries for biases that no layer of the model has.
        outputs: Ids of neurons that must stay.

    Returns:
        The network's columns.
    """
    merging = _Merging(assembly, outputs)
    for index in range(len(assembly.blocks)):
        merging.visit(index)
    return merging.finish()


class _Merging:
    """Visits blocks in order; a neuron that is merged gets a parent, further up."""

    def __init__(self, assembly: Assembly, outputs: Tensor) -> None:
        count = assembly.num_neurons
        self._assembly = assembly
        self._blocks = assembly.blocks
        self._values = assembly.entries.values
        self._firsts = torch.tensor([block.first for block in self._blocks], device="cpu")
        self._readers = torch.bincount(outputs, minlength=count)
        for block in self._blocks:
            self._readers += torch.bincount(block.source, minlength=count)
        self._is_open = torch.ones(count, dtype=torch.bool, device="cpu")
        self._is_open[: assembly.num_inputs] = False
        self._parent = torch.arange(count, device="cpu")
        self._factor = torch.ones(count, dtype=torch.float64, device="cpu")
        self._merges: list[Tensor] = []
        self._dropped = torch.zeros(count, dtype=torch.bool, device="cpu")
        self._biased = torch.zeros(count, dtype=torch.bool, device="cpu")
        self._bias = Coefficients(
            torch.full((count,), CONSTANT, device="cpu"),
            torch.zeros(count, dtype=torch.float64, device="cpu"),
            torch.ones(count, dtype=torch.float64, device="cpu"),
            torch.zeros(count, dtype=torch.float64, device="cpu"),
        )
        # By block: the edges that stay (None: all), what its neurons read, the linear blocks whose
        # edges it has taken over (None: it has others), and what folding makes of its edges.
        self._kept: list[Tensor | None] = []
        self._reads: list[Tensor] = []
        self._linear: list[tuple[int, ...] | None] = []
        self._folded: dict[int, tuple[Tensor, Tensor]] = {}

    def visit(self, index: int) -> None:
        """Merges into one block, or folds into it, what comes before it."""
        block = self._blocks[index]
        self._take_bias(block)
        self._kept.append(None)
        self._reads.append(torch.cat(block.operands).unique())
        self._linear.append(None)
        if block.role == "activation":
            self._visit_activation(index, block)
        elif block.role == "sum":
            self._visit_sum(index, block)
        elif block.role == "norm":
            self._visit_norm(index, block)
        elif block.role == "linear":
            self._linear[index] = (index,)
            self._fold_norm_below(index, block)

    def _take_bias(self, block: Block) -> None:
        own = slice(block.first, block.first + block.size)
        if block.bias_entry is not None:
            self._bias.entry[own] = block.bias_entry
            self._bias.value[own] = self._values[block.bias_entry]
        elif block.bias_constant is not None:
            self._bias.value[own] = block.bias_constant
        else:
            return
        self._biased[own] = True

    def _neurons(self, block: Block) -> Tensor:
        return torch.arange(block.first, block.first + block.size, device="cpu")

    def _blocks_of(self, ids: Tensor) -> list[int]:
        return (torch.searchsorted(self._firsts, ids, right=True) - 1).unique().tolist()

    def _is_private(self, ids: Tensor) -> Tensor:
        """Which neurons are sums that one edge reads, and nothing else."""
        return self._is_open[ids] & (self._readers[ids] == 1)

    def _visit_activation(self, index: int, block: Block) -> None:
        neurons, below = self._neurons(block), block.operands[0]
        self._is_open[neurons] = False
        merged = self._is_private(below)
        self._merge(below[merged], neurons[merged])
        self._kept[index] = ~merged

    def _visit_sum(self, index: int, block: Block) -> None:
        neurons = self._neurons(block)
        assert block.constant is not None
        weight = block.constant.view(block.size, -1)
        merged = torch.zeros_like(weight, dtype=torch.bool)
        reads = self._reads[index]
        for place, below in enumerate(block.operands):
            own = self._is_private(below) & (weight[:, place] == 1)
            if not bool(own.any()):
                continue
            taken = torch.cat([self._reads[b] for b in self._blocks_of(below[own])])
            # What is merged is read no more; all other operands, and what others read, is.
            present = reads[torch.isin(reads, below[own], invert=True)]
            if bool(torch.isin(taken, present).any()):
                continue
            if bool((self._biased[below] & own & self._biased[neurons]).any()):
                continue
            self._merge(below[own], neurons[own])
            merged[:, place] = own
            reads = torch.cat([present, taken]).unique()
        self._reads[index] = reads
        self._kept[index] = ~merged.reshape(-1)

    def _visit_norm(self, index: int, block: Block) -> None:
        neurons, below = self._neurons(block), block.operands[0]
        assert block.entry is not None
        assert block.bias_entry is not None
        scale, shift = self._values[block.entry], self._values[block.bias_entry]
        if not bool(self._is_private(below).all()):
            return
        members = self._foldable(below)
        if not members or not self._keeps_ties(members, below, scale, shift):
            return
        had_bias = self._biased[below]
        self._merge(below, neurons, scale, shift, had_bias)
        self._kept[index] = torch.zeros(block.source.numel(), dtype=torch.bool, device="cpu")
        self._linear[index] = members
        self._reads[index] = torch.cat([self._reads[b] for b in self._blocks_of(below)]).unique()

    def _foldable(self, ids: Tensor) -> tuple[int, ...]:
        """The linear blocks that are behind `ids`, all of each; none where there is more."""
        members: list[int] = []
        owners = self._blocks_of(ids)
        if sum(self._blocks[owner].size for owner in owners) != ids.numel():
            return ()
        for owner in owners:
            own = self._linear[owner]
            if own is None:
                return ()
            members += own
        once = self._assembly.entries.is_used_once
        if not all(once(p) for member in members for p in self._blocks[member].parameters):
            return ()
        return tuple(members)

    def _keeps_ties(
        self, members: tuple[int, ...], ids: Tensor, scale: Tensor, shift: Tensor
    ) -> bool:
        """Whether neurons that share a parameter are scaled and shifted alike."""
        scales, shifts = torch.zeros_like(self._factor), torch.zeros_like(self._factor)
        scales[ids], shifts[ids] = scale, shift
        for member in members:
            block = self._blocks[member]
            assert block.entry is not None
            first = self._top(self._neurons(block))
            if not _is_function_of(block.entry, scales[first[block.target - block.first]]):
                return False
            if block.bias_entry is not None and not (
                _is_function_of(block.bias_entry, scales[first])
                and _is_function_of(block.bias_entry, shifts[first])
            ):
                return False
        return True

    def _top(self, ids: Tensor) -> Tensor:
        while True:
            above = self._parent[ids]
            if torch.equal(above, ids):
                return ids
            ids = above

    def _merge(
        self,
        ids: Tensor,
        parents: Tensor,
        scale: Tensor | None = None,
        shift: Tensor | None = None,
        had_bias: Tensor | None = None,
    ) -> None:
        """Makes `parents` take over edges and biases; ``scale * preactivation + shift``."""
        self._parent[ids] = parents
        if scale is not None:
            self._factor[ids] = scale
        self._merges.append(ids)
        biased = self._biased[ids]
        self._biased[ids] = False
        ids, parents = ids[biased], parents[biased]
        factor = torch.ones_like(self._bias.value[ids]) if scale is None else scale[biased]
        addend = torch.zeros_like(factor) if shift is None else shift[biased]
        own = self._bias
        own.entry[parents] = own.entry[ids]
        own.value[parents] = factor * own.value[ids] + addend
        own.factor[parents] = factor * own.factor[ids]
        own.addend[parents] = factor * own.addend[ids] + addend
        self._biased[parents] = True

    def _fold_norm_below(self, index: int, block: Block) -> None:
        """Makes an untied linear block read what the batch norm before it reads."""
        read = self._reads[index]
        owners = self._blocks_of(read)
        norm = self._blocks[owners[0]] if len(owners) == 1 and owners[0] >= 0 else None
        assert block.entry is not None
        if norm is None or norm.role != "norm" or self._kept[owners[0]] is not None:
            return
        once = all(self._assembly.entries.is_used_once(p) for p in block.parameters)
        readers = torch.bincount(block.source, minlength=self._readers.numel())
        if (
            not once
            or read.numel() != norm.size
            or not torch.equal(readers[read], self._readers[read])
            or block.entry.unique().numel() != block.entry.numel()
            or norm.source.unique().numel() != norm.size
        ):
            return
        assert norm.entry is not None
        assert norm.bias_entry is not None
        place = block.source - norm.first
        scale, shift = self._values[norm.entry][place], self._values[norm.bias_entry][place]
        self._folded[index] = norm.source[place], scale
        self._reads[index] = norm.source.unique()
        own = slice(norm.first, norm.first + norm.size)
        self._dropped[own] = True
        self._kept[owners[0]] = torch.zeros(norm.size, dtype=torch.bool, device="cpu")
        addend = torch.zeros(block.size, dtype=torch.float64, device="cpu")
        addend.index_add_(0, block.target - block.first, self._values[block.entry] * shift)
        self._add_to_bias(block, addend, norm)

    def _add_to_bias(self, block: Block, addend: Tensor, norm: Block) -> None:
        own = slice(block.first, block.first + block.size)
        if block.bias_entry is None:
            assert norm.bias_entry is not None
            entries = self._assembly.entries
            held = bool(entries.held[norm.bias_entry].all())
            self._bias.entry[own] = entries.add(
                (id(block), "bias"), "a bias that folding makes", addend, held
            )
            self._biased[own] = True
        self._bias.value[own] += addend
        self._bias.addend[own] += addend

    def finish(self) -> Merged:
        """The columns, with merged neurons left out and the others numbered anew."""
        count = self._parent.numel()
        root = torch.arange(count, device="cpu")
        total = torch.ones_like(self._factor)
        # Parents are merged later than their children, so the last merge is resolved first.
        for ids in reversed(self._merges):
            parents = self._parent[ids]
            root[ids] = root[parents]
            total[ids] = self._factor[ids] * total[parents]
        alive = (root == torch.arange(count, device="cpu")) & ~self._dropped
        final = torch.where(alive, alive.cumsum(0) - 1, -1)
        pieces = [self._edges(index, root, total) for index in range(len(self._blocks))]
        empty = torch.empty(0, dtype=torch.int64, device="cpu")
        sources, targets, entries, values, factors = (
            torch.cat(column) for column in zip((empty,) * 5, *pieces, strict=True)
        )
        biased = alive & self._biased
        bias = self._bias
        return Merged(
            torch.stack([final[sources], final[targets]]),
            Coefficients(entries, values, factors, factors.new_zeros(()).expand(factors.shape)),
            biased[alive],
            Coefficients(*(c[biased] for c in (bias.entry, bias.value, bias.factor, bias.addend))),
            self._activations(alive),
            final,
        )

    def _edges(self, index: int, root: Tensor, total: Tensor) -> tuple[Tensor, ...]:
        block, kept = self._blocks[index], self._kept[index]
        source, target = block.source, block.target
        factor = total[target]
        if index in self._folded:
            source, scale = self._folded[index]
            factor = factor * scale
        if block.entry is None:
            entry = torch.full_like(target, CONSTANT)
            assert block.constant is not None
            value = block.constant * factor
        else:
            entry, value = block.entry, self._values[block.entry] * factor
        columns = (source, root[target], entry, value, factor)
        return columns if kept is None else tuple(column[kept] for column in columns)

    def _activations(self, alive: Tensor) -> list[str]:
        names = ["identity"] * alive.numel()
        for block in self._blocks:
            if block.role == "activation":
                own = block.activation
                given = [own] * block.size if isinstance(own, str) else own
                names[block.first : block.first + block.size] = given
        return [name for name, stays in zip(names, alive.tolist(), strict=True) if stays]


def _is_function_of(entry: Tensor, value: Tensor) -> bool:
    """Whether equal entries have equal values."""
    if entry.numel() == 0:
        return True
    known = torch.empty(int(entry.max()) + 1, dtype=value.dtype, device="cpu")
    known[entry] = value
    return torch.equal(known[entry], value)
