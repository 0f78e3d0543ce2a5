"""A source's streams: the window of each, and the numbers of its segments.

Of a stream that is forgotten one number is left: every stream that begins later is numbered from above it, for it may
be one that returns.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from connectors.cutting import Times, Values
from connectors.errors import BadSample
from connectors.known_streams import StreamName
from connectors.routes import RouteOptions, Target
from connectors.windowing import Window


class Segment(NamedTuple):
    session: str
    stream: str
    modality: str
    frames: Values
    """[T, F]"""
    event_time_s: float
    """of the last frame, wall time"""
    sequence: int
    """1, 2, 3, ... within the stream"""


class _Stream:
    __slots__ = ("left_out", "modality", "next_sequence", "route", "window")

    def __init__(self, window: Window, route: int, modality: str, next_sequence: int) -> None:
        self.window = window
        self.route = route
        """whose window it has"""
        self.modality = modality
        self.next_sequence = next_sequence
        self.left_out = 0
        """frames that were counted"""


class NumberedStreams:
    def __init__(self, routes: Sequence[RouteOptions], set_back_s: float) -> None:
        """`set_back_s`: as of a `Window`."""
        self._routes = routes
        self._set_back_s = set_back_s
        self._streams: dict[StreamName, _Stream] = {}
        self._first_sequence = 1
        """of a stream that begins"""
        self._left_out = 0

    @property
    def names(self) -> list[StreamName]:
        """All that are remembered and have begun."""
        return list(self._streams)

    def begin(self, target: Target) -> int:
        """Remember a stream that may have no frames yet; return the number of its next segment."""
        return self._stream(target).next_sequence

    def add(self, target: Target, values: Values, times_s: Times) -> list[Segment]:
        """What these frames complete. Raises BadSample for those that do not fit the ones before."""
        stream = self._stream(target)
        try:
            windowed = stream.window.add(values, times_s)
        except ValueError as error:
            raise BadSample("shape", str(error)) from None
        return self._numbered(target.name, stream, windowed)

    def pass_by(self, target: Target, until_s: float) -> list[Segment]:
        """What is complete because no frame before this time will come."""
        stream = self._streams.get(target.name)
        return [] if stream is None else self._numbered(target.name, stream, stream.window.pass_by(until_s))

    def end(self) -> list[Segment]:
        """Nothing more comes from the source: what is left in the windows."""
        segments: list[Segment] = []
        for name, stream in self._streams.items():
            segments += self._numbered(name, stream, stream.window.end())
        return segments

    def forget(self, name: StreamName) -> list[Segment]:
        """What is left in its window; then all that is known of it but how far its numbers went."""
        stream = self._streams.pop(name, None)
        if stream is None:
            return []
        segments = self._numbered(name, stream, stream.window.end())
        self._first_sequence = max(self._first_sequence, stream.next_sequence)
        return segments

    def take_left_out(self) -> int:
        """Frames that came into no segment, since this was last called."""
        left_out, self._left_out = self._left_out, 0
        return left_out

    def _stream(self, target: Target) -> _Stream:
        stream = self._streams.get(target.name)
        if stream is None:
            window = self._window(target.route)
            stream = _Stream(window, target.route, target.modality, self._first_sequence)
            self._streams[target.name] = stream
        return stream

    def _window(self, route: int) -> Window:
        return Window(self._routes[route].window, set_back_s=self._set_back_s)

    def _numbered(self, name: StreamName, stream: _Stream, windowed: Iterable[Any]) -> list[Segment]:
        segments = []
        for values, event_s in windowed:
            segments.append(Segment(*name, stream.modality, values, event_s, stream.next_sequence))
            stream.next_sequence += 1
        left_out = stream.window.left_out
        self._left_out += left_out - stream.left_out
        stream.left_out = left_out
        return segments

    def snapshot(self) -> dict[str, Any]:
        return {
            "streams": [
                [*name, stream.route, stream.modality, stream.next_sequence, stream.window.snapshot()]
                for name, stream in self._streams.items()
            ],
            "first_sequence": self._first_sequence,
        }

    def restore(self, state: Mapping[str, Any]) -> None:
        """Raises KeyError, IndexError, TypeError, ValueError for what is none."""
        for session, name, route, modality, next_sequence, window_state in state["streams"]:
            stream = self._streams[session, name] = _Stream(self._window(route), route, modality, next_sequence)
            stream.window.restore(window_state)
            stream.left_out = stream.window.left_out
        self._first_sequence = state.get("first_sequence", 1)  # there was none before streams were forgotten
