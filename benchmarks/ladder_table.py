"""The ladder's tables, made of its JSON lines."""

from __future__ import annotations

from itertools import groupby

from benchmarks.contenders import OWN
from benchmarks.markdown import Line, table, where

# What each rung is to show; read beside the ratios.
AIMS = {
    "mlp": "Over masked Linear 15x at 1 %, 4x at 5 %, 2.5x at 10 %, 1.2x at 25 %; over torch CSR "
    "5x, over PyG 50x.",
    "wide": "Over torch CSR 2x forward, 10x forward + backward.",
    "dense": "At most 1.05 times the time of the nn.Sequential: a ratio of at least 0.95.",
    "deep": "20x over the others, at 1000 levels.",
    "small": "Ahead of all; one sample in at most 30 us.",
    "challenge": "2.5x over the best of the others. The rates are true ones: no row is left out.",
    "random dag": "30x over connex, 10x over eager scatter, forward + backward.",
    "batch": "The same network at every batch size.",
    "scale": "Time and memory linear: an edge at 1e8 costs at most twice what it costs at 1e6.",
}


def markdown(lines: list[Line]) -> str:
    """The constants, then one table a family."""
    parts = [where(lines), _constants(lines)]
    for family, group in groupby(lines, key=lambda line: line["family"]):
        own = list(group)
        parts.append(f"**{family}.** {AIMS[family]}\n\n{_family(own)}")
        if family == "scale":
            parts.append(_scale(own))
    reasons = {
        f"- {name}, {line['case']}, {line['mode']}: {reason}"
        for line in lines
        for name, reason in line["skipped"].items()
        if not reason.startswith("not installed")
    }
    absent = {
        f"- {name}: {reason}"
        for line in lines
        for name, reason in line["skipped"].items()
        if reason.startswith("not installed")
    }
    if reasons or absent:
        parts.append("Not run:\n\n" + "\n".join([*sorted(absent), *sorted(reasons)]))
    return "\n\n".join(parts)


def _constants(lines: list[Line]) -> str:
    rooflines = {line["threads"]: line["roofline"] for line in lines}
    rows = [
        [str(threads), *[f"{found[name]:.4g}" for name in ("sgemm", "l2", "l3", "dram")]]
        for threads, found in rooflines.items()
    ]
    head = ["threads", "sgemm, GE/s", "copy in L2, GB/s", "in L3", "in memory"]
    return table(head, rows)


def _family(lines: list[Line]) -> str:
    """A row a network, batch size, pass and number of threads; a column a contender."""
    names = list(
        dict.fromkeys(
            name
            for line in lines
            for name in (*line["contenders"], *line["skipped"])
            if not line["skipped"].get(name, "").startswith("not installed")
        )
    )
    head = ["network", "B", "pass", "threads", "time", *names, "T1", "T0", "peak"]
    rows = []
    for line in lines:
        found = line["contenders"].get(OWN)
        rows.append(
            [
                line["case"],
                str(line["batch"]),
                "forward" if line["mode"] == "forward" else "+ backward",
                str(line["threads"]),
                "" if found is None else _time(found["seconds_20_50_80"]),
                *[_rate(line, name) for name in names],
                "" if found is None else f"{found['of_t1']:.2f}",
                "" if found is None else f"{found['of_t0']:.2f}",
                "" if found is None else _bytes(found["peak_bytes"]),
            ]
        )
    return table(head, rows)


def _rate(line: Line, name: str) -> str:
    """1e9 edges x samples a second, and by how much graphnn is faster."""
    found, own = line["contenders"].get(name), line["contenders"].get(OWN)
    if found is None:
        reason = line["skipped"].get(name, "")
        return "wrong" if "wrong" in reason else "-" if reason else ""
    few = "\\*" if found["samples"] < line["batch"] else ""
    if name == OWN or own is None:
        return f"**{found['rate']:.3g}**{few}"
    return f"{found['rate']:.3g}{few} ({own['rate'] / found['rate']:.3g}x)"


def _time(seconds: list[float]) -> str:
    low, median, high = seconds
    for unit, factor in (("s", 1.0), ("ms", 1e3)):
        if median * factor >= 1:
            return f"{median * factor:.3g} {unit} ({low * factor:.3g} to {high * factor:.3g})"
    return f"{median * 1e6:.3g} us ({low * 1e6:.3g} to {high * 1e6:.3g})"


def _bytes(peak: dict[str, int] | None) -> str:
    return "" if peak is None else f"{peak['call'] / 1e6:.3g} MB"


def _scale(lines: list[Line]) -> str:
    """What an edge costs, in time and memory."""
    rows = []
    for line in lines:
        found = line["contenders"].get(OWN)
        if found is None:
            continue
        peak = found["peak_bytes"] or {"call": 0, "all": 0}
        cells = [found["seconds_20_50_80"][1] * 1e9, found["build_seconds"] * 1e9]
        bytes_ = [found["build_bytes"], peak["call"], peak["all"]]
        rows.append(
            [
                f"{line['edges']:,}",
                "forward" if line["mode"] == "forward" else "+ backward",
                str(line["threads"]),
                *[f"{cell / line['edges']:.3g} ns" for cell in cells],
                *[f"{cell / line['edges']:.3g} B" for cell in bytes_],
            ]
        )
    head = [
        "edges", "pass", "threads", "time an edge", "to build", "network and plan",
        "a call adds", "in all",
    ]  # fmt: skip
    return table(head, rows)
