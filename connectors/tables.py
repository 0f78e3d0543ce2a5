"""The file formats of `files`: each a table whose rows are read from any row on. Untrusted: sizes are checked first."""

from __future__ import annotations

import csv
import math
import zipfile
from collections.abc import Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import IO, Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from connectors.decoding import SECONDS, Unreadable, iso8601_s
from connectors.errors import DISK, SourceBroken, Translation, need, translated

LARGEST_ARRAY_BYTES = 4 << 30
MAX_LINE_BYTES = 1 << 20
ROWS_AT_ONCE = 4096
ISO8601 = "iso8601"
UNIT_S = {**SECONDS, ISO8601: 1.0}
"""in which a table gives its times"""
TIMES = "mM"
"""numpy's kinds of durations and times, which know their own unit"""

BROKEN: Translation = {
    **DISK,
    ValueError: SourceBroken,  # numpy: a header that cannot be
    EOFError: SourceBroken,
    zipfile.BadZipFile: SourceBroken,
    UnicodeDecodeError: SourceBroken,
    csv.Error: SourceBroken,
    KeyError: SourceBroken,  # zipfile: no such member
    NotImplementedError: SourceBroken,  # zipfile: a compression of another age
}
"""numpy, zipfile and csv; pyarrow adds its own, once it is imported"""


def parquet_errors() -> Translation:
    return {**BROKEN, need("pyarrow", "parquet").ArrowException: SourceBroken}


class TableShape(Protocol):
    """What of `TableOptions` a table needs to know."""

    format: str
    time: str
    time_unit: str
    time_zone: str
    columns: tuple[str, ...]
    values: str
    delimiter: str


class Row(NamedTuple):
    time: float | None
    """in the unit that the options say"""
    values: Any
    parts: tuple[str, ...] = ()
    """cells that its stream key is made of"""


class Table(Protocol):
    def rows(self, first: int) -> Iterator[Row]:
        """Each row from this one on.

        None and `Unreadable` where they cannot be read. Raises SourceBroken, for rows that are not there as well.
        """


def open_table(path: Path, options: Any, parts: Sequence[str] = ()) -> Table:
    """`parts`: columns that stream keys are made of.

    Raises SourceBroken, MissingExtra for a file that cannot be read as said.
    """
    kind = path.suffix.removeprefix(".").lower() if options.format == "auto" else options.format
    if kind not in ("csv", "npz", "npy", "parquet"):
        raise SourceBroken(f"{path}: format cannot be told from its name; say csv, npz, npy or parquet")
    if options.time_unit == ISO8601 and kind != "csv":
        raise SourceBroken(f"{path}: time_unit {ISO8601} is for texts, of a csv; timestamps of Parquet need no unit")
    if parts and kind != "csv":
        raise SourceBroken(f"{path}: key: {{{parts[0]}}} is neither stem nor folder; a column may it be of a csv alone")
    with translated(BROKEN, str(path)):
        match kind:
            case "csv":
                return CsvTable(path, options, parts)
            case "npz":
                return _npz(path, options)
            case "npy":
                return ArrayTable(path, _npy(path.parent / options.time), _npy(path))
    return ParquetTable(path, options)


