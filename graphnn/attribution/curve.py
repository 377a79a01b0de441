"""What happens to a metric as more and more neurons are taken away."""

from __future__ import annotations

import numbers
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from graphnn import edited
from graphnn.attribution.ablation import ablate
from graphnn.attribution.ranking import rank
from graphnn.errors import GraphError
from graphnn.graph import Ids, NeuronGraph
from graphnn.network import Network
from graphnn.trace import Trace

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class AblationCurve:
    """A metric after ablating neurons from the top and the bottom of an order, and random ones.

    Args:
        num_ablated: S ascending numbers of ablated neurons.
        top: (S,) float64 metric without the neurons of the highest scores.
        bottom: (S,) without those of the lowest.
        random: (draws, S) without random ones, of which each draw adds some at every step.

    Example:
        >>> metric = torch.tensor([1.0, 0.5], dtype=torch.float64)
        >>> curve = graphnn.attribution.AblationCurve((0, 3), metric, metric, metric[None])
        >>> curve.to_frame()["top"].tolist()
        [1.0, 0.5]
    """

    num_ablated: tuple[int, ...]
    top: Tensor
    bottom: Tensor
    random: Tensor

    def to_frame(self) -> pd.DataFrame:
        """The curves as a pandas table.

        Returns:
            A DataFrame with a row for each number of ablated neurons, which is its index, and the
            columns top, bottom, random_mean, random_low and random_high (over the draws).

        Raises:
            ImportError: pandas is not installed.
        """
        import pandas as pd

        return pd.DataFrame(
            {
                "top": self.top.numpy(),
                "bottom": self.bottom.numpy(),
                "random_mean": self.random.mean(0).numpy(),
                "random_low": self.random.amin(0).numpy(),
                "random_high": self.random.amax(0).numpy(),
            },
            index=pd.Index(self.num_ablated, name="num_ablated"),
        )

    def plot(self, axes: Axes | None = None, label: str = "metric") -> Figure:
        """Draws the three curves with matplotlib; the random one with the range of its draws.

        Args:
            axes: Where to draw, or None for a new figure.
            label: What the metric is called.

        Returns:
            The figure, to show or to save with ``savefig``.

        Raises:
            ImportError: matplotlib is not installed.
        """
        from matplotlib.figure import Figure

        if axes is None:
            axes = Figure(figsize=(5, 3.5), layout="constrained").subplots()
        counts = self.num_ablated
        low, high = self.random.amin(0).numpy(), self.random.amax(0).numpy()
        axes.fill_between(counts, low, high, color="0.6", alpha=0.3, linewidth=0)
        axes.plot(counts, self.random.mean(0).numpy(), color="0.4", linestyle=":", label="random")
        # Blue and orange differ for every eye, and the markers without colour.
        axes.plot(counts, self.top.numpy(), color="#0072b2", marker="o", label="highest first")
        axes.plot(counts, self.bottom.numpy(), color="#e69f00", marker="s", label="lowest first")
        axes.set_xlabel("ablated neurons")
        axes.set_ylabel(label)
        axes.legend()
        figure = axes.get_figure(root=True)
        assert figure is not None
        return figure


