"""Edges from CSV and TSV files."""

from __future__ import annotations

import array
import csv
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from graphnn.edge_columns import Columns
from graphnn.edge_table import EdgeTable, role_of
from graphnn.errors import FormatError

_TAB_SUFFIXES = (".tsv", ".tab")


def read_file(path: Path, columns: Columns) -> EdgeTable:
    """Reads a CSV or TSV file.

    Args:
        path: A UTF-8 text file. Tabs separate the fields of a .tsv or .tab file; elsewhere tabs,
            commas or semicolons, whichever give a first line with all columns.
        columns: Their names in the header, or their places where there is no header.

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
            delimiter, places, width = _find_columns(path, stream, columns)
            stream.seek(0)
            reader = csv.reader(stream, delimiter=delimiter, strict=True)
            if not columns.are_places:
                next(reader)
            return _read_lines(path, reader, places, width)
        except UnicodeDecodeError:
            _refuse_encoding(path)
            raise


def _find_columns(path: Path, stream: TextIO, columns: Columns) -> tuple[str, tuple[int, ...], int]:
    """The separator, the columns' places and the number of fields, by the first line."""
    has_tabs = path.suffix.lower() in _TAB_SUFFIXES
    separators = "\t" if has_tabs else "\t,;"
    lines = {separator: _first_line(stream, separator) for separator in separators}
    for separator, fields in lines.items():
        found = columns.find(list(range(len(fields))) if columns.are_places else fields)
        if found is not None:
            return separator, found, len(fields)
    got = max(lines.values(), key=len)
    shown = ", ".join(map(repr, got))[:200] or "nothing"
    separated = (
        f"tabs, as in every {path.suffix} file" if has_tabs else "tabs, commas or semicolons"
    )
    if columns.are_places:
        raise FormatError(
            f"{path}, line 1: every row must have the fields {columns.shown}, counted from 0 and "
            f"separated by {separated} (got {shown})."
        )
    raise FormatError(
        f"{path}, line 1: the header must name one column each for {columns.shown}, separated by "
        f"{separated} (got {shown}). Name other columns in columns=; columns=(0, 1) reads a file "
        "without a header."
    )


def _first_line(stream: TextIO, separator: str) -> list[str]:
    stream.seek(0)
    try:
        return next(csv.reader(stream, delimiter=separator), [])
    except csv.Error:
        return []


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


def _read_lines(path: Path, reader: Any, places: tuple[int, ...], width: int) -> EdgeTable:
    number: dict[str, int] = {}
    codes, weights, lines = array.array("q"), array.array("d"), array.array("q")
    source, target = places[:2]
    weight = places[2] if len(places) == 3 else None
    text = ""
    try:
        for row in reader:
            if not row:
                continue
            if len(row) != width:
                raise FormatError(
                    f"{path}, line {reader.line_num}: every row must have {width} fields, as "
                    f"the first one has (got {len(row)})."
                )
            codes.append(number.setdefault(row[source], len(number)))
            codes.append(number.setdefault(row[target], len(number)))
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
    return _file_table(path, number, np.array(codes), np.array(weights), np.array(lines))


def _file_table(
    path: Path, number: dict[str, int], codes: np.ndarray, weight: np.ndarray, lines: np.ndarray
) -> EdgeTable:
    if "" in number:
        first = int(np.argmax(codes == number[""]))
        raise FormatError(
            f"{path}, line {lines[first // 2]}: every edge must have labels, but the "
            f"{role_of(first)} is empty."
        )
    edge_index = torch.from_numpy(np.ascontiguousarray(codes.reshape(-1, 2).T))
    table = EdgeTable(
        edge_index, weight if weight.size else None, tuple(number), torch.from_numpy(lines), path,
        "line",
    )  # fmt: skip
    table.check_weights()
    return table
