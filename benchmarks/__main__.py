"""The ladder: ``python -m benchmarks``. README.md beside this file says how to read its figures."""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks import ladder_table, plots
from benchmarks.conditions import conditions, save
from benchmarks.contenders import CONTENDERS, OWN
from benchmarks.ladder import FULL, QUICK, Case, ladder
from benchmarks.process import Pool
from benchmarks.race import Race, Settings
from benchmarks.revision import lay_out
from benchmarks.roofline import measured


def main() -> None:
    arguments = _arguments()
    cases = [
        case
        for case in ladder(QUICK if arguments.quick else FULL)
        if _is_asked_for(f"{case.family}: {case.name}", arguments.case)
    ]
    if arguments.list:
        for case in cases:
            print(f"{case.family}: {case.name}\n    {', '.join(case.contenders)}")
        return
    if arguments.output is not None:
        arguments.output.parent.mkdir(parents=True, exist_ok=True)
    start = time.perf_counter()
    lines = list(_run(cases, arguments))
    print(f"{time.perf_counter() - start:.0f} s")
    save(lines, arguments.output)
    if arguments.output is not None:
        table = arguments.output.with_suffix(".md")
        table.write_text(ladder_table.markdown(lines) + "\n")
        print(f"written to {table}")
        for plot in plots.write(lines, arguments.output.parent):
            print(f"written to {plot}")
    broken = {
        f"{line['case']}: {name}: {reason}"
        for line in lines
        for name, reason in line["skipped"].items()
        if name == OWN or "wrong" in reason
    }
    if broken:
        raise SystemExit("\n".join(["What must run, and be right, did not:", *sorted(broken)]))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser("python -m benchmarks", description=__doc__)
    add = parser.add_argument
    add("--case", nargs="+", default=[], help="only cases whose 'family: name' contains one")
    add("--contender", nargs="+", default=[], help="only contenders of these names")
    add("--threads", type=int, nargs="+", default=[1, 2])
    add("--base", metavar="REF", help="a git revision whose graphnn is one more contender")
    add("--quick", action="store_true", help="tiny networks: to see that all of it runs")
    add("--budget", type=float, default=1.0, help="seconds of rounds for a row")
    add("--patience", type=float, default=0, help="seconds to wait for a quiet machine, each time")
    add("--output", type=Path, help="file for the JSON lines; a table and plots go beside it")
    add("--list", action="store_true", help="show the cases and their contenders")
    arguments = parser.parse_args()
    unknown = [name for name in arguments.contender if name not in CONTENDERS]
    if unknown:
        parser.error(f"--contender: {unknown[0]!r} is none of {', '.join(CONTENDERS)}")
    return arguments


def _is_asked_for(name: str, parts: list[str]) -> bool:
    return not parts or any(part in name for part in parts)


def _run(cases: list[Case], arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The lines of all cases, each shown as it comes, after the machine's constants."""
    with tempfile.TemporaryDirectory() as folder:
        base = None
        chosen = tuple(arguments.contender or CONTENDERS)
        if arguments.base is not None:
            name = f"{OWN}@{arguments.base}"
            base = name, lay_out(arguments.base, Path(folder) / "base")
            chosen += (name,)
        rooflines = {threads: measured(threads) for threads in arguments.threads}
        for roofline in rooflines.values():
            print(roofline, flush=True)
        settings = Settings(rooflines, chosen, arguments.budget, arguments.patience)
        with Pool(base) as pool:
            for case in cases:
                now = conditions()
                with tempfile.TemporaryDirectory(dir=folder) as own:
                    for line in Race(case, pool, settings, Path(own)).lines():
                        _show(line)
                        yield {**now, **line}


def _show(line: dict[str, Any]) -> None:
    """Prints a row for a reader."""
    print(
        f"{line['family']}: {line['case']}, B={line['batch']}, {line['mode']}, "
        f"{line['threads']} threads; others took {line['others']} cores"
    )
    for name, found in line["contenders"].items():
        low, median, high = (1e3 * seconds for seconds in found["seconds_20_50_80"])
        few = f" with {found['samples']} samples" if found["samples"] < line["batch"] else ""
        peak = found["peak_bytes"]
        memory = "" if peak is None else f", {peak['call'] / 1e6:.0f} MB"
        print(
            f"    {name}: {median:.4g} ms ({low:.4g} to {high:.4g}){few}, "
            f"{found['rate']:.4g} GE/s, {found['of_t1']:.2f} of T1, {found['of_t0']:.2f} of T0"
            f"{memory} {found['note']}"
        )
    for name, reason in line["skipped"].items():
        print(f"    {name}: {reason}", flush=True)


if __name__ == "__main__":
    main()
