"""Smart-watch recordings that the model has never seen: accelerometer and gyroscope, one publisher per stream."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np

from grf_core.data.conversion import read_sessions
from grf_core.data.motion import write_motion_recording
from grf_core.recording import RecordedSegment
from runtime.client import ClientError, Publisher, StateClient
from runtime.demo.board import Figures
from runtime.demo.playlist import Play, Recorded
from runtime.digest import SettledSession, digest_of
from runtime.replay import Due, play

LABEL = "activity"
PUBLISHER_RATE_WINDOW_S = 2.0
CONNECT_WITHIN_S = 30.0


def recordings() -> list[Recorded]:
    """The test half of BasicMotions. Raises grf_core.data.motion.MotionDataError with what to install."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "motion-test.grfrec"
        write_motion_recording(path, "test")
        return [_recorded(item.session, str(item.labels[LABEL]), item.segments) for item in read_sessions(path)]


def _recorded(session: str, label: str, segments: Sequence[Any]) -> Recorded:
    recorded = tuple(
        RecordedSegment(session, s.stream, s.modality, s.sequence, s.event_time_s, s.frames) for s in segments
    )
    times = sorted({segment.event_time_s for segment in recorded})
    return Recorded(session, label, recorded, times[-1] - times[0] + (times[1] - times[0]))


@dataclass(frozen=True, slots=True)
class Outcome:
    figures: Figures
    states: Mapping[str, Mapping[str, Any]]
    digest: str


class MotionDemo:
    """Plays a playlist from a thread of its own; follows all sessions from another."""

    def __init__(self, address: str, plays: Sequence[Play]) -> None:
        self.plays = plays
        self.states: dict[str, Mapping[str, Any]] = {}
        self._stop = threading.Event()
        lanes = {(item.lane, segment.stream) for item in plays for segment in item.segments}
        self._publishers = {lane: Publisher(address, client=f"demo-{lane[0]}-{lane[1]}") for lane in sorted(lanes)}
        self._lane_of = {item.session: item.lane for item in plays}
        self._client = StateClient(address, client="demo-reader")
        self._player = threading.Thread(target=self._play, name="demo-player", daemon=True)
        self._follower = threading.Thread(target=self._follow, name="demo-follower", daemon=True)
        self._rates: list[tuple[float, int]] = []
        self._error: Exception | None = None
        self._sent: dict[str, int] = {}
        """segments published, by session"""

    def start(self) -> None:
        """Begin once every publisher is connected. Raises ClientError if the runtime does not answer."""
        for publisher in self._publishers.values():
            publisher.check(CONNECT_WITHIN_S)
        self._started_s = time.monotonic()
        self._follower.start()
        self._player.start()

    @property
    def is_playing(self) -> bool:
        return self._player.is_alive()

    def playing_now(self) -> list[Play]:
        """The session of each lane that has started last."""
        elapsed_s = time.monotonic() - self._started_s
        newest = {item.lane: item for item in self.plays if item.start_s <= elapsed_s}
        return [newest[lane] for lane in sorted(newest)]

    def stop(self) -> None:
        self._stop.set()
        self._player.join()

    def close(self) -> None:
        self._stop.set()
        for publisher in self._publishers.values():
            publisher.close()
        self._client.close()

    # ---- threads ----

    def _play(self) -> None:
        due = sorted(
            chain.from_iterable(
                (Due(item.start_s + segment.event_time_s, segment) for segment in item.segments) for item in self.plays
            ),
            key=lambda item: item.at_s,
        )
        try:
            play(due, self._publisher_of, stopped=self._stop.is_set, on_published=self._count)
        except Exception as error:  # told by `outcome`, to whoever waits for it
            self._error = error

    def _publisher_of(self, segment: RecordedSegment) -> Publisher:
        return self._publishers[self._lane_of[segment.session], segment.stream]

    def _count(self, segment: RecordedSegment) -> None:
        self._sent[segment.session] = self._sent.get(segment.session, 0) + 1

    def _follow(self) -> None:
        try:
            for update in self._client.subscribe():
                self.states[update.state["session"]] = update.state
        except ClientError:  # closed, or refused: what was seen stays on the board
            return

    # ---- figures ----

    def figures(self, states: Mapping[str, Mapping[str, Any]]) -> Figures:
        stats = [publisher.stats for publisher in self._publishers.values()]
        latencies = np.array([latency for item in stats for latency in list(item.latencies_s)] or [0.0]) * 1000
        sent = sum(item.published for item in stats)
        refused = sum(item.refused for item in stats)
        settled = sum(_settled_version(state) for state in states.values())
        missing = sent - refused - settled
        return Figures(
            sent=sent,
            fused=sum(item.fused for item in stats),
            settled=settled,
            durable=sum(item.durable for item in stats),
            refused=refused,
            lost=max(missing, 0),
            double=max(-missing, 0),
            segments_per_s=self._rate(sent),
            p50_ms=float(np.percentile(latencies, 50)),
            p99_ms=float(np.percentile(latencies, 99)),
        )

    def _rate(self, sent: int) -> float:
        now_s = time.monotonic()
        self._rates.append((now_s, sent))
        while self._rates[0][0] < now_s - PUBLISHER_RATE_WINDOW_S and len(self._rates) > 2:
            self._rates.pop(0)
        (first_s, first), (last_s, last) = self._rates[0], self._rates[-1]
        return (last - first) / (last_s - first_s) if last_s > first_s else 0.0

    def outcome(self, timeout_s: float) -> Outcome:
        """Wait until everything sent is durable, then ask the runtime for every session's final state."""
        if self._error is not None:
            raise self._error
        for publisher in self._publishers.values():
            publisher.flush(timeout_s)
        states = {session: self._client.state(session) for session in sorted(self._sent)}
        digest = digest_of(
            SettledSession(state["tenant"], session, _settled_version(state), state["lineage"])
            for session, state in states.items()
        )
        return Outcome(self.figures(states), states, digest)

    def played(self) -> list[Play]:
        """The plays of which at least one segment was sent."""
        return [item for item in self.plays if item.session in self._sent]


def _settled_version(state: Mapping[str, Any]) -> int:
    return int(state["settled"]["version"]) if state["settled"] else 0
