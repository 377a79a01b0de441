"""A network with its samples as plain arrays, which every contender is made of.

Nothing here needs graphnn: a problem is written to a folder once, and each contender's process
reads it there, whichever revision or library runs in it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np

FORWARD, TRAINING = "forward", "forward + backward"


@dataclass(frozen=True)
class Problem:
    """One network, its largest batch and the gradients by the outputs.

    Args:
        source, target: (E,) int32 ends of the edges, in the user's order.
        level: (N,) int32.
        inputs, outputs: Neuron ids, int64.
        weight: (E,) float32.
        bias: (K,) float32, of every neuron that is no input, ascending.
        x: (B, n_in) float32.
        seed: (B, n_out) float32, the gradient by the outputs.
        activation: Of the neurons that are neither input nor output.
        output_activation: Of the outputs.
    """

    source: np.ndarray
    target: np.ndarray
    level: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    weight: np.ndarray
    bias: np.ndarray
    x: np.ndarray
    seed: np.ndarray
    activation: str
    output_activation: str

    @property
    def num_neurons(self) -> int:
        """N."""
        return self.level.size

    @property
    def num_edges(self) -> int:
        """E."""
        return self.source.size

    @property
    def num_levels(self) -> int:
        """L, the inputs' level counted."""
        return int(self.level.max()) + 1

    def dense_shapes(self) -> list[tuple[int, int]]:
        """Of levels 1 ... L - 1: neurons, and neurons of the lower levels from the lowest read."""
        widths = np.bincount(self.level)
        lowest = np.full(widths.size, widths.size)
        np.minimum.at(lowest, self.level[self.target], self.level[self.source])
        return [
            (int(widths[index]), int(widths[lowest[index] : index].sum()))
            for index in range(1, widths.size)
        ]

    def save(self, folder: Path) -> None:
        """Writes one .npy file for each array, and the names as JSON."""
        folder.mkdir(parents=True, exist_ok=True)
        names = {}
        for part in fields(self):
            value = getattr(self, part.name)
            if isinstance(value, str):
                names[part.name] = value
            else:
                np.save(folder / f"{part.name}.npy", value)
        (folder / "names.json").write_text(json.dumps(names))

    @classmethod
    def load(cls, folder: Path) -> Problem:
        """What `save` wrote; the arrays are not writable."""
        names = json.loads((folder / "names.json").read_text())
        return cls(
            **{
                part.name: names[part.name]
                if part.name in names
                else np.load(folder / f"{part.name}.npy", mmap_mode="r")
                for part in fields(cls)
            }
        )
