from __future__ import annotations

import gzip
import lzma
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from grf_core.data.grid_s1 import (
    HEADS,
    MODALITIES,
    NO_FACE,
    GridS1DataError,
    TimedWord,
    grid_s1_dataset,
    in_white_noise,
    is_test,
    labels_of,
    read_grid_s1,
    read_words,
    stack_frames,
    with_white_noise,
)
from grf_core.data.log_mel import mel_filters
from tests.grf_core.data.npz import npz_bytes

Arrays = dict[str, npt.NDArray[Any]]


def make(*ids: str) -> Arrays:
    rng = np.random.default_rng(0)
    video_len = np.array([75 - i % 2 for i in range(len(ids))], np.int16)
    audio_len = np.full(len(ids), 296, np.int16)
    return {
        "id": np.array(ids, "U6"),
        "video_len": video_len,
        "audio_len": audio_len,
        "video_q": rng.integers(-2000, 2000, (video_len.sum(), 129)).astype(np.int16),
        "audio_q": rng.integers(0, 256, (audio_len.sum(), 40)).astype(np.uint8),
    }


def write(path: Path, arrays: Arrays) -> Path:
    content = npz_bytes(**arrays)
    path.write_bytes(lzma.compress(content, preset=0) if path.suffix == ".xz" else content)
    return path


def test_sentences_become_sessions_of_lips_and_audio(tmp_path: Path) -> None:
    write(tmp_path / "grid_s1_features.npz.xz", make("bbaf2n", "swizzs"))
    first, second = read_grid_s1(tmp_path)
    assert first.labels == {"digit": "two", "colour": "blue", "command": "bin", "letter": "f"}
    assert second.labels == {"digit": "zero", "colour": "white", "command": "set", "letter": "z"}
    assert second.session == "swizzs"
    assert [(s.stream, s.modality, s.frames.shape, s.frames.dtype) for s in second.streams] == [
        ("lips", "lips", (74, 387), np.dtype(np.float32)),
        ("audio", "audio", (74, 160), np.dtype(np.float32)),
    ]
    assert MODALITIES == {"lips": 387, "audio": 160}


def test_quantised_values_come_back_in_their_units(tmp_path: Path) -> None:
    arrays = make("bbaf2n", "bbaf3n")
    _, second = read_grid_s1(write(tmp_path / "grid_s1_features.npz", arrays))
    lips, audio = second.streams
    np.testing.assert_allclose(lips.frames[:, :129], arrays["video_q"][75:] / 2000, atol=1e-6)
    np.testing.assert_allclose(audio.frames.reshape(296, 40), arrays["audio_q"][296:] * 0.1 - 16, atol=1e-5)


def test_frames_without_a_face_are_absent_and_the_others_keep_their_times(tmp_path: Path) -> None:
    arrays = make("bbaf2n")
    arrays["video_q"][[0, 10, 11]] = NO_FACE
    lips, _ = read_grid_s1(write(tmp_path / "grid_s1_features.npz", arrays))[0].streams
    seen = [frame for frame in range(75) if frame not in (0, 10, 11)]
    assert lips.times_s.tolist() == [frame / 25 for frame in seen]
    np.testing.assert_allclose(lips.frames[:, :129], arrays["video_q"][seen] / 2000, atol=1e-6)


def test_a_sentence_without_any_face_has_audio_alone(tmp_path: Path) -> None:
    arrays = make("bbaf2n")
    arrays["video_q"][:] = NO_FACE
    (session,) = read_grid_s1(write(tmp_path / "grid_s1_features.npz", arrays))
    assert [s.stream for s in session.streams] == ["audio"]


def test_a_sentence_without_a_frame_is_refused(tmp_path: Path) -> None:
    arrays = make("bbaf2n", "bbaf3s")
    arrays["video_len"][:], arrays["audio_len"][:] = (149, 0), (592, 0)
    with pytest.raises(GridS1DataError, match="bbaf3s has no frame"):
        read_grid_s1(write(tmp_path / "grid_s1_features.npz", arrays))


def test_an_audio_frame_happens_when_its_last_window_ends(tmp_path: Path) -> None:
    _, audio = read_grid_s1(write(tmp_path / "grid_s1_features.npz", make("bbaf2n")))[0].streams
    assert audio.times_s[[0, 1, -1]].tolist() == pytest.approx([0.055, 0.095, 2.975])


