"""The pickles are not ours to keep, so these tests write small ones of exactly their layouts."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grf_core.data.mosi import HEAD, MODALITIES, MosiDataError, MosiParts, mosi_dataset, read_mosi
from grf_core.data.sessions import LabelledSession, StreamFrames
from grf_core.data.unpickling import UnpicklingRefused

COUNTS = {"train": 5, "valid": 2, "test": 3}
WORDS = (4, 1, 6, 3, 2)
"""Of each utterance; its audio has twice, its vision three times as many frames where they are not aligned."""
T = 6
Parts = dict[str, dict[str, Any]]


def frames(rng: np.random.Generator, length: int, width: int) -> np.ndarray:
    return rng.uniform(0.5, 1.5, (length, width))


def padded(sequences: list[np.ndarray], steps: int, front: bool) -> np.ndarray:
    return np.stack(
        [np.pad(s, ((steps - len(s), 0) if front else (0, steps - len(s)), (0, 0))) for s in sequences],
    )


def mult(aligned: bool, widths: tuple[int, int, int] = (300, 5, 20)) -> Parts:
    """`mosi_data.pkl` and `mosi_data_noalign.pkl`, as yaohungt/Multimodal-Transformer reads them."""
    rng = np.random.default_rng(0)
    parts: Parts = {}
    for part, count in COUNTS.items():
        parts[part] = {"labels": rng.uniform(-3, 3, (count, 1, 1)).astype(np.float32)}
        for modality, width, times in zip(MODALITIES, widths, (1, 2, 3), strict=True):
            times = 1 if aligned else times
            sequences = [frames(rng, words * times, width) for words in WORDS[:count]]
            parts[part][modality] = padded(sequences, T * times, front=True).astype(np.float32)
        names = [[f"03bSnISJMiM_{row + 1}", "0.0", f"{row}.5"] for row in range(count)]
        parts[part]["id"] = np.array(names, dtype="S16")
    return parts


def multibench_raw() -> Parts:
    """`mosi_raw.pkl`, as MultiBench's get_raw_data.py writes it: float64, SDK widths, ids in a list."""
    parts = mult(aligned=True, widths=(300, 74, 35))
    for part in parts.values():
        part |= {name: part[name].astype(np.float64) for name in MODALITIES}
        part["id"] = [f"03bSnISJMiM[{row + 1}]" for row in range(len(part["labels"]))]
    return parts


def mmsa(aligned: bool) -> Parts:
    """`aligned_50.pkl` and `unaligned_50.pkl`, as thuiar/MMSA reads them. BERT's padding is not zero, and neither is
    what follows an unaligned sequence."""
    rng = np.random.default_rng(1)
    parts: Parts = {}
    for part, count in COUNTS.items():
        mask = np.array([[1.0] * words + [0.0] * (T - words) for words in WORDS[:count]])
        ids = np.array([f"03bSnISJMiM$_${row + 1}" for row in range(count)])
        held: dict[str, Any] = {
            "raw_text": np.array(["A LOT OF SAD PARTS"] * count),
            "id": ids,
            "text": rng.standard_normal((count, T, 768)).astype(np.float32),
            "text_bert": np.stack([101 * mask, mask, 0 * mask], axis=1),
            "annotations": np.array(["Negative"] * count),
            "classification_labels": np.zeros(count),
            "regression_labels": rng.uniform(-3, 3, count),
        }
        for modality, width, times in (("audio", 5, 2), ("vision", 20, 3)):
            times = 1 if aligned else times
            sequences = [frames(rng, words * times, width) for words in WORDS[:count]]
            held[modality] = padded(sequences, T * times, front=False)
            if not aligned:
                held[f"{modality}_lengths"] = [words * times for words in WORDS[:count]]
                held[modality][1, -1] = 9.0
        parts[part] = held
    return parts


LAYOUTS: dict[str, Callable[[], Parts]] = {
    "mult-aligned": lambda: mult(aligned=True),
    "mult-unaligned": lambda: mult(aligned=False),
    "mmsa-aligned": lambda: mmsa(aligned=True),
    "mmsa-unaligned": lambda: mmsa(aligned=False),
}


