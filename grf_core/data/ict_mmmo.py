"""ICT-MMMO: film reviews spoken into a camera, with the sentiment of the review from 1 to 5; three feature families.

A tar (`.tar.xz`, `.tar`) or a folder of HDF5 files for each part (train, valid, test), each with one dataset `d1`:
`y_PART.h5` [reviews], `text_PART_emb.h5` [reviews, steps, 300], `audio_PART.h5` [.., 74], `video_PART.h5` [.., 36].
A part has the modalities whose files are there; as distributed, train has audio and video only. Needs h5py:
`pip install grf-runtime[data]`.

Features are aligned to words, 20 steps of unknown duration, so event time is invented: step i happens at i seconds.
Shorter reviews were filled up at the front: steps where every modality of a review is zero are left out, the others
keep their times. A step where one modality alone is zero (no face, no voice) stays, so that the streams stay aligned.
Values that are not finite (COVAREP gives -inf) are replaced by 0, as its authors and users do.
"""

from __future__ import annotations

import io
import re
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import numpy.typing as npt

from grf_core.data.archives import LARGEST_BYTES, DataFileError, locate, read_unpacked, tar_members
from grf_core.data.sessions import Dataset, Label, LabelledSession, StreamFrames
from grf_core.step import Float32Array

FILES = ("ict-mmmo.tar.xz", "ict-mmmo.tar", "*.tar.xz", "*.tar")
MODALITIES = {"text": 300, "audio": 74, "video": 36}
MAX_FRAMES = {"text": 20, "audio": 20, "video": 20}
STEP_S = 1.0
REGRESSION_HEAD = "sentiment"
LOWEST, HIGHEST = 1.0, 5.0
CLASS_HEAD = "positive"
CLASSES = ("negative", "positive")
POSITIVE_ABOVE = 3.5
PARTS = ("train", "valid", "test")
TRAIN_PARTS = frozenset({"train", "valid"})
DATASET = "d1"
PART_FILE = re.compile(r"(?:^|/)(y|text|audio|video)_([a-z0-9]{1,16})(_emb)?\.h5$")

SOURCE = (
    "ICT-MMMO: M. Woellmer et al., IEEE Intelligent Systems 2013; features as in the repository of the Memory Fusion "
    "Network's authors, https://github.com/pliang279/MFN: GloVe, COVAREP, FACET"
)
LICENCE = "MIT for the repository; the reviews themselves belong to their speakers"
SPLIT = "the authors' parts: train and valid train (train has audio and video only), test tests"


class IctMmmoDataError(DataFileError):
    """The ICT-MMMO files are missing or not as expected, or h5py is."""


def ict_mmmo_dataset(path: Path | None = None) -> Dataset:
    sessions = read_ict_mmmo(path)
    return Dataset(
        name="ICT-MMMO",
        source=SOURCE,
        licence=LICENCE,
        split=SPLIT,
        train=tuple(session for session in sessions if _part(session) in TRAIN_PARTS),
        test=tuple(session for session in sessions if _part(session) not in TRAIN_PARTS),
    )


def read_ict_mmmo(path: Path | None) -> list[LabelledSession]:
    """All reviews, named like `valid-007`: part after part (train, valid, test, then others by name)."""
    place = _place(path)
    h5py = _h5py(place)
    arrays: dict[str, dict[str, npt.NDArray[np.float64]]] = {}
    for name, content in _files(place):
        if found := PART_FILE.search(name):
            kind, part = found[1], found[2]
            if kind in arrays.setdefault(part, {}):
                raise IctMmmoDataError(place, f"has {kind} of {part} twice")
            arrays[part][kind] = _read_h5(h5py, name, content)
    if not arrays:
        raise IctMmmoDataError(place, "has no y_PART.h5, text_PART_emb.h5, audio_PART.h5 or video_PART.h5")
    order = sorted(arrays, key=lambda part: (PARTS.index(part) if part in PARTS else len(PARTS), part))
    return [session for part in order for session in _reviews(place, part, arrays[part])]


def _part(session: LabelledSession) -> str:
    return session.session.rpartition("-")[0]


