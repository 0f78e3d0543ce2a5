"""Whose a message is, where its payload tells: appended to the stream key, for routes to match.

key: {format: json, fields: [device.id]}        # telemetry becomes telemetry/car-7
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from connectors.base import Options, Sample
from connectors.errors import BadSample
from connectors.parsing import PARSERS, at, check_columns
from runtime.keys import InvalidId, check_id


class KeyOptions(Options):
    format: Literal["values", "json", "msgpack", "csv"] = Field("json", description="As in decode.")
    fields: tuple[str | int, ...] = Field(
        min_length=1,
        description="Paths or columns, as in decode: texts or whole numbers that are appended to the stream key, each "
        "behind a slash, for `match` to find.",
    )
    delimiter: str = Field(",", min_length=1, max_length=1, description="Format csv.")

    @model_validator(mode="after")
    def _fits_its_format(self) -> Self:
        check_columns(self.format, self.fields)
        return self


def key_reader(options: KeyOptions) -> Callable[[Sample], str]:
    """What makes the stream key of a sample of its own and of what its payload says. Raises BadSample."""
    parse = PARSERS[options.format]

    def key_of(sample: Sample) -> str:
        try:
            content = parse(sample.value, options.delimiter)
            return "/".join([sample.stream_key, *(_text(content, field) for field in options.fields)])
        except RecursionError:
            raise BadSample("format", "nested too deep") from None

    return key_of


def _text(content: Any, field: str | int) -> str:
    value = at(content, field)
    if not isinstance(value, str | int) or isinstance(value, bool):
        raise BadSample("field", f"{field!r} is neither a text nor a whole number")
    try:
        return check_id(repr(field), str(value))  # else it could be in no id, nor, as a lone surrogate, in a snapshot
    except InvalidId as error:
        raise BadSample("field", str(error)) from None