class CsvTable:
    """First line: the names of the columns."""

    def __init__(self, path: Path, options: TableShape, parts: Sequence[str]) -> None:
        self._path = path
        self._delimiter = options.delimiter
        self._has_iso8601 = options.time_unit == ISO8601
        self._zone = options.time_zone
        with self._opened() as file:
            self._names = self._parsed(file.readline(MAX_LINE_BYTES))
        self._time = _column(path, self._names, options.time)
        self._parts = [_column(path, self._names, name) for name in parts]
        wanted = options.columns or [name for name in self._names if name not in (options.time, *parts)]
        self._columns = [_column(path, self._names, name) for name in wanted]

    def _opened(self) -> IO[str]:
        """Without the mark of its byte order with which spreadsheets begin a file."""
        return self._path.open(encoding="utf-8-sig", newline="")

    def _parsed(self, line: str) -> list[str]:
        return next(csv.reader([line], delimiter=self._delimiter), [])

    def rows(self, first: int) -> Iterator[Row]:
        with translated(BROKEN, str(self._path)), self._opened() as file:
            for _ in range(first + 1):
                if not file.readline(MAX_LINE_BYTES):
                    raise _has_fewer_rows(self._path, first)
            for number, line in enumerate(iter(partial(file.readline, MAX_LINE_BYTES), ""), start=first + 2):
                if len(line) == MAX_LINE_BYTES and not line.endswith("\n"):
                    raise SourceBroken(f"{self._path}: line {number} is longer than {MAX_LINE_BYTES} characters")
                cells = self._parsed(line)
                parts = tuple(cells[column] if column < len(cells) else "" for column in self._parts)
                yield Row(*self._numbers(number, cells), parts)

    def _numbers(self, line: int, cells: Sequence[str]) -> tuple[float | None, Any]:
        if not any(cells):
            return None, Unreadable(f"line {line} is empty")
        try:
            time = iso8601_s(cells[self._time], self._zone) if self._has_iso8601 else float(cells[self._time])
        except (ValueError, IndexError, OverflowError):
            kind = "ISO 8601" if self._has_iso8601 else "number"
            return None, Unreadable(f"line {line}: no {kind} in the column of times, {self._cell(cells, self._time)}")
        try:
            return time, [float(cells[column]) for column in self._columns]
        except (ValueError, IndexError):
            return time, self._where_there_are(line, cells)

    def _where_there_are(self, line: int, cells: Sequence[str]) -> list[float] | Unreadable:
        """Of cells that are not all numbers, or not all there: an empty one is NaN."""
        if len(cells) <= max(self._columns):
            return Unreadable(f"line {line} has {len(cells)} cells, and the first line names {len(self._names)}")
        values = []
        for column in self._columns:
            try:
                values.append(float(cells[column]) if cells[column].strip() else math.nan)
            except ValueError:
                return Unreadable(f"line {line}: no number in {self._cell(cells, column)}")
        return values

    def _cell(self, cells: Sequence[str], column: int) -> str:
        cell = cells[column] if column < len(cells) else ""
        return f"{self._names[column]!r}: {cell!r:.40}"


