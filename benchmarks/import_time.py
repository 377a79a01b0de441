"""What `import graphnn` costs over `import torch`: ``python -m benchmarks.import_time``.

Every import is a fresh process, the two kinds in turn. The figure to keep: at most 0.5 s.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
from typing import Any

from benchmarks.clock import in_turn, quantiles
from benchmarks.conditions import ROOT, conditions, save

LIMIT = 0.5
# Packages that are slow to import, and therefore imported where they are used.
HEAVY = ("numba", "networkx", "pandas", "sklearn", "matplotlib", "torch_geometric", "torch_scatter")


def start_python(code: str) -> str:
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout


def measure(repeats: int) -> dict[str, Any]:
    loaded = start_python("import torch, sys; a = set(sys.modules); import graphnn\n"
                          "print(*set(sys.modules) - a)").split()  # fmt: skip
    if "graphnn.network" not in loaded:
        raise AssertionError("import graphnn did not import the network")
    times = in_turn(
        {
            "torch": lambda: start_python("import torch"),
            "graphnn": lambda: start_python("import torch, graphnn"),
        },
        repeats,
    )
    over = statistics.median(times["graphnn"]) - statistics.median(times["torch"])
    return {
        "benchmark": "import_time",
        "seconds_20_50_80": {name: quantiles(taken) for name, taken in times.items()},
        "over_torch": round(over, 3),
        "limit": LIMIT,
        "modules": len(loaded),
        "heavy_packages": [name for name in HEAVY if name in loaded],
        "processes": repeats,
        **conditions(),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=9, help="processes of each kind")
    parser.add_argument("--output", help="file for the JSON line; default: the screen")
    arguments = parser.parse_args()
    result = measure(arguments.repeats)
    verdict = "kept" if result["over_torch"] <= LIMIT else "MISSED"
    print(f"import graphnn: {result['over_torch']:.3f} s over torch (at most {LIMIT}: {verdict})")
    save([result], arguments.output)


if __name__ == "__main__":
    main()
