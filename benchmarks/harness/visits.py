"""Sessions that come, publish for a moment and go idle again: many more of them than are awake at a time.

A visit opens the session's stream, sends a few segments, ends the stream, and is over once they are durable. What the
worker cannot take now is sent again later, as a client does. One process, one connection.
"""

from __future__ import annotations

import heapq
import time
from typing import Any

import msgpack

from benchmarks.harness.blocks import BLOCKS, MODALITIES
from benchmarks.harness.load import RawSender, names, report
from benchmarks.harness.processes import Process, plan_of_this_process, say, wait_for_go

STREAM = MODALITIES[0]
STEP_S = 0.05


class VisitsProcess(Process):
    """`start`, then `finish`."""

    def __init__(self, endpoint: str, **plan: Any) -> None:
        super().__init__("benchmarks.harness.visits", {"endpoint": endpoint, **plan})
        self.hear(60.0)

    def start(self) -> None:
        self.tell({})

    def finish(self, within_s: float = 600.0) -> dict[str, Any]:
        return self.hear(within_s)


class Visits:
    """`rounds` visits to each session, `at_once` of them under way."""

    def __init__(self, plan: dict[str, Any]) -> None:
        self._block = BLOCKS[plan["block"]]
        self._sender = RawSender(plan["endpoint"])
        self._sender.open([])
        self._burst: int = plan["burst"]
        self._tensors = [segment.tobytes() for segment in self._block.segments(self._burst)]
        self._to_visit = iter(names("v", plan["sessions"]) * plan["rounds"])
        self._at_once: int = plan["at_once"]
        self._upto: dict[str, int] = {}
        """the sessions visited now, and the last number of the visit"""
        self._again: list[tuple[float, str]] = []
        """visits that were told to come again, and when"""
        self.refused = 0
        self.visited = 0

    def run(self) -> None:
        waiting = True
        while True:
            while waiting and len(self._upto) < self._at_once:
                session = next(self._to_visit, None)
                if session is None:
                    waiting = False
                else:
                    self._upto[session] = 0
                    self._open(session)
            if not self._upto:  # the last visits ended together
                return self._sender.close()
            while self._again and self._again[0][0] <= time.monotonic():
                self._open(heapq.heappop(self._again)[1])
            if not self._again or self._sender.socket.poll(5):
                self._take(self._sender.receive())

    def _open(self, session: str) -> None:
        self._sender.say("open", session, STREAM, STREAM, 1, 0)

    def _take(self, message: list[Any]) -> None:
        match message:
            case ["opened", session, _, durable, *_] if session in self._upto:
                self._upto[session] = self._upto[session] or durable + self._burst
                self._send(session, durable)
            case ["ack", rows]:
                for session, _, _, durable, *_ in rows:
                    if durable >= self._upto.get(session, 1 << 62) > 0:
                        del self._upto[session]
                        self.visited += 1
            case ["nack", code, text, session, _, _, _, retry_after_ms, *_]:
                if code not in ("slow_down", "not_open") or session not in self._upto:
                    raise RuntimeError(f"{code}: {text}")
                self.refused += 1
                heapq.heappush(self._again, (time.monotonic() + retry_after_ms / 1000, session))

    def _send(self, session: str, durable: int) -> None:
        upto = self._upto[session]
        numbers = range(durable + 1, upto + 1)
        rows = [[number, STEP_S * number, self._block.frames] for number in numbers]
        tensor = b"".join(self._tensors[number % self._burst] for number in numbers)
        header = [[session, STREAM, durable + 1, "f32", rows]]
        self._sender.socket.send_multipart([msgpack.packb([1, "segments", header]), tensor])
        self._sender.say("end", session, STREAM, upto)


def main() -> None:
    plan = plan_of_this_process()
    visits = Visits(plan)
    say({"ready": True})
    wait_for_go()
    started_s, cpu_s = time.monotonic(), time.process_time()
    visits.run()
    ended_s = time.monotonic()
    sent = visits.visited * plan["burst"]
    say(report(sent, started_s, ended_s, ended_s, time.process_time() - cpu_s, visits.refused))
    wait_for_go()


if __name__ == "__main__":
    main()
