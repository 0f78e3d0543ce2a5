"""CMU-MOSI with text, audio and vision sequences, from the pickles in which the field hands it around.

Four layouts, told apart by their keys; each is a dict of `train`, `valid` and `test`, the standard split by video:

- `mult-aligned`: `mosi_data.pkl` of MulT and MultiBench, `mosi_raw.pkl` of MultiBench. `text`, `audio` and `vision` are
  [N, T, F] with the same T, one step a word; `labels` are [N, 1, 1]; zeros pad the front. A session starts at the first
  step with text, in all three modalities, as in MultiBench.
- `mult-unaligned`: `mosi_data_noalign.pkl`. The same, with a T of its own for each modality (50, 375, 500) and zeros in
  front of each.
- `mmsa-aligned`, `mmsa-unaligned`: `aligned_50.pkl` and `unaligned_50.pkl` of MMSA. `text` holds BERT's token
  embeddings; `text_bert` is [N, 3, T] of token ids, attention mask and segment ids; `regression_labels` are [N]. What
  pads the end is not always zero, so lengths come from the mask and, unaligned, from `audio_lengths` and
  `vision_lengths`.

Values that are not finite become 0, as MulT does with the -inf in COVAREP's audio. A modality that is zeros throughout
stays, which is what the field's models see of it: where it has a padding of its own, as one frame. No utterance is left
out (MultiBench leaves out those without text).

Times are invented, because the pickles carry none: an utterance lasts one second for each step of its text, and the
frames of each modality are spread evenly over it and end together. So a word-aligned step lasts one second.

Shapes: N utterances, T steps, F feature width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeGuard, get_args

import numpy as np
import numpy.typing as npt

from grf_core.data.sessions import Dataset, LabelledSession, StreamFrames
from grf_core.data.unpickling import unpickle_file

Layout = Literal["mult-aligned", "mult-unaligned", "mmsa-aligned", "mmsa-unaligned"]
Part = Literal["train", "valid", "test"]
Array = npt.NDArray[Any]
Spans = Mapping[str, npt.NDArray[np.int64]]
"""By modality [N, 2]: the first step of each utterance, and the step behind its last."""

MODALITIES = ("text", "audio", "vision")
HEAD = "sentiment"
STRONGEST = 3.0
"""Sentiment goes from -3 to 3."""
STEP_S = 1.0
"""Of the text."""

SOURCE = "CMU-MOSI (Zadeh et al., 2016, arXiv 1606.06259), features as distributed with MulT, MultiBench or MMSA"
LICENCE = "CMU-MOSI is given out for research; the files of features state no licence of their own"


class MosiDataError(ValueError):
    """A file that is not CMU-MOSI in a layout we read; the text names the key and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class MosiParts:
    """Sessions are named part/video_segment: `valid/WKA5OygbEKI_20`."""

    layout: Layout
    widths: Mapping[str, int]
    """By modality, in the paper's order: text, audio, vision."""
    train: tuple[LabelledSession, ...]
    valid: tuple[LabelledSession, ...]
    test: tuple[LabelledSession, ...]


def mosi_dataset(path: Path | str) -> Dataset:
    """The training half is `train` and `valid` together; the names of the sessions still tell them apart."""
    parts = read_mosi(path)
    return Dataset(
        name=f"CMU-MOSI, {parts.layout}",
        source=SOURCE,
        licence=LICENCE,
        split=f"the standard one, by video: {len(parts.train)} utterances to train on, {len(parts.valid)} to"
        f" validate on (named valid/...), {len(parts.test)} to test on",
        train=parts.train + parts.valid,
        test=parts.test,
    )


def read_mosi(path: Path | str) -> MosiParts:
    """Any of the four layouts; UnpicklingRefused for a file that is no pickle of arrays."""
    parts = unpickle_file(path)
    if not isinstance(parts, dict):
        raise MosiDataError(f"{path} holds no dict of train, valid and test")
    train, valid, test = (_Utterances(part, parts.get(part)) for part in get_args(Part))
    for other in (valid, test):
        if (other.layout, other.widths) != (train.layout, train.widths):
            raise MosiDataError(
                f"{other.part} is {other.layout} {other.widths}, and train {train.layout} {train.widths}"
            )
    return MosiParts(train.layout, train.widths, train.sessions(), valid.sessions(), test.sessions())


