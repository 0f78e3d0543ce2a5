"""A microphone of this machine, through PortAudio. Needs the extra `media`, and on Debian the package libportaudio2.

    from: {kind: microphone}                  clock: {kind: device}

Its samples are called KEY/sound, 16 kHz, one channel. A live source: what nobody takes in time is given up, oldest
first, and counted. Times are PortAudio's, which begin anywhere: `clock: {kind: device}` maps them to wall time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from connectors.base import Position, Sample, Source, SourceOptions
from connectors.errors import SourceBroken, SourceUnavailable, Translation, need, translated
from connectors.intake import Intake
from connectors.media import SAMPLE_RATE_HZ

MAX_WAITING = 100
"""blocks that wait for the pipeline: 10 s"""


class MicrophoneOptions(SourceOptions):
    kind: Literal["microphone"] = "microphone"
    extra: ClassVar[str] = "media"
    device: int | str | None = Field(
        None, description="Number, or part of the name, as `python -m sounddevice` lists them.  [default: the system's]"
    )
    key: str = Field("live", min_length=1, description="Stream key before /sound.")
    block_s: float = Field(0.1, ge=0.01, le=10, description="Length of a block of sound.")
    times: Literal["stream", "arrival"] = Field("stream", description="Whose time the samples have.")

    def build(self) -> MicrophoneSource:
        return MicrophoneSource(self)


class MicrophoneSource(Source):
    delivery = "live"

    def __init__(self, options: MicrophoneOptions) -> None:
        self._options = options
        self._intake: Intake | None = None
        self._stream: Any = None
        self._dropped_before = 0

    @property
    def dropped(self) -> int:  # type: ignore[override]  # nobody sets it: it is the intakes' count
        return self._dropped_before + (self._intake.dropped if self._intake is not None else 0)

    async def open(self, *, position: Position) -> None:
        sounddevice = _sounddevice()
        loop = asyncio.get_running_loop()
        intake = self._intake = Intake(max_samples=MAX_WAITING, when_full="drop_oldest")
        key = f"{self._options.key}/sound"

        def on_block(block: Any, frames: int, times: Any, status: Any) -> None:
            """In PortAudio's thread; the block is only lent."""
            length_s = frames / SAMPLE_RATE_HZ
            time_s = float(times.inputBufferAdcTime) if self._options.times == "stream" else None
            sound = np.array(block[:, 0], np.int16)
            loop.call_soon_threadsafe(intake.offer, Sample(key, sound, time_s, time.time() - length_s))

        def on_end() -> None:
            """It was unplugged, or it is closed, and then nobody reads this any more."""
            if not loop.is_closed():
                loop.call_soon_threadsafe(intake.fail, SourceUnavailable("the microphone has stopped"))

        with translated(_foreign(sounddevice), "the microphone"):
            self._stream = sounddevice.InputStream(
                device=self._options.device,
                samplerate=SAMPLE_RATE_HZ,
                channels=1,
                dtype="int16",
                blocksize=round(self._options.block_s * SAMPLE_RATE_HZ),
                callback=on_block,
                finished_callback=on_end,
            )
            self._stream.start()

    async def __aiter__(self) -> AsyncGenerator[Sequence[Sample], None]:
        assert self._intake is not None, "the source is not open"
        async for batch in self._intake.batches():
            yield batch

    async def close(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            await asyncio.to_thread(stream.close)
        if self._intake is not None:
            self._dropped_before += self._intake.dropped
            self._intake = None


def _sounddevice() -> Any:
    try:
        return need("sounddevice", "media")
    except OSError as error:  # the package is there, and the library is not
        raise SourceBroken(
            f"the microphone needs PortAudio ({error}): on Debian, apt-get install libportaudio2"
        ) from None


def _foreign(sounddevice: Any) -> Translation:
    """A device that is not there may be plugged in; an argument that cannot be stays so."""
    return {sounddevice.PortAudioError: SourceUnavailable, ValueError: SourceUnavailable}
