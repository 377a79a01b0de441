"""Derivatives by every neuron of 784-1024-1024-10, B = 256: ``python -m benchmarks.attribution``.

Beside `graphnn.attribution.gradient`, in the same loop: one plain forward and backward of the
network, by its parameters, and captum's LayerGradientXActivation asked for one neuron, which times
the number of neurons is the time of asking it neuron by neuron. The figures to keep: at most 1.5
times the plain forward and backward, and at least 100 times faster than captum.
"""

from __future__ import annotations

import argparse
import statistics
from typing import Any

import torch
from captum.attr import LayerGradientXActivation
from torch import Tensor, nn

import graphnn
from benchmarks.clock import in_turn, quantiles
from benchmarks.conditions import conditions, save

SIZES, SAMPLES = (784, 1024, 1024, 10), 256
LIMIT_OF_PLAIN, LIMIT_OF_CAPTUM = 1.5, 100


def dense_model() -> nn.Sequential:
    """Linear layers with ReLU between them, drawn the same every time."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        linear = [nn.Linear(SIZES[i], SIZES[i + 1]) for i in range(len(SIZES) - 1)]
    return nn.Sequential(linear[0], nn.ReLU(), linear[1], nn.ReLU(), linear[2])


def check(found: Tensor, net: graphnn.Network, model: nn.Sequential, x: Tensor, y: Tensor) -> None:
    """Refuses derivatives that are not captum's."""
    for level, index in ((1, 0), (2, 2), (3, 4)):
        captum = LayerGradientXActivation(model, model[index], multiply_by_inputs=False)
        expected: Any = captum.attribute(x, target=y)
        own = found[:, net.graph.level == level]
        assert (own - expected).abs().max() <= 1e-5 * expected.abs().max(), f"wrong on {level}"


def measure(repeats: int) -> dict[str, Any]:
    model, generator = dense_model(), torch.Generator().manual_seed(0)
    net = graphnn.from_sequential(model)
    x = torch.randn(SAMPLES, SIZES[0], generator=generator)
    y = torch.randint(SIZES[-1], (SAMPLES,), generator=generator)
    check(graphnn.attribution.gradient(net, x, y), net, model, x, y)
    asked = LayerGradientXActivation(model, model[2], multiply_by_inputs=False)

    def plain(run: nn.Module) -> None:
        run.zero_grad()
        run(x).gather(1, y[:, None]).sum().backward()

    def one_neuron() -> Tensor:
        found: Any = asked.attribute(x, target=y)
        return found[:, 0]

    times = in_turn(
        {
            "gradient": lambda: graphnn.attribution.gradient(net, x, y),
            "gradient by value": lambda: graphnn.attribution.gradient(net, x, y, wrt="value"),
            "forward and backward": lambda: plain(net),
            "forward and backward of the nn.Sequential": lambda: plain(model),
            "captum, one neuron": one_neuron,
        },
        repeats,
    )
    num_computed = net.graph.num_neurons - SIZES[0]

    # Ratios round by round: what slows a moment of the run slows both sides of a ratio.
    def over(name: str, other: str, times_other: int = 1) -> float:
        pairs = zip(times[name], times[other], strict=True)
        return statistics.median(a / (times_other * b) for a, b in pairs)

    captum = 1 / over("gradient", "captum, one neuron", num_computed)
    return {
        "benchmark": "attribution",
        "case": f"{'-'.join(map(str, SIZES))}, B = {SAMPLES}",
        "seconds_20_50_80": {name: quantiles(taken) for name, taken in times.items()},
        "of_forward_and_backward": round(over("gradient", "forward and backward"), 2),
        "of_the_sequential": round(
            over("gradient", "forward and backward of the nn.Sequential"), 2
        ),
        "by_value_of_forward_and_backward": round(
            over("gradient by value", "forward and backward"), 2
        ),
        "times_faster_than_captum": round(captum),
        "neurons": num_computed,
        "limit": {"of_forward_and_backward": LIMIT_OF_PLAIN, "captum": LIMIT_OF_CAPTUM},
        **conditions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=25)
    parser.add_argument("--output", help="file for the JSON lines; default: the screen")
    arguments = parser.parse_args()
    result = measure(arguments.repeats)
    plain, captum = result["of_forward_and_backward"], result["times_faster_than_captum"]
    print(
        f"{result['case']}: {plain:.2f} of a forward and backward (at most {LIMIT_OF_PLAIN}: "
        f"{'kept' if plain <= LIMIT_OF_PLAIN else 'MISSED'}), {captum} times faster than captum "
        f"neuron by neuron (at least {LIMIT_OF_CAPTUM}: "
        f"{'kept' if captum >= LIMIT_OF_CAPTUM else 'MISSED'})",
        flush=True,
    )
    save([result], arguments.output)


if __name__ == "__main__":
    main()
