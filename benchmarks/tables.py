"""The Markdown tables of README.md, made of results/*.jsonl: ``python -m benchmarks.tables``.

With ``--write`` they go into README.md, else to the screen.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
README = HERE / "README.md"
BEGIN, END = "<!-- begin: python -m benchmarks.tables --write -->", "<!-- end -->"
Line = dict[str, Any]


def read(name: str) -> list[Line]:
    """The lines of a benchmark's last kept run; none where it was not kept."""
    path = HERE / "results" / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def table(head: list[str], rows: Iterable[list[str]]) -> str:
    """A Markdown table whose columns, but for the first, are right-aligned."""
    lines = [head, ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def where(lines: list[Line]) -> str:
    """The sentence that says what a run was measured on."""
    first = lines[0]
    versions = ", ".join(f"{name} {version}" for name, version in first["versions"].items())
    loads = sorted(line["load"] for line in lines if line["load"] is not None)
    load = f"; load {loads[0]} to {loads[-1]}" if loads else ""
    others = [line["others"] for line in lines if "others" in line]
    if others:
        load += f"; other processes took at most {max(others)} cores in a measurement"
    return (
        f"{first['cpu']}, {first['cores']} cores, {first['device']}; {versions}; commit "
        f"`{first['commit']}`; {first['time']}{load}."
    )


def backends(lines: list[Line]) -> str:
    """Rates of every contender, in bold the one that "auto" takes."""
    names = list(dict.fromkeys(name for line in lines for name in line["rate"]))
    parts = [where(lines)]
    for threads in sorted({line["threads"] for line in lines}, reverse=True):
        own = [line for line in lines if line["threads"] == threads]
        rate = own[0]["matrix_product_rate"]
        parts.append(
            f"{threads} thread{'s' if threads > 1 else ''} (dense matrix product: {rate}):"
        )
        rows = []
        for line in own:
            cells = [
                f"**{line['rate'][name]:.3g}**" if name == line["auto"]
                else f"{line['rate'][name]:.3g}" if name in line["rate"]
                else "slow" if "already" in line["skipped"].get(name, "")
                else "large" if name in line["skipped"]
                else ""
                for name in names
            ]  # fmt: skip
            mode = "forward" if line["mode"] == "forward" else "+ backward"
            ratio = f"{line['speed_over_rival']} x {line['fastest_rival']}"
            rows.append([f"{line['case']}, B = {line['batch']}", mode, *cells, ratio])
        parts.append(table(["network", "pass", *names, "auto over the fastest rival"], rows))
    return "\n\n".join(parts)


def agreement(lines: list[Line]) -> str:
    """Largest errors of every model and dtype, over outputs and gradients, by backend."""
    names = list(dict.fromkeys(line["backend"] for line in lines))
    found = {(line["case"], line["dtype"], line["backend"]): line for line in lines}
    rows = []
    for case, dtype in dict.fromkeys((line["case"], line["dtype"]) for line in lines):
        own = [found[case, dtype, name] for name in names]
        cells = [f"{max(line['outputs'], line['gradients']):.1e}" for line in own]
        rows.append([case, dtype, *cells, f"{own[0]['limit']:.0e}"])
    return where(lines) + "\n\n" + table(["model", "dtype", *names, "at most"], rows)


def triplets(lines: list[Line]) -> str:
    """Times and speed ratios."""
    rows = [
        [
            line["case"],
            *[f"{1000 * seconds[1]:.0f} ms" for seconds in line["seconds_20_50_80"].values()],
            *[f"{ratio:.2f}" for ratio in line["speed_ratio"].values()],
            f"{line['limit']} of clone",
        ]
        for line in lines
    ]
    names = list(lines[0]["seconds_20_50_80"])
    head = ["level", *names, *[f"speed over {name}" for name in names[1:]], "at least"]
    return where(lines) + "\n\n" + table(head, rows)


def import_time(lines: list[Line]) -> str:
    """Seconds of fresh processes."""
    rows = [
        [
            f"{line['processes']} processes of each kind",
            *[f"{seconds[1]:.2f} s" for seconds in line["seconds_20_50_80"].values()],
            f"{line['over_torch']:.2f} s",
            f"{line['limit']} s",
        ]
        for line in lines
    ]
    head = ["", "import torch", "import torch, graphnn", "over torch", "at most"]
    return where(lines) + "\n\n" + table(head, rows)


def build(lines: list[Line]) -> str:
    """Seconds, and the time as a multiple of each yardstick's."""
    rows = [
        [
            line["case"],
            f"{line['edges']:,}",
            f"{line['seconds_20_50_80']['from_edges'][1]:.2f} s",
            ", ".join(f"{ratio:.2f} x {name}" for name, ratio in line["ratio"].items()),
        ]
        for line in lines
    ]
    return where(lines) + "\n\n" + table(["edges", "number", "from_edges", "that is"], rows)


def graphml(lines: list[Line]) -> str:
    """Writing and reading, beside networkx."""
    rows = [
        [
            f"{line['edges']:,}",
            f"{line['write_seconds']:.2f} s",
            f"{line['networkx_write_seconds']:.2f} s",
            f"{line['write_ratio']:.1f}",
            f"{line['traced_bytes_per_edge']:.1f}",
            f"{line['read_seconds']:.2f} s",
        ]
        for line in lines
    ]
    head = ["edges", "write", "networkx writes", "times faster", "bytes per edge", "read"]
    return where(lines) + "\n\n" + table(head, rows)


TABLES = {
    "backends": ("Backends: 1e9 multiply-adds a second", backends),
    "triplets": ("Triplets of one level", triplets),
    "import_time": ("import graphnn", import_time),
    "agreement": ("Agreement with nn.Sequential", agreement),
    "build": ("from_edges", build),
    "graphml": ("GraphML", graphml),
}


def markdown() -> str:
    """All tables of which there are results."""
    parts = []
    for name, (title, make) in TABLES.items():
        lines = read(name)
        if lines:
            parts.append(f"### {title}\n\n{make(lines)}")
    return "\n\n".join(parts)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the tables into README.md")
    arguments = parser.parse_args()
    if not arguments.write:
        print(markdown())
        return
    text = README.read_text()
    before, _, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not end:
        raise SystemExit(f"{README} must have the lines {BEGIN} and {END}.")
    README.write_text(f"{before}{BEGIN}\n\n{markdown()}\n\n{END}{after}")
    print(f"written to {README}")


if __name__ == "__main__":
    main()
