"""The compiled CPU passes as operators of torch, for what follows only operators.

`graphnn::fused_cpu` runs a plan; `graphnn::fused_cpu_train` keeps its state, from which
`graphnn::fused_cpu_backward` takes the gradients. A plan travels as its tensors, so that a
tracer holds them as constants and torch.export stores them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields
from typing import cast
from weakref import WeakValueDictionary

import torch
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from graphnn.activation import resolve
from graphnn.backends import transforms
from graphnn.backends.base import Keep
from graphnn.backends.buffers import CPU
from graphnn.backends.fused_cpu_cut import num_lanes
from graphnn.backends.fused_cpu_pass import Pass
from graphnn.backends.fused_cpu_schedule import schedule_of
from graphnn.plan import ExecutionPlan

# A plan as arguments: its tensors, its activations, and the rows of a state that is kept.
PlanArguments = tuple[list[Tensor], str, int]
# Gradients by outputs, values and preactivations; None where there is none.
Seeds = tuple[Tensor | None, Tensor | None, Tensor | None]

LIBRARY = torch.library.Library("graphnn", "DEF")
_PLAN = "Tensor[] plan, str activations, int state_rows"
_CALL = f"Tensor weight, Tensor bias, Tensor inputs, Tensor? offset, {_PLAN}, str keep"
LIBRARY.define(f"fused_cpu({_CALL}) -> (Tensor, Tensor)")
LIBRARY.define(f"fused_cpu_train({_CALL}) -> (Tensor, Tensor, Tensor, Tensor)")
LIBRARY.define(
    "fused_cpu_backward(Tensor weight, Tensor bias, Tensor inputs, Tensor state, Tensor threads, "
    f"Tensor? by_output, Tensor? by_value, Tensor? by_pre, {_PLAN}, bool[] needs) "
    "-> (Tensor, Tensor, Tensor, Tensor)"
)

_TENSORS = tuple(field.name for field in fields(ExecutionPlan) if field.type == "Tensor")
_ARGUMENTS = "fused_cpu arguments"

# Plans by the addresses of their tensors, which a living plan keeps from being used again.
_plans: WeakValueDictionary[tuple[object, ...], ExecutionPlan] = WeakValueDictionary()
# Plans that were made here live as long as the first of the tensors that they were made from.
_made: WeakIdKeyDictionary = WeakIdKeyDictionary()


def arguments_of(plan: ExecutionPlan) -> PlanArguments:
    """The plan as arguments of the operators; the same tensors every time."""
    if _ARGUMENTS not in plan.derived:
        transforms.apart(lambda: _make_arguments(plan))
    return plan.derived[_ARGUMENTS]


# As for a plan's tables: tracers take them as constants.
arguments_of._dynamo_marked_constant = True  # pyright: ignore[reportFunctionMemberAccess]


def _make_arguments(plan: ExecutionPlan) -> None:
    tensors = [getattr(plan, name).detach() for name in _TENSORS]
    for tensor in tensors:
        # What torch._dynamo.mark_static does, without its imports: a tensor's length must not be
        # taken for a batch size that happens to be equal.
        tensor._dynamo_static_indices = {0}
    activations = ";".join(activation.name for activation in plan.activation_table)
    own = tensors, activations, schedule_of(plan).training_rows.count
    _plans.setdefault(_key(*plan.derived.setdefault(_ARGUMENTS, own)[:2]), plan)


def plan_from(tensors: list[Tensor], activations: str, state_rows: int) -> ExecutionPlan:
    """A plan made of these arguments; its tensors may be a tracer's stand-ins."""
    numbers = dict(zip(_TENSORS, tensors, strict=True))
    return ExecutionPlan(
        num_neurons=numbers["neuron_order"].shape[0],
        num_edges=numbers["edge_order"].shape[0],
        num_levels=numbers["level_ptr"].shape[0] - 1,
        activation_table=tuple(resolve(name) for name in activations.split(";") if name),
        device=tensors[0].device,
        derived={_ARGUMENTS: (tensors, activations, state_rows)},
        **numbers,
    )


def _key(tensors: list[Tensor], activations: str) -> tuple[object, ...]:
    return (activations, *((tensor.data_ptr(), tensor.shape[0]) for tensor in tensors))