class _Utterances:
    """One part of a file, checked."""

    def __init__(self, part: Part, held: object) -> None:
        if not isinstance(held, dict):
            raise MosiDataError(f"{part} is missing, or no dict")
        self.part = part
        self._held: Mapping[str, object] = held
        self._frames = {modality: self._numbers(modality, 3) for modality in MODALITIES}
        self.widths = {modality: frames_NTF.shape[2] for modality, frames_NTF in self._frames.items()}
        self.layout = self._layout()
        self._labels_N = self._sentiments()
        for modality, frames_NTF in self._frames.items():
            self._check_count(modality, len(frames_NTF))

    def sessions(self) -> tuple[LabelledSession, ...]:
        names, spans = self._names(), self._spans()
        return tuple(self._session(row, f"{self.part}/{name}", spans) for row, name in enumerate(names))

    def _session(self, row: int, name: str, spans: Spans) -> LabelledSession:
        start, stop = spans["text"][row]
        duration_s = STEP_S * int(stop - start)
        streams = (
            _stream(modality, self._frames[modality][row, slice(*spans[modality][row])], duration_s)
            for modality in MODALITIES
        )
        return LabelledSession(name, {HEAD: float(self._labels_N[row])}, tuple(streams))

    def _layout(self) -> Layout:
        aligned = len({frames_NTF.shape[1] for frames_NTF in self._frames.values()}) == 1
        if "regression_labels" not in self._held:
            return "mult-aligned" if aligned else "mult-unaligned"
        if "audio_lengths" in self._held:
            return "mmsa-unaligned"
        if not aligned:
            raise self._error("audio_lengths", "it is missing, and the modalities differ in steps")
        return "mmsa-aligned"

    def _spans(self) -> Spans:
        if self.layout == "mult-unaligned":
            return {modality: _behind_padding(frames_NTF) for modality, frames_NTF in self._frames.items()}
        if self.layout == "mult-aligned":
            return dict.fromkeys(MODALITIES, self._behind_shared_padding())
        text = self._before_padding("text", self._mask_lengths())
        if self.layout == "mmsa-aligned":
            return dict.fromkeys(MODALITIES, text)
        lengths = {name: self._numbers(f"{name}_lengths", 1) for name in ("audio", "vision")}
        return {"text": text} | {name: self._before_padding(name, lengths_N) for name, lengths_N in lengths.items()}

    def _behind_shared_padding(self) -> npt.NDArray[np.int64]:
        """From the first step with text; for an utterance without any, from the first with anything."""
        text, *others = (_behind_padding(self._frames[modality]) for modality in MODALITIES)
        earliest = np.minimum.reduce([text, *others])
        spoken_N = np.any(self._frames["text"] != 0, axis=(1, 2))
        return np.where(spoken_N[:, None], text, earliest)

    def _mask_lengths(self) -> Array:
        tokens_N3T = self._numbers("text_bert", 3)
        if tokens_N3T.shape[1] != 3 or tokens_N3T.shape[2] != self._frames["text"].shape[1]:
            raise self._error("text_bert", f"its shape is {tokens_N3T.shape}, not [N, 3, T] with the T of text")
        lengths_N: Array = tokens_N3T[:, 1].sum(axis=1)
        return lengths_N

    def _before_padding(self, modality: str, lengths_N: Array) -> npt.NDArray[np.int64]:
        steps = self._frames[modality].shape[1]
        key = "text_bert" if modality == "text" else f"{modality}_lengths"
        self._check_count(key, len(lengths_N))
        if not ((lengths_N >= 1) & (lengths_N <= steps) & (lengths_N % 1 == 0)).all():
            raise self._error(key, f"lengths are not whole numbers from 1 to {steps}")
        return np.stack([np.zeros(len(lengths_N), np.int64), lengths_N.astype(np.int64)], axis=1)

    def _sentiments(self) -> Array:
        key = "regression_labels" if self.layout.startswith("mmsa") else "labels"
        values = self._numbers(key, 1, 2, 3)
        if values.size != len(values):
            raise self._error(key, f"{values.shape} is not one value for each utterance")
        if not (np.abs(values) <= STRONGEST).all():
            raise self._error(key, f"sentiment is not from {-STRONGEST:g} to {STRONGEST:g}")
        return values.reshape(-1)

    def _names(self) -> list[str]:
        """video_segment, however the file writes it; a name that comes again has its row added."""
        if "id" not in self._held:
            return [f"{row:04d}" for row in range(len(self._labels_N))]
        ids = self._held["id"]
        if not _is_list(ids):
            raise self._error("id", f"a {type(ids).__name__} is no list of names")
        self._check_count("id", len(ids))
        names: list[str] = []
        for row, entry in enumerate(ids):
            name = self._name(entry)
            names.append(f"{name}#{row}" if name in names else name)
        return names

    def _name(self, entry: object) -> str:
        """`03bSnISJMiM_11` for that, for `03bSnISJMiM$_$11` (MMSA), for `03bSnISJMiM[11]` (SDK), and for a row that
        begins with one of them (MulT adds start and end)."""
        while _is_list(entry) and len(entry):
            entry = entry[0]
        if isinstance(entry, bytes):
            entry = entry.decode("utf-8", "replace")
        if not isinstance(entry, str) or not entry:
            raise self._error("id", f"{entry!r:.60} is no name")
        return entry.replace("$_$", "_").replace("[", "_").removesuffix("]")

    def _numbers(self, key: str, *dimensions: int) -> Array:
        if key not in self._held:
            raise self._error(key, "it is missing")
        try:
            values = np.asarray(self._held[key])
        except ValueError:
            raise self._error(key, "its rows differ in length") from None
        if values.dtype.kind not in "biuf":
            raise self._error(key, f"{values.dtype.str} are not numbers")
        if values.size == 0 or values.ndim not in dimensions:
            expected = " or ".join(map(str, dimensions))
            raise self._error(key, f"its shape is {values.shape}, and {expected} dimensions are expected")
        return values

    def _check_count(self, key: str, count: int) -> None:
        if count != len(self._labels_N):
            raise self._error(key, f"{count} utterances, and {len(self._labels_N)} labels")

    def _error(self, key: str, reason: str) -> MosiDataError:
        return MosiDataError(f"{self.part}.{key}: {reason}")


