"""The encoders of the contract whose work is done in `Processes`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from connectors.base import JsonValue, Sample
from connectors.encoders.base import Encoder, EncoderFactory, Frames
from connectors.encoders.processes import Processes, Workshop


class HostedFactory(EncoderFactory):
    def __init__(
        self, make: Callable[[], Workshop], *, processes: int, lag_s: float = math.inf, a_frame_each: bool = False
    ) -> None:
        self._processes = Processes(make, count=processes)
        self.lag_s = lag_s
        self.a_frame_each = a_frame_each

    def encoder(self, *, stream: str) -> HostedEncoder:
        return HostedEncoder(self._processes, stream)

    async def open(self) -> None:
        await self._processes.open()

    async def close(self) -> None:
        await self._processes.close()


class HostedEncoder(Encoder):
    """Its memory is in a process; the snapshot is what that said last."""

    def __init__(self, processes: Processes, stream: str) -> None:
        self._processes = processes
        self._stream = stream
        self._begins = True
        self._snapshot: JsonValue = None

    async def encode(self, *, samples: Sequence[Sample]) -> Sequence[Frames]:
        answer = await self._processes.encode(self._stream, samples, anew=self._begins, state=self._snapshot)
        self._begins, self._snapshot = False, answer.snapshot
        return answer.results

    async def end(self) -> Sequence[Frames]:
        answer = await self._processes.end(self._stream, anew=self._begins, state=self._snapshot)
        self._begins, self._snapshot = True, None
        return answer.results

    def snapshot(self) -> JsonValue:
        return self._snapshot

    def restore(self, *, state: JsonValue) -> None:
        self._begins, self._snapshot = True, state
