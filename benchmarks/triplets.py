"""Triplets of one 1024 x 1024 level for 32 samples: ``python -m benchmarks.triplets``.

Beside `Trace.triplets`, in the same loop: `torch.clone` of the result, which writes the same
bytes, and the triplets by repeating and joining tensors. The figure to keep: at least 0.7 of the
clone's speed, and ahead of repeating.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

import graphnn
from benchmarks.clock import in_turn, quantiles
from benchmarks.conditions import conditions, save

LIMIT = 0.7


def trained_model(width: int, samples: int) -> tuple[nn.Sequential, Tensor]:
    """A level with weights of a trained spread, no two of them alike, and centred inputs."""
    generator = torch.Generator().manual_seed(0)
    layer = nn.Linear(width, width)
    with torch.no_grad():
        layer.weight.normal_(0, (2 / width) ** 0.5, generator=generator)
        layer.bias.normal_(0, 0.1, generator=generator)
    return nn.Sequential(layer, nn.ReLU()), torch.randn(samples, width, generator=generator)


def repeated(layer: nn.Linear, x: Tensor, y: Tensor) -> Callable[[], Tensor]:
    """The triplets (B, E, 3) as one writes them with torch, from the level's two ends."""
    inputs, outputs = layer.in_features, layer.out_features

    def run() -> Tensor:
        source = x.repeat(1, outputs)
        weight = layer.weight.reshape(1, -1).expand(len(x), -1)
        target = y.repeat_interleave(inputs, dim=1)
        return torch.cat([part.unsqueeze(-1) for part in (source, weight, target)], dim=-1)

    return run


def check(found: Tensor, model: nn.Sequential, x: Tensor, y: Tensor) -> None:
    """Refuses triplets that are not, bit for bit, what they should be."""
    layer = model[0]
    assert isinstance(layer, nn.Linear)
    grid = found.view(len(x), layer.out_features, layer.in_features, 3)
    assert (grid[..., 0] == x[:, None, :]).all(), "wrong source values"
    assert (grid[..., 1] == layer.weight).all(), "wrong weights"
    assert (grid[..., 2] == y[:, :, None]).all(), "wrong target values"


def measure(width: int, samples: int, repeats: int, gradients: bool) -> dict[str, Any]:
    model, x = trained_model(width, samples)
    layer = model[0]
    assert isinstance(layer, nn.Linear)
    with torch.set_grad_enabled(gradients):
        trace = graphnn.from_sequential(model).trace(x)
        assert trace.values.requires_grad == gradients
        y = trace.values[:, width:].detach()
        expected = model(x).detach()
        assert (y - expected).abs().max() <= 1e-5 * expected.abs().max(), "wrong values"
        (found,) = trace.triplets()
        check(found.detach(), model, x, y)
        repeat = repeated(layer, x, y)
        assert torch.equal(repeat(), found), "the contender is wrong"
        times = in_turn(
            {
                "triplets": trace.triplets,
                "torch.clone": found.clone,
                "repeat and concatenate": repeat,
            },
            repeats,
        )
    own = statistics.median(times["triplets"])
    # Ratios round by round: what slows a moment of the run slows both sides of a ratio.
    speed = {
        name: statistics.median(b / a for a, b in zip(times["triplets"], taken, strict=True))
        for name, taken in times.items()
        if name != "triplets"
    }
    return {
        "benchmark": "triplets",
        "case": f"{width} x {width}, B = {samples}, gradients {'on' if gradients else 'off'}",
        "bytes": found.numel() * found.element_size(),
        "seconds_20_50_80": {name: quantiles(taken) for name, taken in times.items()},
        "speed_ratio": {name: round(ratio, 2) for name, ratio in speed.items()},
        "gigabytes_written_per_second": round(found.numel() * found.element_size() / own / 1e9, 2),
        "limit": LIMIT,
        **conditions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--width", type=int, default=1024)
    parser.add_argument("--samples", type=int, default=32)
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--output", help="file for the JSON lines; default: the screen")
    arguments = parser.parse_args()
    results = []
    for gradients in (False, True):
        result = measure(arguments.width, arguments.samples, arguments.repeats, gradients)
        speed = result["speed_ratio"]
        verdict = "kept" if speed["torch.clone"] >= LIMIT else "MISSED"
        print(
            f"{result['case']}: {speed['torch.clone']:.2f} of torch.clone's speed (at least "
            f"{LIMIT}: {verdict}), {speed['repeat and concatenate']:.2f} of repeating's",
            flush=True,
        )
        results.append(result)
    save(results, arguments.output)


if __name__ == "__main__":
    main()
