"""UTD-MHAD: 27 actions before a Kinect with a motion sensor on the body; cross-subject, odd subjects train.

One file, `utd_mhad.npz.xz` or its unpacked `.npz`: `meta` [sequences, 6] (action from 1, subject, trial, and the
frames of inertial, skeleton, depth), and the frames of all sequences one after the other: `inertial` [rows, 6]
(g and degrees/s), `skeleton` [rows, 20, 3] (metres before the camera), `depth` [rows, 16, 20]: the mean of each cell
of the depth picture in mm with 0 for background, so half a cell of body at 2.8 m is 1400.

Bodies are brought to one place, size and direction by the first frame of their stream; `utd_mhad_features` says what is
then told of groups of frames. Times follow from the rates, all streams from 0: that of a group is its last frame's.
`body_relative` and `silhouette` need the first frame of a stream and the frame at hand, nothing later: a live source
keeps `body_reference(first)` or `silhouette_reference(first)`.

Shapes: T frames, J = 20 joints, R x C = 16 x 20 cells.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grf_core.data.archives import DataFileError, locate, read_npz, split_rows
from grf_core.data.sessions import Dataset, LabelledSession, StreamFrames
from grf_core.data.utd_mhad_features import (
    GROUPS,
    PHASES_S,
    in_phases,
    rotation,
    sensor_features,
    silhouette_features,
    skeleton_features,
)
from grf_core.step import Float32Array

FILES = ("utd_mhad.npz.xz", "utd_mhad.npz", "*.npz.xz", "*.npz")
RATES_HZ = {"inertial": 50.0, "skeleton": 19.0, "depth": 19.0}
"""The camera's is told as 30, but it has 1.585 times too few frames for that (5 to 95 %: 1.50 to 1.81), and from
beginning to end: how much joints and sensor move correlates by .49 if the streams last equally long, by .22 at 30."""
SHAPES = {"inertial": (6,), "skeleton": (20, 3), "depth": (16, 20)}
FEATURES = {"inertial": 62, "skeleton": 198, "depth": 135}
MODALITIES = {name: len(PHASES_S) * width for name, width in FEATURES.items()}
MAX_FRAMES = {"inertial": 50, "skeleton": 38, "depth": 38}
"""Groups of a segment: 4 s."""
HEAD = "action"
ACTIONS = (
    "swipe left",
    "swipe right",
    "wave",
    "clap",
    "throw",
    "arm cross",
    "basketball shoot",
    "draw X",
    "draw circle CW",
    "draw circle CCW",
    "draw triangle",
    "bowling",
    "boxing",
    "baseball swing",
    "tennis swing",
    "arm curl",
    "tennis serve",
    "push",
    "knock",
    "catch",
    "pickup and throw",
    "jog",
    "walk",
    "sit to stand",
    "stand to sit",
    "lunge",
    "squat",
)
"""In the order of their numbers, from 1, as the paper lists them."""
TRAIN_SUBJECTS = frozenset({1, 3, 5, 7})

HEAD_JOINT, SHOULDER_CENTRE, SPINE, HIP_CENTRE = range(4)
LEFT_SHOULDER, RIGHT_SHOULDER = 4, 8
SMALLEST_SCALE_M = 0.1
"""A skeleton that has collapsed into a point must not be blown up to infinity."""
USUAL_BODY_MM = 2800.0
"""How far the subjects stood from the camera, for a first frame that is empty."""

SOURCE = (
    "UTD-MHAD: C. Chen, R. Jafari, N. Kehtarnavaz, ICIP 2015; "
    "https://personal.utdallas.edu/~kehtar/UTD-MHAD.html. Depth as means of 16 x 20 cells"
)
LICENCE = 'published by its authors as a "freely available dataset", without a licence text'
SPLIT = "cross-subject, as in the paper: subjects 1, 3, 5, 7 train, every other subject tests"


class UtdMhadDataError(DataFileError):
    """The UTD-MHAD file is missing or not as expected."""


def utd_mhad_dataset(path: Path | None = None) -> Dataset:
    rows = _rows(locate(path, FILES, UtdMhadDataError))
    return Dataset(
        name="UTD-MHAD",
        source=SOURCE,
        licence=LICENCE,
        split=SPLIT,
        train=tuple(session for subject, session in rows if subject in TRAIN_SUBJECTS),
        test=tuple(session for subject, session in rows if subject not in TRAIN_SUBJECTS),
    )


def read_utd_mhad(path: Path | None) -> list[LabelledSession]:
    """All sequences, in the order of the file, named like `a01-s1-t2`."""
    return [session for _, session in _rows(locate(path, FILES, UtdMhadDataError))]


@dataclass(frozen=True, slots=True)
class BodyReference:
    hip_m: Float32Array
    """[3]: where the hips were in the first frame."""
    scale_m: float
    """From head to hips along the spine, which hardly depends on the pose."""
    heading: float
    """Radians about the vertical axis by which the shoulders were turned from the camera."""


def body_reference(first_J3: Float32Array) -> BodyReference:
    spine_m = np.linalg.norm(np.diff(first_J3[HEAD_JOINT : HIP_CENTRE + 1], axis=0), axis=1).sum()
    across, _, away = first_J3[RIGHT_SHOULDER] - first_J3[LEFT_SHOULDER]
    return BodyReference(
        first_J3[HIP_CENTRE].copy(), max(float(spine_m), SMALLEST_SCALE_M), float(np.arctan2(away, across))
    )


def body_relative(skeleton_TJ3: Float32Array, reference: BodyReference) -> Float32Array:
    """[T, J, 3]: joints from the hips of the same frame, and in the place of the hips how far these have moved since
    the first frame, all in body scales and turned so that the shoulders of the first frame face the camera: neither
    where somebody stands nor how tall he is says what he does."""
    hips_T13 = skeleton_TJ3[:, HIP_CENTRE : HIP_CENTRE + 1]
    relative_TJ3 = skeleton_TJ3 - hips_T13
    relative_TJ3[:, HIP_CENTRE] = hips_T13[:, 0] - reference.hip_m
    turn = rotation(np.array([0.0, reference.heading, 0.0]))
    return np.ascontiguousarray(relative_TJ3 / reference.scale_m @ turn.T, np.float32)


@dataclass(frozen=True, slots=True)
class SilhouetteReference:
    body_mm: float
    """The 90th percentile of the cells that are not empty: those which the body fills."""
    column: float
    """The centre of mass of the body, in columns."""


def silhouette_reference(first_RC: Float32Array) -> SilhouetteReference:
    columns = first_RC.shape[1]
    filled = first_RC[first_RC > 0]
    if not len(filled):
        return SilhouetteReference(USUAL_BODY_MM, (columns - 1) / 2)
    mass_C = first_RC.sum(axis=0, dtype=np.float64)
    return SilhouetteReference(float(np.percentile(filled, 90)), float(mass_C @ np.arange(columns) / mass_C.sum()))


def silhouette(depth_TRC: Float32Array, reference: SilhouetteReference) -> Float32Array:
    """[T, 80]: depth in multiples of the body's, so about the part of a cell that is covered, moved sideways by parts
    of a column until the body of the first frame stands in the middle; then means of 2 x 2 cells.

    Between the training subjects a linear classifier on binned means gained from .39 (metres) to .50 by the first
    steps, and to .70 by the last: finer cells say who stands there.
    """
    columns = depth_TRC.shape[2]
    from_column = np.arange(columns) + reference.column - (columns - 1) / 2
    left = np.floor(from_column).astype(np.int64)
    part = (from_column - left).astype(np.float32)
    padded_TRC = np.pad(depth_TRC, ((0, 0), (0, 0), (columns, columns + 1)))
    moved_TRC = padded_TRC[:, :, left + columns] * (1 - part) + padded_TRC[:, :, left + columns + 1] * part
    quarters = moved_TRC.reshape(len(depth_TRC), depth_TRC.shape[1] // 2, 2, columns // 2, 2).mean(axis=(2, 4))
    return np.ascontiguousarray((quarters / reference.body_mm).reshape(len(depth_TRC), -1), np.float32)


def _rows(path: Path) -> list[tuple[int, LabelledSession]]:
    """(subject, session) of every row of the table."""
    arrays = read_npz(path, {"meta": 2, **{name: 1 + len(shape) for name, shape in SHAPES.items()}}, UtdMhadDataError)
    meta = arrays["meta"]
    if meta.shape[1] != 3 + len(SHAPES) or meta.dtype.kind not in "iu":
        raise UtdMhadDataError(path, f"meta is {meta.dtype} {meta.shape}, expected integers [sequences, 6]")
    parts = {}
    for column, (name, shape) in enumerate(SHAPES.items(), start=3):
        values = arrays[name]
        if values.shape[1:] != shape or values.dtype.kind not in "iuf":
            raise UtdMhadDataError(path, f"{name} is {values.dtype} {values.shape}, expected numbers [rows, {shape}]")
        values = values.astype(np.float32)
        if not np.isfinite(values).all():
            raise UtdMhadDataError(path, f"{name} has values that are not finite")
        parts[name] = split_rows(path, name, values, meta[:, column], UtdMhadDataError)
    rows = []
    for position, (action, subject, trial) in enumerate(meta[:, :3].tolist()):
        raw = {name: part[position] for name, part in parts.items()}
        rows.append((subject, _session(path, action, subject, trial, raw)))
    twice = [name for name, count in Counter(session.session for _, session in rows).items() if count > 1]
    if twice:
        raise UtdMhadDataError(path, f"{twice[0]} is there more than once")
    return rows


def _session(path: Path, action: int, subject: int, trial: int, raw: dict[str, Float32Array]) -> LabelledSession:
    name = f"a{action:02d}-s{subject}-t{trial}"
    if not 1 <= action <= len(ACTIONS):
        raise UtdMhadDataError(path, f"{name}: there is no action {action}")
    empty = [modality for modality, values in raw.items() if not len(values)]
    if empty:
        raise UtdMhadDataError(path, f"{name} has no frame of {', '.join(empty)}")
    body_TJ3 = body_relative(raw["skeleton"], body_reference(raw["skeleton"][0]))
    silhouettes = silhouette(raw["depth"], silhouette_reference(raw["depth"][0]))
    streams = (
        _stream("inertial", sensor_features(raw["inertial"]), raw["inertial"]),
        _stream("skeleton", skeleton_features(body_TJ3), body_TJ3),
        _stream("depth", silhouette_features(silhouettes)),
    )
    return LabelledSession(name, {HEAD: ACTIONS[action - 1]}, streams)


def _stream(modality: str, frames: Float32Array, measured: Float32Array | None = None) -> StreamFrames:
    last = GROUPS[modality] * np.arange(1, len(frames) + 1, dtype=np.float64) - 1
    times_s = last / RATES_HZ[modality]
    return StreamFrames(modality, modality, in_phases(frames, times_s), times_s, measured)
