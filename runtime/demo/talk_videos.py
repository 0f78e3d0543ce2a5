"""Where the demo's sound and pictures come from."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack
from pathlib import Path

from connectors.base import Position, Sample, Source
from connectors.intake import Intake
from connectors.media_file import MediaFileOptions, tracks_in
from connectors.media_stream import CameraOptions
from connectors.microphone import MicrophoneOptions
from grf_core.data.grid_s1 import LIPS_HZ
from runtime.demo.talk import Video

MAX_WAITING = 64


def from_files(paths: Sequence[Path]) -> list[Video]:
    """In real time; a file with one track only is played with that. Raises SourceBroken, MissingExtra."""
    names = Counter[str]()
    videos = []
    for path in paths:
        names[path.stem] += 1
        session = path.stem if names[path.stem] == 1 else f"{path.stem}.{names[path.stem]}"
        pieces = tracks_in(str(path))
        options = MediaFileOptions(
            path=str(path),
            pictures="pictures" in pieces,
            sound="sound" in pieces,
            pictures_hz=LIPS_HZ,
            start=0.0,
            speed=1.0,
        )
        videos.append(Video(session, options.build(), pieces))
    return videos


def from_devices() -> Video:
    """The first camera and microphone, until it is stopped. Times are those of arrival, for the two share no clock."""
    camera = CameraOptions(times="arrival", pictures_hz=LIPS_HZ).build()
    microphone = MicrophoneOptions(times="arrival").build()
    return Video("webcam", Together([camera, microphone]), frozenset({"pictures", "sound"}))


class Together(Source):
    """Several live sources as one. If one fails, so does the whole, and all are opened again."""

    delivery = "live"

    def __init__(self, sources: Sequence[Source]) -> None:
        self._sources = sources
        self._stack = AsyncExitStack()

    async def open(self, *, position: Position) -> None:
        for source in self._sources:
            await self._stack.enter_async_context(source.opened())

    async def __aiter__(self) -> AsyncGenerator[Sequence[Sample], None]:
        intake = Intake(max_samples=MAX_WAITING, when_full="block")
        tasks = [asyncio.create_task(self._read(source, intake)) for source in self._sources]
        try:
            async for batch in intake.batches():
                yield batch
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def _read(self, source: Source, intake: Intake) -> None:
        try:
            async for batch in source:
                for sample in batch:
                    await intake.put(sample)
        except Exception as error:  # raised to whoever reads the whole
            intake.fail(error)

    async def close(self) -> None:
        await self._stack.aclose()
