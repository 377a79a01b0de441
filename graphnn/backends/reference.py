"""Plain torch operations, level by level: the mathematics, and the others' oracle."""

from __future__ import annotations

from torch import Tensor

from graphnn.backends import eager
from graphnn.backends.base import Call, Keep, States, describe_level
from graphnn.levels import Level
from graphnn.plan import ExecutionPlan


def _sum_messages(level: Level, pool: Tensor, weight: Tensor) -> Tensor:
    if pool.device.type == "cpu":
        messages = pool.index_select(0, level.columns) * weight[:, None]
        return messages.new_zeros(level.size, pool.shape[1]).index_add(0, level.rows, messages)
    # index_add, and index_select's gradient, add with atomics on a GPU: not repeatable. Indexing
    # sorts instead.
    messages = pool[level.columns] * weight[:, None]
    zeros = messages.new_zeros(level.size, pool.shape[1])
    return zeros.index_put((level.rows,), messages, accumulate=True)


class Reference:
    """Runs anywhere, under every torch transform, with gradients of any order."""

    name = "reference"
    sums_in_float32 = False

    def unsupported(self, call: Call) -> list[str]:
        """No reason: this backend runs every call."""
        return []

    def discouraged(self, call: Call) -> list[str]:
        """Nothing speaks against it."""
        return []

    def describe_level(self, plan: ExecutionPlan, level: int) -> str:
        """Blocks run as matrix products, other levels as message passing."""
        return describe_level(plan, level)

    def run(
        self,
        plan: ExecutionPlan,
        weight: Tensor,
        bias: Tensor,
        inputs: Tensor,
        offset: Tensor | None = None,
        keep: Keep = "outputs",
    ) -> Tensor | States:
        """Runs the plan; see `Backend.run`."""
        return eager.run_levels(plan, weight, bias, inputs, offset, keep, _sum_messages)
