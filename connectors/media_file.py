"""Video and audio files, anything that FFmpeg reads. Needs the extra `media`.

    from: {kind: media_file, path: talk.mp4, pictures_hz: 25, speed: 1}

The samples of `talk.mp4` are called `talk/pictures` and `talk/sound`. Event time is the recording's start plus the
time in the file: `start` if it is given, else what the file says of its making, else 0, to be moved to the present by
`clock: {shift: now}`. A position is how many samples were handed over: replayable, and it seeks, by decoding the
file again up to there (some hundred times faster than real time).

A file that ends before its header says is given as far as it goes, and then breaks the source with that reason.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, field_validator

from connectors.base import Position, Sample
from connectors.errors import DISK, SourceBroken, Translation, need, translated
from connectors.media import Undecodable
from connectors.media_decoding import Reading, TrackOptions, decoded, merged, tracks_of
from connectors.recorded import RecordedOptions, RecordedSource

SAMPLES_AT_ONCE = 16
"""A picture of 1280 x 720 has 2.8 MB. Fewer at once were tried, 4 and 8, and are no faster."""
SHORT_S, SHORT_SHARE = 1.0, 0.02
"""a file that ends earlier than its header says, by more than this and this share of it, is cut short"""


class MediaFileOptions(RecordedOptions, TrackOptions):
    kind: Literal["media_file"] = "media_file"
    extra: ClassVar[str] = "media"
    path: str = Field(min_length=1, description="The file.")
    key: str = Field("{stem}", description="Stream key before /pictures and /sound; {stem} is the file's name.")
    start: float | str | None = Field(
        None,
        description="When the recording began: seconds since 1970, or a date and time with a zone, as in "
        "2026-01-31T12:00:00Z.  [default: see above]",
    )

    @field_validator("start", mode="before")
    @classmethod
    def _is_a_time(cls, start: Any) -> Any:
        """YAML makes a date of one without quotes."""
        if not isinstance(start, str | date):
            return start
        try:
            began = start if isinstance(start, datetime) else datetime.fromisoformat(str(start))
        except ValueError:
            raise ValueError(
                f"{start!r} is no date and time such as 2026-01-31T12:00:00Z; seconds since 1970 stand without quotes"
            ) from None
        if began.tzinfo is None:
            raise ValueError(f"{start} names no zone; for UTC end it with Z")
        return began.timestamp()

    def build(self) -> MediaFileSource:
        return MediaFileSource(self)


class MediaFileSource(RecordedSource):
    samples_at_once = SAMPLES_AT_ONCE

    def __init__(self, options: MediaFileOptions) -> None:
        super().__init__(options)
        self._options = options

    def samples(self, position: Position) -> Iterator[Sample]:
        av = need("av", "media")
        name = self._options.path
        done = _count_of(position)
        with translated(foreign(av), name), av.open(name) as container:
            tracks = tracks_of(container, self._options, name)
            start_s = self._start_s(container)
            first_pts_s = (container.start_time or 0) / av.time_base
            key = self._options.key.replace("{stem}", Path(name).stem)
            good, end_s, why = 0, 0.0, ""
            reading = Reading()
            items = merged(decoded(av, container, tracks, self._options, reading), len(tracks))
            for number, item in enumerate(items, start=1):
                end_s = max(end_s, item.pts_s - first_pts_s)
                if number <= done:
                    good += 1
                    continue
                value = item.make()
                why = value.reason if isinstance(value, Undecodable) else why
                good += not isinstance(value, Undecodable)
                time_s = start_s + item.pts_s - first_pts_s
                yield Sample(f"{key}/{item.track}", value, time_s, None, number)
            if not good:
                raise SourceBroken(f"{name}: nothing in it could be decoded{why and f': {why}'}")
            _check_end(name, (container.duration or 0) / av.time_base, end_s)
            _check_pictures(name, tracks, reading)

    def _start_s(self, container: Any) -> float:
        if isinstance(self._options.start, float):
            return self._options.start
        try:
            return datetime.fromisoformat(container.metadata["creation_time"]).timestamp()
        except (KeyError, ValueError):
            return 0.0


def tracks_in(path: str) -> frozenset[str]:
    """pictures, sound: what a file has, at least one. Raises SourceBroken, MissingExtra."""
    av = need("av", "media")
    with translated(foreign(av), path), av.open(path) as container:
        kinds = {stream.type for stream in container.streams}
    tracks = frozenset(name for name, kind in (("pictures", "video"), ("sound", "audio")) if kind in kinds)
    if not tracks:
        raise SourceBroken(f"{path} has neither pictures nor sound")
    return tracks


def foreign(av: Any) -> Translation:
    """PyAV's exceptions: a file that does not decode will not decode later either."""
    return {**DISK, av.error.FFmpegError: SourceBroken}


def _count_of(position: Position) -> int:
    if position is None:
        return 0
    if not isinstance(position, int) or isinstance(position, bool) or position < 0:
        raise SourceBroken(f"{position!r} is no position in a media file")
    return position


def _check_end(name: str, says_s: float, end_s: float) -> None:
    if says_s - end_s > max(SHORT_S, SHORT_SHARE * says_s):
        raise SourceBroken(f"{name} ends after {end_s:.1f} s, and its header says {says_s:.1f} s: it is cut short")


def _check_pictures(name: str, tracks: dict[str, Any], reading: Reading) -> None:
    """Of some formats FFmpeg believes the file's size more than its header, and only the count of pictures tells."""
    says = tracks["pictures"].frames if "pictures" in tracks else 0
    if says > reading.pictures * (1 + SHORT_SHARE) + 1:
        raise SourceBroken(f"{name} ends after {reading.pictures} of {says} pictures: it is cut short")
    if reading.is_cut_off:
        raise SourceBroken(f"{name} ends in the middle of a packet: it is cut short, or its header lies")
