"""GRID, talker s1: six-word commands such as "bin blue at f two now", seen as lip landmarks and heard as log-mel.

One file, `grid_s1_features.npz.xz` or its unpacked `.npz`: `id` [sentences] of six letters, `video_len`, `audio_len`,
and the frames of all sentences one after the other, quantised: `video_q` [rows, 129] int16 (2000 = 1, -32768 = no face
found) and `audio_q` [rows, 40] uint8 (tenths, from -16).

- `lips`, 25 Hz: 40 points of the lips (x, y, z), minus the nose tip, over the distance of the eyes; then nose tip and
  both eye corners in the picture. A frame without a face is absent; the others keep their times.
- `audio`, 100 Hz: natural logarithms of 40 mel bands (`grf_core.data.log_mel`), windows of 25 ms every 10 ms. A frame's
  time is the end of its window, when a listener can have it.

The id spells the sentence, so it is the label: command, colour, preposition, letter, digit, adverb. The timed words
(`read_words`) say the same and are no modality: as an input they would give the answer away.

Shapes: T frames, M = 40 mel bands, N bins of the spectrum.
"""

from __future__ import annotations

import csv
import math
import zlib
from collections import Counter
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from grf_core.data.archives import DataFileError, locate, read_npz, read_unpacked, split_rows
from grf_core.data.log_mel import BANDS, FFT, SAMPLE_RATE_HZ, Bands, mel_filters
from grf_core.data.movement import with_movement
from grf_core.data.sessions import Dataset, LabelledSession, StreamFrames
from grf_core.step import Float32Array

