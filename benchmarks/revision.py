"""Another revision of graphnn, laid out beside this one."""

from __future__ import annotations

import subprocess
import tarfile
from io import BytesIO
from pathlib import Path

from benchmarks.conditions import ROOT


def lay_out(revision: str, folder: Path) -> Path:
    """Writes the package graphnn of a git revision into `folder`, and nothing else of it.

    The repository is not touched: no branch moves, and no worktree is left behind when a run is
    broken off.
    """
    command = ["git", "-C", str(ROOT), "archive", "--format=tar", revision, "graphnn"]
    done = subprocess.run(command, capture_output=True, check=False)
    if done.returncode:
        raise SystemExit(f"--base {revision}: {done.stderr.decode().strip()}")
    folder.mkdir(parents=True)
    with tarfile.open(fileobj=BytesIO(done.stdout)) as archive:
        archive.extractall(folder, filter="data")
    return folder