def _plan_of(tensors: list[Tensor], activations: str, state_rows: int) -> ExecutionPlan:
    """The plan that these arguments came from, or the one made of them before."""
    key = _key(tensors, activations)
    plan = _plans.get(key)
    if plan is None:
        # Made of aliases: the plan must hold the memory, but not the tensors whose life it shares.
        aliases = [tensor.detach() for tensor in tensors]
        plan = _plans.setdefault(key, plan_from(aliases, activations, state_rows))
        _made[tensors[0]] = plan
    return plan


@torch.no_grad()
def _run(
    weight: Tensor, bias: Tensor, inputs: Tensor, offset: Tensor | None, tensors: list[Tensor],
    activations: str, state_rows: int, keep: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    plan = _plan_of(tensors, activations, state_rows)
    call = Pass(plan, weight.dtype, inputs.shape[0], torch.get_num_threads())
    numbers = weight, bias, inputs, offset
    first, second, _ = call.forward(*numbers, cast(Keep, keep), keeps_state=False)
    return first, weight.new_empty(0) if second is None else second


@torch.no_grad()
def _train(
    weight: Tensor, bias: Tensor, inputs: Tensor, offset: Tensor | None, tensors: list[Tensor],
    activations: str, state_rows: int, keep: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    plan, threads = _plan_of(tensors, activations, state_rows), torch.get_num_threads()
    call = Pass(plan, weight.dtype, inputs.shape[0], threads)
    numbers = weight, bias, inputs, offset
    first, second, state = call.forward(*numbers, cast(Keep, keep), keeps_state=True)
    assert state is not None
    # Told with the state, because it decides how the state is laid out.
    told = torch.tensor(threads, device=CPU)
    return first, weight.new_empty(0) if second is None else second, state, told


@torch.no_grad()
def _backward(
    weight: Tensor, bias: Tensor, inputs: Tensor, state: Tensor, threads: Tensor,
    by_output: Tensor | None, by_value: Tensor | None, by_pre: Tensor | None,
    tensors: list[Tensor], activations: str, state_rows: int, needs: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    plan = _plan_of(tensors, activations, state_rows)
    call = Pass(plan, weight.dtype, inputs.shape[0], int(threads))
    gradients = call.backward(weight, state, (by_output, by_value, by_pre), tuple(needs))
    return tuple(weight.new_empty(0) if g is None else g for g in gradients)


def _run_shapes(
    weight: Tensor, bias: Tensor, inputs: Tensor, offset: Tensor | None, tensors: list[Tensor],
    activations: str, state_rows: int, keep: str,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    plan, batch = plan_from(tensors, activations, state_rows), inputs.shape[0]
    if keep == "all":
        return (
            weight.new_empty(batch, plan.num_neurons),
            weight.new_empty(batch, plan.num_neurons),
        )
    return weight.new_empty(batch, plan.output_position.shape[0]), weight.new_empty(0)


def _train_shapes(
    weight: Tensor, bias: Tensor, inputs: Tensor, offset: Tensor | None, tensors: list[Tensor],
    activations: str, state_rows: int, keep: str,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:  # fmt: skip
    first, second = _run_shapes(
        weight, bias, inputs, offset, tensors, activations, state_rows, keep
    )
    state = weight.new_empty(num_lanes(inputs.shape[0]) * state_rows)
    return first, second, state, weight.new_empty((), dtype=torch.int64)


def _backward_shapes(
    weight: Tensor, bias: Tensor, inputs: Tensor, state: Tensor, threads: Tensor,
    by_output: Tensor | None, by_value: Tensor | None, by_pre: Tensor | None,
    tensors: list[Tensor], activations: str, state_rows: int, needs: Sequence[bool],
) -> tuple[Tensor, ...]:  # fmt: skip
    plan, batch = plan_from(tensors, activations, state_rows), inputs.shape[0]
    shapes = (weight.shape, bias.shape, inputs.shape, (batch, plan.num_neurons))
    return tuple(
        weight.new_empty(shape if need else 0) for shape, need in zip(shapes, needs, strict=True)
    )


LIBRARY.impl("fused_cpu", _run, "CPU")
LIBRARY.impl("fused_cpu_train", _train, "CPU")
LIBRARY.impl("fused_cpu_backward", _backward, "CPU")
torch.library.register_fake("graphnn::fused_cpu", _run_shapes, lib=LIBRARY)
torch.library.register_fake("graphnn::fused_cpu_train", _train_shapes, lib=LIBRARY)
torch.library.register_fake("graphnn::fused_cpu_backward", _backward_shapes, lib=LIBRARY)