FILES = ("grid_s1_features.npz.xz", "grid_s1_features.npz", "*.npz.xz", "*.npz")
WORD_FILES = ("grid_s1_words.csv.gz", "grid_s1_words.csv", "*.csv.gz", "*.csv")
POINTS = 129
"""Numbers of a frame of lips in the file: 43 points of the face in three dimensions."""
STACKED = 4
"""Frames of sound given as one, at the rate of the lips: GRF projects frame by frame, and 10 ms are no sound."""
MODALITIES = {"lips": 3 * POINTS, "audio": STACKED * BANDS}
"""Lips with their movement (`grf_core.data.movement`)."""
MAX_FRAMES = {"lips": 25, "audio": 25}
"""Of a segment: 1 s."""
COMMANDS = {"b": "bin", "l": "lay", "p": "place", "s": "set"}
COLOURS = {"b": "blue", "g": "green", "r": "red", "w": "white"}
PREPOSITIONS = {"a": "at", "b": "by", "i": "in", "w": "with"}
LETTERS = {letter: letter for letter in "abcdefghijklmnopqrstuvxyz"}
"""Without w, whose name is three syllables long."""
DIGITS = {"z": "zero"} | dict(
    zip("123456789", ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine"), strict=True)
)
ADVERBS = {"a": "again", "n": "now", "p": "please", "s": "soon"}
HEADS = {"digit": DIGITS, "colour": COLOURS, "command": COMMANDS, "letter": LETTERS}
PLACES = {"command": COMMANDS, "colour": COLOURS, "": PREPOSITIONS, "letter": LETTERS, "digit": DIGITS, " ": ADVERBS}
"""The six letters of an id; those that are no head have no name."""

LIPS_HZ, AUDIO_HZ = 25.0, 100.0
WINDOW_S = 0.025
LIPS_UNIT, NO_FACE = 2000.0, -32768
AUDIO_UNIT, AUDIO_OFFSET = 0.1, -16.0
HANN_BINS = 1.5
"""A Hann window spreads noise as if over so many bins of a plain transform of its own length."""

SOURCE = (
    "GRID audiovisual sentence corpus, talker s1: M. Cooke et al., JASA 2006, "
    "https://spandh.dcs.shef.ac.uk/gridcorpus/; landmarks by MediaPipe 0.10.21"
)
LICENCE = "CC BY 4.0 (unverified)"
SPLIT = "our own, sentence by sentence: crc32(id) % 17 < 3 tests, 150 of the 850 sentences of talker s1 at hand"


class GridS1DataError(DataFileError):
    """The GRID files are missing or not as expected."""


def grid_s1_dataset(path: Path | None = None) -> Dataset:
    sessions = read_grid_s1(path)
    return Dataset(
        name="GRID s1",
        source=SOURCE,
        licence=LICENCE,
        split=SPLIT,
        train=tuple(session for session in sessions if not is_test(session.session)),
        test=tuple(session for session in sessions if is_test(session.session)),
    )


def is_test(sentence: str) -> bool:
    """By the id alone, whatever else is in the file."""
    return zlib.crc32(sentence.encode()) % 17 < 3


def read_grid_s1(path: Path | None) -> list[LabelledSession]:
    """All sentences, in the order of the file, named by their ids. One without any face has no stream of lips."""
    file = locate(path, FILES, GridS1DataError)
    arrays = read_npz(file, {"id": 1, "video_len": 1, "audio_len": 1, "video_q": 2, "audio_q": 2}, GridS1DataError)
    ids = _ids(file, arrays["id"])
    for name, kind, width in (("video_q", "i", POINTS), ("audio_q", "u", BANDS)):
        rows = arrays[name]
        if rows.shape[1] != width or rows.dtype.kind != kind:
            raise GridS1DataError(file, f"{name} is {rows.dtype} {rows.shape}, expected [rows, {width}] quantised")
    for name in ("video_len", "audio_len"):
        if len(arrays[name]) != len(ids) or arrays[name].dtype.kind not in "iu":
            raise GridS1DataError(file, f"{name} has {len(arrays[name])} lengths for {len(ids)} ids")
    lips = split_rows(file, "video_q", arrays["video_q"], arrays["video_len"], GridS1DataError)
    audio = split_rows(file, "audio_q", arrays["audio_q"], arrays["audio_len"], GridS1DataError)
    sessions = []
    for sentence, lips_q, audio_q in zip(ids, lips, audio, strict=True):
        streams = tuple(stream for stream in (_lips(lips_q), _audio(audio_q)) if len(stream.times_s))
        if not streams:
            raise GridS1DataError(file, f"{sentence} has no frame at all")
        sessions.append(LabelledSession(sentence, labels_of(sentence, file), streams))
    return sessions


def labels_of(sentence: str, file: Path | str = "id") -> dict[str, str]:
    """{"digit": "two", "colour": "blue", ...} of an id like `bbaf2n`."""
    if len(sentence) != len(PLACES):
        raise GridS1DataError(file, f"{sentence!r} is no id of six letters")
    labels = {}
    for letter, (head, words) in zip(sentence, PLACES.items(), strict=True):
        if letter not in words:
            raise GridS1DataError(file, f"{sentence!r} is no id: {letter!r} is none of {''.join(words)}")
        labels[head] = words[letter]
    return {head: labels[head] for head in HEADS}


@dataclass(frozen=True, slots=True)
class TimedWord:
    start_s: float
    end_s: float
    word: str
    """`sil` for silence."""


def read_words(path: Path | None) -> dict[str, list[TimedWord]]:
    """The words of each sentence, by id, from `grid_s1_words.csv.gz`: for alignment and display, never as an input."""
    file = locate(path, WORD_FILES, GridS1DataError)
    words: dict[str, list[TimedWord]] = {}
    try:
        rows = csv.DictReader(read_unpacked(file, GridS1DataError).decode("utf-8").splitlines(), strict=True)
        for row in rows:
            word = TimedWord(float(row["start_s"]), float(row["end_s"]), row["word"])
            if not 0 <= word.start_s <= word.end_s < math.inf:
                raise ValueError(f"a word from {word.start_s} s to {word.end_s} s")
            words.setdefault(row["id"], []).append(word)
    except (KeyError, TypeError, UnicodeDecodeError, csv.Error, ValueError) as e:
        raise (
            e if isinstance(e, GridS1DataError) else GridS1DataError(file, f"not id,start_s,end_s,word: {e}")
        ) from None
    return words


def stack_frames(frames_TM: Float32Array) -> Float32Array:
    """[T // 4, 4 M]: as many frames side by side as one of the stream has; what is left at the end waits for more."""
    whole = len(frames_TM) // STACKED * STACKED
    return np.ascontiguousarray(frames_TM[:whole].reshape(-1, STACKED * frames_TM.shape[1]))


def in_white_noise(stream: StreamFrames, snr_db: float, rng: np.random.Generator) -> StreamFrames:
    """A stream of sound with white noise added, any other as it is."""
    if stream.modality != "audio":
        return stream
    noisy_TM = with_white_noise(stream.frames.reshape(-1, BANDS), snr_db, rng)
    return replace(stream, frames=stack_frames(noisy_TM))


def with_white_noise(frames_TM: Float32Array, snr_db: float, rng: np.random.Generator) -> Float32Array:
    """The log-mel frames that the same sound would have given with white noise added to it.

    The triangles of neighbouring bands add up to about 1, so the bands of a frame add up to its power: the noise gets
    the mean of that over the frames given, lowered by the ratio. White noise is flat over the spectrum, so a band's
    part of it goes with the sum of its filter's weights, 10 dB more in the widest than in the narrowest. The
    ratio is that within the bands: 8 % of white noise lies outside them, and about as much of these recordings.

    What one window sees of the noise fluctuates, and its phase is against the sound's or with it. A band is a sum over
    about k bins of |sound + noise|^2, noise complex Gaussian: a non-central chi-square of 2k degrees of freedom, whose
    mean is sound + noise. Windows are drawn independently, although neighbours share 15 of their 25 ms.

    Held against noise added to the sound itself (ten clips, 0 and 10 dB): 0.005 too low in the mean over all bands,
    0.15 off in the worst, the lowest.
    """
    share_M, bins_M = _white_noise_bands()
    sound_TM = np.exp(frames_TM.astype(np.float64))
    noise_M = share_M * sound_TM.sum(axis=1).mean() * 10 ** (-snr_db / 10)
    unit_M = noise_M / (2 * bins_M)
    noisy_TM: Bands = unit_M * rng.noncentral_chisquare(2 * bins_M, sound_TM / unit_M)
    log_TM: Bands = np.log(np.maximum(noisy_TM, math.exp(AUDIO_OFFSET)))
    return log_TM.astype(np.float32)


@cache
def _white_noise_bands() -> tuple[Bands, Bands]:
    """[M] the part of white noise that falls into each band, [M] over how many independent bins it comes."""
    filters_MN = mel_filters()
    weight_M: Bands = filters_MN.sum(axis=1)
    independent = SAMPLE_RATE_HZ / FFT * WINDOW_S / HANN_BINS
    bins_M = weight_M**2 / (filters_MN**2).sum(axis=1) * independent
    return weight_M / weight_M.sum(), np.maximum(bins_M, 1.0)


def _ids(file: Path, ids: npt.NDArray[Any]) -> list[str]:
    if ids.dtype.kind != "U":
        raise GridS1DataError(file, f"id is {ids.dtype}, expected text")
    names = [str(name) for name in ids]
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise GridS1DataError(file, f"{twice[0]} is there more than once")
    return names


def _lips(quantised: npt.NDArray[Any]) -> StreamFrames:
    """After a gap nothing has moved: how far it went meanwhile is no speed."""
    seen_T = (quantised != NO_FACE).all(axis=1)
    frames = (quantised[seen_T] / LIPS_UNIT).astype(np.float32)
    places = np.flatnonzero(seen_T)
    runs = np.split(frames, np.flatnonzero(np.diff(places) > 1) + 1) if len(places) else [frames]
    moving = np.concatenate([with_movement(run, LIPS_HZ) for run in runs])
    return StreamFrames("lips", "lips", moving, places / LIPS_HZ)


def _audio(quantised: npt.NDArray[Any]) -> StreamFrames:
    frames_TM = (quantised * AUDIO_UNIT + AUDIO_OFFSET).astype(np.float32)
    stacked = stack_frames(frames_TM)
    last = np.arange(1, len(stacked) + 1) * STACKED - 1
    return StreamFrames("audio", "audio", stacked, last / AUDIO_HZ + WINDOW_S)