@pytest.fixture
def read(tmp_path: Path) -> Callable[[object], MosiParts]:
    def from_a_file(held: object) -> MosiParts:
        return read_mosi(write(tmp_path / "some.pkl", held))

    return from_a_file


def write(path: Path, held: object, protocol: int = 4) -> Path:
    path.write_bytes(pickle.dumps(held, protocol))
    return path


def every(parts: MosiParts) -> Iterator[tuple[int, LabelledSession]]:
    for part in (parts.train, parts.valid, parts.test):
        yield from enumerate(part)


def stream(session: LabelledSession, modality: str) -> StreamFrames:
    return next(stream for stream in session.streams if stream.modality == modality)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout_is_known_by_its_keys(read: Callable[[object], MosiParts], layout: str) -> None:
    parts = read(LAYOUTS[layout]())
    assert parts.layout == layout
    assert parts.widths == {"text": 768 if layout.startswith("mmsa") else 300, "audio": 5, "vision": 20}
    assert [len(part) for part in (parts.train, parts.valid, parts.test)] == list(COUNTS.values())
    for _, session in every(parts):
        assert [s.modality for s in session.streams] == list(MODALITIES)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_padding_is_gone_and_what_is_left_is_whole(read: Callable[[object], MosiParts], layout: str) -> None:
    held = LAYOUTS[layout]()
    times = (1, 2, 3) if "unaligned" in layout else (1, 1, 1)
    front = layout.startswith("mult")
    parts = read(held)
    for part, sessions in (("train", parts.train), ("valid", parts.valid), ("test", parts.test)):
        for row, session in enumerate(sessions):
            for s, factor in zip(session.streams, times, strict=True):
                length, whole = WORDS[row] * factor, held[part][s.modality][row]
                kept = whole[len(whole) - length :] if front else whole[:length]
                np.testing.assert_array_equal(s.frames, kept.astype(np.float32))
                assert s.frames.dtype == np.float32


@pytest.mark.parametrize("layout", LAYOUTS)
def test_labels_and_names_are_those_of_the_file(read: Callable[[object], MosiParts], layout: str) -> None:
    held = LAYOUTS[layout]()
    parts = read(held)
    for part, sessions in (("train", parts.train), ("valid", parts.valid), ("test", parts.test)):
        labels = held[part]["regression_labels" if layout.startswith("mmsa") else "labels"].reshape(-1)
        assert [session.labels for session in sessions] == [{HEAD: float(label)} for label in labels]
        assert [s.session for s in sessions] == [f"{part}/03bSnISJMiM_{row + 1}" for row in range(len(labels))]


def test_the_raw_file_of_multibench_is_read(read: Callable[[object], MosiParts]) -> None:
    parts = read(multibench_raw())
    assert (parts.layout, dict(parts.widths)) == ("mult-aligned", {"text": 300, "audio": 74, "vision": 35})
    assert parts.test[2].session == "test/03bSnISJMiM_3"


def test_a_word_lasts_a_second_and_all_modalities_end_together(read: Callable[[object], MosiParts]) -> None:
    for layout, make in LAYOUTS.items():
        for row, session in every(read(make())):
            for s in session.streams:
                assert len(s.times_s) == len(s.frames)
                assert (np.diff(s.times_s) > 0).all()
                assert s.times_s[-1] == WORDS[row]
            assert stream(session, "text").times_s.tolist() == list(range(1, WORDS[row] + 1))
            if "unaligned" in layout:
                assert stream(session, "audio").times_s[0] == 0.5
                assert stream(session, "vision").times_s[0] == pytest.approx(1 / 3)


@pytest.mark.parametrize("protocol", [0, 2, 4, 5])
def test_old_protocols_and_ids_as_objects_are_read(tmp_path: Path, protocol: int) -> None:
    held = mult(aligned=False)
    for part in held.values():
        part["id"] = part["id"][:, :1].astype(object)
    parts = read_mosi(write(tmp_path / "some.pkl", held, protocol))
    assert parts.train[4].session == "train/03bSnISJMiM_5"


