"""Triton over gRPC: one stream per session, its requests in order, `sequence_start` on the first."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import numpy as np
import tritonclient.grpc.aio as grpc

from benchmarks.peers.clients import run_client


class Stream:
    """One bidirectional stream."""

    def __init__(self, client: grpc.InferenceServerClient) -> None:
        self._requests: asyncio.Queue[dict[str, Any] | None] = asyncio.Queue()
        self._answers: asyncio.Queue[Any] = asyncio.Queue()
        self._task = asyncio.create_task(self._run(client))

    async def _run(self, client: grpc.InferenceServerClient) -> None:
        try:
            async for result, error in client.stream_infer(inputs_iterator=self._outgoing()):
                self._answers.put_nowait(error or result)
        except Exception as error:
            self._answers.put_nowait(error)

    async def _outgoing(self) -> AsyncIterator[dict[str, Any]]:
        while (request := await self._requests.get()) is not None:
            yield request

    async def ask(self, request: dict[str, Any]) -> bytes:
        if self._task.done():
            raise ConnectionError("the stream has ended")
        self._requests.put_nowait(request)
        answer = await self._answers.get()
        if isinstance(answer, Exception):
            raise ConnectionError(str(answer)[:200])
        return bytes(answer.as_numpy("ANSWER").tobytes())

    def close(self) -> None:
        self._requests.put_nowait(None)
        self._task.cancel()

    @property
    def is_over(self) -> bool:
        return self._task.done()


class TritonTransport:
    def __init__(self, plan: dict[str, Any]) -> None:
        self._client = grpc.InferenceServerClient(f"{plan['host']}:{plan['port']}")
        self._streams: dict[int, Stream] = {}
        self._started: set[int] = set()

    async def request(self, session: int, body: bytes) -> bytes:
        stream = self._streams.get(session)
        if stream is None or stream.is_over:
            stream = self._streams[session] = Stream(self._client)
        tensor = grpc.InferInput("SEGMENT", [1, len(body) - 4], "UINT8")
        tensor.set_data_from_numpy(np.frombuffer(body, np.uint8, offset=4)[None])
        request = {
            "model_name": "fusion",
            "inputs": [tensor],
            "sequence_id": session,
            "sequence_start": session not in self._started,
        }
        try:
            answer = await stream.ask(request)
        except OSError:
            self._started.discard(session)  # the server knows the sequence no more: it can only be begun anew
            raise
        self._started.add(session)
        return answer

    async def stats(self) -> tuple[int, int]:
        """The server's own counts: a request of our own would need a slot."""
        answer = await self._client.get_inference_statistics("fusion")
        (model,) = answer.model_stats
        return model.execution_count, model.inference_count

    async def close(self) -> None:
        for stream in self._streams.values():
            stream.close()
        await self._client.close()


if __name__ == "__main__":
    run_client(TritonTransport)
