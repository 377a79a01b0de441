"""`graphnn triplets`: source value, edge weight and target value, sample by sample."""

from __future__ import annotations

import argparse
import csv
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TextIO

import numpy as np
import torch

import graphnn
from graphnn.cli.files import SEPARATORS, digits, labels, read_network, writing


def run(given: argparse.Namespace) -> None:
    """Lists the triplets of `given.file` on the samples of `given.input`."""
    if given.output is not None and given.output.suffix.lower() not in SEPARATORS:
        raise graphnn.FormatError(
            f"{given.output}: the table's name must end in .csv or .tsv "
            f"(got {given.output.suffix or 'no ending'!r})."
        )
    net = read_network(given)
    samples = read_samples(given.input, net)
    if given.output is None:
        _write_triplets(net, samples, given.target, sys.stdout, ",")
        return
    with writing(given.output) as file:
        separator = SEPARATORS[given.output.suffix.lower()]
        _write_triplets(net, samples, given.target, file, separator)
    total = len(samples) * net.graph.num_edges
    print(f"wrote {given.output}: {total:,} triplets of {len(samples):,} samples")


def read_samples(path: Path, net: graphnn.Network) -> torch.Tensor:
    """(B, n_in) samples of a table, in the order of the network's inputs."""
    with path.open(encoding="utf-8-sig", newline="") as lines:
        try:
            table = csv.reader(lines, delimiter=SEPARATORS.get(path.suffix.lower(), ","))
            rows = [(table.line_num, row) for row in table if row]
        except (UnicodeDecodeError, csv.Error) as error:
            raise graphnn.FormatError(f"{path}: the table must be text ({error}).") from None
    if not rows:
        raise graphnn.FormatError(f"{path}: the table must have a row a sample (got none).")
    for line, row in rows:
        if len(row) != net.in_features:
            raise graphnn.FormatError(
                f"{path}, line {line}: a row must have {net.in_features} columns, one for each "
                f"input neuron (got {len(row)}). Commas separate the columns, tabs in a .tsv file."
            )
    columns = list(range(net.in_features))
    header = [name.strip() for name in rows[0][1]]
    if _is_header(header, net):
        columns = _columns(path, header, net)
        rows = rows[1:]
    largest = torch.finfo(net.weight.dtype).max
    samples = np.empty((len(rows), net.in_features))
    for index, (line, row) in enumerate(rows):
        for place, column in enumerate(columns):
            number = _number(row[column])
            if number is None or not abs(number) <= largest:
                raise graphnn.FormatError(
                    f"{path}, line {line}, column {column + 1}: must be a number, finite in "
                    f"{net.weight.dtype} (got {row[column]!r})."
                )
            samples[index, place] = number
    return torch.from_numpy(samples).to(net.weight.dtype)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _input_names(net: graphnn.Network) -> list[str]:
    names = labels(net.graph)
    return [str(names[neuron]) for neuron in net.graph.input_ids.tolist()]


def _is_header(row: list[str], net: graphnn.Network) -> bool:
    """Whether a table's first row names columns: no numbers, or some input's name among them."""
    numbers = sum(_number(text) is not None for text in row)
    return numbers < len(row) and (numbers == 0 or bool(set(row) & set(_input_names(net))))


def _columns(path: Path, header: list[str], net: graphnn.Network) -> list[int]:
    """The table's column of each input neuron: by name where names occur, else in order."""
    wanted = _input_names(net)
    if not set(header) & set(wanted):
        return list(range(net.in_features))
    if sorted(header) != sorted(wanted):
        missing = next((name for name in wanted if name not in header), None)
        what = "a name occurs twice or too many" if missing is None else f"{missing!r} is missing"
        raise graphnn.FormatError(
            f"{path}, line 1: a header must name every input neuron once, but {what}."
        )
    return [header.index(name) for name in wanted]


def _write_triplets(
    net: graphnn.Network, samples: torch.Tensor, target: str, file: TextIO, separator: str
) -> None:
    graph = net.graph
    names, level = labels(graph), graph.level.tolist()
    sources, targets = graph.edge_index.tolist()
    precision = digits(net)
    table = csv.writer(file, delimiter=separator, lineterminator="\n")
    facts = ("sample", "level", "edge", "source", "target")
    table.writerow([*facts, "source_value", "weight", f"target_{target}"])
    with torch.no_grad():
        for index, sample in enumerate(samples):
            for edges, triplets in net.trace(*split(net, sample)).iter_triplets(target=target):  # pyright: ignore[reportArgumentType]
                for edge, numbers in zip(edges.tolist(), triplets.tolist(), strict=True):
                    end = targets[edge]
                    place = (index, level[end], edge, names[sources[edge]], names[end])
                    table.writerow([*place, *(f"{number:.{precision}g}" for number in numbers)])


def split(net: graphnn.Network, sample: torch.Tensor) -> Iterator[torch.Tensor]:
    """(*, n_in) samples as one tensor for each input group."""
    return iter(sample.split([ids.numel() for ids in net.graph.inputs.values()], dim=-1))
