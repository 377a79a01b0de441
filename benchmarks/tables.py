"""The Markdown tables of README.md, made of results/*.jsonl: ``python -m benchmarks.tables``.

With ``--write`` they go into README.md, else to the screen.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

from benchmarks import gpu_table, ladder_table
from benchmarks.markdown import Line, table, where

HERE = Path(__file__).resolve().parent
README, RESULTS = HERE / "README.md", HERE / "results"
BEGIN, END = "<!-- begin: python -m benchmarks.tables --write -->", "<!-- end -->"


def read(name: str) -> list[Line]:
    """The lines of a benchmark's last kept run; none where it was not kept."""
    path = RESULTS / f"{name}.jsonl"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def ladder(lines: list[Line]) -> str:
    """The ladder's tables and plots."""
    pictures = [
        f"![{path.stem}](results/{path.name})" for path in sorted(RESULTS.glob("ladder-*.svg"))
    ]
    return "\n\n".join([ladder_table.markdown(lines), *pictures])


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


def attribution(lines: list[Line]) -> str:
    """Times, and the ratios that are to be kept."""
    names = list(lines[0]["seconds_20_50_80"])
    rows = [
        [
            line["case"],
            *[f"{1000 * seconds[1]:.0f} ms" for seconds in line["seconds_20_50_80"].values()],
            f"{line['of_forward_and_backward']:.2f}, at most "
            f"{line['limit']['of_forward_and_backward']}",
            f"{line['times_faster_than_captum']:,} times, at least {line['limit']['captum']}",
        ]
        for line in lines
    ]
    head = [
        "network",
        *names,
        "gradient over forward and backward",
        "faster than captum neuron by neuron",
    ]
    return where(lines) + "\n\n" + table(head, rows)


TABLES = {
    "ladder": ("The ladder: 1e9 edges x samples a second", ladder),
    "gpu": ("On a GPU", gpu_table.markdown),
    "triplets": ("Triplets of one level", triplets),
    "import_time": ("import graphnn", import_time),
    "agreement": ("Agreement with nn.Sequential", agreement),
    "build": ("from_edges", build),
    "graphml": ("GraphML", graphml),
    "attribution": ("Derivatives by all neurons", attribution),
}
# Said where a benchmark was never kept.
ABSENT = {"gpu": gpu_table.ABSENT}


def markdown() -> str:
    """All tables of which there are results, and what is to be said where there are none."""
    parts = []
    for name, (title, make) in TABLES.items():
        lines = read(name)
        if lines:
            parts.append(f"### {title}\n\n{make(lines)}")
        elif name in ABSENT:
            parts.append(f"### {title}\n\n{ABSENT[name]}")
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
