"""The files of the command line: which kinds there are, reading them, writing tables."""

from __future__ import annotations

import argparse
import contextlib
import csv
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, TextIO

import torch

import graphnn
from graphnn.io.atomic import replacing

READERS: dict[str, Callable[[Path], graphnn.Network]] = {
    ".graphml": graphnn.read_graphml,
    ".safetensors": graphnn.load,
    ".onnx": graphnn.read_onnx,
}
WRITERS: dict[str, Callable[[graphnn.Network, Path], None]] = {
    ".graphml": graphnn.write_graphml,
    ".safetensors": graphnn.save,
    ".onnx": graphnn.write_onnx,
}
# Of edge lists and tables.
SEPARATORS = {".csv": ",", ".tsv": "\t"}
FORMATS = (*READERS, *SEPARATORS)


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
    """The network of `given.file`; an edge list takes its own options of `given`."""
    path: Path = given.file
    suffix = format_of(path)
    if suffix in SEPARATORS:
        return _read_edges(path, given)
    for option in ("columns", "activation", "output_activation", "coalesce", "seed"):
        if getattr(given, option) is not None:
            raise graphnn.FormatError(
                f"{path}: --{option.replace('_', '-')} must go with an edge list; a {suffix} file "
                "says all of that itself. Leave the option out."
            )
    return READERS[suffix](path)


def _read_edges(path: Path, given: argparse.Namespace) -> graphnn.Network:
    seed = given.seed or 0
    generator = torch.Generator().manual_seed(seed)
    before = generator.get_state()
    net = graphnn.from_edges(
        path,
        activation=given.activation or "relu",
        output_activation=given.output_activation or "identity",
        # An edge list holds no biases, and drawn ones would be numbers that nobody wrote.
        bias=False,
        coalesce=given.coalesce,
        generator=generator,
        columns=given.columns,
    )
    if not torch.equal(generator.get_state(), before):
        why = (
            f"{path} has no column 'weight'" if given.columns is None else "--columns has no weight"
        )
        note(f"{why}: the weights are drawn, from --seed {seed}")
    return net


def read_columns(text: str) -> tuple[str | int, ...]:
    """The columns that `--columns` names; whole numbers alone are places."""
    try:
        names = next(csv.reader([text]), [])
    except csv.Error as error:
        raise argparse.ArgumentTypeError(f"must be names with commas between ({error})") from None
    return tuple(map(int, names)) if all(name.isdecimal() for name in names) else tuple(names)


def note(text: str) -> None:
    """Says on standard error what is no error."""
    print(f"graphnn: note: {text}", file=sys.stderr)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[TextIO]:
    """A text file that appears under its name when it is whole."""
    try:
        with (
            replacing(path) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as file,
        ):
            yield file
    except UnicodeEncodeError as error:
        raise graphnn.ConversionError(
            f"{path}: the names of neurons must be text that UTF-8 can hold "
            f"(got {error.object[error.start]!r} in {error.object.strip()!r})."
        ) from None


def digits(net: graphnn.Network) -> int:
    """How many digits a number needs so that reading it gives back the same bits."""
    # The narrower dtypes are read by way of float64 too.
    return 17 if net.weight.dtype == torch.float64 else 9


def labels(graph: graphnn.NeuronGraph) -> Sequence[Any]:
    """What neurons are called: their names, or their ids where they have none."""
    return range(graph.num_neurons) if graph.names is None else graph.names
