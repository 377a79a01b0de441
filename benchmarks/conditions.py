"""Under which conditions a figure was measured, and the lines that figures are kept in.

``python -m benchmarks.conditions`` prints the present ones.
"""

from __future__ import annotations

import json
import os
import platform
import subprocess
from collections.abc import Iterable
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parent.parent


def conditions() -> dict[str, Any]:
    """Machine, versions and moment of a measurement.

    Returns:
        device, cpu (model name), cores, threads (of torch), load (mean of the last minute, None
        where the system does not tell), versions, commit ("+changes" where the code differs from
        it; None outside a checkout), time (UTC).
    """
    return {
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None,
        "versions": {
            "python": platform.python_version(),
            **{name: version(name) for name in ("torch", "numpy", "numba")},
        },
        "commit": _commit(),
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def save(lines: Iterable[dict[str, Any]], path: str | os.PathLike[str] | None) -> None:
    """Writes one JSON line for each of `lines`: into a file, or to the screen without a path."""
    text = "".join(json.dumps(line) + "\n" for line in lines)
    if path is None:
        print(text, end="")
        return
    target = Path(path)
    beside = target.with_name(target.name + ".part")
    beside.write_text(text)
    beside.replace(target)
    print(f"written to {target}")


def _cpu_model() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _commit() -> str | None:
    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    try:
        commit = git("rev-parse", "--short=12", "HEAD")
        # What a run writes, its results and their tables, is no change of what it measured.
        changed = git("status", "--porcelain", "--", "graphnn", "benchmarks/*.py")
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+changes" if changed else "")


if __name__ == "__main__":
    print(json.dumps(conditions(), indent=2))
