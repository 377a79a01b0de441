"""The cases that graphnn is measured on, by family, at full size and at a size for a test."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from benchmarks import networks
from benchmarks.contenders import OWN
from benchmarks.problem import FORWARD, TRAINING, Problem

BOTH = (FORWARD, TRAINING)
SPARSE = (
    OWN, "masked Linear", "torch CSR", "torch CSR, cached transpose", "torch-scatter", "PyG",
)  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A network, what it is run with and against.

    Args:
        family: The rung of the ladder; a table of its own.
        name: Of the network.
        make: Draws it, for the largest batch.
        batches: Batch sizes.
        modes: Of `problem`.
        contenders: Names, graphnn's first.
        probe: Draws a network that contenders are checked on first, where the outputs of the
            case's own would hide an error.
        alone: Whether processes of other cases are ended before, for the memory that they hold.
    """

    family: str
    name: str
    make: Callable[[], Problem]
    batches: tuple[int, ...]
    modes: tuple[str, ...]
    contenders: tuple[str, ...]
    probe: Callable[[], Problem] | None = None
    alone: bool = False


@dataclass(frozen=True)
class Sizes:
    """How large the ladder's networks are; `FULL` says what each number is."""

    mlp: tuple[int, ...]
    mlp_batch: int
    wide: tuple[int, ...]
    wide_fan_in: int
    dense: tuple[tuple[int, ...], ...]
    dense_batches: tuple[int, ...]
    deep: tuple[int, ...]
    small_batches: tuple[int, ...]
    challenge: tuple[tuple[int, int, int], ...]
    dag_width: int
    dag_fan_in: tuple[tuple[int, int], ...]
    scale_width: int
    scale_levels: tuple[int, ...]
    batch_width: int
    batches: tuple[int, ...]


FULL = Sizes(
    mlp=(784, 4096, 4096, 10),
    mlp_batch=256,
    wide=(16384, 65536),
    wide_fan_in=32,
    dense=((784, 512, 512, 10), (1024,) * 5),
    dense_batches=(1, 256, 4096),
    deep=(10, 100, 1000),
    small_batches=(1, 64, 1024),
    # Neurons, layers, samples.
    challenge=((1024, 120, 4096), (4096, 120, 1024), (16384, 120, 256)),
    dag_width=1000,
    # Of hidden neurons and of the ten outputs: 128,000 and 1,280,000 edges.
    dag_fan_in=((14, 200), (142, 200)),
    scale_width=4096,
    # 131,072 edges each: 1e5 ... 1e8.
    scale_levels=(1, 8, 76, 763),
    batch_width=1024,
    batches=(1, 3, 17, 64, 256, 4096),
)
QUICK = Sizes(
    mlp=(30, 64, 64, 10),
    mlp_batch=8,
    wide=(96,),
    wide_fan_in=8,
    dense=((20, 30, 10),),
    dense_batches=(1, 8),
    deep=(3, 12),
    small_batches=(1, 4),
    challenge=((1024, 2, 8),),
    dag_width=20,
    dag_fan_in=((5, 9),),
    scale_width=64,
    scale_levels=(1, 4),
    batch_width=64,
    batches=(1, 5),
)


def ladder(sizes: Sizes) -> list[Case]:
    """All cases, in order."""
    return [
        *_mlp(sizes), *_wide(sizes), *_dense(sizes), *_deep(sizes), *_small(sizes),
        *_challenge(sizes), *_dag(sizes), *_batch(sizes), *_scale(sizes),
    ]  # fmt: skip


def _mlp(sizes: Sizes) -> list[Case]:
    return [
        Case(
            "mlp",
            f"{'-'.join(map(str, sizes.mlp))}, {density:.0%} of the edges",
            lambda density=density: networks.by_density(list(sizes.mlp), density, sizes.mlp_batch),
            (sizes.mlp_batch,),
            (TRAINING,),
            SPARSE,
        )
        for density in (0.01, 0.05, 0.1, 0.25)
    ]


def _wide(sizes: Sizes) -> list[Case]:
    return [
        Case(
            "wide",
            f"2 levels of {width} over {width} inputs, fan-in {sizes.wide_fan_in}",
            lambda width=width: networks.by_fan_in([width] * 3, sizes.wide_fan_in, 64),
            (64,),
            BOTH,
            SPARSE,
        )
        for width in sizes.wide
    ]


def _dense(sizes: Sizes) -> list[Case]:
    return [
        Case(
            "dense",
            "-".join(map(str, stack)),
            lambda stack=stack: networks.dense(list(stack), max(sizes.dense_batches)),
            sizes.dense_batches,
            BOTH,
            (OWN, "nn.Sequential"),
        )
        for stack in sizes.dense
    ]


def _deep(sizes: Sizes) -> list[Case]:
    return [
        Case(
            "deep",
            f"{depth} levels of 64, each neuron reading 16 of the last 8 levels",
            lambda depth=depth: networks.with_skips([64] * (depth + 1), [16] * depth, 8, 64),
            (64,),
            BOTH,
            (OWN, "graphnn scatter", "eager scatter", "to_module", "torch.compile"),
        )
        for depth in sizes.deep
    ]


def _small(sizes: Sizes) -> list[Case]:
    return [
        Case(
            "small",
            "10 inputs, 20 levels of 10, 5 outputs, fan-in 8",
            lambda: networks.with_skips(
                [10, *[10] * 20, 5], [8] * 21, 22, max(sizes.small_batches)
            ),
            sizes.small_batches,
            BOTH,
            (OWN, "connex", "neat-python", "eager scatter", "graphnn scatter", "to_module"),
        )
    ]


def _challenge(sizes: Sizes) -> list[Case]:
    return [
        Case(
            "challenge",
            f"radixnet {neurons} x {layers}",
            lambda shape=(neurons, layers, batch): networks.challenge(*shape),
            (batch,),
            (FORWARD,),
            (OWN, "torch CSR", "GraphBLAS", "scipy"),
            probe=lambda: networks.challenge_probe(64, 6, 16),
            alone=True,
        )
        for neurons, layers, batch in sizes.challenge
    ]


def _dag(sizes: Sizes) -> list[Case]:
    width = sizes.dag_width
    return [
        Case(
            "random dag",
            f"{10 * width + 10:,} neurons, {9 * width * fan_in + 10 * outputs:,} edges, skips "
            "over 3 levels, in no order",
            lambda fan_in=fan_in, outputs=outputs: networks.shuffled(
                networks.with_skips([width] * 10 + [10], [fan_in] * 9 + [outputs], 3, 128)
            ),
            (128,),
            BOTH,
            (OWN, "connex", "to_module", "eager scatter"),
        )
        for fan_in, outputs in sizes.dag_fan_in
    ]


def _batch(sizes: Sizes) -> list[Case]:
    return [
        Case(
            "batch",
            f"4 levels of {sizes.batch_width} over {sizes.batch_width} inputs, fan-in 32",
            lambda: networks.by_fan_in([sizes.batch_width] * 5, 32, max(sizes.batches)),
            sizes.batches,
            BOTH,
            (OWN, "masked Linear", "torch CSR, cached transpose"),
        )
    ]


def _scale(sizes: Sizes) -> list[Case]:
    width = sizes.scale_width
    return [
        Case(
            "scale",
            f"{depth} x {width}, fan-in 32, {32 * width * depth:,} edges",
            lambda depth=depth: networks.scale(width, depth, 32),
            (32,),
            BOTH,
            (OWN,),
            alone=True,
        )
        for depth in sizes.scale_levels
    ]