def every_id() -> list[str]:
    return [
        command + colour + "a" + letter + digit + "n"
        for command in HEADS["command"]
        for colour in HEADS["colour"]
        for letter in HEADS["letter"]
        for digit in HEADS["digit"]
    ]


def test_every_class_of_every_head_is_spelled_by_some_id() -> None:
    labels = [labels_of(sentence) for sentence in every_id()]
    for head, words in HEADS.items():
        assert {of[head] for of in labels} == set(words.values())
    assert [len(words) for words in HEADS.values()] == [10, 4, 4, 25]


def test_three_in_seventeen_sentences_test_whatever_else_is_in_the_file(tmp_path: Path) -> None:
    chosen = sum(map(is_test, every_id()))
    assert chosen / len(every_id()) == pytest.approx(3 / 17, abs=0.01)
    sentences = every_id()[:8]
    whole = grid_s1_dataset(write(tmp_path / "whole.npz", make(*sentences)))
    assert {s.session for s in whole.test} == {s for s in sentences if is_test(s)}
    assert len(whole.train) + len(whole.test) == 8
    for sentence in sentences:
        alone = grid_s1_dataset(write(tmp_path / "alone.npz", make(sentence)))
        assert bool(alone.test) == (sentence in {s.session for s in whole.test})


def test_the_split_is_what_it_was_when_models_were_trained_on_it() -> None:
    some = ("bbaf2n", "bbaf3s", "bbaf4p", "bbaf5a", "bbal6n", "bbal7s", "bbas2p")
    assert [sentence for sentence in some if is_test(sentence)] == ["bbaf3s", "bbal7s"]


@pytest.mark.parametrize("sentence", ["bbaf2", "bbaf2nn", "xbaf2n", "bxaf2n", "bbxf2n", "bbaw2n", "bbaf0n", "bbaf2x"])
def test_an_id_that_spells_no_sentence_is_refused(sentence: str) -> None:
    with pytest.raises(GridS1DataError, match=sentence):
        labels_of(sentence)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"video_q": np.zeros((149, 128), np.int16)}, "video_q is int16"),
        ({"video_q": np.zeros((149, 129))}, "video_q is float64"),
        ({"audio_q": np.zeros((591, 40), np.uint8)}, "audio_q has 591 rows"),
        ({"audio_len": np.array([296], np.int16)}, "1 lengths for 2 ids"),
        ({"id": np.array([b"bbaf2n", b"bbaf3n"])}, "expected text"),
        ({"id": np.array(["bbaf2n", "bbaf2n"])}, "more than once"),
        ({"id": np.array(["bbaf2n", "hello!"])}, "'hello!'"),
    ],
    ids=["128 landmarks", "floats", "a row less", "a length less", "bytes", "twice", "no sentence"],
)
def test_a_file_of_another_layout_is_refused_with_the_reason(changes: Arrays, reason: str, tmp_path: Path) -> None:
    with pytest.raises(GridS1DataError, match=reason):
        read_grid_s1(write(tmp_path / "grid_s1_features.npz", make("bbaf2n", "bbaf3n") | changes))


def test_without_a_path_the_error_says_where_to_give_it() -> None:
    with pytest.raises(GridS1DataError, match="--data"):
        grid_s1_dataset(None)


def test_timed_words_are_read_by_id(tmp_path: Path) -> None:
    table = "id,start_s,end_s,word\nbbaf2n,0.0,0.95,sil\nbbaf2n,0.95,1.18,bin\nbbaf3s,0.0,0.71,sil\n"
    (tmp_path / "grid_s1_words.csv.gz").write_bytes(gzip.compress(table.encode()))
    assert read_words(tmp_path) == {
        "bbaf2n": [TimedWord(0.0, 0.95, "sil"), TimedWord(0.95, 1.18, "bin")],
        "bbaf3s": [TimedWord(0.0, 0.71, "sil")],
    }


@pytest.mark.parametrize(
    "row", ["bbaf2n,0.0", "bbaf2n,x,1,bin", "bbaf2n,2,1,bin", "bbaf2n,0,nan,bin", "bbaf2n,0,inf,a"]
)
def test_words_that_do_not_fit_are_refused(row: str, tmp_path: Path) -> None:
    (tmp_path / "grid_s1_words.csv").write_text(f"id,start_s,end_s,word\n{row}\n")
    with pytest.raises(GridS1DataError, match="words"):
        read_words(tmp_path)


