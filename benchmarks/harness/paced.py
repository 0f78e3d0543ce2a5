"""A source that publishes at a given rate and sees, as a subscriber, when each segment is in the live state.

Both ends are one thread of one process, so that one clock tells the time between. A segment's time begins when it was
due, not when it was sent: a source that is late itself does not hide that it is.

    {"saturate": seconds}               -> {"segments_per_s": ...}     window kept full, until fused
    {"rate": per_s, "seconds": ...}     -> {"latencies_ms": [...], "late_ms": [...]}
"""

from __future__ import annotations

import gc
import json
import select
import sys
import time
from collections import deque
from typing import Any

import msgpack
import zmq

from benchmarks.harness.blocks import BLOCKS, MODALITIES
from benchmarks.harness.load import DIFFERENT_SEGMENTS, RawSender, names
from benchmarks.harness.processes import Process, plan_of_this_process, say

CREDIT = 50_000
PING_EVERY_S = 5.0


class PacedProcess(Process):
    """Ready when constructed."""

    def __init__(self, endpoint: str, block: str, sessions: int) -> None:
        super().__init__("benchmarks.harness.paced", {"endpoint": endpoint, "block": block, "sessions": sessions})
        self.hear(240.0)

    def ask(self, **request: float) -> dict[str, Any]:
        self.tell(request)
        return self.hear(request.get("seconds", 0.0) + request.get("saturate", 0.0) + 120.0)


class Source:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._block = BLOCKS[plan["block"]]
        self._tensors = [segment.tobytes() for segment in self._block.segments(DIFFERENT_SEGMENTS)]
        self._sessions = names("p", plan["sessions"])
        self._began_s = time.monotonic()
        self._n = 0
        """segments published: sessions in turn, and in each the streams in turn"""
        self._shown = dict.fromkeys(self._sessions, 0)
        """live version of each session"""
        self._due: dict[str, deque[float]] = {session: deque() for session in self._sessions}
        """when what is not in the live state yet was due"""
        self._waiting = 0
        self.latencies_s: list[float] = []
        self._ping_at_s = 0.0
        self._granted = 0
        self._sender = RawSender(plan["endpoint"])
        self._descriptor = int(self._sender.socket.getsockopt(zmq.FD))
        self._sender.open([(session, stream) for session in self._sessions for stream in MODALITIES])
        self._sender.say("subscribe", "", CREDIT, True)

    def publish(self, due_s: float) -> None:
        turn, position = divmod(self._n, len(self._sessions))
        session, stream = self._sessions[position], MODALITIES[turn % len(MODALITIES)]
        number = turn // len(MODALITIES) + 1
        durable = self._sender.durable.get((session, stream), 0)
        rows = [[number, due_s - self._began_s, self._block.frames]]
        header = msgpack.packb([1, "segments", [[session, stream, durable + 1, "f32", rows]]])
        self._sender.socket.send_multipart([header, self._tensors[self._n % len(self._tensors)]])
        self._due[session].append(due_s)
        self._n += 1
        self._waiting += 1

    def hear(self, until_s: float) -> None:
        """Take what comes until then, what is there already at least. Never shorter: what is sent before it is due
        would seem to have arrived sooner than it did, and the waits of ZeroMQ are whole milliseconds."""
        socket = self._sender.socket
        while True:
            while int(socket.getsockopt(zmq.EVENTS)) & zmq.POLLIN:
                self._take(self._sender.receive(), time.monotonic())
            wait_s = until_s - time.monotonic()
            if wait_s <= 0:
                return
            select.select([self._descriptor], [], [], wait_s)

    def _take(self, message: list[Any], now_s: float) -> None:
        if message[0] == "updates":
            for session, _, _, version, *_ in message[1]:
                self._updated(session, version, now_s)
        else:
            self._sender.take(message)
        if now_s > self._ping_at_s:
            self._sender.say("ping", 1)
            self._ping_at_s = now_s + PING_EVERY_S

    def _updated(self, session: str, version: int, now_s: float) -> None:
        self._granted += 1
        if self._granted >= CREDIT // 10:
            self._sender.say("credit", self._granted)
            self._granted = 0
        due = self._due[session]
        for _ in range(version - self._shown[session]):
            self.latencies_s.append(now_s - due.popleft())
            self._waiting -= 1
        self._shown[session] = max(self._shown[session], version)

    def wait_until_all_is_seen(self) -> None:
        until_s = time.monotonic() + 60.0
        while self._waiting:
            self.hear(time.monotonic() + 0.002)
            if time.monotonic() > until_s:
                raise RuntimeError(f"{self._waiting} segments did not come to the live state")
        if self._sender.refused:
            raise RuntimeError(f"{self._sender.refused} segments were refused")

    def saturate(self, seconds: float) -> dict[str, Any]:
        started_s, before = time.monotonic(), self._n
        window = min(self._sender.window, 2 * len(self._sessions))
        while time.monotonic() < started_s + seconds:
            while self._waiting < window:
                self.publish(time.monotonic())
            self.hear(0.0)
        self.wait_until_all_is_seen()
        rate = (self._n - before) / (time.monotonic() - started_s)
        self.latencies_s.clear()
        return {"segments_per_s": rate}

    def pace(self, rate: float, seconds: float) -> dict[str, Any]:
        """Segments at even distances: those of different sessions come one by one, as from many sources."""
        self.latencies_s.clear()
        started_s = time.monotonic() + 0.05
        late_s: list[float] = []
        for number in range(int(rate * seconds)):
            due_s = started_s + number / rate
            self.hear(due_s)
            late_s.append(time.monotonic() - due_s)
            self.publish(due_s)
        self.wait_until_all_is_seen()
        return {
            "latencies_ms": [round(1000 * s, 3) for s in self.latencies_s],
            "late_ms": [round(1000 * s, 3) for s in late_s],
        }


def main() -> None:
    source = Source(plan_of_this_process())
    gc.collect()
    gc.disable()  # a collection of what 10,000 sessions hold takes longer than what is measured, and finds nothing
    say({"ready": True})
    poller = zmq.Poller()
    poller.register(0, zmq.POLLIN)
    while True:
        while not poller.poll(20):
            source.hear(0.0)
        line = sys.stdin.readline()
        if not line:
            return
        request = json.loads(line)
        say(source.saturate(request["saturate"]) if "saturate" in request else source.pace(**request))


if __name__ == "__main__":
    main()
