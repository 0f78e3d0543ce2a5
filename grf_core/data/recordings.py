"""One recording, or a folder of them, as one set of sessions."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from grf_core.data.conversion import MixedStream, RecordedSessionSegments, misnumbered, sessions_of
from grf_core.recording import RecordingError, RecordingHead, read_recording
from grf_core.recording_format import MAGIC

log = logging.getLogger(__name__)

SUFFIX = ".grfrec"


class RecordingsError(ValueError):
    """A file that is no recording, or recordings that do not go together; the text names the file."""


@dataclass(frozen=True, slots=True)
class Recordings:
    head: RecordingHead
    """With the modalities of all files."""
    sessions: list[RecordedSessionSegments]


def is_recordings(path: Path) -> bool:
    """Whether this is a recording, or a folder that holds some. By its name too: a damaged one is told as such."""
    if path.is_dir():
        return any(path.glob(f"*{SUFFIX}"))
    if not path.is_file() or path.suffix == SUFFIX:
        return path.is_file()
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_recordings(path: Path) -> Recordings:
    """RecordingsError for a file that is none, and for files that contradict each other. A file that ends within a
    record is read up to there, which is logged, and so is of how many sessions nothing can be learned."""
    files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not files:
        raise RecordingsError(f"{path} has no {SUFFIX} file")
    heads: list[RecordingHead] = []
    widths: dict[str, int] = {}
    for file in files:
        with _naming(file):
            heads.append(read_recording(file).head)
        for name, width in heads[-1].modalities.items():
            if widths.setdefault(name, width) != width:
                raise RecordingsError(f"{file}: {name!r} is {width} wide, and {widths[name]} in another file")
    sessions: dict[str, RecordedSessionSegments] = {}
    for file in files:
        for session in _sessions_in(file):
            if session.name in sessions:
                raise RecordingsError(f"{file}: session {session.name!r} is in another file too")
            sessions[session.name] = session
    _tell_of_use(list(sessions.values()))
    return Recordings(RecordingHead(*_described(heads), widths), list(sessions.values()))


def _sessions_in(file: Path) -> list[RecordedSessionSegments]:
    with _naming(file):
        reader = read_recording(file)
        sessions = sessions_of(reader)
    if reader.truncated:
        log.warning("%s ends in the middle of a record, at byte %d; what is before it is used", file, reader.end)
    if left_out := sum(misnumbered(session.segments) for session in sessions):
        told = "their stream has another segment of the same number: streams count from 1 in each session"
        log.warning("%s: %d segments are left out, since %s", file, left_out, told)
    return sessions


def _tell_of_use(sessions: list[RecordedSessionSegments]) -> None:
    unlabelled = sum(not session.labels for session in sessions)
    silent = sum(not session.segments for session in sessions if session.labels)
    if unlabelled or silent:
        told = "of %d sessions %d are left out, since they have no label, and %d that have no segment"
        log.warning(told, len(sessions), unlabelled, silent)


@contextmanager
def _naming(file: Path) -> Iterator[None]:
    try:
        yield
    except (RecordingError, MixedStream) as error:
        raise RecordingsError(f"{file}: {error}") from None


def _described(heads: list[RecordingHead]) -> tuple[str, str, str]:
    """Title, source and licence: all that occur."""
    parts = ([head.title for head in heads], [head.source for head in heads], [head.licence for head in heads])
    title, source, licence = ("; ".join(dict.fromkeys(filter(None, part))) or "not stated" for part in parts)
    return title, source, licence
