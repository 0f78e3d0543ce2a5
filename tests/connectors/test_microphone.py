"""The microphone over a PortAudio of the test: machines that run tests have none."""

from __future__ import annotations

import asyncio
import sys
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from connectors.contract import run, take
from connectors.errors import SourceBroken, SourceUnavailable
from connectors.microphone import MAX_WAITING, MicrophoneOptions


class PortAudioError(Exception):
    pass


class InputStream:
    """Calls back from a thread, as PortAudio does."""

    blocks = 5

    def __init__(self, *, callback: Callable[..., None], finished_callback: Callable[[], None], **options: Any) -> None:
        if options["device"] == "nowhere":
            raise PortAudioError("no such device")
        assert (options["samplerate"], options["channels"], options["dtype"]) == (16_000, 1, "int16")
        self._blocksize = options["blocksize"]
        self._callback, self._finished = callback, finished_callback
        self._thread = threading.Thread(target=self._run)

    def start(self) -> None:
        self._thread.start()

    def _run(self) -> None:
        lent = np.zeros((self._blocksize, 1), np.int16)  # PortAudio's own memory, used again for each block
        for number in range(self.blocks):
            lent[:] = number
            times = SimpleNamespace(inputBufferAdcTime=100.0 + number * self._blocksize / 16_000)
            self._callback(lent, self._blocksize, times, None)

    def close(self) -> None:
        self._thread.join()
        self._finished()


@pytest.fixture
def portaudio(monkeypatch: pytest.MonkeyPatch) -> type[InputStream]:
    stream = type("Stream", (InputStream,), {})
    monkeypatch.setitem(sys.modules, "sounddevice", SimpleNamespace(InputStream=stream, PortAudioError=PortAudioError))
    return stream


@pytest.mark.parametrize("times", ["stream", "arrival"])
def test_blocks_come_in_order_with_their_times_and_are_copies(portaudio: type[InputStream], times: Any) -> None:
    async def main() -> None:
        async with MicrophoneOptions(block_s=0.1, times=times, key="me").build().opened() as source:
            samples = await take(source, 5)
        assert [set(sample.value.tolist()) for sample in samples] == [{number} for number in range(5)]
        assert {(sample.stream_key, len(sample.value)) for sample in samples} == {("me/sound", 1600)}
        stamps = [sample.event_time_s for sample in samples]
        assert stamps == ([None] * 5 if times == "arrival" else pytest.approx([100 + n / 10 for n in range(5)]))
        assert all(sample.arrival_s is not None and sample.position is None for sample in samples)

    run(main())


def test_what_nobody_takes_is_given_up_and_counted(portaudio: type[InputStream]) -> None:
    portaudio.blocks = MAX_WAITING + 7

    async def main() -> None:
        source = MicrophoneOptions(block_s=0.01).build()
        async with source.opened():
            while source.dropped < 7:
                await asyncio.sleep(0.005)
            samples = await take(source, MAX_WAITING)
        assert samples[0].value[0] == 7
        assert source.dropped == 7  # and is still known once it is closed

    run(main())


def test_a_device_that_is_not_plugged_in_is_waited_for(portaudio: type[InputStream]) -> None:
    async def main() -> None:
        async with MicrophoneOptions(device="nowhere").build().opened():
            raise AssertionError("it cannot be open")

    with pytest.raises(SourceUnavailable, match="no such device"):
        run(main())


def test_without_portaudio_the_debian_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_library(*_: object) -> None:
        raise OSError("PortAudio library not found")

    monkeypatch.setattr("connectors.microphone.need", no_library)

    async def main() -> None:
        async with MicrophoneOptions().build().opened():
            raise AssertionError("it cannot be open")

    with pytest.raises(SourceBroken, match="libportaudio2"):
        run(main())
