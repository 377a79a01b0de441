"""The files of the command line: which kinds there are, reading them, writing tables."""

from __future__ import annotations

import argparse
import contextlib
import csv
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch

import graphnn
from graphnn.io.atomic import replacing

SEPARATORS = {".csv": ",", ".tsv": "\t"}
FORMATS = (".graphml", ".safetensors", *SEPARATORS)


def format_of(path: Path) -> str:
    """The ending of a network's file, in lower case; refuses others than `FORMATS`."""
    suffix = path.suffix.lower()
    if suffix not in FORMATS:
        raise graphnn.FormatError(
            f"{path}: the name of a network's file must end in {', '.join(FORMATS[:-1])} or "
            f"{FORMATS[-1]} (got {suffix or 'no ending'!r})."
        )
    return suffix


def read_network(given: argparse.Namespace) -> graphnn.Network:
    """The network of `given.file`; an edge list takes the activations and the seed of `given`."""
    path: Path = given.file
    suffix = format_of(path)
    if suffix == ".graphml":
        return graphnn.read_graphml(path)
    if suffix == ".safetensors":
        return graphnn.load(path)
    with path.open(encoding="utf-8-sig", errors="replace", newline="") as lines:
        header = next(csv.reader(lines, delimiter=SEPARATORS[suffix]), [])
    net = graphnn.from_edges(
        path,
        activation=given.activation,
        output_activation=given.output_activation,
        # An edge list holds no biases, and drawn ones would be numbers that nobody wrote.
        bias=False,
        generator=torch.Generator().manual_seed(given.seed),
    )
    if "weight" not in [column.strip() for column in header]:
        note(f"{path} has no column 'weight': the weights are drawn, from --seed {given.seed}")
    return net


def note(text: str) -> None:
    """Says on standard error what is no error."""
    print(f"graphnn: note: {text}", file=sys.stderr)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name when it is whole."""
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        yield file


def labels(graph: graphnn.NeuronGraph) -> Sequence[Any]:
    """What neurons are called: their names, or their ids where they have none."""
    return range(graph.num_neurons) if graph.names is None else graph.names


def bytes_text(count: int) -> str:
    """A number of bytes as people read it."""
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count} bytes"
