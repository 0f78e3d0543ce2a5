"""PhysioNet/CinC Challenge 2012: the first 48 h of intensive care stays, and who died in hospital.

A tar (`.tar.xz`, `.tar`) or a folder with `set-X/RECORD.txt`, lines `HH:MM,Parameter,Value`, and `Outcomes-X.txt`.
Session `X-RECORD`; event time in seconds since admission. Its streams:

- `patient`, one frame at 0: (value, known) for age, gender, height, weight; then the ICU one-hot (coronary, cardiac
  surgery, medical, surgical), all 0 where unknown. Missing is -1 in the file. Weight is the first one, at 00:00.
- `vitals`, `labs`, `neuro`: a frame for each time stamp at which any variable of the modality was measured. For each
  variable, in the order of `physionet_2012_variables`: the last value so far, scaled (0 before the first); whether it
  was measured now; and its age, log1p of the hours since it was last measured, that of 48 h before the first.

A frame depends on nothing later than itself. A modality of which nothing was measured is no stream. What is cleaned,
and how values are scaled, is the table in `physionet_2012_variables`.

Shapes: E measurements, T time stamps, V variables.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from grf_core.data.archives import DataFileError, locate, read_unpacked, tar_members
from grf_core.data.physionet_2012_variables import LABS, NEURO, PATIENT, VITALS, Indices, Scaling, Values
from grf_core.data.sessions import Dataset, LabelledSession, StreamFrames
from grf_core.step import Float32Array

FILES = ("physionet-2012.tar.xz", "physionet-2012.tar", "*.tar.xz", "*.tar")
MEASURED = {"vitals": VITALS, "labs": LABS, "neuro": NEURO}
ICU_TYPES = 4
MODALITIES = {"patient": 2 * len(PATIENT) + ICU_TYPES, **{name: 3 * len(of) for name, of in MEASURED.items()}}
MAX_FRAMES = {"patient": 1, "vitals": 64, "labs": 32, "neuro": 32}
HEAD = "death"
OUTCOMES = ("survived", "died")
OLDEST_H = 48.0
"""An age is not counted beyond this."""

LARGEST_FILE_BYTES = 4 << 20
"""A stay has 10 KB, the outcomes of a set 100 KB."""
MOST_SESSIONS = 200_000
RECORD = re.compile(r"(?:^|/)set-([A-Za-z0-9]{1,16})/(\d{1,12})\.txt$")
OUTCOMES_OF = re.compile(r"(?:^|/)Outcomes-([A-Za-z0-9]{1,16})\.txt$")
TIME = re.compile(r"\d{1,5}:[0-5]\d")

SOURCE = (
    "PhysioNet/Computing in Cardiology Challenge 2012, https://physionet.org/content/challenge-2012/; "
    "I. Silva et al. 2012, A. Goldberger et al. 2000"
)
LICENCE = "open access at PhysioNet (ODC-By 1.0, unverified)"
SPLIT = "set a trains, every other set tests"

_DESCRIPTORS = frozenset({"RecordID", "Age", "Gender", "Height", "ICUType"})
_PATIENT = Scaling(PATIENT)
_PLACE = {
    variable.name: (modality, position)
    for modality, variables in MEASURED.items()
    for position, variable in enumerate(variables)
}
_SCALING = {modality: Scaling(variables) for modality, variables in MEASURED.items()}


class Physionet2012DataError(DataFileError):
    """The files of the challenge are missing or not as expected."""


def physionet_2012_dataset(path: Path | None = None) -> Dataset:
    sessions = read_physionet_2012(path)
    return Dataset(
        name="PhysioNet/CinC 2012",
        source=SOURCE,
        licence=LICENCE,
        split=SPLIT,
        train=tuple(session for session in sessions if session.session.startswith("a-")),
        test=tuple(session for session in sessions if not session.session.startswith("a-")),
    )


def read_physionet_2012(path: Path | None) -> list[LabelledSession]:
    """All stays, by set and record. A stay that its set's outcomes do not name has no label."""
    records: dict[tuple[str, str], LabelledSession] = {}
    outcomes: dict[str, dict[str, str]] = {}
    place = _place(path)
    for name, content in _files(place):
        if record := RECORD.search(name):
            key = record[1], record[2]
            if key in records or len(records) == MOST_SESSIONS:
                raise Physionet2012DataError(name, f"is there twice, or there are more than {MOST_SESSIONS} stays")
            records[key] = LabelledSession("-".join(key), {}, parse_record(name, record[2], _text(name, content)))
        elif set_of := OUTCOMES_OF.search(name):
            outcomes[set_of[1]] = parse_outcomes(name, _text(name, content))
    if not records:
        raise Physionet2012DataError(place, "has no set-X/RECORD.txt")
    unknown = sorted({of_set for of_set, _ in records} - set(outcomes))
    if unknown:
        raise Physionet2012DataError(place, f"has no Outcomes-{unknown[0]}.txt for set-{unknown[0]}")
    return [
        LabelledSession(
            session.session, {HEAD: outcomes[of_set][record]} if record in outcomes[of_set] else {}, session.streams
        )
        for (of_set, record), session in sorted(records.items(), key=lambda item: (item[0][0], int(item[0][1])))
    ]


@dataclass(slots=True)
class _Measurements:
    minutes: list[int] = field(default_factory=list)
    variables: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)


