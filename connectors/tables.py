"""The file formats of `files`: each a table whose rows are read from any row on. Untrusted: sizes are checked first."""

from __future__ import annotations

import csv
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import IO, Any, Protocol

import numpy as np
import numpy.typing as npt

from connectors.errors import DISK, SourceBroken, Translation, need, translated

LARGEST_ARRAY_BYTES = 4 << 30
MAX_LINE_BYTES = 1 << 20
ROWS_AT_ONCE = 4096

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
    columns: tuple[str, ...]
    values: str
    delimiter: str


class Table(Protocol):
    def rows(self, first: int) -> Iterator[tuple[float | None, Any]]:
        """Time, in the file's own unit, and values of each row from this one on; None where it cannot be read."""


def open_table(path: Path, options: Any) -> Table:
    """Raises SourceBroken, MissingExtra for a file that cannot be read as said."""
    kind = path.suffix.removeprefix(".").lower() if options.format == "auto" else options.format
    if kind not in ("csv", "npz", "npy", "parquet"):
        raise SourceBroken(f"{path}: format cannot be told from its name; say csv, npz, npy or parquet")
    with translated(BROKEN, str(path)):
        match kind:
            case "csv":
                return CsvTable(path, options)
            case "npz":
                return _npz(path, options)
            case "npy":
                return ArrayTable(path, _npy(path.parent / options.time), _npy(path))
    return ParquetTable(path, options)


class CsvTable:
    """First line: the names of the columns."""

    def __init__(self, path: Path, options: TableShape) -> None:
        self._path = path
        self._delimiter = options.delimiter
        with path.open(encoding="utf-8", newline="") as file:
            names = self._parsed(file.readline(MAX_LINE_BYTES))
        self._time = _column(path, names, options.time)
        wanted = options.columns or [name for name in names if name != options.time]
        self._columns = [_column(path, names, name) for name in wanted]

    def _parsed(self, line: str) -> list[str]:
        return next(csv.reader([line], delimiter=self._delimiter), [])

    def rows(self, first: int) -> Iterator[tuple[float | None, Any]]:
        with translated(BROKEN, str(self._path)), self._path.open(encoding="utf-8", newline="") as file:
            for _ in range(first + 1):
                file.readline(MAX_LINE_BYTES)
            while line := file.readline(MAX_LINE_BYTES):
                if not line.strip():
                    yield None, "an empty line"
                    continue
                yield self._row(self._parsed(line))

    def _row(self, cells: Sequence[str]) -> tuple[float | None, Any]:
        try:
            time = float(cells[self._time])
        except (ValueError, IndexError):
            return None, cells
        try:
            return time, [float(cells[column]) for column in self._columns]
        except (ValueError, IndexError):
            return time, "a cell is not a number"


class ArrayTable:
    def __init__(self, path: Path, times: npt.NDArray[Any], values: npt.NDArray[Any]) -> None:
        if times.ndim != 1 or len(times) != len(values):
            raise SourceBroken(f"{path}: {len(values)} rows of values, and times of shape {times.shape}")
        self._times, self._values = times, values.reshape(len(values), -1)

    def rows(self, first: int) -> Iterator[tuple[float | None, Any]]:
        for begin in range(first, len(self._times), ROWS_AT_ONCE):
            rows = slice(begin, begin + ROWS_AT_ONCE)
            yield from zip(self._times[rows].tolist(), self._values[rows].astype(np.float32), strict=True)


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

    def rows(self, first: int) -> Iterator[tuple[float | None, Any]]:
        group, skip = 0, first
        while group < len(self._group_rows) and skip >= self._group_rows[group]:
            skip -= self._group_rows[group]
            group += 1
        with translated(self._table, str(self._path)), self._parquet.ParquetFile(self._path) as file:
            groups = list(range(group, len(self._group_rows)))
            wanted = [self._time, *self._columns]
            for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=groups, columns=wanted):
                columns = [_float_column(batch.column(name)) for name in wanted]
                rows = zip(columns[0].tolist(), np.stack(columns[1:], axis=1).astype(np.float32), strict=True)
                for time, values in rows:
                    if skip:
                        skip -= 1
                    else:
                        yield time, values


def _float_column(column: Any) -> npt.NDArray[np.float64]:
    """A column of numbers, or of times as nanoseconds; null is NaN."""
    array = column.to_numpy(zero_copy_only=False)
    if array.dtype.kind == "M":
        array = array.astype("datetime64[ns]").astype(np.int64)
    return np.asarray(array.astype(np.float64))


def _column(path: Path, names: Sequence[str], name: str) -> int:
    if name not in names:
        raise SourceBroken(f"{path}: has no column {name!r}; there are {', '.join(names)}")
    return list(names).index(name)
