"""Plans of complete blocks only on the CPU: which of the ways to run them is fastest."""

from __future__ import annotations

from torch import Tensor

from graphnn.backends import dense, fused_cpu_sample
from graphnn.backends.base import Keep, States
from graphnn.backends.fused_cpu_chain import chain_of, run_chain
from graphnn.plan import ExecutionPlan


def run(
    plan: ExecutionPlan, weight: Tensor, bias: Tensor, inputs: Tensor, offset: Tensor | None,
    keep: Keep,
) -> Tensor | States:  # fmt: skip
    """Runs a plan all of whose levels are blocks, of plain tensors; see `Backend.run`."""
    chain = chain_of(plan) if offset is None else None
    if chain is not None and fused_cpu_sample.is_for(plan, inputs.shape[0]):
        return fused_cpu_sample.run_sample(plan, chain, weight, bias, inputs, keep)
    if chain is not None and keep == "outputs":
        return run_chain(chain, weight, bias, inputs)
    return dense.run(plan, weight, bias, inputs, offset, keep, "fused_cpu")
