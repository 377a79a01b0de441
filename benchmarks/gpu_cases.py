"""The cases of the GPU's ladder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch

from benchmarks import networks
from benchmarks.contenders.csr import CachedTranspose
from benchmarks.contenders.dense import MaskedLinear, Sequential
from benchmarks.contenders.messages import EagerScatter, Pyg, TorchScatter
from benchmarks.gpu_contenders import CompiledReference, Fused, Kind
from benchmarks.problem import FORWARD, TRAINING, Problem

OWN = Kind("graphnn", Fused)
OWN_HALF = Kind("graphnn, bfloat16", Fused, 5e-2, torch.bfloat16)
MASKED = (
    Kind("masked Linear", MaskedLinear),
    Kind("masked Linear, TF32", MaskedLinear, 5e-2, tf32=True),
    Kind("masked Linear, bfloat16", MaskedLinear, 5e-2, torch.bfloat16),
)
CSR = Kind("cuSPARSE CSR", CachedTranspose)
GATHER_SCATTER = Kind("gather-scatter", EagerScatter)
TORCH_SCATTER = Kind("torch-scatter", TorchScatter)
PYG = Kind("PyG", Pyg)
COMPILED_REFERENCE = Kind("torch.compile of the reference", CompiledReference)
SEQUENTIAL = Kind("nn.Sequential", Sequential)


@dataclass(frozen=True)
class Case:
    """A network at one batch size, what it is run with and against.

    Args:
        family: The rung of the ladder.
        name: Of the network.
        make: Draws it with its samples.
        modes: Of `problem`.
        contenders: graphnn first.
        seconds: After which no further contender is begun.
    """

    family: str
    name: str
    make: Callable[[], Problem]
    modes: tuple[str, ...]
    contenders: tuple[Kind, ...]
    seconds: float = 40


def cases(quick: bool) -> list[Case]:
    """All cases, in order; tiny ones where `quick`."""
    small = quick
    mlp, mlp_batch = ([12, 16, 16, 4], 5) if small else ([784, 4096, 4096, 10], 4096)
    wide, wide_batch = (16, 5) if small else (65536, 1024)
    depth, deep_width = (4, 6) if small else (1000, 64)
    dense, dense_batch = ([8, 8, 4], 5) if small else ([4096] * 5, 4096)
    shapes = ((1024, 2, 5),) if small else ((1024, 120, 60_000), (16384, 120, 60_000))
    both = (FORWARD, TRAINING)
    fan_in = 4 if small else 32
    return [
        *(
            Case(
                "mlp",
                f"{'-'.join(map(str, mlp))}, {density:.0%} of the edges",
                lambda density=density: networks.by_density(mlp, density, mlp_batch),
                (TRAINING,),
                (OWN, OWN_HALF, *MASKED, CSR, PYG, COMPILED_REFERENCE),
            )
            for density in ((0.3,) if small else (0.01, 0.05, 0.1))
        ),
        Case(
            "wide",
            f"4 levels of {wide} over {wide} inputs, fan-in {fan_in}",
            lambda: networks.by_fan_in([wide] * 5, fan_in, wide_batch),
            (TRAINING,),
            (OWN, OWN_HALF, CSR, TORCH_SCATTER, PYG, GATHER_SCATTER),
        ),
        *(
            Case(
                "challenge",
                f"radixnet {neurons} x {layers}",
                lambda shape=(neurons, layers, batch): networks.challenge(*shape),
                (FORWARD,),
                (OWN, CSR),
                # Drawing 60,000 samples takes a third of it.
                60,
            )
            for neurons, layers, batch in shapes
        ),
        Case(
            "deep",
            f"{depth} levels of {deep_width}, fan-in {min(16, fan_in)}",
            lambda: networks.by_fan_in(
                [deep_width] * (depth + 1), min(16, fan_in), 5 if small else 64
            ),
            both,
            (OWN, CSR, GATHER_SCATTER, MASKED[0]),
        ),
        Case(
            "dense",
            "-".join(map(str, dense)),
            lambda: networks.dense(dense, dense_batch),
            both,
            (OWN, SEQUENTIAL, COMPILED_REFERENCE),
            # Each contender draws and builds 67 million edges.
            70,
        ),
    ]  # fmt: skip
