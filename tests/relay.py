"""TCP connections that can be cut without telling either end, as networks are: what is sent then arrives later.

Or be reset, and both ends are told.
"""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Self

CHUNK_BYTES = 1 << 16


class Relay:
    """Listens on `port`, passes everything on to `target_port` of this machine and back."""

    def __init__(self, target_port: int = 0) -> None:
        self.target_port = target_port
        self._loop = asyncio.new_event_loop()
        self._is_whole = asyncio.Event()
        self._is_whole.set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._writers: list[asyncio.StreamWriter] = []
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        self.port = asyncio.run_coroutine_threadsafe(self._listen(), self._loop).result(10.0)

    def cut(self) -> None:
        """New connections are accepted, as a kernel does that has heard of them; nothing passes any more."""
        self._loop.call_soon_threadsafe(self._is_whole.clear)

    def heal(self) -> None:
        self._loop.call_soon_threadsafe(self._is_whole.set)

    def reset(self) -> None:
        """Both ends of every connection are told; new ones are carried."""
        self._loop.call_soon_threadsafe(self._abort)

    def _abort(self) -> None:
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def close(self) -> None:
        asyncio.run_coroutine_threadsafe(self._end(), self._loop).result(10.0)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    async def _listen(self) -> int:
        self._server = await asyncio.start_server(self._accepted, "127.0.0.1", 0)
        return int(self._server.sockets[0].getsockname()[1])

    async def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        try:
            await self._is_whole.wait()
            there_reader, there_writer = await asyncio.open_connection("127.0.0.1", self.target_port)
            self._writers += [writer, there_writer]
            await asyncio.gather(self._pump(reader, there_writer), self._pump(there_reader, writer))
        except (OSError, asyncio.CancelledError):
            writer.close()
        finally:
            self._tasks.discard(task)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK_BYTES):
                await self._is_whole.wait()
                writer.write(data)
                await writer.drain()
            await self._is_whole.wait()
        finally:
            writer.close()

    async def _end(self) -> None:
        self._server.close()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
