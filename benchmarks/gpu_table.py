"""The tables of the GPU's ladder, made of its JSON lines."""

from __future__ import annotations

from itertools import groupby
from typing import Any

from benchmarks.markdown import Line, table, where

ABSENT = (
    "No figure has been measured on a GPU yet: `python -m benchmarks.gpu --output "
    "benchmarks/results/gpu.jsonl` would, in less than eight minutes, and `python -m "
    "benchmarks.tables --write` would put its tables here. What `fused_gpu` rests on until then is "
    "tested in Triton's interpreter and compiled for sm_90, but timed nowhere."
)
# What each rung is to show; read beside the figures.
AIMS = {
    "mlp": "Faster than the masked Linear of the same precision at 1 and 5 %; 4x cuSPARSE CSR.",
    "wide": "At least 0.5 of T1; 20x gather-scatter, in a thirtieth of its memory.",
    "challenge": "2000 GE/s at 1024 neurons, 1000 at 16384; true rates, no row is left out.",
    "deep": "3 us a level forward.",
    "dense": "At most 1.05 times the time of the nn.Sequential.",
    "scale": "1e9 edges are built, run, differentiated and trained one step in 139 GiB.",
    "triplets": "At least 0.7 of the speed of a copy.",
}


def markdown(lines: list[Line]) -> str:
    """What the GPU reaches, then one table a family."""
    parts = [where(lines), _constants(lines[0]["roofline"])]
    for family, group in groupby(lines, key=lambda line: line["family"]):
        own = list(group)
        make = {"scale": _scale, "triplets": _triplets}.get(family, _family)
        parts.append(f"**{family}.** {AIMS[family]}\n\n{make(own)}")
    skipped = [
        f"- {line['family']}, {line['case']}, {line['mode']}, {line['contender']}: "
        f"{line['skipped']}"
        for line in lines
        if "skipped" in line
    ]
    if skipped:
        parts.append("Not run:\n\n" + "\n".join(skipped))
    return "\n\n".join(parts)


def _constants(reached: dict[str, float]) -> str:
    cells = [
        f"{1000 * reached['sgemm']:.4g}", f"{reached['l2']:.4g}", f"{reached['dram']:.4g}",
        f"{1e6 * reached['launch']:.3g} us",
    ]  # fmt: skip
    return table(
        ["sgemm, GE/s", "copy in L2, GB/s", "in memory", "empty kernel in a graph"], [cells]
    )


def _family(lines: list[Line]) -> str:
    """A row a contender, beside graphnn in the same precision."""
    head = [
        "network", "B", "pass", "contender", "time", "GE/s", "graphnn is faster", "T1", "T0",
        "a level", "peak", "over graphnn's",
    ]  # fmt: skip
    ran = [line for line in lines if "skipped" not in line]
    found = {(line["case"], line["mode"], line["contender"]): line for line in ran}
    rows = []
    for line in ran:
        half = ", bfloat16" if line["contender"].endswith("bfloat16") else ""
        own = found.get((line["case"], line["mode"], "graphnn" + half))
        faster = more = ""
        if own is not None and own is not line:
            faster = f"{line['seconds_20_50_80'][1] / own['seconds_20_50_80'][1]:.3g}x"
            if own["peak_bytes"]:
                more = f"{line['peak_bytes'] / own['peak_bytes']:.3g}x"
        rows.append(
            [
                line["case"], str(line["batch"]), _mode(line), line["contender"],
                _time(line["seconds_20_50_80"][1]), f"{line['rate']:.4g}", faster,
                f"{line['of_t1']:.2f}", f"{line['of_t0']:.2f}",
                f"{line['microseconds_a_level']:.3g} us", _bytes(line["peak_bytes"]), more,
            ]
        )  # fmt: skip
    return table(head, rows)


def _scale(lines: list[Line]) -> str:
    rows = [
        [
            f"{line['edges']:,}", _mode(line), _time(line["seconds_20_50_80"][1]),
            f"{line['rate']:.4g}" if "rate" in line else "", _bytes(line["peak_in_all"]),
            "" if line["peak_in_all"] is None else f"{line['peak_in_all'] / line['edges']:.1f} B",
        ]
        for line in lines
        if "skipped" not in line
    ]  # fmt: skip
    return table(["edges", "pass", "time", "GE/s", "peak in all", "an edge"], rows)


def _triplets(lines: list[Line]) -> str:
    rows = [
        [
            line["case"], str(line["batch"]),
            *[_time(seconds[1]) for seconds in line["seconds_20_50_80"].values()],
            f"{line['speed_over_clone']:.2f}",
        ]
        for line in lines
        if "skipped" not in line
    ]  # fmt: skip
    return table(["level", "B", "triplets", "copy", "speed over a copy"], rows)


def _mode(line: Line) -> str:
    return "+ backward" if line["mode"] == "forward + backward" else line["mode"]


def _time(seconds: float) -> str:
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if seconds * factor >= 1:
            return f"{seconds * factor:.3g} {unit}"
    return f"{seconds * 1e6:.3g} us"


def _bytes(count: Any) -> str:
    return "" if count is None else f"{count / 1e6:.4g} MB"
