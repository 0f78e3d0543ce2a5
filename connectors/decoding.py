"""What a message says: bytes into numbers, a time and an identity. Pure, and told in the YAML file.

    decode: {format: json, fields: [acc.x, acc.y, acc.z], time: stamp, time_unit: ms}
    decode: {format: json, values: samples, rate_hz: 250}           # {"samples": [[...], [...]]}, timed by the last one
    decode: {format: csv, fields: [1, 2], time: 0}                  # one line, columns counted from 0
    decode: {format: floats, dtype: <i2, width: 3, scale: 0.00981}  # nothing but numbers
    decode: {format: json, fields: [rpm, kmh], scale: [0.001, 0.01]}   # one for each feature
    decode: {format: values}                                        # the source gives numbers already

A message that is not as described raises BadSample: it is counted, with its reason, and the source goes on.

Shapes: T frames, F features.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from typing import Annotated, Any, Literal, NamedTuple, Self
from zoneinfo import ZoneInfo

import numpy as np
import numpy.typing as npt
from pydantic import AfterValidator, Field, model_validator

from connectors.base import Options, Sample
from connectors.errors import BadSample
from connectors.parsing import PARSERS, at, check_columns, part

MAX_FRAMES = 65_536
LARGEST = float(np.finfo(np.float32).max)
SECONDS: Mapping[str, float] = {"s": 1.0, "ms": 1e-3, "us": 1e-6, "ns": 1e-9}


def _known_zone(name: str) -> str:
    try:
        ZoneInfo(name)
    except (OSError, ValueError, KeyError):
        raise ValueError(f"{name!r} is no time zone, as Europe/Berlin is") from None
    return name


TimeZone = Annotated[
    str,
    AfterValidator(_known_zone),
    Field(
        description="Of iso8601 times that name none, as in Europe/Berlin. Of an hour that clocks go through twice, "
        "the first is meant."
    ),
]


class DecodeOptions(Options):
    format: Literal["values", "json", "msgpack", "csv", "floats"] = Field(
        "values",
        description="values: numbers [F] or [T, F] from the source. json, msgpack: a map. csv: one line. "
        "floats: nothing but numbers.",
    )
    fields: tuple[str | int, ...] = Field(
        (),
        description="The features, in order: dotted paths into the map (`acc.x`, `joints.0`), columns of a line. "
        "With format values: parts of what the source gives, by name or number.",
    )
    values: str = Field("", description="Instead of fields: path of a list [F] or [T, F] in the map.")
    missing: Literal["reject", "zero", "nan"] = Field(
        "reject",
        description="A field that is absent, null or NaN. zero: for features whose 0 says nothing. "
        "nan: left to the encoder, for one that knows gaps.",
    )
    time: str | int | None = Field(None, description="Path or column of the source's time stamp, of the last frame.")
    time_unit: Literal["s", "ms", "us", "ns", "iso8601", "ros"] = Field(
        "s",
        description="Of the time stamp. iso8601: of time_zone, unless it names a zone. "
        "ros: an object with sec and nanosec.",
    )
    time_zone: TimeZone = "UTC"
    identity: str | int | None = Field(None, description="Path or column of what tells a message from every other.")
    rate_hz: float | None = Field(None, gt=0, description="With [T, F]: frames per second; without, all have one time.")
    scale: float | tuple[float, ...] = Field(
        1.0, description="Every feature is multiplied by this; or a list with a number for each of them."
    )
    dtype: str = Field("<f4", description="Format floats: numpy's name of one number.", pattern=r"^[<>|]?[fiu][1248]$")
    width: int = Field(1, ge=1, le=65_536, description="Format floats: numbers in one frame.")
    delimiter: str = Field(",", min_length=1, max_length=1, description="Format csv.")

    @model_validator(mode="after")
    def _fits_its_format(self) -> Self:
        if self.format in ("json", "msgpack") and bool(self.fields) == bool(self.values):
            raise ValueError(f"format {self.format} needs either fields or values")
        if self.format == "csv" and not self.fields:
            raise ValueError("format csv needs fields: the columns")
        features = len(self.fields) or (self.width if self.format == "floats" else None)
        if isinstance(self.scale, tuple) and features not in (None, len(self.scale)):
            raise ValueError(f"scale has {len(self.scale)} numbers, for {features} features")
        columns = [*self.fields, *(x for x in (self.time, self.identity) if x is not None)]
        check_columns(self.format, columns)
        named = self.time is not None or self.identity is not None
        if self.format == "values" and named and not (self.fields or self.values):
            raise ValueError("format values has time and identity among what it names: say fields or values too")
        if self.format == "floats" and (self.fields or self.values or self.time is not None):
            raise ValueError("format floats has nothing but numbers: no fields, values or time")
        return self


class Unreadable(NamedTuple):
    """Stands where a source would have given numbers."""

    reason: str


class Decoded(NamedTuple):
    values: Any
    """[T, F] float32; as the source gave it where that is no numbers (a picture, for an encoder)"""
    stamp_s: float | None
    """on the source's clock, of the last frame; None if neither payload nor transport tells it"""
    before_s: npt.NDArray[np.float64] | None
    """[T], how long each frame was before the last one; None: all at one time"""
    identity: str


Decode = Callable[[Sample], Decoded]


def decoder(options: DecodeOptions) -> Decode:
    """The function that does what the options say."""
    read = {"floats": _floats, "values": _given}.get(options.format, _parsed)
    return lambda sample: _shallow(read, options, sample)


