"""From a source's clock to event time: what is believed of a time stamp, and what is not. Pure: arrival is an argument.

Two kinds of clock:

- `wall`: the source stamps with wall time (NTP, GPS, a recording). Its stamps are event times. One that lies more than
  `jump_s` ahead of its arrival, or behind the stamp before it, is wrong: it is left out, and counted.
- `device`: the source counts from any moment, with a crystal of its own (a sensor's milliseconds since it was switched
  on). Wall time is source time plus an offset that drifts. A message takes longer or less long, but never arrives
  before it was sent: the smallest `arrival - stamp` of a while tells the offset, and how it moves from one while to
  the next tells the drift. The line in force is never broken, only bent: its slope stays within `max_drift_ppm` plus
  `max_slew_ppm` of 1, so event times grow as stamps grow. A stamp that would lie more than `jump_s` after its arrival,
  or goes back by more, is a jump of the clock (a restart): the line begins anew at its arrival.

A source without stamps has its arrivals as event times, which never go back.

What a clock has learnt is part of the snapshot: a replay after a crash gives every sample the event time it had, if
the transport keeps arrival times (MCAP, JetStream). Where arrival is when *we* got it (MQTT), one that comes again
comes later, so it is not the quickest of its while: its event time is the same up to what `max_slew_ppm` bends.
"""

from __future__ import annotations

from collections import Counter
from typing import Any, Literal

from pydantic import Field

from connectors.base import Options

CONFIRMED_BY = 5
"""stamps in a row that agree with each other, after which it was the ones before that were wrong"""
BUCKETS = 8
FIRST_BUCKET_S = 1.0


class ClockOptions(Options):
    kind: Literal["wall", "device"] = Field(
        "wall", description="wall: stamps are wall time. device: any count of seconds, mapped by when messages arrive."
    )
    jump_s: float = Field(
        5.0, gt=0, description="A stamp this far ahead of its arrival, or back behind the one before, is a jump."
    )
    on_backward: Literal["drop", "keep", "clamp"] = Field(
        "drop", description="A stamp before the last one, by less than jump_s. clamp: it gets the last one's time."
    )
    on_repeat: Literal["keep", "drop"] = Field("keep", description="A stamp equal to the last one.")
    max_drift_ppm: float = Field(200.0, ge=0, le=10_000, description="How wrong a device's crystal may be.")
    max_slew_ppm: float = Field(5_000.0, gt=0, le=100_000, description="How fast an error of the mapping is removed.")
    window_s: float = Field(10.0, gt=0, description="Over which the smallest delay is taken, for a device's clock.")
    shift: Literal["none", "now"] = Field(
        "none", description="now: the first sample of the source happens when it is read, the others relative to it."
    )


class Clock:
    """Of one stream. `counts` says what was seen: repeats, backward, jumps, dropped."""

    def __init__(self, options: ClockOptions, counts: Counter[str] | None = None) -> None:
        self._options = options
        self.counts = Counter[str]() if counts is None else counts
        self._last_stamp_s: float | None = None
        self._last_event_s: float | None = None
        self._suspects = 0
        self._suspect_s = 0.0
        self._line: _Line | None = None

    def event_time(self, stamp_s: float | None, arrival_s: float | None) -> float | None:
        """Event time of a sample; None if it is to be left out.

        Raises ValueError for a sample that has neither time.
        """
        if stamp_s is None:
            if arrival_s is None:
                raise ValueError("neither the source nor the payload tells a time")
            return self._take(arrival_s, max(arrival_s, self._last_event_s or arrival_s))
        if self._options.kind == "device" and arrival_s is not None:
            return self._device(stamp_s, arrival_s)
        return self._wall(stamp_s, arrival_s)

    def beside_others(self, stamp_s: float, arrival_s: float | None) -> str:
        """A stamp that is left out, and what it does not go with."""
        others = {"the last one": self._last_stamp_s, "its arrival": arrival_s}
        told = [f"{name} at {time_s:.3f} s" for name, time_s in others.items() if time_s is not None]
        return f"left out by its time, {stamp_s:.3f} s; {', '.join(told)}"

    def snapshot(self) -> list[Any]:
        line = None if self._line is None else self._line.snapshot()
        return [self._last_stamp_s, self._last_event_s, self._suspects, self._suspect_s, line]

    def restore(self, state: list[Any]) -> None:
        self._last_stamp_s, self._last_event_s, self._suspects, self._suspect_s, line = state
        self._line = None if line is None else _Line.restored(self._options, line)

    def _take(self, stamp_s: float, event_s: float) -> float:
        self._last_stamp_s, self._last_event_s = stamp_s, event_s
        self._suspects = 0
        return event_s

    def _wall(self, stamp_s: float, arrival_s: float | None) -> float | None:
        if arrival_s is not None and stamp_s > arrival_s + self._options.jump_s:
            self.counts["ahead"] += 1
            return None
        if self._last_stamp_s is None or stamp_s > self._last_stamp_s:
            return self._take(stamp_s, stamp_s)
        if stamp_s < self._last_stamp_s - self._options.jump_s and not self._is_confirmed(stamp_s):
            self.counts["jumps_left_out"] += 1
            return None
        if stamp_s < self._last_stamp_s - self._options.jump_s:
            self.counts["jumps"] += 1
            return self._take(stamp_s, stamp_s)
        return self._not_after(stamp_s, stamp_s)

    def _is_confirmed(self, stamp_s: float) -> bool:
        """So many in a row, each not before the last: the clock was set back, and the stamps before it were wrong."""
        self._suspects = self._suspects + 1 if self._suspects and stamp_s >= self._suspect_s else 1
        self._suspect_s = stamp_s
        return self._suspects >= CONFIRMED_BY

    def _not_after(self, stamp_s: float, event_s: float) -> float | None:
        """A stamp that is equal to the last one, or somewhat before it."""
        assert self._last_event_s is not None
        assert self._last_stamp_s is not None
        if stamp_s == self._last_stamp_s:
            self.counts["repeats"] += 1
            return self._last_event_s if self._options.on_repeat == "keep" else None
        self.counts["backward"] += 1
        match self._options.on_backward:
            case "drop":
                return None
            case "clamp":
                return self._last_event_s
            case "keep":
                return event_s

    def _device(self, stamp_s: float, arrival_s: float) -> float | None:
        line = self._line
        if line is None:
            line = self._line = _Line(self._options, stamp_s, arrival_s)
            return self._take(stamp_s, arrival_s)
        last_s = self._last_stamp_s
        went_back = last_s is not None and stamp_s < last_s - self._options.jump_s
        event_s = line.wall_s(stamp_s)
        if went_back or event_s > arrival_s + self._options.jump_s:
            self.counts["jumps"] += 1
            begins_s = max(arrival_s, self._last_event_s or arrival_s)
            self._line = _Line(self._options, stamp_s, begins_s)
            return self._take(stamp_s, begins_s)
        if last_s is not None and stamp_s <= last_s:
            return self._not_after(stamp_s, event_s)
        line.observe(stamp_s, arrival_s)
        return self._take(stamp_s, max(event_s, self._last_event_s or event_s))


