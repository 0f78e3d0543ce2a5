"""What a message holds: bytes into maps, lists and texts, and what lies at a path in them."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from typing import Any

import msgpack
import numpy as np
import orjson

from connectors.errors import BadSample


def check_columns(format: str, columns: Iterable[str | int]) -> None:
    """Raises ValueError for a path where columns are meant."""
    if format == "csv" and not all(isinstance(column, int) and column >= 0 for column in columns):
        raise ValueError("format csv: columns are numbers, counted from 0")


def at(content: Any, path: str | int) -> Any:
    """What lies at a path (`acc.x`, or as it stands) or in a column. Raises BadSample."""
    if isinstance(path, str) and isinstance(content, dict) and path in content:
        return content[path]
    here = content
    for step in [path] if isinstance(path, int) else path.split("."):
        try:
            here = part(here, step)
        except (KeyError, IndexError, ValueError, TypeError, AttributeError):
            raise BadSample("field", f"there is no {path!r}") from None
    return here


def part(content: Any, step: str | int) -> Any:
    """Of a list, an array, a map, or an object as ROS messages are."""
    if isinstance(content, list | tuple | np.ndarray):
        return content[int(step)]
    if isinstance(content, Mapping):
        return content[step]
    name = str(step)
    if name.startswith("_"):
        raise AttributeError(name)
    return getattr(content, name)


def _as_given(value: Any, delimiter: str) -> Any:
    return value


def _json(value: Any, delimiter: str) -> Any:
    if not isinstance(value, bytes | str):
        return value  # the source has read it already
    with suppress(orjson.JSONDecodeError):
        return orjson.loads(value)
    try:
        return json.loads(value)  # NaN, numbers of any length
    except (ValueError, TypeError, RecursionError) as error:
        raise BadSample("format", f"not JSON: {error}") from None


def _msgpack(value: Any, delimiter: str) -> Any:
    try:
        return msgpack.unpackb(value, timestamp=1)
    except (ValueError, TypeError, msgpack.exceptions.UnpackException) as error:
        raise BadSample("format", f"not msgpack: {error}") from None


def _csv(value: Any, delimiter: str) -> Any:
    try:
        text = value.decode() if isinstance(value, bytes) else str(value)
        rows = [row for row in csv.reader([text.strip()], delimiter=delimiter) if row]
    except (UnicodeDecodeError, csv.Error) as error:
        raise BadSample("format", f"not a line of CSV: {error}") from None
    if len(rows) != 1:
        raise BadSample("format", "not one line of CSV")
    return rows[0]


PARSERS: Mapping[str, Callable[[Any, str], Any]] = {
    "json": _json,
    "msgpack": _msgpack,
    "csv": _csv,
    "values": _as_given,
}
"""by format: of a value and the delimiter of its columns. Raise BadSample"""
