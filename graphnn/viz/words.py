"""What pictures say: names that stay text, captions, and what was left out."""

from __future__ import annotations

import html

import numpy as np

from graphnn.viz.scene import Scene

_LONGEST = 48
_STRENGTH = {"weight": "|weight|", "contribution": "|contribution|", "score": "|score|"}


def short_names(scene: Scene) -> list[str] | None:
    """The names of the shown neurons on one short line each, or None where they have none."""
    names = scene.graph.names
    return None if names is None else [_short(str(names[i])) for i in scene.neurons.tolist()]


def plain_names(scene: Scene) -> list[str] | None:
    """The same as text that plotly shows as it is: it takes tags, entities, formulas out of any."""
    names = short_names(scene)
    if names is None:
        return None
    return [html.escape(name, quote=False).replace("$", "&#36;") for name in names]


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 1]}\N{HORIZONTAL ELLIPSIS}"


def labels(scene: Scene) -> list[str]:
    """What the shown neurons are called, as plotly text."""
    ids, names = scene.neurons.tolist(), plain_names(scene)
    if names is None:
        return [f"neuron {neuron}" for neuron in ids]
    return [f"{name} (neuron {neuron})" for name, neuron in zip(names, ids, strict=True)]


def caption(scene: Scene) -> str:
    """Two sentences: what the picture shows, and what it leaves out."""
    graph = scene.graph
    edges, neurons = scene.edges.size, scene.neurons.size
    by = _STRENGTH[scene.by]
    if scene.samples.size > 1 and scene.by != "weight":
        by += f" (mean over {scene.samples.size:,} samples)"
    if edges == graph.num_edges:
        shown = f"All {graph.num_edges:,} edges, coloured by {scene.by}."
    else:
        least = f" of at least {scene.least:g}" if scene.least else ""
        shown = f"The {edges:,} edges of largest {by}{least}."
    left = f"{_counted(graph.num_edges - edges, 'edge')} and " + _counted(
        graph.num_neurons - neurons, "neuron"
    )
    parts = [shown, f"Left out: {left} of {graph.num_edges:,} and {graph.num_neurons:,}."]
    if 0 < scene.samples.size < scene.num_samples:
        first, last = scene.samples[[0, -1]].tolist()
        which = f"Sample {first:,}" if first == last else f"Samples {first:,} to {last:,}"
        parts.append(f"{which} of {scene.num_samples:,}.")
    return " ".join(parts)


def level_titles(scene: Scene) -> list[str]:
    """For each level its number and how many of its neurons are shown."""
    graph = scene.graph
    level = graph.level.numpy()
    every = np.bincount(level, minlength=graph.num_levels)
    shown = np.bincount(level[scene.neurons], minlength=graph.num_levels)
    titles = []
    for own, (count, total) in enumerate(zip(shown.tolist(), every.tolist(), strict=True)):
        what = _counted(total, "neuron") if count == total else f"{count:,} of {total:,} neurons"
        titles.append(f"level {own}<br>{what}")
    return titles


def _counted(count: int, what: str) -> str:
    return f"{count:,} {what}" if count == 1 else f"{count:,} {what}s"