def test_covareps_infinities_and_other_gaps_become_zero(read: Callable[[object], MosiParts]) -> None:
    held = mult(aligned=False)
    held["train"]["audio"][0, -8:-6, 0] = -np.inf, np.nan
    held["train"]["vision"][0, -1, 3] = np.inf
    session = read(held).train[0]
    assert stream(session, "audio").frames[:2, 0].tolist() == [0, 0]
    assert stream(session, "vision").frames[-1, 3] == 0
    assert all(np.isfinite(s.frames).all() for s in session.streams)


def test_values_beyond_float32_become_zero(read: Callable[[object], MosiParts]) -> None:
    held = multibench_raw()
    held["train"]["audio"][0, -1, 0] = 1e300
    assert stream(read(held).train[0], "audio").frames[-1, 0] == 0


def test_a_frame_of_infinities_was_measured_and_is_no_padding(read: Callable[[object], MosiParts]) -> None:
    held = mult(aligned=False)
    held["train"]["audio"][0, -9] = -np.inf
    audio = stream(read(held).train[0], "audio").frames
    assert len(audio) == 9
    assert not audio[0].any()


def test_zeros_inside_a_sequence_are_kept(read: Callable[[object], MosiParts]) -> None:
    held = mult(aligned=False)
    held["train"]["vision"][0, -3] = 0
    assert stream(read(held).train[0], "vision").frames.shape == (12, 20)


def test_aligned_modalities_start_with_the_first_word(read: Callable[[object], MosiParts]) -> None:
    held = mult(aligned=True)
    held["train"]["audio"][0, -5] = 1  # before the text, as in mosi_raw.pkl, whose text leaves pauses out
    held["train"]["vision"][0, -4] = 0
    for s in read(held).train[0].streams:
        assert len(s.frames) == 4


def test_an_utterance_without_any_text_starts_with_whatever_there_is(read: Callable[[object], MosiParts]) -> None:
    held = mult(aligned=True)
    held["train"]["text"][0] = 0
    for s in read(held).train[0].streams:
        assert len(s.frames) == 4


@pytest.mark.parametrize("aligned", [True, False])
def test_padding_throughout_leaves_one_frame_of_zeros(read: Callable[[object], MosiParts], aligned: bool) -> None:
    held = mult(aligned)
    for modality in MODALITIES:
        held["test"][modality][1] = 0
    for s in read(held).test[1].streams:
        assert s.frames.shape[0] == 1
        assert not s.frames.any()


def test_utterances_of_one_name_stay_apart(read: Callable[[object], MosiParts]) -> None:
    held = mult(aligned=True)
    held["train"]["id"][:, 0] = b"03bSnISJMiM"
    names = [session.session for session in read(held).train]
    assert names[:2] == ["train/03bSnISJMiM", "train/03bSnISJMiM#1"]
    assert len(set(names)) == COUNTS["train"]


def test_a_file_without_ids_is_numbered(read: Callable[[object], MosiParts]) -> None:
    held = mult(aligned=True)
    for part in held.values():
        del part["id"]
    assert read(held).valid[1].session == "valid/0001"


def test_the_dataset_trains_on_train_and_valid_and_tells_them_apart(tmp_path: Path) -> None:
    dataset = mosi_dataset(write(tmp_path / "some.pkl", mult(aligned=False)))
    assert dataset.name == "CMU-MOSI, mult-unaligned"
    assert [s.session.split("/")[0] for s in dataset.train] == ["train"] * 5 + ["valid"] * 2
    assert {s.session.split("/")[0] for s in dataset.test} == {"test"}
    assert "5 utterances to train on, 2 to validate on (named valid/...), 3 to test on" in dataset.split


def edit(part: str, key: str, value: Any) -> Callable[[Parts], None]:
    def apply(held: Parts) -> None:
        held[part][key] = value(held[part][key]) if callable(value) else value

    return apply


def drop(part: str, key: str) -> Callable[[Parts], None]:
    def apply(held: Parts) -> None:
        del held[part][key]

    return apply


