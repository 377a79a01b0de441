"""Plots of the ladder: throughput against edges, density, depth and batch size, as SVG."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.markdown import Line


def _percent(line: Line) -> float:
    found = re.search(r"(\d+)% of the edges", line["case"])
    assert found is not None, line["case"]
    return float(found[1])


# Family -> the axis and a line's place on it.
AXES: dict[str, tuple[str, Callable[[Line], float]]] = {
    "scale": ("edges", lambda line: line["edges"]),
    "mlp": ("density, %", _percent),
    "deep": ("levels", lambda line: line["levels"] - 1),
    "batch": ("batch size", lambda line: line["batch"]),
}


def write(lines: list[Line], folder: Path) -> list[Path]:
    """One file for each family that the lines hold; a panel a pass, threads by the line's style."""
    written = []
    for family, (label, place) in AXES.items():
        own = [line for line in lines if line["family"] == family]
        if own:
            path = folder / f"ladder-{family}.svg"
            _draw(own, label, place, path)
            written.append(path)
    return written


def _draw(lines: list[Line], label: str, place: Callable[[Line], float], path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    # The same bytes for the same figures, and text that stays text.
    settings: Any = {"svg.hashsalt": "graphnn", "svg.fonttype": "none"}
    modes = list(dict.fromkeys(line["mode"] for line in lines))
    names = list(dict.fromkeys(name for line in lines for name in line["contenders"]))
    counts = sorted({line["threads"] for line in lines})
    styles = {threads: "--" if threads < counts[-1] else "-" for threads in counts}
    with matplotlib.rc_context(settings):
        figure = Figure(figsize=(4.6 * len(modes) + 1, 4), layout="constrained")
        panels = figure.subplots(1, len(modes), sharey=True, squeeze=False)[0]
        for panel, mode in zip(panels, modes, strict=True):
            for number, name in enumerate(names):
                for threads in counts:
                    points = sorted(
                        (place(line), line["contenders"][name]["rate"])
                        for line in lines
                        if (line["mode"], line["threads"]) == (mode, threads)
                        and name in line["contenders"]
                    )
                    panel.plot(
                        *zip(*points, strict=True) if points else ([], []),
                        color=f"C{number % 10}",
                        marker="o",
                        markersize=4,
                        linewidth=2.2 if name == "graphnn" else 1.2,
                        linestyle=styles[threads],
                        label=name if threads == counts[-1] else None,
                    )
            panel.set(xscale="log", yscale="log", xlabel=label, title=mode)
            panel.grid(visible=True, which="major", alpha=0.3)
        for threads in counts:
            plural = "s" if threads > 1 else ""
            panels[0].plot(
                [], [], color="gray", linestyle=styles[threads], label=f"{threads} thread{plural}"
            )
        panels[0].set_ylabel("1e9 edges x samples a second")
        figure.legend(*panels[0].get_legend_handles_labels(), loc="outside right upper", fontsize=8)
        figure.savefig(path, metadata={"Date": None})
