"""The clients: so many sessions, each with one request under way; its next goes out when the answer is there.

One process, one thread. It is asked, a JSON line each:

    {"closed": seconds, "sessions": n}      -> {"segments_per_s": ..., "p50_ms": ..., "p99_ms": ..., ...}
    {"ask": session, "times": n}            -> {"count": segments in its context}, or {"error": text}
    {"stats": true}                         -> {"steps": ..., "segments": ...}

What differs between the peers is the transport (`Transport`).
"""

from __future__ import annotations

import asyncio
import json
import struct
import sys
import time
from typing import Any, Protocol

from benchmarks.harness.blocks import BLOCKS, MODALITIES, Block
from benchmarks.harness.processes import Process, plan_of_this_process, say

DIFFERENT_SEGMENTS = 64
STATS = 0xFFFFFFFF
ANSWER_WITHIN_S = 10.0


class Transport(Protocol):
    """How requests reach a peer."""

    async def request(self, session: int, body: bytes) -> bytes:
        """The answer to one request; raises OSError when there is none."""
        ...

    async def close(self) -> None: ...

    # stats() -> (steps, segments), if the server counts them itself


class ClientProcess(Process):
    def __init__(self, module: str, plan: dict[str, Any], python: str = sys.executable) -> None:
        super().__init__(module, plan, python=python)
        self.hear()

    def closed(self, seconds: float, sessions: int) -> dict[str, Any]:
        self.tell({"closed": seconds, "sessions": sessions})
        return self.hear(seconds + 3 * ANSWER_WITHIN_S)

    def ask(self, session: int, times: int = 1) -> dict[str, Any]:
        self.tell({"ask": session, "times": times})
        return self.hear(times * ANSWER_WITHIN_S + 30.0)

    def stats(self) -> dict[str, Any]:
        self.tell({"stats": True})
        return self.hear(30.0)


def bodies(block: Block) -> list[list[bytes]]:
    """Requests without their session, by modality."""
    segments = block.segments(DIFFERENT_SEGMENTS)
    return [
        [struct.pack("<HH", rank, 0) + segment.tobytes() for segment in segments] for rank in range(len(MODALITIES))
    ]


class Client:
    def __init__(self, transport: Transport, block: Block) -> None:
        self._transport = transport
        self._bodies = bodies(block)
        self._asked: dict[int, int] = {}

    async def _segment(self, session: int) -> int:
        number = self._asked[session] = self._asked.get(session, -1) + 1
        same_modality = self._bodies[number % len(MODALITIES)]
        body = struct.pack("<I", session) + same_modality[(session + number) % DIFFERENT_SEGMENTS]
        answer = await asyncio.wait_for(self._transport.request(session, body), ANSWER_WITHIN_S)
        return int(struct.unpack_from("<I", answer)[0])

    async def closed(self, seconds: float, sessions: int) -> dict[str, Any]:
        times_s: list[float] = []
        failed = 0
        until_s = time.perf_counter() + seconds

        async def one(session: int) -> None:
            nonlocal failed
            while (started_s := time.perf_counter()) < until_s:
                try:
                    await self._segment(session)
                except (OSError, TimeoutError):
                    failed += 1
                else:
                    times_s.append(time.perf_counter() - started_s)

        started_s, cpu_s = time.perf_counter(), time.process_time()
        await asyncio.gather(*(one(session) for session in range(1, sessions + 1)))
        rate = len(times_s) / (time.perf_counter() - started_s)
        times_s.sort()
        if not times_s:
            raise RuntimeError(f"none of {failed} requests was answered")
        middle, high = times_s[len(times_s) // 2], times_s[len(times_s) * 99 // 100]
        return {
            "segments_per_s": round(rate),
            "p50_ms": round(1000 * middle, 2),
            "p99_ms": round(1000 * high, 2),
            "client_us": round(1e6 * (time.process_time() - cpu_s) / len(times_s), 1),
            "failed": failed,
        }

    async def ask(self, session: int, times: int) -> dict[str, Any]:
        try:
            for _ in range(times):
                count = await self._segment(session)
            return {"count": count}
        except (OSError, TimeoutError) as error:
            return {"error": f"{type(error).__name__}: {error}"}

    async def stats(self) -> dict[str, Any]:
        of_server = getattr(self._transport, "stats", None)
        if of_server is not None:
            steps, segments = await of_server()
            return {"steps": steps, "segments": segments}
        body = struct.pack("<I", STATS) + self._bodies[0][0]
        steps, segments = struct.unpack_from("<If", await self._transport.request(STATS, body))
        return {"steps": steps, "segments": round(segments)}

    async def serve(self) -> None:
        """Answer requests until the input ends."""
        loop = asyncio.get_running_loop()
        say({"ready": True})
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            match json.loads(line):
                case {"closed": seconds, "sessions": sessions}:
                    say(await self.closed(seconds, sessions))
                case {"ask": session, "times": times}:
                    say(await self.ask(session, times))
                case {"stats": True}:
                    say(await self.stats())
        await self._transport.close()


def run_client(make: Any) -> None:
    """`make(plan)` gives the transport, inside the event loop."""

    async def main() -> None:
        plan = plan_of_this_process()
        await Client(make(plan), BLOCKS[plan["block"]]).serve()

    asyncio.run(main())
