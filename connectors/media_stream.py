"""Live sound and pictures over a network, and cameras: RTSP, RTP, anything that FFmpeg opens. Needs the extra `media`.

    from: {kind: media_stream, url: "rtsp://camera.local/live", pictures_hz: 25}      clock: {kind: device}
    from: {kind: media_stream, url: call.sdp}                         # RTP: the session as SDP, in a file
    from: {kind: media_stream, url: "rtsp://0.0.0.0:8554/in", listen: true}           # it publishes to us
    from: {kind: camera, device: /dev/video0, pictures_hz: 25}

Samples are called KEY/pictures and KEY/sound. A live source: what nobody takes in time is given up, oldest first, and
counted, for what is new matters more. Their times are the stream's own count of seconds, which begins anywhere: with
`clock: {kind: device}` it is mapped to wall time by when samples arrive; with `times: arrival` they have none of their
own. A side that ends the stream, or says nothing for `silent_s`, is unavailable, and opened again.
"""

from __future__ import annotations

import asyncio
import math
import sys
import threading
import time
from collections.abc import AsyncGenerator, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

from pydantic import Field

from connectors.base import Position, Sample, Source, SourceOptions
from connectors.errors import NETWORK, ConnectorError, SourceBroken, SourceUnavailable, Translation, need, translated
from connectors.intake import Intake
from connectors.media import SAMPLE_RATE_HZ
from connectors.media_decoding import Reading, TrackOptions, decoded, tracks_of

MAX_WAITING = 64
"""samples that wait for the pipeline: about 2 s of a camera and a microphone, and 180 MB of 1280 x 720"""
CLOSE_WITHIN_S = 10.0


class LiveMediaOptions(SourceOptions, TrackOptions):
    extra: ClassVar[str] = "media"
    key: str = Field("live", min_length=1, description="Stream key before /pictures and /sound.")
    times: Literal["stream", "arrival"] = Field("stream", description="Whose time the samples have.")
    open_within_s: float = Field(10.0, gt=0, le=120, description="For the other side to answer.")
    silent_s: float = Field(5.0, gt=0, le=120, description="Nothing for so long: the other side is gone.")


class MediaStreamOptions(LiveMediaOptions):
    kind: Literal["media_stream"] = "media_stream"
    url: str = Field(min_length=1, description="rtsp://, rtmp://, http(s)://, srt://, udp://, or an .sdp file for RTP.")
    transport: Literal["tcp", "udp"] = Field("tcp", description="Of RTSP.")
    listen: bool = Field(False, description="RTSP: wait at the address for somebody who publishes to it.")

    def build(self) -> LiveMediaSource:
        options = {"rtsp_transport": self.transport, "fflags": "nobuffer"}
        if self.listen:
            options |= {"rtsp_flags": "listen", "listen_timeout": str(math.ceil(self.open_within_s))}
        if self.url.endswith(".sdp"):
            options = {"protocol_whitelist": "file,udp,rtp", "fflags": "nobuffer"}
        return LiveMediaSource(self, self.url, None, options)


class CameraOptions(LiveMediaOptions):
    kind: Literal["camera"] = "camera"
    device: str = Field("/dev/video0", min_length=1, description="As the system calls it; 0 for the first on macOS.")
    sound: Literal[False] = Field(False, description="A camera has none; see the microphone.")
    size: str = Field("640x480", pattern=r"^\d{2,5}x\d{2,5}$", description="WIDTHxHEIGHT that it is asked for.")
    rate_hz: float = Field(25.0, gt=0, le=240, description="Pictures a second that it is asked for.")

    def build(self) -> LiveMediaSource:
        system = {"darwin": "avfoundation", "win32": "dshow"}.get(sys.platform, "v4l2")
        return LiveMediaSource(self, self.device, system, {"video_size": self.size, "framerate": f"{self.rate_hz:g}"})


class LiveMediaSource(Source):
    delivery = "live"

    def __init__(self, options: LiveMediaOptions, url: str, format_: str | None, libav_options: dict[str, str]) -> None:
        self._options = options
        self._url = url
        self._format = format_
        self._libav_options = libav_options
        self._intake: Intake | None = None
        self._reader: threading.Thread | None = None
        self._stop = threading.Event()
        self._dropped_before = 0

    @property
    def dropped(self) -> int:  # type: ignore[override]  # nobody sets it: it is the intakes' count
        return self._dropped_before + (self._intake.dropped if self._intake is not None else 0)

    async def open(self, *, position: Position) -> None:
        av = need("av", "media")
        container = await asyncio.to_thread(self._open, av)
        self._intake = Intake(max_samples=MAX_WAITING, when_full="drop_oldest")
        self._stop = threading.Event()
        reading = partial(self._read, av, container, asyncio.get_running_loop(), self._intake, self._stop)
        self._reader = threading.Thread(target=reading, name=f"media-{self._options.key}", daemon=True)
        self._reader.start()

    def _open(self, av: Any) -> Any:
        timeout = (self._options.open_within_s, self._options.silent_s)
        with translated(foreign_live(av), self._url):
            return av.open(self._url, format=self._format, options=self._libav_options, timeout=timeout)

    def _read(
        self, av: Any, container: Any, loop: asyncio.AbstractEventLoop, intake: Intake, stop: threading.Event
    ) -> None:
        """In a thread of its own, from the first sample to the last; the container is closed where it is read."""
        error: Exception = SourceUnavailable(f"{self._url}: the other side ended the stream")
        try:
            with translated(foreign_live(av), self._url), container:
                tracks = tracks_of(container, self._options, self._url)
                for item in decoded(av, container, tracks, self._options, Reading()):
                    if stop.is_set():
                        return
                    value = item.make()
                    length_s = len(value) / SAMPLE_RATE_HZ if item.track == "sound" else 0.0
                    time_s = item.pts_s if self._options.times == "stream" else None
                    sample = Sample(f"{self._options.key}/{item.track}", value, time_s, time.time() - length_s)
                    loop.call_soon_threadsafe(intake.offer, sample)
        except ConnectorError as told:
            error = told
        except RuntimeError:  # the loop is closed: nobody listens any more
            return
        except Exception as defect:
            error = SourceBroken(f"{self._url}: {type(defect).__name__}: {defect}")
        if not loop.is_closed():
            loop.call_soon_threadsafe(intake.fail, error)

    async def __aiter__(self) -> AsyncGenerator[Sequence[Sample], None]:
        assert self._intake is not None, "the source is not open"
        async for batch in self._intake.batches():
            yield batch

    async def close(self) -> None:
        """The reader sees it at its next packet, or when the other side has been silent for too long."""
        self._stop.set()
        if self._reader is not None:
            await asyncio.to_thread(self._reader.join, CLOSE_WITHIN_S)
            self._reader = None
        if self._intake is not None:
            self._dropped_before += self._intake.dropped
            self._intake = None


def foreign_live(av: Any) -> Translation:
    """The other side may come back, whatever it did; only what this FFmpeg cannot do at all stays so."""
    never = (
        av.error.ProtocolNotFoundError,
        av.error.DemuxerNotFoundError,
        av.error.DecoderNotFoundError,
        av.error.OptionNotFoundError,
    )
    return {**NETWORK, **dict.fromkeys(never, SourceBroken), av.error.FFmpegError: SourceUnavailable}
