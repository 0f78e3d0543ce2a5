from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from grf_core.bundle import Bundle
from grf_core.data.conversion import write_sessions
from grf_core.data.sessions import Cutting, LabelTrack, cut_session, in_fusion_order
from grf_core.model import GRF
from grf_core.normalisation import Normalisation
from grf_core.recording import RecordedSegment, RecordedSession, RecordingHead, RecordingWriter, read_recording
from grf_core.training.evaluation import (
    EvaluationError,
    evaluate,
    evaluate_recording,
    evaluate_sequences,
    split_unseen,
    stream_answers,
)
from grf_core.training.recipe import Augmentation, Condition
from tests.grf_core.training.tiny import TINY, tiny_dataset

HEAD = RecordingHead("tiny", "made up", "CC0-1.0", {"left": 2, "right": 2})
CALM = Condition("calm", Cutting(1.0, 1.0))


@pytest.fixture(scope="module")
def bundle() -> Bundle:
    model = GRF(TINY.config)
    return Bundle.of("tiny", model, Normalisation.identity(TINY.config), {})


def test_metrics_are_those_of_the_last_answer(bundle: Bundle) -> None:
    sessions, rng = tiny_dataset().test, np.random.default_rng(0)
    most = {"left": 8, "right": 8}
    sequences = [in_fusion_order(cut_session(s, CALM.cutting, most, rng), ["left", "right"]) for s in sessions]
    answers = np.stack([answers[-1] for answers in stream_answers(bundle.step_model(), sequences)])
    right = [
        TINY.config.heads[0].labels[a.argmax()] == s.labels["side"]
        for a, s in zip(answers[:, :2], sessions, strict=True)
    ]
    sizes = [size for s in sessions if isinstance(size := s.labels["size"], float)]
    missed = [abs(a - size) for a, size in zip(answers[:, 2], sizes, strict=True)]
    result = evaluate(bundle, sessions, CALM)
    assert result["n"] == 16
    assert result["segments"] == sum(map(len, sequences))
    assert result["side/accuracy"] == pytest.approx(np.mean(right))
    assert result["size/mae"] == pytest.approx(np.mean(missed), rel=1e-5)


def test_a_session_gets_the_same_answers_alone_as_among_others(bundle: Bundle) -> None:
    rng = np.random.default_rng(1)
    cutting = Cutting(0.3, 2.0)
    sequences = [cut_session(s, cutting, {"left": 8, "right": 8}, rng) for s in tiny_dataset().test[:5]]
    together = stream_answers(bundle.step_model(), sequences)
    for sequence, answers in zip(sequences, together, strict=True):
        assert len(answers) == len(sequence)
        np.testing.assert_allclose(stream_answers(bundle.step_model(), [sequence])[0], answers, atol=1e-5)


def test_a_recording_is_evaluated_as_its_sessions_are(bundle: Bundle, tmp_path: Path) -> None:
    write_sessions(tmp_path / "tiny.grfrec", HEAD, tiny_dataset().test, CALM.cutting, 8)
    recorded = evaluate_recording(bundle, tmp_path / "tiny.grfrec")
    assert recorded == pytest.approx(evaluate(bundle, tiny_dataset().test, CALM))


def test_repeats_play_every_session_again_under_other_draws(bundle: Bundle) -> None:
    lossy = Condition("lossy", CALM.cutting, Augmentation(drop_segment=0.5), repeats=3)
    result = evaluate(bundle, tiny_dataset().test, lossy)
    assert result["n"] == 48
    assert result["segments"] < 3 * evaluate(bundle, tiny_dataset().test, CALM)["segments"]


@pytest.mark.parametrize(
    ("reason", "modality", "shape"),
    [("no modality 'smell'", "smell", (1, 2)), ("width 3", "left", (1, 3)), ("9 frames", "right", (9, 2))],
)
def test_a_recording_the_bundle_cannot_take_is_refused(
    bundle: Bundle, tmp_path: Path, reason: str, modality: str, shape: tuple[int, int]
) -> None:
    with RecordingWriter(tmp_path / "x.grfrec", RecordingHead("", "", "", {modality: shape[1]})) as writer:
        writer.write(RecordedSession("s", {"side": "up"}))
        writer.write(RecordedSegment("s", "a", modality, 1, 0.0, np.ones(shape, np.float32)))
    with pytest.raises(EvaluationError, match=reason):
        evaluate_recording(bundle, tmp_path / "x.grfrec")


