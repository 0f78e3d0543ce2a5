"""Which streams of a source become which streams of which sessions. Pure.

`match` is a pattern over the source's stream keys, `session`, `stream` and `modality` are made from its parts:

    match: ward/{bed}/vitals        session: "bed-{bed}"        stream: monitor        modality: vitals

`{name}` is one level (what is between two slashes), `*` anything within one, `**` anything. `{key}` in what is made is
the whole key. A key may match several routes (sound becomes both frames and words) or none: then it is counted.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import NamedTuple, Self

from pydantic import Field, model_validator

from connectors.base import Options
from connectors.decoding import DecodeOptions
from connectors.kinds import AnyEncoder
from connectors.windowing import WindowOptions

_TOKEN = re.compile(r"\{(\w+)\}|\*\*|\*")
NO_KEY = "\0"
"""of a sample that does not say what its key is made of: no pattern matches it, and no transport has it"""
MAX_KEYS = 100_000
"""stream keys whose targets are remembered; beyond, one that comes back is matched again"""


class RouteOptions(Options):
    match: str = Field("**", min_length=1, description="Pattern over the source's stream keys.")
    session: str = Field(min_length=1, description="Session id, made from the parts of the pattern.")
    stream: str = Field(min_length=1, description="Stream in the session, made in the same way.")
    modality: str = Field(min_length=1, description="One of the bundle's modalities.")
    decode: DecodeOptions = Field(DecodeOptions(), description="How numbers are read from a message.")
    encoder: AnyEncoder | None = Field(
        None, description="Turns raw media into frames; without one, what was decoded is the frames."
    )
    window: WindowOptions = Field(WindowOptions(), description="How frames become segments.")

    @property
    def is_decoded(self) -> bool:
        """An encoder is given samples as they came, unless the file says how to decode them."""
        return "decode" in self.model_fields_set

    @model_validator(mode="after")
    def _is_made_from_its_pattern(self) -> Self:
        known = {"key", *pattern_names(self.match)}
        for field in ("session", "stream", "modality"):
            unknown = set(pattern_names(getattr(self, field))) - known
            if unknown:
                raise ValueError(
                    f"{field}: {{{min(unknown)}}} is no part of match; there are {', '.join(sorted(known))}"
                )
        return self


def pattern_names(text: str) -> list[str]:
    return [match[1] for match in _TOKEN.finditer(text) if match[1]]


def compiled(pattern: str) -> re.Pattern[str]:
    parts, end, names = [], 0, set[str]()
    for token in _TOKEN.finditer(pattern):
        parts.append(re.escape(pattern[end : token.start()]))
        end = token.end()
        if token[1] in names:
            parts.append(f"(?P={token[1]})")
        elif token[1]:
            names.add(token[1])
            parts.append(f"(?P<{token[1]}>[^/]+)")
        else:
            parts.append(".*" if token[0] == "**" else "[^/]*")
    return re.compile("".join(parts) + re.escape(pattern[end:]), re.DOTALL)


class Target(NamedTuple):
    """Where what comes under one key goes."""

    route: int
    session: str
    stream: str
    modality: str

    @property
    def name(self) -> tuple[str, str]:
        """Session and stream."""
        return self.session, self.stream


class Routing:
    """Keys to targets; each key is matched once."""

    def __init__(self, routes: Sequence[RouteOptions]) -> None:
        self._routes = [(compiled(route.match), route) for route in routes]
        self._targets: dict[str, tuple[Target, ...]] = {}

    def targets(self, key: str) -> tuple[Target, ...]:
        """In the order of the routes."""
        targets = self._targets.get(key)
        if targets is None:
            if len(self._targets) >= MAX_KEYS:
                del self._targets[next(iter(self._targets))]
            targets = self._targets[key] = tuple(self._match(key))
        return targets

    def _match(self, key: str) -> list[Target]:
        found = []
        for index, (pattern, route) in enumerate(self._routes if key != NO_KEY else ()):
            match = pattern.fullmatch(key)
            if match is not None:
                parts = {"key": key, **match.groupdict()}
                made = (filled(text, parts) for text in (route.session, route.stream, route.modality))
                found.append(Target(index, *made))
        return found


def filled(text: str, parts: Mapping[str, str]) -> str:
    return _TOKEN.sub(lambda token: parts[token[1]] if token[1] else token[0], text)