def _is_list(value: object) -> TypeGuard[list[object] | tuple[object, ...] | Array]:
    return isinstance(value, list | tuple) or (isinstance(value, np.ndarray) and value.ndim > 0)


def _any_value(frames_NTF: Array) -> Array:
    """[N, T]: a step that is not all zeros. What is not finite is a value: the step was measured."""
    any_NT: Array = np.any(frames_NTF != 0, axis=2)
    return any_NT


def _behind_padding(frames_NTF: Array) -> npt.NDArray[np.int64]:
    """[N, 2]: from the first step that is not all zeros to the end; the last step where all are."""
    value_NT = _any_value(frames_NTF)
    steps = value_NT.shape[1]
    first_N = np.where(value_NT.any(axis=1), value_NT.argmax(axis=1), steps - 1)
    return np.stack([first_N, np.full(len(first_N), steps)], axis=1)


def _stream(modality: str, frames_TF: Array, duration_s: float) -> StreamFrames:
    with np.errstate(over="ignore"):
        finite_TF = frames_TF.astype(np.float32)
    finite_TF[~np.isfinite(finite_TF)] = 0
    times_s = duration_s * np.arange(1, len(frames_TF) + 1) / len(frames_TF)
    return StreamFrames(modality, modality, finite_TF, times_s)
