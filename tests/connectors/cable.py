"""A TCP connection to a server, to be cut or to fall silent."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from types import TracebackType
from typing import Self


class Cable:
    def __init__(self, port: int) -> None:
        self.port = 0
        self._to = port
        self._writers: list[asyncio.StreamWriter] = []
        self._swallowing = asyncio.Event()
        self._carrying = set[asyncio.Task[None]]()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._carry, "127.0.0.1", 0)
        self.port = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.cut()
        self._server.close()
        await self._server.wait_closed()
        await asyncio.gather(*self._carrying)

    def cut(self) -> None:
        """Both sides are told."""
        for writer in self._writers:
            writer.transport.abort()
        self._writers.clear()

    def fall_silent(self) -> None:
        """Nobody is told: connections stay, and what is sent over them goes nowhere. So do new ones, until `mend`."""
        self._swallowing.set()

    def mend(self) -> None:
        """For connections that are made from now on."""
        self._swallowing = asyncio.Event()

    def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._connected(reader, writer))
        self._carrying.add(task)
        task.add_done_callback(self._carrying.discard)

    async def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._to)
        self._writers += [writer, far_writer]
        swallowing = self._swallowing
        with suppress(OSError):
            await asyncio.gather(_pass_on(reader, far_writer, swallowing), _pass_on(far_reader, writer, swallowing))


async def _pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, swallowing: asyncio.Event) -> None:
    while data := await reader.read(65_536):
        if not swallowing.is_set():
            writer.write(data)
            await writer.drain()
    if not swallowing.is_set():  # else this side does not hear of the end either
        writer.close()