def test_nothing_to_evaluate_is_an_error_and_no_figure(bundle: Bundle) -> None:
    with pytest.raises(EvaluationError, match="no labelled session"):
        evaluate_sequences(bundle, [], [])


def test_a_changing_label_is_compared_with_the_answer_after_every_segment(bundle: Bundle) -> None:
    """Segments end at 0.75 s and 1.75 s; the label is unknown before 1 s."""
    track = LabelTrack(np.array([1.0]), (3.0,))
    sessions = [replace(session, labels={"size": track}) for session in tiny_dataset().test[:4]]
    rng, most = np.random.default_rng(0), {"left": 8, "right": 8}
    sequences = [in_fusion_order(cut_session(s, CALM.cutting, most, rng), ["left", "right"]) for s in sessions]
    answers = stream_answers(bundle.step_model(), sequences)
    late = [
        answer[2]
        for sequence, of_session in zip(sequences, answers, strict=True)
        for segment, answer in zip(sequence, of_session, strict=True)
        if segment.event_time_s >= 1.0
    ]
    assert len(late) == 8
    assert evaluate(bundle, sessions, CALM)["size/mae"] == pytest.approx(
        np.mean(np.abs(np.array(late) - 3.0)), rel=1e-5
    )


def test_the_first_head_is_told_without_its_name_too(bundle: Bundle) -> None:
    result = evaluate(bundle, tiny_dataset().test, CALM)
    assert result["accuracy"] == result["side/accuracy"]
    assert "mae" not in result


def test_many_sessions_get_the_answers_of_few_in_the_order_given(
    bundle: Bundle, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(2)
    cuttings = [Cutting(length_s, length_s) for length_s in (0.3, 2.0, 0.6)]
    sequences = [
        cut_session(s, cuttings[k % 3], {"left": 8, "right": 8}, rng) for k, s in enumerate(tiny_dataset().test)
    ]
    whole, seen = stream_answers(bundle.step_model(), sequences), []
    monkeypatch.setattr("grf_core.training.evaluation.SESSIONS_ABREAST", 5)
    chunked = stream_answers(bundle.step_model(), sequences, lambda done, total: seen.append((done, total)))
    assert seen == [(5, 16), (10, 16), (15, 16), (16, 16)]
    for one, other in zip(whole, chunked, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-5)


def test_a_session_without_labels_is_left_out(bundle: Bundle) -> None:
    test = tiny_dataset().test
    assert evaluate(bundle, [*test, replace(test[0], labels={})], CALM) == evaluate(bundle, test, CALM)


def test_retransmissions_are_fused_once(bundle: Bundle, tmp_path: Path) -> None:
    write_sessions(tmp_path / "tiny.grfrec", HEAD, tiny_dataset().test, CALM.cutting, 8)
    once = evaluate_recording(bundle, tmp_path / "tiny.grfrec")
    records = list(read_recording(tmp_path / "tiny.grfrec"))
    with RecordingWriter(tmp_path / "tiny.grfrec", HEAD, resume=True) as writer:
        writer.write(records[-1])
    assert evaluate_recording(bundle, tmp_path / "tiny.grfrec") == once


def test_what_a_bundle_was_trained_on_is_told_apart() -> None:
    trained = Bundle.of("tiny", GRF(TINY.config), Normalisation.identity(TINY.config), {"trained_on": ["b", "c"]})
    assert split_unseen(trained, ["a", "b"]) == (["a"], ["b"])
    untold = Bundle.of("tiny", GRF(TINY.config), Normalisation.identity(TINY.config), {})
    assert split_unseen(untold, ["a", "b"]) == (["a", "b"], [])
