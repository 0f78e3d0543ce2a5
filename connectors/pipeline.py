"""Samples in, segments out: decoding, event time, windows, numbering. Pure: it is told the time, and can be a snapshot.

    pipeline = Pipeline(routes, clock, may_repeat=source.may_repeat)
    accepted = pipeline.accept(samples)             # decoded, timed, known ones left out
    ... encoders, where a route has one ...
    segments = pipeline.window(accepted)            # numbered 1, 2, 3, ... per stream

What it decides depends on the samples alone, so a pipeline restored from a snapshot makes of the samples after it the
very segments, with the very numbers, that this one makes. That, and the worker's memory of numbers, is exactly once.

Streams that were silent longest are forgotten to make room (`known_streams`).
"""

from __future__ import annotations

import math
from collections import Counter, OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from connectors.base import Position, Sample
from connectors.clock import Clock, ClockOptions
from connectors.cutting import Times, Values
from connectors.decoding import Decode, Decoded, decoder, undecoded
from connectors.encoders.base import Frames
from connectors.errors import BadSample, SnapshotError
from connectors.known_streams import MAX_STREAMS, KnownStreams, StreamName
from connectors.numbered_streams import NumberedStreams, Segment
from connectors.routes import NO_KEY, RouteOptions, Routing, Target
from connectors.stream_keys import KeyOptions, key_reader
from connectors.tally import Tally
from runtime.wire import MAX_EVENT_TIME_S

SNAPSHOT_VERSION = 1
NO_VALUES: Values = np.empty((0, 0), dtype=np.float32)
NO_TIMES: Times = np.empty(0, dtype=np.float64)


class Accepted(NamedTuple):
    """One sample for one stream, with its event time on the wall clock."""

    target: Target
    sample: Sample | None
    """for the route's encoder, with its event time mapped and its value decoded if the route says how; else None"""
    values: Values
    """[T, F], empty where an encoder makes them"""
    times_s: Times
    """[T]"""