def parse_record(name: str, record: str, text: str) -> tuple[StreamFrames, ...]:
    """The streams of one stay."""
    measured = {modality: _Measurements() for modality in MEASURED}
    descriptors: dict[str, float] = {}
    minutes_of: dict[str, int] = {}
    for line in text.splitlines()[1:]:
        try:
            time, parameter, number = line.split(",")
            if not parameter:
                continue
            value = float(number)
            minutes = minutes_of.get(time)
            if minutes is None:
                minutes = minutes_of[time] = _minutes(time)
            if parameter in _DESCRIPTORS or (parameter == "Weight" and minutes == 0 and "Weight" not in descriptors):
                descriptors[parameter] = value
                continue
            modality, variable = _PLACE[parameter]
        except (ValueError, KeyError):
            if not line.strip():
                continue
            raise Physionet2012DataError(name, f"{line[:80]!r} is not HH:MM,Parameter,Value as known") from None
        of = measured[modality]
        of.minutes.append(minutes)
        of.variables.append(variable)
        of.values.append(value)
    if descriptors.get("RecordID", math.nan) != int(record):
        raise Physionet2012DataError(name, "its RecordID is not that of its name")
    streams = [StreamFrames("patient", "patient", patient_frame(descriptors), np.zeros(1))]
    for modality, of in measured.items():
        stream = measurement_frames(
            modality, np.array(of.minutes, np.int64), np.array(of.variables, np.int64), np.array(of.values, np.float64)
        )
        if stream is not None:
            streams.append(stream)
    return tuple(streams)


def patient_frame(descriptors: dict[str, float]) -> Float32Array:
    """[1, 12] from the descriptors as the file names them; one that is absent or implausible is unknown."""
    raw = np.array([descriptors.get(variable.name, math.nan) for variable in PATIENT], np.float64)
    scaled = _PATIENT(np.arange(len(PATIENT)), raw)
    known = np.isfinite(scaled)
    pairs = np.stack([np.where(known, scaled, 0.0), known], axis=1).reshape(-1)
    icu = np.arange(1, ICU_TYPES + 1) == descriptors.get("ICUType", math.nan)
    return np.concatenate([pairs, icu])[None].astype(np.float32)


def measurement_frames(modality: str, minutes_E: Indices, variable_E: Indices, value_E: Values) -> StreamFrames | None:
    """One frame for each minute with a plausible measurement of the modality, None where there is none. Of several
    values of one variable in one minute the last counts."""
    scaled_E = _SCALING[modality](variable_E, value_E)
    plausible_E = np.isfinite(scaled_E)
    if not plausible_E.any():
        return None
    minutes_T, row_E = np.unique(minutes_E[plausible_E], return_inverse=True)
    measured_TV = np.full((len(minutes_T), len(MEASURED[modality])), np.nan)
    measured_TV[row_E, variable_E[plausible_E]] = scaled_E[plausible_E]
    now_TV = np.isfinite(measured_TV)
    last_TV = np.maximum.accumulate(np.where(now_TV, np.arange(len(minutes_T))[:, None], -1), axis=0)
    known_TV = last_TV >= 0
    value_TV = np.where(known_TV, np.take_along_axis(measured_TV, last_TV.clip(0), axis=0), 0.0)
    age_h_TV = np.where(known_TV, (minutes_T[:, None] - minutes_T[last_TV]) / 60, OLDEST_H).clip(max=OLDEST_H)
    frames_TV3 = np.stack([value_TV, now_TV, np.log1p(age_h_TV)], axis=2)
    frames = np.ascontiguousarray(frames_TV3.reshape(len(minutes_T), -1), np.float32)
    return StreamFrames(modality, modality, frames, minutes_T.astype(np.float64) * 60)


def parse_outcomes(name: str, text: str) -> dict[str, str]:
    """By record: "survived" or "died"."""
    head, *lines = [line.strip() for line in text.splitlines() if line.strip()] or [""]
    columns = [column.strip() for column in head.split(",")]
    try:
        record, death = columns.index("RecordID"), columns.index("In-hospital_death")
        rows = [line.split(",") for line in lines]
        return {str(int(row[record])): OUTCOMES[("0", "1").index(row[death].strip())] for row in rows}
    except (ValueError, IndexError):
        raise Physionet2012DataError(name, "is no table with RecordID and In-hospital_death of 0 or 1") from None


def _place(path: Path | None) -> Path:
    """The folder of an unpacked challenge, or the archive."""
    if path is not None and path.is_dir() and any(folder.is_dir() for folder in path.glob("set-*")):
        return path
    return locate(path, FILES, Physionet2012DataError)


def _files(place: Path) -> Iterator[tuple[str, bytes]]:
    if place.is_file():
        yield from tar_members(place, Physionet2012DataError, LARGEST_FILE_BYTES)
        return
    for file in sorted([*place.glob("set-*/*.txt"), *place.glob("Outcomes-*.txt")]):
        if file.is_file():
            yield file.relative_to(place).as_posix(), read_unpacked(file, Physionet2012DataError, LARGEST_FILE_BYTES)


def _text(name: str, content: bytes) -> str:
    try:
        return content.decode("ascii")
    except UnicodeDecodeError:
        raise Physionet2012DataError(name, "is no ASCII text") from None


def _minutes(time: str) -> int:
    if not TIME.fullmatch(time):
        raise ValueError(f"{time!r} is no HH:MM")
    hours, minutes = time.split(":")
    return int(hours) * 60 + int(minutes)
