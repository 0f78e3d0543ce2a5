"""Where the demo's sound and pictures come from."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from connectors.media_file import MediaFileOptions, tracks_in
from grf_core.data.grid_s1 import LIPS_HZ
from runtime.demo.talk import Video


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
    raise NotImplementedError
