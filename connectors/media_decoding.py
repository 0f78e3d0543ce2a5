"""Sound and pictures out of anything that FFmpeg reads, through PyAV: one container into samples, in time order.

What is promised of each sample is in `connectors.media`. Pictures come at the rate asked for, at most: a source of 30 a
second gives 25 by leaving out every sixth, and a slower one gives what it has. They stand as they are to be shown: a
phone that is held upright writes them lying, and how to turn or mirror them beside it. Sound is brought to 16 kHz, one
channel (the channels' mean) and blocks of one length.

A packet that cannot be decoded becomes an `Undecodable`, unless FFmpeg conceals the damage, as it does of some codecs;
a container that cannot be read any further is an error. Whatever a header says, no more is allocated than a picture of
`MAX_PIXELS` and sound of `MAX_CHANNELS`.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from functools import partial
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, model_validator

from connectors.base import Options
from connectors.errors import SourceBroken
from connectors.media import SAMPLE_RATE_HZ, Picture, Sound, Undecodable

MAX_PIXELS = 8192 * 4320
MAX_CHANNELS, MAX_RATE_HZ = 64, 768_000
HELD_PICTURES, HELD_BLOCKS = 64, 256
"""held for the other track to come up in time, at most"""
EARLY = 0.25
"""of a period: a picture is taken so much before it is due, for times are rounded, and cameras are not exact"""
SOUND_JUMP_S = 0.05
"""between where a packet of sound should begin and where it does; more is a gap, and the resampler begins anew"""


class TrackOptions(Options):
    pictures: bool = Field(True, description="Read the video track; its samples are called KEY/pictures.")
    sound: bool = Field(True, description="Read the audio track; its samples are called KEY/sound.")
    pictures_hz: float | None = Field(None, gt=0, le=1000, description="At most so many pictures a second.")
    width: int | None = Field(
        None, ge=16, le=8192, description="Wider pictures are made so wide, before they are handed on."
    )
    block_s: float = Field(0.1, ge=0.01, le=10, description="Length of a block of sound.")

    @model_validator(mode="after")
    def _reads_something(self) -> TrackOptions:
        if not (self.pictures or self.sound):
            raise ValueError("neither pictures nor sound is read")
        return self


class Decoded(NamedTuple):
    """A picture or a block of sound, not yet made: most of the work is in `make`, and what is skipped needs none."""

    track: str
    """pictures, sound"""
    pts_s: float
    """on the clock of the container; of the first number of a block"""
    make: Callable[[], Picture | Sound | Undecodable]


@dataclass(slots=True)
class Reading:
    """How far a container has been read."""

    pictures: int = 0
    """packets of pictures, whatever became of them"""
    is_cut_off: bool = False
    """the last packet had less in it than the container says"""


def tracks_of(container: Any, options: TrackOptions, name: str) -> dict[str, Any]:
    """The streams asked for, by track. Raises SourceBroken for one that is not there or is out of bounds."""
    tracks: dict[str, Any] = {}
    for track, kind, wanted in (("pictures", "video", options.pictures), ("sound", "audio", options.sound)):
        if not wanted:
            continue
        found = next((stream for stream in container.streams if stream.type == kind), None)
        if found is None:
            raise SourceBroken(f"{name} has no {kind} track; {track}: false in the file reads it without")
        _check_bounds(found.codec_context, name)
        tracks[track] = found
    return tracks


def _check_bounds(codec: Any, name: str) -> None:
    """FFmpeg keeps to max_pixels where a picture turns out to be larger than the header said."""
    if codec is None:
        raise SourceBroken(f"{name}: no decoder for one of its tracks")
    if codec.type == "video":
        if codec.width * codec.height > MAX_PIXELS:
            raise SourceBroken(f"{name}: pictures of {codec.width} x {codec.height}; at most {MAX_PIXELS} pixels")
        codec.options = {"max_pixels": str(MAX_PIXELS)}
    elif codec.channels > MAX_CHANNELS or not 0 < codec.sample_rate <= MAX_RATE_HZ:
        raise SourceBroken(f"{name}: sound of {codec.channels} channels at {codec.sample_rate} Hz")


def decoded(
    av: Any, container: Any, tracks: dict[str, Any], options: TrackOptions, reading: Reading
) -> Iterator[Decoded]:
    """Everything, each track in its own order. Raises what PyAV raises where the container cannot be read."""
    pictures = _Pictures(options)
    sound = _SoundBlocks(av, options.block_s)
    for packet in container.demux(*tracks.values()):
        of_video = packet.stream.type == "video"
        if packet.size:
            reading.pictures += of_video
            reading.is_cut_off = packet.is_corrupt
        try:
            frames = packet.decode()
        except av.error.FFmpegError as error:
            pts = packet.pts if packet.pts is not None else packet.dts
            if pts is not None:
                place_s = float(pts * packet.time_base)
                yield Decoded("pictures" if of_video else "sound", place_s, partial(Undecodable, str(error)))
            continue
        for frame in frames:
            yield from pictures.add(frame) if of_video else sound.add(frame)
    yield from sound.end()


class _Pictures:
    def __init__(self, options: TrackOptions) -> None:
        self._period_s = 1 / options.pictures_hz if options.pictures_hz is not None else 0.0
        self._width = options.width
        self._due_s = -math.inf

    def add(self, frame: Any) -> Iterator[Decoded]:
        if frame.pts is None:
            return
        pts_s = float(frame.pts * frame.time_base)
        if pts_s < self._due_s - EARLY * self._period_s:
            return
        next_s = self._due_s + self._period_s
        self._due_s = next_s if next_s > pts_s else pts_s + self._period_s
        yield Decoded("pictures", pts_s, partial(self._made, frame))

    def _made(self, frame: Any) -> Picture:
        display = _display_of(frame)
        width, height = (frame.height, frame.width) if display.swaps else (frame.width, frame.height)
        if self._width is not None and width > self._width:
            width, height = self._width, max(2, round(height * self._width / width))
            stored_width, stored_height = (height, width) if display.swaps else (width, height)
            frame = frame.reformat(width=stored_width, height=stored_height)
        return _as_shown(frame.to_ndarray(format="rgb24"), display)


class _Display(NamedTuple):
    """How a picture is to be shown."""

    swaps: bool = False
    """its rows are the columns"""
    mirrors_x: bool = False
    """once they are swapped"""
    mirrors_y: bool = False


AS_STORED = _Display()


def _display_of(frame: Any) -> _Display:
    """Its matrix takes (x, y) to (a x + c y, b x + d y), by quarters of a turn; PyAV's `rotation` hides mirrors."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    if matrix is None:
        return AS_STORED
    a, b, _, c, d = np.frombuffer(matrix, np.int32)[:5].tolist()
    swaps = abs(a) < abs(b)
    return _Display(swaps, (c if swaps else a) < 0, (b if swaps else d) < 0)


