"""What the machine can reach, and from it the least time of a network.

``python -m benchmarks.roofline THREADS`` measures and prints the constants as JSON. The model, with
E edges, N neurons, B samples and numbers of 4 bytes:

    forward              F = E B       Q = 8 E + 8 B N      C = 4 E B
    forward + backward   F = 3 E B     Q = 24 E + 20 B N    C = 12 E B

F multiply-adds, Q bytes that must move at least once, C bytes that an unstructured kernel gathers.
T0 = max(F / sgemm rate, Q / bandwidth of what holds Q bytes) is the physical limit;
T1 = max(T0, C / bandwidth of what holds W x min(B, 16) x 4 bytes) that of an unstructured kernel,
where W is the largest number of neurons that a level reads and writes (twice that for the
gradients). An empty level costs nothing here: one compiled call walks all levels.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from benchmarks.conditions import ROOT
from benchmarks.problem import FORWARD
from benchmarks.worker import limit_threads

# Samples in the narrowest vector of a tile.
LANES = 16


@dataclass(frozen=True)
class Roofline:
    """Measured constants at a number of threads.

    Args:
        threads: Of all of them.
        sgemm: 1e9 multiply-adds a second of torch's own matrix product, 1536 x 1536.
        l2, l3, dram: 1e9 bytes a second that a copy reads and writes, arrays sized for that level.
        l2_bytes, l3_bytes: Sizes of the caches: l2 of one core, l3 of all.
    """

    threads: int
    sgemm: float
    l2: float
    l3: float
    dram: float
    l2_bytes: int
    l3_bytes: int

    def limits(
        self, edges: int, neurons: int, window: int, batch: int, mode: str
    ) -> tuple[float, float]:
        """(T0, T1) in seconds; `window` is W of the forward pass."""
        by_edge, by_value, passes, live = (8, 8, 1, 1) if mode == FORWARD else (24, 20, 3, 2)
        moved = by_edge * edges + by_value * batch * neurons
        arithmetic = passes * edges * batch / (1e9 * self.sgemm)
        physical = max(arithmetic, moved / self.bandwidth(moved / self.threads))
        gathered = 4 * passes * edges * batch
        state = 4 * live * window * min(batch, LANES)
        return physical, max(physical, gathered / self.bandwidth(state))

    def bandwidth(self, size: float) -> float:
        """Bytes a second of what holds `size` bytes a thread."""
        if size <= self.l2_bytes:
            return 1e9 * self.l2
        return 1e9 * (self.l3 if size * self.threads <= self.l3_bytes else self.dram)


def measured(threads: int) -> Roofline:
    """The constants at this number of threads, measured in a process of its own."""
    command = [sys.executable, "-m", "benchmarks.roofline", str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    return Roofline(**json.loads(done.stdout))


def _measure(threads: int) -> Roofline:
    import torch

    l2, l3 = _cache(2, 1 << 20), _cache(3, 32 << 20)
    a, b = torch.randn(2, 1536, 1536).unbind()
    sgemm = 1536**3 / _median(lambda: a @ b) / 1e9
    sizes = {
        "l2": l2 // 4,
        "l3": min(8 * l2, l3 // (4 * threads)),
        "dram": max(256 << 20, l3) // threads,
    }
    rates = _copy_rates(sizes, threads)
    return Roofline(threads=threads, sgemm=round(sgemm, 1), **rates, l2_bytes=l2, l3_bytes=l3)


def _cache(level: int, otherwise: int) -> int:
    """Bytes of a cache as Linux tells them."""
    folder = Path("/sys/devices/system/cpu/cpu0/cache")
    for index in folder.glob("index*"):
        if (index / "level").read_text().strip() != str(level):
            continue
        text = (index / "size").read_text().strip()
        return int(text[:-1]) << {"K": 10, "M": 20}[text[-1]]
    return otherwise


def _copy_rates(sizes: dict[str, int], threads: int) -> dict[str, float]:
    """1e9 bytes a second that threads read and write, each copying a size back and forth."""
    import numba
    import numpy as np

    @numba.njit("void(float32[::1], float32[::1], int64)", nogil=True)
    def back_and_forth(one, other, times):
        for _ in range(times):
            for i in range(one.size):
                other[i] = one[i]
            for i in range(one.size):
                one[i] = other[i]

    rates = {}
    with ThreadPoolExecutor(threads) as pool:
        for name, size in sizes.items():
            pairs = [tuple(np.ones((2, size // 4), np.float32)) for _ in range(threads)]
            times = max(1, (64 << 20) // size)

            def run(pairs: list[Any] = pairs, times: int = times) -> None:
                list(pool.map(lambda pair: back_and_forth(pair[0], pair[1], times), pairs))

            rates[name] = round(4 * size * times * threads / _median(run) / 1e9, 1)
    return rates


def _median(run: Callable[[], object]) -> float:
    run()
    taken = []
    for _ in range(3):
        start = time.perf_counter()
        run()
        taken.append(time.perf_counter() - start)
    return statistics.median(taken)


if __name__ == "__main__":
    limit_threads(int(sys.argv[1]))
    print(json.dumps(asdict(_measure(int(sys.argv[1])))))