@pytest.mark.parametrize(
    ("layout", "harm", "said"),
    [
        ("mult-aligned", lambda held: held.pop("valid"), "valid is missing"),
        ("mult-aligned", lambda held: held.update(test=3), "test is missing, or no dict"),
        ("mult-aligned", drop("train", "audio"), "train.audio: it is missing"),
        ("mult-aligned", drop("train", "labels"), "train.labels: it is missing"),
        ("mult-aligned", edit("test", "vision", lambda v: v[0]), "test.vision: its shape is (6, 20)"),
        ("mult-aligned", edit("test", "vision", lambda v: v[:0]), "test.vision: its shape is (0, 6, 20)"),
        ("mult-aligned", edit("test", "vision", lambda v: v[:2]), "test.vision: 2 utterances, and 3 labels"),
        ("mult-aligned", edit("test", "text", lambda v: v.astype("U4")), "test.text: <U4 are not numbers"),
        ("mult-aligned", edit("test", "text", [[1.0], [1.0, 2.0]]), "test.text: its rows differ in length"),
        ("mult-aligned", edit("train", "labels", lambda v: 2 * v + 9), "train.labels: sentiment is not from -3 to 3"),
        ("mult-aligned", edit("train", "labels", lambda v: v * np.nan), "train.labels: sentiment is not"),
        ("mult-aligned", edit("train", "labels", lambda v: np.tile(v, (1, 1, 7))), "is not one value for each utter"),
        ("mult-aligned", edit("train", "labels", 1.0), "train.labels: its shape is"),
        ("mult-aligned", edit("valid", "text", lambda v: v[..., :9]), "valid is mult-aligned"),
        ("mult-aligned", edit("train", "id", lambda v: v[:2]), "train.id: 2 utterances, and 5 labels"),
        ("mult-aligned", edit("train", "id", "abc"), "train.id: a str is no list of names"),
        ("mult-aligned", edit("train", "id", np.array(1)), "train.id: a ndarray is no list of names"),
        ("mult-aligned", edit("train", "id", [1, 2, 3, 4, 5]), "train.id: 1 is no name"),
        ("mult-aligned", edit("train", "id", [[]] * 5), "train.id: [] is no name"),
        ("mmsa-aligned", drop("train", "text_bert"), "train.text_bert: it is missing"),
        ("mmsa-aligned", edit("train", "text_bert", lambda v: v[:, :2]), "train.text_bert: its shape is"),
        ("mmsa-aligned", edit("train", "text_bert", lambda v: 0 * v), "train.text_bert: lengths are not whole"),
        ("mmsa-aligned", edit("train", "audio", lambda v: v[:, :3]), "train.audio_lengths: it is missing"),
        ("mmsa-unaligned", drop("train", "vision_lengths"), "train.vision_lengths: it is missing"),
        ("mmsa-unaligned", edit("train", "vision_lengths", [1, 2, 3, 4, 19]), "whole numbers from 1 to 18"),
        (
            "mmsa-unaligned",
            edit("train", "vision_lengths", [1, 2, 3, 4, 2.5]),
            "train.vision_lengths: lengths are not whole",
        ),
        ("mmsa-unaligned", edit("train", "vision_lengths", [1, 2]), "train.vision_lengths: 2 utterances"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_key(
    read: Callable[[object], MosiParts], layout: str, harm: Callable[[Parts], None], said: str
) -> None:
    held = LAYOUTS[layout]()
    harm(held)
    with pytest.raises(MosiDataError) as refusal:
        read(held)
    assert said in str(refusal.value)


def test_another_value_than_parts_is_refused(read: Callable[[object], MosiParts]) -> None:
    with pytest.raises(MosiDataError, match="no dict of train, valid and test"):
        read([1, 2])


def test_a_file_that_would_run_code_is_refused(read: Callable[[object], MosiParts]) -> None:
    held = mult(aligned=True)
    held["train"]["id"] = np.array([print] * COUNTS["train"], dtype=object)
    with pytest.raises(UnpicklingRefused, match=r"builtins\.print"):
        read(held)
