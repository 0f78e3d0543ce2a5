"""What repeated requests, a killed process, idleness and growth do to a session's context, at each peer and with us.

Every session is sent 20 segments; half way something happens. What its context holds in the end is compared:

    lost        of the segments that had been answered, how many are not in it
    double      how many are in it twice
    retry       one segment is sent again, as by a client that has missed the answer
    kill        SIGKILL to the process that holds the contexts
    idle        nothing is sent for longer than the server keeps an idle session
    scale       another process for the contexts begins to serve
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.harness.blocks import LIGHT, MODALITIES
from benchmarks.harness.models import save_block
from benchmarks.harness.worker import WorkerProcess
from benchmarks.peers.clients import ClientProcess
from benchmarks.peers.servers import PEERS, TRITON_IDLE_S, Server
from runtime.client import Publisher, StateClient
from tests.servers import free_port

SESSIONS, HALF = 8, 10
BACK_WITHIN_S = 25.0

Row = dict[str, Any]


def row(peer: str, event: str, counts: list[int], remark: str = "") -> Row:
    """`counts`: segments in the context of each session in the end."""
    sent = 2 * HALF
    return {
        "peer": peer,
        "event": event,
        "sent": sent * len(counts),
        "lost": sum(max(sent - count, 0) for count in counts),
        "double": sum(max(count - sent, 0) for count in counts),
        "remark": remark,
    }


def cannot(peer: str, event: str, remark: str) -> Row:
    return {"peer": peer, "event": event, "sent": None, "lost": None, "double": None, "remark": remark}


class PeerLoss:
    def __init__(self, peer: str, folder: Path) -> None:
        self._peer = peer
        self._server: Server = PEERS[peer](LIGHT.name, "readable", folder)
        self._client = self._connect()

    def _connect(self) -> ClientProcess:
        server = self._server
        return ClientProcess(server.client, server.plan | {"block": LIGHT.name}, server.client_python)

    def run(self) -> list[Row]:
        try:
            self._answered(9_999, 1, 60.0)
            return [self._retry(), self._idle(), self._scale(), self._kill()]
        finally:
            self._client.close()
            self._server.close()

    def _answered(self, session: int, times: int, within_s: float = BACK_WITHIN_S) -> int:
        """The count after so many segments were answered; -1 if that is not so in time."""
        count, until_s = -1, time.monotonic() + within_s
        while times and time.monotonic() < until_s:
            answer = self._client.ask(session)
            if "count" in answer:
                count, times = answer["count"], times - 1
            else:
                time.sleep(0.2)
        return -1 if times else count

    def _halves(self, event: str, first: int, between: Callable[[], None], remark: str = "") -> Row:
        sessions = range(first, first + SESSIONS)
        for session in sessions:
            self._answered(session, HALF)
        between()
        counts = []
        for session in sessions:
            counts.append(self._answered(session, HALF))
            if counts[-1] < 0:
                remark = f"no answer within {BACK_WITHIN_S:g} s: all that it had is lost"
                return row(self._peer, event, [HALF] * SESSIONS, remark)
        return row(self._peer, event, counts, remark)

    def _retry(self) -> Row:
        def again() -> None:
            for session in range(1, 1 + SESSIONS):
                self._answered(session, 1)

        return self._halves("retry", 1, again, "a request has no number: it cannot be recognised")

    def _idle(self) -> Row:
        if self._peer == "triton":
            remark = f"max_sequence_idle_microseconds: {TRITON_IDLE_S:g} s; the sequence can only be begun anew"
            return self._halves("idle", 101, lambda: time.sleep(1.5 * TRITON_IDLE_S), remark)
        return self._halves("idle", 101, lambda: time.sleep(2.0), "kept for ever: memory grows with every session seen")

    def _scale(self) -> Row:
        if self._server.scale is None:
            return cannot(self._peer, "scale", "the number of processes is set when it starts")
        return self._halves("scale", 201, self._server.scale, "from 1 to 2 replicas, consistent hashing")

    def _kill(self) -> Row:
        def kill() -> None:
            self._server.kill_model()
            if self._server.again is not None:
                self._server.process.wait(10)
                self._client.close()
                self._server = self._server.again()
                self._client = self._connect()
            self._answered(9_998, 1)

        remark = "started again by hand, over its recovery store" if self._server.again else ""
        return self._halves("kill", 301, kill, remark)


class OwnLoss:
    """The same with a worker of ours; a publisher numbers its segments and sends again by itself."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._bundle = save_block(LIGHT, folder)
        self._port = free_port()
        self._worker = self._start(self._port)
        self._segments = LIGHT.segments(2 * HALF)

    def _start(self, port: int) -> WorkerProcess:
        flags = (f"runtime.data_port={port}", "runtime.evict_after_s=0.5", "order.idle_timeout_s=0.2")
        return WorkerProcess(self._folder / "state", self._bundle, *flags)

    def run(self) -> list[Row]:
        try:
            return [self._retry(), self._idle(), self._kill(), self._scale()]
        finally:
            self._worker.close()

    def _halves(self, event: str, between: Callable[[], None], remark: str) -> Row:
        sessions = [f"{event}-{number}" for number in range(SESSIONS)]
        with Publisher(lambda: self._worker.endpoint, client=event) as publisher:
            self._publish(publisher, sessions, range(1, HALF + 1))
            between()
            self._publish(publisher, sessions, range(HALF + 1, 2 * HALF + 1))
            self._end(publisher, sessions)
        return self._counted(event, sessions, remark)

    def _end(self, publisher: Publisher, sessions: list[str]) -> None:
        for session in sessions:
            for stream in MODALITIES:
                publisher.end(session, stream)
        publisher.flush(60.0)

    def _counted(self, event: str, sessions: list[str], remark: str) -> Row:
        with StateClient(self._worker.endpoint) as reader:
            counts = [reader.state(session)["settled"]["version"] for session in sessions]
        return row("grf", event, counts, remark)

    def _publish(self, publisher: Publisher, sessions: list[str], numbers: range) -> None:
        receipts = [
            publisher.publish(
                session,
                MODALITIES[number % 2],
                MODALITIES[number % 2],
                self._segments[number - 1],
                0.05 * number,
                sequence=(number + 1) // 2,
            )
            for number in numbers
            for session in sessions
        ]
        for receipt in receipts:
            publisher.wait(receipt, until="fused", timeout_s=60.0)

    def _retry(self) -> Row:
        """A publisher is started again, knows of no answer, and sends all of it again."""
        sessions = [f"retry-{number}" for number in range(SESSIONS)]
        with Publisher(self._worker.endpoint, client="retry") as first:
            self._publish(first, sessions, range(1, HALF + 1))
        with Publisher(self._worker.endpoint, client="retry") as second:
            self._publish(second, sessions, range(1, 2 * HALF + 1))
            self._end(second, sessions)
        return self._counted("retry", sessions, "all of the first half sent again, by its numbers")

    def _idle(self) -> Row:
        def wait() -> None:
            until_s = time.monotonic() + 20.0
            while self._worker.metrics()["grf_sessions_resident"] and time.monotonic() < until_s:
                continue

        return self._halves("idle", wait, "evicted after 0.5 s, loaded from the store")

    def _kill(self) -> Row:
        def kill() -> None:
            os.kill(self._worker.pid, signal.SIGKILL)
            self._worker.close()
            self._worker = self._start(self._port)

        return self._halves("kill", kill, "started again over its store")

    def _scale(self) -> Row:
        first = self._worker

        def grow() -> None:
            self._worker = self._start(free_port())

        try:
            return self._halves("scale", grow, "a second worker takes over all sessions while the first still runs")
        finally:
            first.close()


def losses(peer: str, folder: Path) -> list[Row]:
    return OwnLoss(folder).run() if peer == "grf" else PeerLoss(peer, folder).run()