def log_mel(sound: npt.NDArray[np.float64]) -> npt.NDArray[np.float32]:
    """The features of a sound at 16 kHz, computed from the sound itself."""
    windows = np.lib.stride_tricks.sliding_window_view(sound, 400)[::160] * np.hanning(401)[:-1]
    power = np.abs(np.fft.rfft(windows, 512)) ** 2
    return np.log(power @ mel_filters().T + 1e-7).astype(np.float32)


def a_sound(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """4 s of something like speech: most of it low but audible, and coming and going."""
    spectrum = np.fft.rfft(rng.normal(size=64_000))
    frequency_hz = np.fft.rfftfreq(64_000, 1 / 16_000)
    spectrum *= (frequency_hz > 100) / (1 + (frequency_hz / 500) ** 2)
    loudness: npt.NDArray[np.float64] = 1 + np.sin(np.arange(64_000) / 2000)
    return np.fft.irfft(spectrum) * loudness


def power(frames: npt.NDArray[np.float32]) -> float:
    return float(np.exp(frames).sum(axis=1).mean())


@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 15.0])
def test_noise_added_to_the_features_is_what_noise_added_to_the_sound_would_have_been(snr_db: float) -> None:
    rng = np.random.default_rng(0)
    sound, noise = a_sound(rng), rng.normal(size=64_000)
    noise *= np.sqrt(power(log_mel(sound)) / power(log_mel(noise)) * 10 ** (-snr_db / 10))
    expected = log_mel(sound + noise)
    noisy = with_white_noise(log_mel(sound), snr_db, rng)
    assert noisy.dtype == np.float32
    np.testing.assert_allclose(noisy.mean(axis=0), expected.mean(axis=0), atol=0.3)
    assert noisy.mean() == pytest.approx(expected.mean(), abs=0.06)
    np.testing.assert_allclose(noisy[:, 2:].std(axis=0), expected[:, 2:].std(axis=0), rtol=0.25)


def test_at_zero_decibels_the_power_doubles() -> None:
    rng = np.random.default_rng(0)
    frames = log_mel(a_sound(rng))
    assert power(with_white_noise(frames, 0.0, rng)) / power(frames) == pytest.approx(2.0, rel=0.02)


def test_noise_far_below_the_sound_leaves_it_as_it_is_and_repeats_by_seed() -> None:
    frames = log_mel(a_sound(np.random.default_rng(0)))
    np.testing.assert_allclose(with_white_noise(frames, 120.0, np.random.default_rng(1)), frames, atol=0.1)
    first, second = (with_white_noise(frames, 0.0, np.random.default_rng(1)) for _ in range(2))
    np.testing.assert_array_equal(first, second)


def test_sound_that_does_not_fill_a_frame_waits(tmp_path: Path) -> None:
    frames = np.arange(11 * 40, dtype=np.float32).reshape(11, 40)
    assert stack_frames(frames).shape == (2, 160)
    np.testing.assert_array_equal(stack_frames(frames).reshape(8, 40), frames[:8])


def test_after_a_gap_the_lips_have_not_moved(tmp_path: Path) -> None:
    arrays = make("bbaf2n")
    arrays["video_q"][10:20] = NO_FACE
    lips, _ = read_grid_s1(write(tmp_path / "grid_s1_features.npz", arrays))[0].streams
    moved = np.abs(lips.frames[:, 129:258]).sum(axis=1)
    assert np.flatnonzero(moved == 0).tolist() == [0, 10]


def test_noise_spoils_the_sound_as_frames_of_the_file_and_leaves_the_lips(tmp_path: Path) -> None:
    lips, audio = read_grid_s1(write(tmp_path / "grid_s1_features.npz", make("bbaf2n")))[0].streams
    assert in_white_noise(lips, 0.0, np.random.default_rng(0)) is lips
    noisy = in_white_noise(audio, 0.0, np.random.default_rng(0))
    expected = with_white_noise(audio.frames.reshape(-1, 40), 0.0, np.random.default_rng(0))
    np.testing.assert_array_equal(noisy.frames.reshape(-1, 40), expected)
    assert noisy.times_s is audio.times_s
