"""Edges from CSV and TSV files."""

from __future__ import annotations

import array
import csv
from pathlib import Path
from typing import Any

import numpy as np

from graphnn.edge_table import COLUMNS, EdgeTable, has_columns, role_of
from graphnn.errors import FormatError

_TAB_SUFFIXES = (".tsv", ".tab")


def read_file(path: Path) -> EdgeTable:
    """Reads a CSV or TSV file with a header that names source, target and, optionally, weight.

    Args:
        path: A UTF-8 text file. Tabs separate the fields of a .tsv or .tab file, and of any other
            whose header has tabs and no commas.

    Returns:
        The table, with line numbers. Labels are strings, exactly as written.

    Raises:
        FormatError: The file does not hold edges; file and line are named.
        OSError: The file cannot be opened.
    """
    # Python's csv reader: exact line numbers, labels that stay strings (pandas would take "NA"
    # for a missing one), and no need for an optional package.
    with path.open(encoding="utf-8-sig", newline="") as stream:
        try:
            head = stream.readline(1 << 16)
            stream.seek(0)
            tab = path.suffix.lower() in _TAB_SUFFIXES or ("\t" in head and "," not in head)
            return _read_lines(
                path, csv.reader(stream, delimiter="\t" if tab else ",", strict=True)
            )
        except UnicodeDecodeError:
            _refuse_encoding(path)
            raise


def _refuse_encoding(path: Path) -> None:
    """Raises the error that names the first line that is not UTF-8."""
    # The decoder reads ahead of the rows, so only the bytes themselves tell the line.
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                line.decode("utf-8")
            except UnicodeDecodeError as error:
                raise FormatError(
                    f"{path}, line {number}: the file must be UTF-8 text ({error.reason}, byte "
                    f"{error.start} of the line). Save it as UTF-8."
                ) from None


def _read_lines(path: Path, reader: Any) -> EdgeTable:
    place: dict[str, int] = {}
    codes, weights, lines = array.array("q"), array.array("d"), array.array("q")
    text = ""
    try:
        header = next(reader, [])
        source, target, weight = _file_columns(path, header)
        for row in reader:
            if not row:
                continue
            if len(row) != len(header):
                raise FormatError(
                    f"{path}, line {reader.line_num}: every row must have {len(header)} fields, as "
                    f"the header has (got {len(row)})."
                )
            codes.append(place.setdefault(row[source], len(place)))
            codes.append(place.setdefault(row[target], len(place)))
            lines.append(reader.line_num)
            if weight is not None:
                text = row[weight]
                weights.append(float(text))
    except csv.Error as error:
        raise FormatError(f"{path}, line {reader.line_num}: {error}.") from None
    except ValueError as error:
        if isinstance(error, FormatError | UnicodeDecodeError):
            raise
        raise FormatError(
            f"{path}, line {reader.line_num}: a weight must be a number (got {text!r})."
        ) from None
    if not lines:
        raise FormatError(f"{path}: edges must hold at least one edge (got a header alone).")
    return _file_table(path, place, np.array(codes), np.array(weights), np.array(lines))


def _file_table(
    path: Path, place: dict[str, int], codes: np.ndarray, weight: np.ndarray, lines: np.ndarray
) -> EdgeTable:
    if "" in place:
        first = int(np.argmax(codes == place[""]))
        raise FormatError(
            f"{path}, line {lines[first // 2]}: every edge must have labels, but the "
            f"{role_of(first)} is empty."
        )
    edge_index = np.ascontiguousarray(codes.reshape(-1, 2).T)
    table = EdgeTable(edge_index, weight if weight.size else None, tuple(place), lines, path)
    table.check_weights()
    return table


def _file_columns(path: Path, header: list[str]) -> tuple[int, int, int | None]:
    if not has_columns(header):
        shown = ", ".join(map(repr, header))[:200] or "nothing"
        raise FormatError(
            f"{path}, line 1: the header must name one column each for {COLUMNS}, separated by "
            f"commas or tabs (got {shown})."
        )
    return (
        header.index("source"),
        header.index("target"),
        header.index("weight") if "weight" in header else None,
    )