def ablation_curve(
    net: Network,
    scores: Tensor,
    evaluate: Callable[[Network], float | Tensor],
    steps: int | Sequence[int],
    neurons: Ids | None = None,
    value: float | Tensor | Trace = 0.0,
    draws: int = 5,
    generator: torch.Generator | None = None,
) -> AblationCurve:
    """A metric after ablating the highest, the lowest and random neurons by a score.

    Args:
        net: The network; left as it is.
        scores: (N,) one score a neuron, such as a row of `aggregate`. Ties go by id; NaN
            counts as minus infinity.
        evaluate: From a network to a number, such as its accuracy. Called for every curve and step.
        steps: Distinct numbers of ablated neurons, ascending; or how many such numbers, at least 2,
            evenly spaced from 0 to all of `neurons`.
        neurons: Distinct ids of those that may be ablated, or None for all hidden ones, which are
            neither inputs nor outputs.
        value: What ablated neurons are held at: a number, or a `Trace` for its mean values.
        draws: Random orders, at least 1.
        generator: Draws them; default: torch's global one.

    Returns:
        The metric of every step.

    Raises:
        GraphError: `scores` has another shape, a step is out of range, or an argument is none that
            `ablate` takes.

    Example:
        >>> edges = [("x", "a", 1.0), ("x", "b", 1.0), ("a", "y", 3.0), ("b", "y", -1.0)]
        >>> net = graphnn.from_edges(edges, bias=False)
        >>> x = torch.tensor([[1.0]])
        >>> scores = graphnn.attribution.gradient_x_value(net, x, target=0).mean(0)
        >>> curve = graphnn.attribution.ablation_curve(net, scores, lambda net: net(x).item(), 3)
        >>> curve.num_ablated, curve.top.tolist(), curve.bottom.tolist()
        ((0, 1, 2), [2.0, -1.0, 0.0], [2.0, 3.0, 0.0])
    """
    edited.check_network(net)
    graph = net.graph
    if not isinstance(scores, Tensor) or tuple(scores.shape) != (graph.num_neurons,):
        shown = tuple(scores.shape) if isinstance(scores, Tensor) else type(scores).__name__
        raise GraphError(
            f"scores must have shape ({graph.num_neurons},), one score a neuron (got {shown}). "
            "Of several samples take the mean, or graphnn.attribution.aggregate."
        )
    if not callable(evaluate):
        raise GraphError(
            f"evaluate must be a function from a network to a number (got {evaluate!r})."
        )
    if not isinstance(value, numbers.Real | Trace) and not (
        isinstance(value, Tensor) and value.dim() == 0
    ):
        raise GraphError(f"value must be one number, or a Trace (got {type(value).__name__}).")
    if not isinstance(draws, numbers.Integral) or draws < 1:
        raise GraphError(f"draws must be an integer of at least 1 (got {draws!r}).")
    candidates = _candidates(graph.to("cpu"), neurons)
    counts = _read_steps(steps, candidates.numel())
    ordered = candidates[rank(scores.detach()[candidates.to(scores.device)]).cpu()]
    backwards = candidates[rank(_negative(scores)[candidates.to(scores.device)]).cpu()]
    where = torch.device("cpu") if generator is None else generator.device
    orders = [ordered, backwards]
    for _ in range(draws):
        drawn = torch.randperm(candidates.numel(), generator=generator, device=where)
        orders.append(candidates[drawn.cpu()])
    measured = torch.tensor(
        [
            [_number(evaluate(ablate(net, order[:count], value))) for count in counts]
            for order in orders
        ],
        dtype=torch.float64,
        device="cpu",
    )
    return AblationCurve(tuple(counts), measured[0], measured[1], measured[2:])


def _negative(scores: Tensor) -> Tensor:
    # The lowest of all comes first here.
    return -scores.detach().nan_to_num(nan=-torch.inf)


def _candidates(graph: NeuronGraph, neurons: Any) -> Tensor:
    """Ascending ids, so that ties go by id."""
    if neurons is not None:
        ids = edited.read_distinct(neurons, "neurons", graph.num_neurons, "neuron")
        return torch.from_numpy(ids).sort().values
    is_hidden = torch.ones(graph.num_neurons, dtype=torch.bool, device="cpu")
    is_hidden[graph.input_ids] = False
    is_hidden[graph.output_ids] = False
    return is_hidden.nonzero().flatten()


def _read_steps(steps: Any, count: int) -> list[int]:
    if count == 0:
        raise GraphError(
            "neurons must hold at least one neuron that may be ablated (got none; by default they "
            "are the hidden ones)."
        )
    if isinstance(steps, numbers.Integral):
        steps = int(steps)
        if not 2 <= steps <= count + 1:
            raise GraphError(
                f"steps must be in 2 ... {count + 1}, as {count} neurons may be ablated, or a "
                f"sequence of numbers of ablated neurons (got {steps})."
            )
        places = torch.linspace(0, count, steps, dtype=torch.float64, device="cpu")
        return places.round().long().tolist()
    read = list(steps) if isinstance(steps, Iterable) else []
    if not all(_is_whole(step) for step in read) or not _is_ascending(read, count):
        raise GraphError(
            f"steps must be distinct ascending numbers in 0 ... {count}, as {count} neurons may be "
            f"ablated, or how many of them (got {steps!r})."
        )
    return [int(step) for step in read]


def _is_whole(step: Any) -> bool:
    if isinstance(step, Tensor):
        return step.dim() == 0 and not step.is_floating_point()
    return isinstance(step, numbers.Integral)


def _is_ascending(read: list[Any], count: int) -> bool:
    return bool(read) and read == sorted(set(map(int, read))) and 0 <= read[0] <= read[-1] <= count


def _number(metric: float | Tensor) -> float:
    try:
        return float(metric.detach() if isinstance(metric, Tensor) else metric)
    except (TypeError, ValueError, RuntimeError) as error:
        raise GraphError(f"evaluate must return a number ({error}).") from None
