"""CSV, NPZ, NPY and Parquet files: tables with a column of times. Parquet needs the extra `parquet`.

    from:
      kind: files
      tables:
        - {path: "car/can/*.csv", key: "can/{stem}", time: t, columns: [speed]}
        - {path: "car/*/value.npy", key: "{folder}", time: t.npy}
        - {path: labs.csv, key: "labs/{patient}", time: taken, time_unit: iso8601, columns: [lactate]}
      speed: 1

The rows of all tables come merged by time, so streams that belong to one session do not outrun each other. Event time
is the column of times; a Parquet column of timestamps knows its own unit. A position is a row of each table:
replayable, and it seeks. An empty cell is a value that is missing (`decode.missing`). What else is no number is for the
pipeline to count; a file that is cut short, or whose header lies about its size, breaks the source with the reason.

A file is read to its end; rows that are added to it are read by the next run, and so are files that a pattern finds
then and did not find before. They are told apart by their names below the pattern's folder, and may be taken away once
they were read. A file with fewer rows than were read breaks the source, for it is another, and so does a table more, or
less: tables are told apart by their places. A file that was replaced and has more rows is read from there on: give it
another name.
"""

from __future__ import annotations

import glob
import heapq
import math
import re
from collections.abc import Iterator
from itertools import takewhile
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import Field

from connectors.base import Options, Position, Sample
from connectors.decoding import TimeZone
from connectors.errors import SourceBroken
from connectors.recorded import RecordedOptions, RecordedSource
from connectors.tables import UNIT_S, Table, open_table

_PART = re.compile(r"\{([^{}]+)\}")


class TableOptions(Options):
    path: str = Field(min_length=1, description="A file, or a pattern with * for many.")
    key: str = Field(
        "{stem}",
        description="Stream key of its rows; {stem}: the file's name without suffix. {folder}: its folder's. "
        "Any other {name}, of a csv: what the row has in that column.",
    )
    format: Literal["auto", "csv", "npz", "npy", "parquet"] = Field("auto", description="auto: by the file's suffix.")
    time: str = Field("t", description="Column of times; npz: the array. npy: the file beside it that has them.")
    time_unit: Literal["s", "ms", "us", "ns", "iso8601"] = Field(
        "s", description="Of the times. iso8601: of a csv; of time_zone, unless they name a zone."
    )
    time_zone: TimeZone = "UTC"
    columns: tuple[str, ...] = Field((), description="csv, parquet: the features, in order.  [default: all others]")
    values: str = Field("values", description="npz: the array [rows, features].")
    delimiter: str = Field(",", min_length=1, max_length=1, description="csv.")


class FilesOptions(RecordedOptions):
    kind: Literal["files"] = "files"
    tables: tuple[TableOptions, ...] = Field(min_length=1, description="What is read, merged by time.")

    def build(self) -> FilesSource:
        return FilesSource(self)


class _Row(NamedTuple):
    time_s: float
    """for the merge: that of the row before where its own cannot be read"""
    table: int
    row: int
    values: Any
    stamp_s: float | None
    parts: tuple[str, ...]


class _Key(NamedTuple):
    """How the stream keys of a table are made: `texts` with a cell of each column between them."""

    texts: tuple[str, ...]
    columns: tuple[str, ...]

    @classmethod
    def of(cls, path: Path, options: TableOptions) -> _Key:
        of_file = {"stem": path.stem, "folder": path.resolve().parent.name}
        texts, columns = [""], []
        for place, part in enumerate(_PART.split(options.key)):
            if place % 2 and part not in of_file:
                columns.append(part)
                texts.append("")
            else:
                texts[-1] += of_file[part] if place % 2 else part
        return cls(tuple(texts), tuple(columns))

    def of_row(self, parts: tuple[str, ...]) -> str:
        first, *others = self.texts
        return first + "".join(cell + text for cell, text in zip(parts, others, strict=True))


class _File(NamedTuple):
    name: str
    """in a position"""
    path: Path
    options: TableOptions


class FilesSource(RecordedSource):
    def __init__(self, options: FilesOptions) -> None:
        super().__init__(options)
        self._options = options

    def samples(self, position: Position) -> Iterator[Sample]:
        files = [file for number, options in enumerate(self._options.tables) for file in _files(number, options)]
        keys = [_Key.of(file.path, file.options) for file in files]
        tables = [
            (open_table(file.path, file.options, key.columns), key, file.options)
            for file, key in zip(files, keys, strict=True)
        ]
        names = [file.name for file in files]
        rows, skip, gone = _rows_of(position, names)
        merged = heapq.merge(
            *(
                _timed(index, table, UNIT_S[options.time_unit], rows[index])
                for index, (table, _, options) in enumerate(tables)
            )
        )
        for row in merged:
            rows[row.table] = row.row + 1
            if skip:
                skip -= 1
            else:
                # Of every table, for one may get rows that come before what was read of the others.
                position = [rows.copy(), 0, names, gone]
                yield Sample(tables[row.table][1].of_row(row.parts), row.values, row.stamp_s, None, position)
        if skip:
            raise SourceBroken(f"there are fewer rows than the {sum(rows) + skip} that were read: other files")


def _rows_of(position: Position, names: list[str]) -> tuple[list[int], int, dict[str, int]]:
    """First row of each file; how many merged rows after them are known; how many were read of files that are gone.

    Snapshots that another version wrote name no files, and those of before tell of known rows.
    """
    match position:
        case None:
            return [0] * len(names), 0, {}
        case [list(rows), int(skip)] if len(rows) == len(names):
            return rows.copy(), skip, {}
        case [list(rows), int(skip), list(known), dict(gone)] if _tables(names) == _tables([*known, *gone]):
            read = gone | dict(zip(known, rows, strict=True))
            return [read.pop(name, 0) for name in names], skip, read
    raise SourceBroken(f"a position in other files than these {len(names)}")


def _tables(names: list[str]) -> set[tuple[str, ...]]:
    """Number of each table whose files these are, and whether it is a pattern: the others would be read as it was."""
    return {name.partition("/")[:2] for name in names}


def _files(number: int, options: TableOptions) -> list[_File]:
    """Of the table with this number: named by what its pattern leaves open."""
    if not glob.has_magic(options.path):
        return [_File(str(number), Path(options.path), options)]
    folder = Path(*takewhile(lambda part: not glob.has_magic(part), Path(options.path).parts))
    paths = sorted(Path(found) for found in glob.glob(options.path, recursive=True))
    if not paths:
        raise SourceBroken(f"{options.path}: no such file")
    return [_File(f"{number}/{path.relative_to(folder).as_posix()}", path, options) for path in paths]


def _timed(index: int, table: Table, unit_s: float, first_row: int) -> Iterator[_Row]:
    last_s = -math.inf
    for number, (time, values, parts) in enumerate(table.rows(first_row), start=first_row):
        stamp_s = None
        if time is not None and math.isfinite(time):
            stamp_s = time * unit_s
            last_s = max(last_s, stamp_s)
        # The table's number and the row's come next in the order, so rows of one time are always merged alike.
        yield _Row(last_s, index, number, values, stamp_s, parts)