def _shallow(read: Callable[[DecodeOptions, Sample], Decoded], options: DecodeOptions, sample: Sample) -> Decoded:
    """What is nested as deep as a parser allows cannot be written as text any more, for an identity or a reason."""
    try:
        return read(options, sample)
    except RecursionError:
        raise BadSample("format", "nested too deep") from None


def undecoded(sample: Sample) -> Decoded:
    """For an encoder that takes the sample as it is."""
    if isinstance(sample.value, Unreadable):
        raise BadSample("field", sample.value.reason)
    return Decoded(sample.value, sample.event_time_s, None, sample.identity)


def _parsed(options: DecodeOptions, sample: Sample) -> Decoded:
    content = PARSERS[options.format](sample.value, options.delimiter)
    if options.values:
        values = _numbers(at(content, options.values), options)
    else:
        values = _numbers([_number(content, field, options) for field in options.fields], options)
    stamp_s = sample.event_time_s if options.time is None else _stamp(content, options)
    identity = sample.identity
    if options.identity is not None:
        identity = str(at(content, options.identity))
    return Decoded(values, stamp_s, _before(values, options), identity)


def _given(options: DecodeOptions, sample: Sample) -> Decoded:
    value = sample.value
    if isinstance(value, Unreadable):
        raise BadSample("field", value.reason)
    if isinstance(value, bytes):
        raise BadSample("format", "the source gives bytes: say in decode how to read them")
    if options.fields or not isinstance(value, np.ndarray | list | tuple | int | float | str):
        if not (options.fields or options.values):
            raise BadSample("format", "the source gives named values: say which in decode.fields")
        return _parsed(options, sample)
    values = _numbers(value, options)
    return Decoded(values, sample.event_time_s, _before(values, options), sample.identity)


def _floats(options: DecodeOptions, sample: Sample) -> Decoded:
    dtype = np.dtype(options.dtype)
    frame_bytes = options.width * dtype.itemsize
    if not isinstance(sample.value, bytes) or not sample.value or len(sample.value) % frame_bytes:
        raise BadSample("length", f"payload is not a whole number of frames of {frame_bytes} bytes")
    flat = np.frombuffer(sample.value, dtype=dtype)
    values = _numbers(flat.reshape(-1, options.width), options)
    return Decoded(values, sample.event_time_s, _before(values, options), sample.identity)


def _before(values: npt.NDArray[np.float32], options: DecodeOptions) -> npt.NDArray[np.float64] | None:
    if options.rate_hz is None or len(values) < 2:
        return None
    return _steps_back(len(values), options.rate_hz)


@lru_cache(maxsize=64)
def _steps_back(frames: int, rate_hz: float) -> npt.NDArray[np.float64]:
    steps = np.arange(frames - 1, -1, -1, dtype=np.float64) / rate_hz
    steps.flags.writeable = False
    return steps


def _numbers(value: Any, options: DecodeOptions) -> npt.NDArray[np.float32]:
    """[F] or [T, F] of anything numpy reads as numbers, as [T, F], finite in float32 unless NaN is asked for."""
    try:
        array = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError, OverflowError):
        raise BadSample("shape", "values are not numbers of one shape") from None
    if array.ndim < 2:
        array = array.reshape(1, -1)
    if array.ndim != 2 or not array.size or len(array) > MAX_FRAMES:
        raise BadSample("shape", f"values have shape {np.shape(value)}, expected [F] or [T, F]")
    if isinstance(options.scale, tuple) and array.shape[1] != len(options.scale):
        raise BadSample("shape", f"values have {array.shape[1]} features, scale has {len(options.scale)} numbers")
    if options.scale != 1.0:
        array = array * np.asarray(options.scale)
    if options.missing == "zero":
        array = np.nan_to_num(array, nan=0.0, posinf=np.inf, neginf=-np.inf)
    largest = np.nanmax(np.abs(array), initial=0.0) if options.missing == "nan" else np.abs(array).max()
    if not largest <= LARGEST:
        raise BadSample("not_finite", "a value is not a finite number")
    return array.astype(np.float32)


def _number(content: Any, field: str | int, options: DecodeOptions) -> float:
    try:
        value = at(content, field)
        if value is not None and value != "":
            return float(value)
    except BadSample:
        if options.missing == "reject":
            raise
    except (TypeError, ValueError):
        raise BadSample("field", f"{field!r} is not a number") from None
    except OverflowError:  # JSON's whole numbers may have any length
        return math.inf
    if options.missing == "reject":
        raise BadSample("field", f"{field!r} is null")
    return math.nan


def iso8601_s(text: str, zone: str) -> float:
    """Seconds since 1970 of a time in ISO 8601: of this zone, unless it names one. Raises ValueError, TypeError."""
    when = datetime.fromisoformat(text)
    if when.tzinfo is None:
        when = when.replace(tzinfo=UTC if zone == "UTC" else ZoneInfo(zone))  # a small system may know no zones
    return when.timestamp()


def _stamp(content: Any, options: DecodeOptions) -> float:
    assert options.time is not None
    value = at(content, options.time)
    try:
        if options.time_unit == "iso8601":
            stamp_s = iso8601_s(value, options.time_zone)
        elif options.time_unit == "ros":
            stamp_s = float(part(value, "sec")) + float(part(value, "nanosec")) * 1e-9
        else:
            stamp_s = float(value) * SECONDS[options.time_unit]
    except (TypeError, ValueError, OverflowError, KeyError, AttributeError):
        raise BadSample("time", f"{options.time!r} is not a time in {options.time_unit}: {value!r:.40}") from None
    if not math.isfinite(stamp_s):
        raise BadSample("time", f"{options.time!r} is not finite")
    return stamp_s
