"""Small real media, made here: drawn pictures, tones, RTP packets. No person is in them."""

from __future__ import annotations

import socket
import struct
from collections.abc import Iterator, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import numpy as np
import numpy.typing as npt

from connectors.base import Sample, Source
from connectors.contract import Harness, N
from connectors.media import SAMPLE_RATE_HZ, Picture, Sound
from connectors.media_file import MediaFileOptions
from connectors.media_stream import MediaStreamOptions

PICTURES_HZ = 25
STEP = 8
"""grey levels between two numbered pictures"""


def grey(number: int, *, width: int = 64, height: int = 48) -> Picture:
    return np.full((height, width, 3), number * STEP, np.uint8)


def tone(frequency_hz: float, seconds: float, *, amplitude: int = 8000, rate_hz: int = SAMPLE_RATE_HZ) -> Sound:
    times = np.arange(round(seconds * rate_hz)) / rate_hz
    return (amplitude * np.sin(2 * np.pi * frequency_hz * times)).astype(np.int16)


def write_media(
    path: Path,
    pictures: Sequence[Picture] = (),
    sound: Sound | None = None,
    *,
    video: str = "ffv1",
    audio: str = "pcm_s16le",
    rate_hz: int = SAMPLE_RATE_HZ,
    channels: int = 1,
    pictures_hz: int = PICTURES_HZ,
    turned: Mapping[str, Any] | None = None,
) -> Path:
    """A file of the format that its suffix names; without loss by default. `turned`: how PyAV is told to show it."""
    with av.open(str(path), "w") as container:
        if len(pictures):
            stream = container.add_stream(video, rate=pictures_hz)
            stream.height, stream.width = pictures[0].shape[:2]
            stream.pix_fmt = {"ffv1": "bgr0", "mjpeg": "yuvj420p"}.get(video, "yuv420p")
            if turned is not None:
                stream.set_display_rotation(**turned)
        if sound is not None:
            track = container.add_stream(audio, rate=rate_hz, layout="mono" if channels == 1 else "stereo")
        for number, picture in enumerate(pictures):
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, pictures_hz)
            container.mux(stream.encode(frame))
        if len(pictures):
            container.mux(stream.encode(None))
        if sound is not None:
            for packet in _sound_packets(track, sound, rate_hz, channels):
                container.mux(packet)
    return path


def _sound_packets(track: av.AudioStream, sound: Sound, rate_hz: int, channels: int) -> Iterator[av.Packet]:
    resampler = av.AudioResampler(format=track.format, layout=track.layout, rate=rate_hz)
    for start in range(0, len(sound), 1024):
        block = np.repeat(sound[start : start + 1024], channels)[None]
        frame = av.AudioFrame.from_ndarray(block, format="s16", layout="mono" if channels == 1 else "stereo")
        frame.sample_rate, frame.pts, frame.time_base = rate_hz, start, Fraction(1, rate_hz)
        for converted in resampler.resample(frame):
            yield from track.encode(converted)
    yield from track.encode(None)


class MediaFiles(Harness):
    """One picture for each number."""

    def __init__(self, folder: Path) -> None:
        self._path = write_media(folder / "numbers.mkv", [grey(number) for number in range(N)])

    def make(self) -> Source:
        return MediaFileOptions(path=str(self._path), sound=False, start=1_700_000_000.0).build()

    async def produce(self, first: int, count: int, source: Source) -> None:
        pass

    def number(self, sample: Sample) -> int:
        number = round(float(sample.value.mean()) / STEP)
        assert sample.event_time_s is not None
        assert abs(sample.event_time_s - 1_700_000_000.0 - number / PICTURES_HZ) < 2e-3
        return number

    def unavailable(self) -> Source | None:
        return MediaFileOptions(path=str(self._path.with_name("nowhere.mkv"))).build()


class RtpSender:
    """One RTP stream of 16-bit sound to a port of this machine."""

    PAYLOAD_TYPE, PACKET = 96, 400

    def __init__(self, port: int) -> None:
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._to = ("127.0.0.1", port)
        self._sequence = 1
        self._time = 1000

    def send(self, sound: Sound) -> None:
        for start in range(0, len(sound), self.PACKET):
            part = sound[start : start + self.PACKET]
            header = struct.pack(">BBHII", 0x80, self.PAYLOAD_TYPE, self._sequence & 0xFFFF, self._time, 0x1234)
            self._socket.sendto(header + part.astype(">i2").tobytes(), self._to)
            self._sequence += 1
            self._time += len(part)

    def skip(self, seconds: float) -> None:
        """As if packets had been lost."""
        self._sequence += 1
        self._time += round(seconds * SAMPLE_RATE_HZ)

    def close(self) -> None:
        self._socket.close()


def write_sdp(path: Path, port: int) -> Path:
    path.write_text(
        "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n"
        f"m=audio {port} RTP/AVP {RtpSender.PAYLOAD_TYPE}\r\n"
        f"a=rtpmap:{RtpSender.PAYLOAD_TYPE} L16/{SAMPLE_RATE_HZ}/1\r\n"
    )
    return path


def block(number: int) -> npt.NDArray[np.int16]:
    """A tenth of a second that says its number."""
    return np.full(SAMPLE_RATE_HZ // 10, 1 + number * 100, np.int16)


class RtpStream(Harness):
    """One block of sound for each number, sent over UDP."""

    ends = False

    def __init__(self, folder: Path, port: int, closed_port: int) -> None:
        self._sdp = write_sdp(folder / "call.sdp", port)
        self._sender = RtpSender(port)
        self._closed_port = closed_port

    def make(self) -> Source:
        return MediaStreamOptions(url=str(self._sdp), pictures=False, open_within_s=0.3, silent_s=0.5).build()

    async def produce(self, first: int, count: int, source: Source) -> None:
        for number in range(first, first + count):
            self._sender.send(block(number))

    def number(self, sample: Sample) -> int:
        values = set(sample.value.tolist())
        assert len(values) == 1
        return int(values.pop() - 1) // 100

    def unavailable(self) -> Source | None:
        return MediaStreamOptions(url=f"rtsp://127.0.0.1:{self._closed_port}/nobody", open_within_s=2.0).build()

    def close(self) -> None:
        self._sender.close()
