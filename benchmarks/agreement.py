"""How exactly converted networks agree with their model: ``python -m benchmarks.agreement``.

For every model, dtype and backend: the largest error of the outputs and of the gradients by every
parameter and by x, each as max |a - b| / max |b|. The figures to keep: 1e-5 in float32, 1e-12 in
float64. Leaves with an error status where one is missed.
"""

from __future__ import annotations

import argparse
import copy
import sys
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

import graphnn
from benchmarks.conditions import conditions, save

LIMIT = {torch.float32: 1e-5, torch.float64: 1e-12}
SAMPLES = 64


def stack(sizes: list[int], activation: type[nn.Module], bias: bool = True) -> nn.Sequential:
    """Linear layers with an activation between them."""
    layers: list[nn.Module] = []
    for below, above in pairwise(sizes):
        layers += [nn.Linear(below, above, bias=bias), activation()]
    return nn.Sequential(*layers[:-1])


def trained_norm(width: int) -> nn.BatchNorm1d:
    """A BatchNorm1d whose statistics are not those it starts with."""
    norm = nn.BatchNorm1d(width)
    with torch.no_grad():
        norm.running_mean.normal_()  # pyright: ignore[reportOptionalMemberAccess]
        norm.running_var.uniform_(0.5, 2)  # pyright: ignore[reportOptionalMemberAccess]
        norm.weight.uniform_(0.5, 2)
        norm.bias.normal_()
    return norm


def models() -> Iterator[tuple[str, nn.Sequential, tuple[int, ...]]]:
    """(name, model, shape of one sample)."""
    yield "relu 784-512-512-10", stack([784, 512, 512, 10], nn.ReLU), (784,)
    yield "gelu without bias 100-300-50", stack([100, 300, 50], nn.GELU, bias=False), (100,)
    yield "tanh, 20 layers of 64", stack([64] * 21, nn.Tanh), (64,)
    yield "fan-in 10,000", stack([10_000, 16, 3], nn.SiLU), (10_000,)
    kinds = [
        nn.LeakyReLU(0.2), nn.ELU(0.5), nn.SELU(), nn.CELU(0.5), nn.Mish(), nn.Softplus(2),
        nn.Softsign(), nn.Sigmoid(), nn.Hardtanh(), nn.Hardsigmoid(), nn.Hardswish(), nn.ReLU6(),
    ]  # fmt: skip
    layers = [layer for kind in kinds for layer in (nn.Linear(48, 48), kind)]
    yield "12 activations, one a layer", nn.Sequential(*layers, nn.Linear(48, 5)), (48,)
    yield (
        "nested, Dropout, two Linears in a row, LogSoftmax",
        nn.Sequential(
            nn.Flatten(),
            nn.Sequential(nn.Linear(64, 128), nn.ReLU(), nn.Dropout(0.5)),
            nn.Linear(128, 32),
            nn.Linear(32, 10),
            nn.LogSoftmax(-1),
        ),
        (8, 8),
    )
    yield (
        "BatchNorm after and before a Linear (outputs and x only)",
        nn.Sequential(
            nn.Linear(30, 60), trained_norm(60), nn.ReLU(), trained_norm(60), nn.Linear(60, 4)
        ),
        (30,),
    )
    # One-to-one edges are no matrix product: here the backends run code of their own.
    yield (
        "activations first and in a row (outputs and x only)",
        nn.Sequential(
            nn.Tanh(), nn.Linear(40, 200), nn.GELU(), nn.Sigmoid(), nn.Linear(200, 7), nn.SiLU()
        ),
        (40,),
    )


def error(found: Tensor, expected: Tensor) -> float:
    with torch.no_grad():
        return float((found - expected).abs().max() / expected.abs().max())


def errors(model: nn.Sequential, shape: tuple[int, ...], dtype: torch.dtype, backend: str
           ) -> dict[str, float]:  # fmt: skip
    """Name -> largest relative error, of the outputs, of x and of every parameter."""
    model = copy.deepcopy(model).to(dtype).eval()
    net = graphnn.from_sequential(model, backend=backend)
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(SAMPLES, *shape, dtype=dtype, generator=generator, requires_grad=True)
    expected = model(x)
    seed = torch.randn(expected.shape, dtype=dtype, generator=generator)
    found = net(x.flatten(1))
    parameters = dict(model.named_parameters())
    by_model = torch.autograd.grad(expected, [x, *parameters.values()], seed)
    (by_x,) = torch.autograd.grad(found, x, seed, retain_graph=True)
    result = {"outputs": error(found, expected), "x": error(by_x, by_model[0])}
    if dict(net.named_parameters()).keys() != {"weight", "bias"} or any(
        isinstance(module, nn.BatchNorm1d) for module in model.modules()
    ):
        # Held in part, or folded: the network's parameters are not the model's.
        return result
    by_weight, by_bias = torch.autograd.grad(
        found, [net.weight, net.bias], seed, materialize_grads=True
    )
    # The network's numbers stand one layer after the other, each row-major.
    rest = {"weight": by_weight, "bias": by_bias}
    for (name, parameter), gradient in zip(parameters.items(), by_model[1:], strict=True):
        kind = name.rpartition(".")[2]
        own, rest[kind] = rest[kind].split(
            [parameter.numel(), rest[kind].numel() - parameter.numel()]
        )
        result[name] = error(own.view_as(gradient), gradient)
    if rest["weight"].numel() + rest["bias"].numel():
        raise AssertionError("the network has parameters that the model has not")
    return result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--output", help="file for the JSON lines; default: the screen")
    arguments = parser.parse_args()
    results: list[dict[str, Any]] = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        cases = list(models())
    for name, model, shape in cases:
        for dtype, limit in LIMIT.items():
            # The models are on the CPU.
            for backend in (name for name in graphnn.backends() if name != "fused_gpu"):
                found = errors(model, shape, dtype, backend)
                worst = max(found, key=lambda key: found[key])
                kept = found[worst] <= limit
                results.append(
                    {
                        "benchmark": "agreement",
                        "case": name,
                        "dtype": str(dtype).removeprefix("torch."),
                        "backend": backend,
                        "outputs": found["outputs"],
                        "gradients": max(v for key, v in found.items() if key != "outputs"),
                        "worst": worst,
                        "compared": len(found),
                        "limit": limit,
                        "kept": kept,
                        **conditions(),
                    }
                )
                print(
                    f"{name}, {results[-1]['dtype']}, {backend}: outputs {found['outputs']:.1e}, "
                    f"gradients {results[-1]['gradients']:.1e}{'' if kept else '  MISSED'}",
                    flush=True,
                )
    save(results, arguments.output)
    sys.exit(not all(result["kept"] for result in results))


if __name__ == "__main__":
    main()
