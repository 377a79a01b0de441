"""Starting, asking and ending the contenders' processes."""

from __future__ import annotations

import os
import subprocess
import sys
from multiprocessing import Pipe
from pathlib import Path
from typing import Any

from benchmarks.conditions import ROOT
from benchmarks.contenders import CONTENDERS, OWN


class Failed(Exception):
    """A contender could not do what it was asked for; its text says why."""


class Gone(Failed):
    """Its process ended, or was ended because it did not answer."""


class Process:
    """One contender at one number of threads.

    Args:
        name: Its name among `CONTENDERS`.
        threads: Cores and threads that it may use.
        tree: The checkout whose graphnn it imports; the benchmarks are always this one's.
    """

    def __init__(self, name: str, threads: int, tree: Path) -> None:
        self.patience = CONTENDERS[name].patience
        self.connection, theirs = Pipe()
        command = [sys.executable, "-m", "benchmarks.worker", str(theirs.fileno())]
        paths = [str(tree), str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.child = subprocess.Popen(
            [*command, name, str(threads)],
            pass_fds=[theirs.fileno()],
            # Both name the tree first: `python -m` puts its folder before PYTHONPATH.
            cwd=tree,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        theirs.close()

    def ask(self, method: str, *arguments: Any) -> Any:
        """The result of a method of `worker.Worker`.

        Raises:
            Failed: It raised.
            Gone: It ended, or did not answer in time.
        """
        try:
            self.connection.send((method, arguments))
            if not self.connection.poll(self.patience):
                self.end()
                raise Gone(f"no answer within {self.patience:.0f} s")
            result, wrong = self.connection.recv()
        except (EOFError, OSError) as error:
            self.end()
            raise Gone(f"its process ended with status {self.child.returncode}") from error
        if wrong is not None:
            raise Failed(wrong)
        return result

    def end(self) -> None:
        """Ends the process."""
        self.connection.close()
        self.child.kill()
        self.child.wait()

    @property
    def is_alive(self) -> bool:
        """Whether it can be asked."""
        return self.child.poll() is None


class Pool:
    """The processes that are alive, started where they are first needed.

    Args:
        base: Where another revision's graphnn is, and that contender's name; or None.
    """

    def __init__(self, base: tuple[str, Path] | None) -> None:
        self.base = base
        self.alive: dict[tuple[str, int], Process] = {}

    def __enter__(self) -> Pool:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def get(self, name: str, threads: int) -> Process:
        """A contender's process at this number of threads."""
        process = self.alive.get((name, threads))
        if process is None or not process.is_alive:
            own, tree = name, ROOT
            if self.base is not None and self.is_base(name):
                own, tree = OWN, self.base[1]
            process = self.alive[name, threads] = Process(own, threads, tree)
        return process

    def is_base(self, name: str) -> bool:
        """Whether this is the other revision."""
        return self.base is not None and name == self.base[0]

    def drop(self) -> None:
        """Lets all processes let go of their problems."""
        for process in self.alive.values():
            if process.is_alive:
                process.ask("drop")

    def end(self) -> None:
        """Ends all of them."""
        for process in self.alive.values():
            process.end()
        self.alive.clear()

    def identifiers(self) -> list[int]:
        """Of the processes, for the system."""
        return [process.child.pid for process in self.alive.values()]
