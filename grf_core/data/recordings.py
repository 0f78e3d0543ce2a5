"""One recording, or a folder of them, as one set of sessions."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from grf_core.data.conversion import RecordedSessionSegments, read_sessions
from grf_core.recording import RecordingHead, read_recording
from grf_core.recording_format import MAGIC

SUFFIX = ".grfrec"


class RecordingsError(ValueError):
    """Recordings that do not go together; the text names the file."""


@dataclass(frozen=True, slots=True)
class Recordings:
    head: RecordingHead
    """With the modalities of all files."""
    sessions: list[RecordedSessionSegments]


def is_recordings(path: Path) -> bool:
    """Whether this is a recording, or a folder that holds some."""
    if path.is_dir():
        return any(path.glob(f"*{SUFFIX}"))
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return file.read(len(MAGIC)) == MAGIC


def read_recordings(path: Path) -> Recordings:
    """RecordingError for a file that is none, RecordingsError for files that contradict each other."""
    files = sorted(path.glob(f"*{SUFFIX}")) if path.is_dir() else [path]
    if not files:
        raise RecordingsError(f"{path} has no {SUFFIX} file")
    heads = [read_recording(file).head for file in files]
    widths: dict[str, int] = {}
    for file, head in zip(files, heads, strict=True):
        for name, width in head.modalities.items():
            if widths.setdefault(name, width) != width:
                raise RecordingsError(f"{file}: {name!r} is {width} wide, and {widths[name]} in another file")
    sessions: dict[str, RecordedSessionSegments] = {}
    for file in files:
        for session in read_sessions(file):
            if session.name in sessions:
                raise RecordingsError(f"{file}: session {session.name!r} is in another file too")
            sessions[session.name] = session
    return Recordings(RecordingHead(*_described(heads), widths), list(sessions.values()))


def _described(heads: list[RecordingHead]) -> tuple[str, str, str]:
    """Title, source and licence: all that occur."""
    parts = ([head.title for head in heads], [head.source for head in heads], [head.licence for head in heads])
    title, source, licence = ("; ".join(dict.fromkeys(filter(None, part))) or "not stated" for part in parts)
    return title, source, licence
