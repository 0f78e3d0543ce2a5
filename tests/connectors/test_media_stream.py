"""Live media over loopback: RTP as UDP packets, RTSP by a publisher that comes to our listening port."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Callable, Coroutine
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from connectors.base import Sample, Source
from connectors.errors import SourceBroken, SourceUnavailable
from connectors.media_stream import MAX_WAITING, CameraOptions, MediaStreamOptions
from tests.connectors.media_materials import RtpSender, RtpStream, block, grey, tone, write_media, write_sdp
from tests.connectors.samples import times_of
from tests.servers import free_port

WITHIN_S = 20.0


def run(main: Coroutine[Any, Any, None]) -> None:
    async def within_limit() -> None:
        async with asyncio.timeout(WITHIN_S):
            await main

    asyncio.run(within_limit())


async def take_until(source: Source, is_enough: Callable[[list[Sample]], bool]) -> list[Sample]:
    taken: list[Sample] = []
    async for batch in source:
        taken += batch
        if is_enough(taken):
            break
    return taken


def rtp_source(folder: Path, port: int, **options: Any) -> Source:
    sdp = write_sdp(folder / "call.sdp", port)
    return MediaStreamOptions(url=str(sdp), pictures=False, open_within_s=0.3, silent_s=0.5, **options).build()


def test_lost_packets_are_a_gap_in_time_and_no_sound_is_joined_across_it(rtp: RtpStream) -> None:
    async def main() -> None:
        async with rtp.make().opened() as source:
            rtp._sender.send(block(1))
            rtp._sender.skip(2.0)
            rtp._sender.send(np.concatenate([block(2), block(3)]))
            samples = await take_until(source, lambda taken: len(taken) == 3)
        assert [rtp.number(sample) for sample in samples] == [1, 2, 3]
        assert [b - a for a, b in pairwise(times_of(samples))] == pytest.approx([2.1, 0.1], abs=0.01)

    run(main())


def test_what_nobody_takes_is_given_up_oldest_first_and_counted(tmp_path: Path) -> None:
    port = free_port()
    sender = RtpSender(port)
    sent = MAX_WAITING + 20

    async def main() -> None:
        source = rtp_source(tmp_path, port)
        async with source.opened():
            for number in range(sent):
                sender.send(block(number))
                await asyncio.sleep(0.002)  # the kernel's buffer is smaller than ours
            while source.dropped < 20:
                await asyncio.sleep(0.01)
            samples = await take_until(source, lambda taken: len(taken) >= MAX_WAITING)
        assert samples[0].value[0] == block(20)[0]
        assert source.dropped == 20

    run(main())
    sender.close()


def test_a_side_that_falls_silent_is_unavailable(rtp: RtpStream) -> None:
    async def main() -> None:
        async with rtp.make().opened() as source:
            await rtp.produce(0, 2, source)
            with pytest.raises(SourceUnavailable):
                await take_until(source, lambda taken: False)

    run(main())


def test_arrival_alone_is_the_time_where_that_is_asked_for(tmp_path: Path) -> None:
    port = free_port()
    sender = RtpSender(port)

    async def main() -> None:
        async with rtp_source(tmp_path, port, times="arrival").opened() as source:
            sender.send(block(1))
            (sample,) = await take_until(source, bool)
        assert sample.event_time_s is None
        assert sample.arrival_s is not None

    run(main())
    sender.close()


def test_an_rtsp_publisher_is_listened_to_and_its_end_is_told(tmp_path: Path) -> None:
    path = write_media(
        tmp_path / "call.mkv", [grey(n % 30) for n in range(50)], tone(440, 2.0), video="mpeg4", audio="aac"
    )
    address = f"rtsp://127.0.0.1:{free_port()}/in"
    publisher = subprocess.Popen([sys.executable, "-m", "tests.connectors.rtsp_publisher", str(path), address])
    samples: list[Sample] = []

    async def main() -> None:
        source = MediaStreamOptions(url=address, listen=True, key="call").build()
        async with source.opened():
            async for batch in source:
                samples.extend(batch)

    with pytest.raises(SourceUnavailable):
        run(main())
    assert publisher.wait(WITHIN_S) == 0
    pictures = [sample for sample in samples if sample.stream_key == "call/pictures"]
    sound = [sample for sample in samples if sample.stream_key == "call/sound"]
    assert len(pictures) >= 45
    assert sum(len(sample.value) for sample in sound) == pytest.approx(32_000, abs=4000)
    steps = [b - a for a, b in pairwise(times_of(pictures))]
    assert steps == pytest.approx([0.04] * len(steps), abs=0.002)


def test_an_address_that_nobody_serves_is_waited_for_and_one_that_cannot_be_is_not() -> None:
    async def open_it(url: str) -> None:
        async with MediaStreamOptions(url=url, open_within_s=1.0).build().opened():
            raise AssertionError("it cannot be open")

    with pytest.raises(SourceUnavailable, match="refused"):
        run(open_it(f"rtsp://127.0.0.1:{free_port()}/nobody"))
    with pytest.raises(SourceBroken, match="nonsense"):
        run(open_it("nonsense://127.0.0.1/"))


def test_a_camera_that_is_not_plugged_in_is_waited_for() -> None:
    async def main() -> None:
        async with CameraOptions(device="/dev/video-of-nobody").build().opened():
            raise AssertionError("it cannot be open")

    with pytest.raises(SourceUnavailable, match="video-of-nobody"):
        run(main())


def test_a_drawn_camera_is_read_until_it_is_closed() -> None:
    """FFmpeg's own test picture, through the path of a capture device."""
    from connectors.media_stream import LiveMediaSource

    async def main() -> None:
        options = CameraOptions(pictures_hz=20, times="arrival")
        source = LiveMediaSource(options, "testsrc=size=64x48:rate=40,realtime", "lavfi", {})
        async with source.opened():
            samples = await take_until(source, lambda taken: len(taken) >= 5)
        assert {sample.value.shape for sample in samples} == {(48, 64, 3)}
        assert [sample.stream_key for sample in samples[:1]] == ["live/pictures"]
        arrivals = [sample.arrival_s for sample in samples if sample.arrival_s is not None]
        assert len(arrivals) == len(samples)
        assert np.mean(np.diff(arrivals)) == pytest.approx(1 / 20, rel=0.5)

    run(main())
