"""BasicMotions: a smart watch's accelerometer and gyroscope, 10 s at 10 Hz, four activities, 40 + 40 recordings.

It comes inside the wheel of aeon 1.6.0, whose two `.ts` files are found and parsed here; aeon itself is never imported.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Literal

import numpy as np

from grf_core.data.conversion import write_sessions
from grf_core.data.sessions import Cutting, Dataset, LabelledSession, StreamFrames
from grf_core.recording import RecordingHead
from grf_core.step import Float32Array

Split = Literal["train", "test"]

FRAME_PERIOD_S = 0.1
FRAMES = 100
MAX_FRAMES = 20
"""Of a segment: 2 s."""
DEMO_CUTTING = Cutting(0.5, 0.5)
MODALITIES = {"accelerometer": slice(0, 3), "gyroscope": slice(3, 6)}
"""The columns of each modality: x, y, z."""
ACTIVITIES = ("Standing", "Running", "Walking", "Badminton")
FOLDER_IN_AEON = Path("datasets") / "data" / "BasicMotions"


SOURCE = (
    "BasicMotions of the UEA multivariate time series archive, as carried by aeon 1.6.0: "
    "https://www.timeseriesclassification.com/description.php?Dataset=BasicMotions"
)
LICENCE = "aeon is BSD-3-Clause; the archive states no licence of its own for this dataset"


class MotionDataError(ValueError):
    """The BasicMotions files are missing or not as expected; the text says which, and what to do."""


def motion_dataset(folder: Path | None = None) -> Dataset:
    return Dataset(
        name="BasicMotions",
        source=SOURCE,
        licence=LICENCE,
        split="the archive's own halves: 40 recordings to train on, 40 to test on",
        train=tuple(read_motion("train", folder)),
        test=tuple(read_motion("test", folder)),
    )


def read_motion(split: Split, folder: Path | None = None) -> list[LabelledSession]:
    """The recordings of one half, from aeon's wheel or from a folder with the two `.ts` files."""
    path = (folder or _folder_in_aeon()) / f"BasicMotions_{split.upper()}.ts"
    if not path.is_file():
        raise MotionDataError(f"{path} is not there")
    rows = parse_ts(path.read_text(encoding="utf-8"), channels=6, frames=FRAMES)
    return [_session(f"motion-{split}-{position:02d}", *row) for position, row in enumerate(rows)]


def write_motion_recording(
    path: Path | str, split: Split, cutting: Cutting = DEMO_CUTTING, folder: Path | None = None
) -> None:
    """One half as a recording: 40 sessions side by side, two streams each, 10 s of event time from 0."""
    head = RecordingHead(
        title=f"BasicMotions, {split} half",
        source=SOURCE,
        licence=LICENCE,
        modalities={name: columns.stop - columns.start for name, columns in MODALITIES.items()},
    )
    write_sessions(path, head, read_motion(split, folder), cutting, MAX_FRAMES)


def parse_ts(text: str, channels: int, frames: int) -> list[tuple[str, Float32Array]]:
    """(label, [T, channels]) for each case of a `.ts` file whose cases are of equal length and without time stamps."""
    _, found, data = text.partition("@data")
    if not found:
        raise MotionDataError("no @data line in the .ts file")
    cases = []
    for number, line in enumerate(filter(None, map(str.strip, data.splitlines()))):
        *columns, label = line.split(":")
        try:
            values = np.array([[float(value) for value in column.split(",")] for column in columns], np.float32)
        except ValueError:
            raise MotionDataError(f"case {number} is not {channels} equally long columns of numbers") from None
        if values.shape != (channels, frames) or not np.isfinite(values).all():
            raise MotionDataError(f"case {number} is not {channels} columns of {frames} finite numbers")
        cases.append((label, np.ascontiguousarray(values.T)))
    return cases


def _session(name: str, label: str, frames: Float32Array) -> LabelledSession:
    if label not in ACTIVITIES:
        raise MotionDataError(f"{name}: {label!r} is not one of {', '.join(ACTIVITIES)}")
    times_s = np.arange(len(frames), dtype=np.float64) * FRAME_PERIOD_S
    streams = (
        StreamFrames(modality, modality, np.ascontiguousarray(frames[:, columns]), times_s)
        for modality, columns in MODALITIES.items()
    )
    return LabelledSession(name, {"activity": label}, tuple(streams))


def _folder_in_aeon() -> Path:
    spec = find_spec("aeon")
    if spec is None or spec.origin is None:
        raise MotionDataError("BasicMotions comes with aeon: pip install --no-deps aeon==1.6.0 (requirements-demo.txt)")
    return Path(spec.origin).parent / FOLDER_IN_AEON