class _Line:
    """wall = anchor_wall + rate * (stamp - anchor_stamp), bent at the end of every bucket of observations."""

    def __init__(self, options: ClockOptions, stamp_s: float, wall_s: float) -> None:
        self._options = options
        self._anchor_stamp_s = stamp_s
        self._anchor_wall_s = wall_s
        self._rate = 1.0
        self._bucket_begins_s = stamp_s
        self._bucket_s = min(FIRST_BUCKET_S, options.window_s)
        self._smallest: list[float] | None = None
        """[residual, stamp, arrival - stamp] of the quickest message of this bucket"""
        self._floor: list[list[float]] = []
        """[stamp, arrival - stamp] of the quickest of each of the last buckets"""

    @property
    def rate(self) -> float:
        return self._rate

    def wall_s(self, stamp_s: float) -> float:
        return self._anchor_wall_s + self._rate * (stamp_s - self._anchor_stamp_s)

    def observe(self, stamp_s: float, arrival_s: float) -> None:
        residual_s = arrival_s - self.wall_s(stamp_s)
        if self._smallest is None or residual_s < self._smallest[0]:
            self._smallest = [residual_s, stamp_s, arrival_s - stamp_s]
        if stamp_s >= self._bucket_begins_s + self._bucket_s:
            self._bend(stamp_s)

    def _bend(self, stamp_s: float) -> None:
        assert self._smallest is not None
        residual_s, smallest_at_s, offset_s = self._smallest
        self._floor = [*self._floor, [smallest_at_s, offset_s]][-BUCKETS:]
        self._anchor_wall_s, self._anchor_stamp_s = self.wall_s(stamp_s), stamp_s
        next_bucket_s = min(2 * self._bucket_s, self._options.window_s)
        slew = _within(residual_s / next_bucket_s, self._options.max_slew_ppm * 1e-6)
        self._rate = 1.0 + self._drift() + slew
        self._bucket_begins_s, self._bucket_s, self._smallest = stamp_s, next_bucket_s, None

    def _drift(self) -> float:
        """How the offset moves: the slope over the last buckets, 0 until there are three."""
        if len(self._floor) < 3:
            return 0.0
        (first_s, first_offset_s), (last_s, last_offset_s) = self._floor[0], self._floor[-1]
        if last_s <= first_s:
            return 0.0
        return _within((last_offset_s - first_offset_s) / (last_s - first_s), self._options.max_drift_ppm * 1e-6)

    def snapshot(self) -> list[Any]:
        return [
            self._anchor_stamp_s,
            self._anchor_wall_s,
            self._rate,
            self._bucket_begins_s,
            self._bucket_s,
            self._smallest,
            self._floor,
        ]

    @classmethod
    def restored(cls, options: ClockOptions, state: list[Any]) -> _Line:
        line = cls(options, 0.0, 0.0)
        (
            line._anchor_stamp_s,
            line._anchor_wall_s,
            line._rate,
            line._bucket_begins_s,
            line._bucket_s,
            line._smallest,
            line._floor,
        ) = state
        return line


def _within(value: float, bound: float) -> float:
    return max(-bound, min(bound, value))