def _as_shown(picture: Picture, display: _Display) -> Picture:
    if display == AS_STORED:
        return picture
    shown = picture.swapaxes(0, 1) if display.swaps else picture
    return np.ascontiguousarray(shown[:: -1 if display.mirrors_y else 1, :: -1 if display.mirrors_x else 1])


class _SoundBlocks:
    def __init__(self, av: Any, block_s: float) -> None:
        self._av = av
        self._block = round(block_s * SAMPLE_RATE_HZ)
        self._resampler: Any = None
        self._shape: tuple[Any, ...] = ()
        self._begin_s = 0.0
        """of the sound given to this resampler"""
        self._taken_s = 0.0
        self._given = 0

    def add(self, frame: Any) -> Iterator[Decoded]:
        shape = (frame.sample_rate, frame.layout.name, frame.format.name)
        pts_s = self._begin_s + self._taken_s if frame.pts is None else float(frame.pts * frame.time_base)
        if self._resampler is None or shape != self._shape or abs(pts_s - self._expected_s) > SOUND_JUMP_S:
            yield from self.end()
            self._resampler = self._av.AudioResampler(
                format="s16", layout="mono", rate=SAMPLE_RATE_HZ, frame_size=self._block
            )
            self._shape, self._begin_s, self._taken_s, self._given = shape, pts_s, 0.0, 0
        self._taken_s += frame.samples / frame.sample_rate
        # The resampler counts samples by itself, and would follow a time stamp that is a little off.
        frame.pts, frame.time_base = None, Fraction(1, frame.sample_rate)
        yield from self._blocks(self._resampler.resample(frame))

    @property
    def _expected_s(self) -> float:
        return self._begin_s + self._taken_s

    def end(self) -> Iterator[Decoded]:
        if self._resampler is not None:
            resampler, self._resampler = self._resampler, None
            yield from self._blocks(resampler.resample(None))

    def _blocks(self, frames: list[Any]) -> Iterator[Decoded]:
        for frame in frames:
            pts_s = self._begin_s + self._given / SAMPLE_RATE_HZ
            self._given += frame.samples
            yield Decoded("sound", pts_s, partial(_block_of, frame))


def _block_of(frame: Any) -> Sound:
    block: Sound = frame.to_ndarray()[0]
    return block


def merged(items: Iterator[Decoded], tracks: int) -> Iterator[Decoded]:
    """By time, as far as the tracks are near each other in the container; each track keeps its own order."""
    held: dict[str, deque[Decoded]] = {"pictures": deque(), "sound": deque()}
    limits = {"pictures": HELD_PICTURES, "sound": HELD_BLOCKS}
    for item in items:
        held[item.track].append(item)
        while tracks == 1 or all(held.values()) or len(held[item.track]) > limits[item.track]:
            queues = [queue for queue in held.values() if queue]
            if not queues:
                break
            yield min(queues, key=lambda queue: queue[0].pts_s).popleft()
    while queues := [queue for queue in held.values() if queue]:
        yield min(queues, key=lambda queue: queue[0].pts_s).popleft()