class Pipeline:
    """Of one source."""

    def __init__(
        self,
        routes: Sequence[RouteOptions],
        clock: ClockOptions,
        *,
        may_repeat: bool = False,
        redelivers_at_most: int = 0,
        max_streams: int = MAX_STREAMS,
        key: KeyOptions | None = None,
    ) -> None:
        self.tally = Tally()
        self.position: Position = None
        """of the newest sample taken"""
        self._routing = Routing(routes)
        self._key_of = None if key is None else key_reader(key)
        self._decoders: list[Decode] = [
            decoder(route.decode) if route.encoder is None or route.is_decoded else undecoded for route in routes
        ]
        self._is_encoded = [route.encoder is not None for route in routes]
        self._clock_options = clock
        self._clock_counts = Counter[str]()
        self._clocks: dict[tuple[int, str], Clock] = {}
        self._streams = NumberedStreams(routes, set_back_s=clock.jump_s)
        self._shift_s: float | None = None
        self._may_repeat = may_repeat
        self._recent = OrderedDict[str, None]()
        """identities of the newest samples, as many as the source may hand over again"""
        self._max_recent = redelivers_at_most * len(routes)
        # Not fewer than a source may hand over again, whose streams and stamps must still be known, nor fewer than one
        # sample may have, or one of its streams would be forgotten for another.
        self._known = KnownStreams(max(max_streams, self._max_recent, len(routes)))
        self._newest_s: dict[tuple[int, str], float] = {}
        """newest believed stamp by route and key: it tells what is known where samples have no identity"""

    # ---- samples ----

    def keyed(self, samples: Sequence[Sample]) -> Sequence[Sample]:
        """With the keys that their payloads add to; once for each batch, before what it `fits` is asked.

        What does not say them is counted, and no route takes it.
        """
        if self._key_of is None:
            return samples
        keyed = []
        for sample in samples:
            try:
                key = self._key_of(sample)
            except BadSample as bad:
                self._count_bad(sample.stream_key, bad)
                key = NO_KEY
            keyed.append(sample._replace(stream_key=key))
        return keyed

    def fault_of(self, sample: Sample) -> str:
        """Why no route takes it, whose sender hears that, and "" if one does; it is counted here alone."""
        try:
            key = sample.stream_key if self._key_of is None else self._key_of(sample)
        except BadSample as bad:
            self._count_bad(sample.stream_key, bad)
            return str(bad)
        if self._routing.targets(key):
            return ""
        self.tally.unrouted += 1
        return f"no route matches {key!r}"

    def _count_bad(self, whose: str, bad: BadSample) -> None:
        self.tally.bad[bad.reason] += 1
        self.tally.last_bad = f"{whose}: {bad}"

    def accept(self, samples: Sequence[Sample], *, wall_s: float) -> list[Accepted]:
        """Decoded and timed, in order; bad ones, known ones and those of no route are counted and left out.

        The caller gives no more than `fits`. `wall_s` is now: a source whose times are shifted to now is shifted by
        its very first sample.
        """
        accepted: list[Accepted] = []
        tally = self.tally
        tally.samples += len(samples)
        for sample in samples:
            targets = self._routing.targets(sample.stream_key)
            if not targets and sample.stream_key != NO_KEY:
                tally.unrouted += 1
            for target in targets:
                # Bad samples and known ones count as well: what fits must not depend on where a batch ends.
                self._known.touch(target)
                try:
                    one = self._accept(target, sample, wall_s)
                except BadSample as bad:
                    self._count_bad(sample.stream_key, bad)
                else:
                    if one is not None:
                        accepted.append(one)
        if samples:
            self.position = samples[-1].position
        return accepted

    def fits(self, samples: Sequence[Sample]) -> int:
        """How many of these may be accepted before a stream has to be forgotten (`longest_silent`)."""
        return self._known.fits([self._routing.targets(sample.stream_key) for sample in samples])

    @property
    def longest_silent(self) -> Target:
        """The stream to forget next."""
        return self._known.longest_silent

    def forget(self, name: StreamName) -> list[Segment]:
        """What is left in its window; then all that is known of it but how far its numbers went."""
        self._known.forget(name)
        return self._counted(self._streams.forget(name))

    def _accept(self, target: Target, sample: Sample, wall_s: float) -> Accepted | None:
        decoded = self._decoders[target.route](sample)
        if self._may_repeat and self._is_known(target, sample, decoded):
            self.tally.duplicates += 1
            return None
        event_s = self._event_time(target, sample, decoded.stamp_s)
        if sample.arrival_s is not None:
            self.tally.lag_s = sample.arrival_s - event_s
        if self._clock_options.shift == "now":
            if self._shift_s is None:
                self._shift_s = wall_s - event_s
            event_s += self._shift_s
        if self._is_encoded[target.route]:
            given = sample._replace(event_time_s=event_s, value=decoded.values)
            return Accepted(target, given, NO_VALUES, NO_TIMES)
        return Accepted(target, None, decoded.values, _times(event_s, decoded.before_s, len(decoded.values)))

    def _event_time(self, target: Target, sample: Sample, stamp_s: float | None) -> float:
        """On the wall clock, not shifted. Raises BadSample for a time that cannot be believed."""
        if stamp_s is not None and not -MAX_EVENT_TIME_S < stamp_s < MAX_EVENT_TIME_S:
            raise BadSample("time", f"{stamp_s:g} is not a number of seconds below {MAX_EVENT_TIME_S:g}")
        key = (target.route, sample.stream_key)
        clock = self._clock(key)
        try:
            event_s = clock.event_time(stamp_s, sample.arrival_s)
        except ValueError as error:
            raise BadSample("time", str(error)) from None
        if event_s is None:
            assert stamp_s is not None, "the time of an arrival is never left out"
            raise BadSample("clock", clock.beside_others(stamp_s, sample.arrival_s))
        if self._may_repeat and stamp_s is not None:
            # Only now: a stamp that the clock does not believe must not make all that follow look known.
            self._newest_s[key] = max(stamp_s, self._newest_s.get(key, stamp_s))
        return event_s

    def _clock(self, key: tuple[int, str]) -> Clock:
        """Of a route and a stream key; as many are remembered as streams."""
        clock = self._clocks.pop(key, None) or Clock(self._clock_options, self._clock_counts)
        self._clocks[key] = clock
        if len(self._clocks) > self._known.max_streams:
            longest_silent = next(iter(self._clocks))
            del self._clocks[longest_silent]
            self._newest_s.pop(longest_silent, None)
        return clock

    def _is_known(self, target: Target, sample: Sample, decoded: Decoded) -> bool:
        """Of a source that may hand over a sample again: was this one taken before?

        Remembers its identity. Raises BadSample for one that could not be recognised.
        """
        if decoded.identity:
            identity = f"{target.route}/{sample.stream_key}/{decoded.identity}"
            if identity in self._recent:
                return True
            self._recent[identity] = None
            if len(self._recent) > self._max_recent:
                self._recent.popitem(last=False)  # a dict would look for its first
            return False
        if decoded.stamp_s is None or self._clock_options.kind == "device":
            # A device's clock begins anew when it is switched on: what is stamped before the last one may well be new.
            raise BadSample("identity", "neither identity nor wall time: what comes again could not be recognised")
        return decoded.stamp_s <= self._newest_s.get((target.route, sample.stream_key), float("-inf"))

    # ---- segments ----

    def window(self, accepted: Iterable[Accepted]) -> list[Segment]:
        """Segments of what needed no encoder."""
        segments: list[Segment] = []
        for target, _, values, times_s in accepted:
            segments += self._add(target, values, times_s)
        return segments

    def window_frames(self, target: Target, frames: Iterable[Frames], *, until_s: float = -math.inf) -> list[Segment]:
        """Segments of what an encoder made, and of what is complete because it will give nothing before `until_s`."""
        segments: list[Segment] = []
        for values, times_s in frames:
            segments += self._add(target, values, times_s)
        if self._clock_options.on_backward != "keep":  # else the clock promises no less
            segments += self._counted(self._streams.pass_by(target, until_s))
        return segments

    def _add(self, target: Target, values: Values, times_s: Times) -> list[Segment]:
        try:
            return self._counted(self._streams.add(target, values, times_s))
        except BadSample as bad:
            self._count_bad(f"{target.session}/{target.stream}", bad)
            return []

    def begin(self, target: Target) -> int:
        """Remember a stream that may have no frames yet; return the number of its next segment."""
        return self._streams.begin(target)

    def end(self) -> list[Segment]:
        """Nothing more comes from the source: what is left in the windows."""
        return self._counted(self._streams.end())

    @property
    def streams(self) -> list[StreamName]:
        """All that are remembered and have begun."""
        return self._streams.names

    def _counted(self, segments: list[Segment]) -> list[Segment]:
        self.tally.segments += len(segments)
        self.tally.frames_left_out += self._streams.take_left_out()
        return segments

    def take_tally(self) -> Tally:
        """What happened since this was last called."""
        tally, self.tally = self.tally, Tally()
        tally.clock = Counter(self._clock_counts)
        self._clock_counts.clear()
        return tally

    # ---- snapshot ----

    def snapshot(self) -> dict[str, Any]:
        """Everything that the segments to come depend on: numbers, text, bytes, lists and maps."""
        return {
            "version": SNAPSHOT_VERSION,
            "position": self.position,
            "shift_s": self._shift_s,
            "clocks": [[*key, clock.snapshot()] for key, clock in self._clocks.items()],
            **self._streams.snapshot(),
            "known": self._known.snapshot(),
            "recent": list(self._recent),
            "newest": [[*key, stamp_s] for key, stamp_s in self._newest_s.items()],
        }

    def restore(self, state: dict[str, Any]) -> None:
        """Go on where that pipeline was. Raises SnapshotError if the snapshot is of another version."""
        if state.get("version") != SNAPSHOT_VERSION:
            raise SnapshotError(f"a snapshot of version {state.get('version')!r}, not {SNAPSHOT_VERSION}")
        try:
            self._restore(state)
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise SnapshotError(f"a snapshot that cannot be read: {error!r}") from None

    def _restore(self, state: dict[str, Any]) -> None:
        self.position, self._shift_s = state["position"], state["shift_s"]
        for route, key, clock_state in state["clocks"]:
            clock = self._clocks[route, key] = Clock(self._clock_options, self._clock_counts)
            clock.restore(clock_state)
        self._streams.restore(state)
        # Snapshots of before streams were forgotten do not tell.
        self._known.restore(
            state.get("known") or [[route, *name, kind] for *name, route, kind, _, _ in state["streams"]]
        )
        self._recent = OrderedDict.fromkeys(state["recent"])
        self._newest_s = {(route, key): stamp_s for route, key, stamp_s in state["newest"]}


def _times(event_s: float, before_s: npt.NDArray[np.float64] | None, length: int) -> Times:
    return np.full(length, event_s) if before_s is None else event_s - before_s