def _reviews(place: Path, part: str, arrays: dict[str, npt.NDArray[np.float64]]) -> Iterator[LabelledSession]:
    ratings = arrays.get("y")
    if ratings is None:
        raise IctMmmoDataError(place, f"has no y_{part}.h5")
    if ratings.ndim == 2 and ratings.shape[1] == 1:
        ratings = ratings[:, 0]
    if ratings.ndim != 1 or not ((ratings >= LOWEST) & (ratings <= HIGHEST)).all():
        raise IctMmmoDataError(place, f"y_{part}.h5 is not [reviews] from {LOWEST} to {HIGHEST}")
    features = {modality: arrays[modality] for modality in MODALITIES if modality in arrays}
    steps = {values.shape[1:2] for values in features.values()}
    if len(steps) != 1:
        raise IctMmmoDataError(place, f"{part} has no modality, or modalities of different lengths")
    for modality, values in features.items():
        if values.ndim != 3 or values.shape[::2] != (len(ratings), MODALITIES[modality]) or not values.shape[1]:
            expected = f"[{len(ratings)}, steps, {MODALITIES[modality]}]"
            raise IctMmmoDataError(place, f"{modality} of {part} has shape {values.shape}, expected {expected}")
    clean = {modality: _finite(values) for modality, values in features.items()}
    for review, rating in enumerate(ratings.tolist()):
        streams = _streams({modality: values[review] for modality, values in clean.items()})
        yield LabelledSession(f"{part}-{review:03d}", labels_of(rating), streams)


def labels_of(rating: float) -> dict[str, Label]:
    return {REGRESSION_HEAD: rating, CLASS_HEAD: CLASSES[rating > POSITIVE_ABOVE]}


def _streams(frames: dict[str, Float32Array]) -> tuple[StreamFrames, ...]:
    filled = np.logical_or.reduce([values.any(axis=1) for values in frames.values()])
    filled[-1] |= not filled.any()  # a review of nothing but zeros is still a review
    times_s = np.flatnonzero(filled).astype(np.float64) * STEP_S
    return tuple(
        StreamFrames(modality, modality, np.ascontiguousarray(values[filled]), times_s)
        for modality, values in frames.items()
    )


def _finite(values: npt.NDArray[np.float64]) -> Float32Array:
    with np.errstate(over="ignore"):  # beyond float32 is not finite either
        single = values.astype(np.float32)
    return np.where(np.isfinite(single), single, np.float32(0))


def _read_h5(h5py: ModuleType, name: str, content: bytes) -> npt.NDArray[np.float64]:
    """The dataset `d1`, if it lies in this very file: HDF5 can point at other files of the machine."""
    try:
        with h5py.File(io.BytesIO(content), "r") as file:
            link: Any = file.get(DATASET, getlink=True)
            if not isinstance(link, h5py.HardLink):
                raise IctMmmoDataError(name, f"has no dataset {DATASET} of its own")
            values: Any = file[DATASET]
            if not isinstance(values, h5py.Dataset) or values.external or values.is_virtual:
                raise IctMmmoDataError(name, f"{DATASET} is no dataset with its values in this file")
            if values.dtype.kind not in "fiu" or values.size is None:
                raise IctMmmoDataError(name, f"{DATASET} is {values.dtype}, expected numbers")
            if values.size * 8 > LARGEST_BYTES:
                raise IctMmmoDataError(name, f"{DATASET} of shape {values.shape} is larger than {LARGEST_BYTES} bytes")
            return np.asarray(values[()], np.float64)
    except IctMmmoDataError:
        raise
    except (OSError, RuntimeError, KeyError, TypeError, ValueError, OverflowError) as e:
        raise IctMmmoDataError(name, f"is no readable HDF5: {e}") from None


def _h5py(place: Path) -> ModuleType:
    try:
        import h5py
    except ImportError:
        raise IctMmmoDataError(place, "is HDF5 and needs h5py: pip install grf-runtime[data]") from None
    found: ModuleType = h5py
    return found


def _place(path: Path | None) -> Path:
    """The folder of unpacked HDF5 files, or the archive."""
    if path is not None and path.is_dir() and any(path.glob("y_*.h5")):
        return path
    return locate(path, FILES, IctMmmoDataError)


def _files(place: Path) -> Iterator[tuple[str, bytes]]:
    if place.is_file():
        yield from tar_members(place, IctMmmoDataError)
        return
    for file in sorted(place.glob("*.h5")):
        yield file.name, read_unpacked(file, IctMmmoDataError)