class ArrayTable:
    def __init__(self, path: Path, times: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        if times.ndim != 1 or values.ndim == 0 or len(times) != len(values):
            raise SourceBroken(f"{path}: values of shape {values.shape}, and times of shape {times.shape}")
        self._path = path
        self._times, self._values = times, values.reshape(len(values), math.prod(values.shape[1:]))

    def rows(self, first: int) -> Iterator[Row]:
        if first > len(self._times):
            raise _has_fewer_rows(self._path, first)
        for begin in range(first, len(self._times), ROWS_AT_ONCE):
            rows = slice(begin, begin + ROWS_AT_ONCE)
            yield from map(Row, self._times[rows].tolist(), _float32(self._values[rows]))


def _npy(path: Path) -> npt.NDArray[Any]:
    with translated(BROKEN, str(path)), path.open("rb") as file:
        _check_header(path, file, path.stat().st_size)
        file.seek(0)
        return _numbers(path, np.load(file, allow_pickle=False))


def _npz(path: Path, options: TableShape) -> ArrayTable:
    arrays = {}
    with zipfile.ZipFile(path) as members:
        for name in (options.time, options.values):
            member = f"{name}.npy"
            if member not in members.namelist():
                raise SourceBroken(f"{path}: has no array {name!r}; there are {', '.join(members.namelist())}")
            with members.open(member) as file:
                _check_header(path, file, members.getinfo(member).file_size)
            with members.open(member) as file:
                arrays[name] = _numbers(path, np.load(file, allow_pickle=False))
    return ArrayTable(path, arrays[options.time], arrays[options.values])


def _check_header(path: Path, file: IO[bytes], size: int) -> None:
    """What the header says must fit what is there: a lie would make numpy allocate it first."""
    version = np.lib.format.read_magic(file)
    reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = reader(file)
    n_bytes = dtype.itemsize
    for length in shape:
        n_bytes *= int(length)
    if n_bytes > LARGEST_ARRAY_BYTES or n_bytes > size:
        raise SourceBroken(f"{path}: its header tells of {n_bytes} bytes, the file has {size}")


def _numbers(path: Path, array: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if array.dtype.kind not in "fiub":
        raise SourceBroken(f"{path}: holds {array.dtype}, not numbers")
    return array


class ParquetTable:
    """Read by row groups, from the one that holds the row asked for."""

    def __init__(self, path: Path, options: TableShape) -> None:
        self._path = path
        self._parquet = need("pyarrow.parquet", "parquet")
        self._table = parquet_errors()
        with translated(self._table, str(path)):
            file = self._parquet.ParquetFile(path)
            names = file.schema_arrow.names
            self._group_rows = [file.metadata.row_group(group).num_rows for group in range(file.num_row_groups)]
            file.close()
        _column(path, names, options.time)
        self._time = options.time
        self._columns = list(options.columns) or [name for name in names if name != options.time]
        for name in self._columns:
            _column(path, names, name)
        if not self._columns:
            raise SourceBroken(f"{path}: has no column beside {options.time!r}")
        self._unit_ns = UNIT_S[options.time_unit] * 1e9

    def rows(self, first: int) -> Iterator[Row]:
        group, skip = 0, first
        while group < len(self._group_rows) and skip >= self._group_rows[group]:
            skip -= self._group_rows[group]
            group += 1
        if skip and group == len(self._group_rows):
            raise _has_fewer_rows(self._path, first)
        with translated(self._table, str(self._path)), self._parquet.ParquetFile(self._path) as file:
            groups = list(range(group, len(self._group_rows)))
            wanted = [self._time, *self._columns]
            for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=wanted):
                arrays = [batch.column(name).to_numpy(zero_copy_only=False) for name in wanted]
                times, *columns = [self._floats(*named) for named in zip(wanted, arrays, strict=True)]
                if arrays[0].dtype.kind in TIMES:
                    times = times / self._unit_ns
                rows = zip(times.tolist(), _float32(np.stack(columns, axis=1)), strict=True)
                for time, values in rows:
                    if skip:
                        skip -= 1
                    else:
                        yield Row(time, values)

    def _floats(self, name: str, array: npt.NDArray[Any]) -> npt.NDArray[np.float64]:
        """Of a column of numbers, or of times as nanoseconds; null is NaN."""
        if array.dtype.kind in TIMES:
            ns = array.astype(f"{array.dtype.kind}8[ns]").astype(np.int64)
            return np.where(np.isnat(array), np.nan, ns.astype(np.float64))
        try:
            return np.asarray(array.astype(np.float64))
        except (ValueError, TypeError) as error:
            raise SourceBroken(
                f"{self._path}: column {name!r} holds what is no number ({error}); columns names those to read"
            ) from None


def _float32(values: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
    """What is too large is infinite, for the pipeline to count."""
    with np.errstate(over="ignore"):
        return values.astype(np.float32)


def _has_fewer_rows(path: Path, read: int) -> SourceBroken:
    return SourceBroken(f"{path}: has fewer rows than the {read} that were read of it: another file")


def _column(path: Path, names: Sequence[str], name: str) -> int:
    if name not in names:
        raise SourceBroken(f"{path}: has no column {name!r}; there are {', '.join(map(repr, names)) or 'none'}")
    if names.count(name) > 1:
        raise SourceBroken(f"{path}: has more than one column {name!r}")
    return list(names).index(name)
