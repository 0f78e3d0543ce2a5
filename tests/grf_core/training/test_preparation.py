from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from grf_core.data.sessions import LabelledSession, LabelTrack, StreamFrames
from grf_core.training.preparation import TrainingError, normalisation_of, prepare, split_groups, split_validation
from tests.grf_core.training.tiny import TINY, tiny_dataset

SESSIONS = tiny_dataset().train


def test_validation_takes_its_share_of_every_class() -> None:
    training, validation = split_validation(SESSIONS, TINY.config, 0.25, np.random.default_rng(0))
    assert Counter(session.labels["side"] for session in validation) == {"up": 3, "down": 3}
    assert len(training) + len(validation) == len({s.session for s in training + validation}) == 24


def test_a_share_that_leaves_a_part_empty_is_refused_by_its_name() -> None:
    with pytest.raises(TrainingError, match=r"2 are to train on and 0 to validate on: schedule\.validation_share"):
        split_validation(SESSIONS[:2], TINY.config, 0.1, np.random.default_rng(0))


def classes_of(*sizes: int) -> list[LabelledSession]:
    return [
        replace(SESSIONS[0], session=f"{name}-{position}", labels={"side": f"class {name}"})
        for name, size in enumerate(sizes)
        for position in range(size)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_classes_too_small_for_a_share_of_their_own_give_it_together_and_keep_one_each(seed: int) -> None:
    training, validation = split_validation(classes_of(*[2] * 10), TINY.config, 0.2, np.random.default_rng(seed))
    assert len(validation) == 4
    assert len({str(session.labels["side"]) for session in training}) == 10


def test_a_class_of_one_session_trains() -> None:
    training, validation = split_validation(classes_of(10, 1, 1, 1), TINY.config, 0.2, np.random.default_rng(0))
    assert {session.labels["side"] for session in validation} == {"class 0"}
    assert len(training) == 11


def in_threes(session: LabelledSession) -> str:
    return str(int(session.session.partition("-")[2]) // 3)


@pytest.mark.parametrize("seed", range(5))
def test_no_group_is_in_both_parts_and_the_share_is_met_as_well_as_groups_allow(seed: int) -> None:
    training, validation = split_groups(SESSIONS, in_threes, 0.25, np.random.default_rng(seed))
    assert len(validation) == 6
    assert not {in_threes(session) for session in training} & {in_threes(session) for session in validation}
    assert len({session.session for session in training + validation}) == 24


def test_one_group_alone_cannot_be_split() -> None:
    with pytest.raises(TrainingError, match="validate"):
        split_groups(SESSIONS, lambda _: "all", 0.25, np.random.default_rng(0))


def test_a_recipe_with_groups_holds_out_whole_groups() -> None:
    data = prepare(replace(TINY, group_of=in_threes), SESSIONS, np.random.default_rng(0))
    assert not {in_threes(s) for s in data.training} & {in_threes(s) for s in data.validation}


def test_streams_that_the_model_does_not_take_are_left_out_and_sessions_of_nothing_else() -> None:
    config = replace(TINY.config, modalities=TINY.config.modalities[:1])
    deaf = replace(SESSIONS[0], streams=SESSIONS[0].streams[1:])
    data = prepare(replace(TINY, config=config), (deaf, *SESSIONS[1:]), np.random.default_rng(0))
    assert len(data.training) + len(data.validation) == 23
    assert {stream.modality for session in data.training for stream in session.streams} == {"left"}


def test_normalisation_is_that_of_frames_and_labels() -> None:
    normalisation = normalisation_of(SESSIONS, TINY.config)
    frames = np.concatenate([session.streams[0].frames for session in SESSIONS])
    np.testing.assert_allclose(normalisation.modalities["left"].mean, frames.mean(axis=0), atol=1e-6)
    sizes = [session.labels["size"] for session in SESSIONS]
    np.testing.assert_allclose(normalisation.heads["size"].std, [np.std(np.array(sizes, float))])


def test_every_value_of_a_changing_label_is_in_the_normalisation() -> None:
    track = LabelTrack(np.array([0.0, 1.0]), (2.0, 6.0))
    normalisation = normalisation_of([replace(SESSIONS[0], labels={"size": track})], TINY.config)
    assert normalisation.heads["size"].mean == (4.0,)


def test_a_modality_or_a_value_that_never_occurs_is_named() -> None:
    deaf = replace(SESSIONS[0], streams=SESSIONS[0].streams[1:])
    with pytest.raises(TrainingError, match="'left'"):
        normalisation_of([deaf], TINY.config)
    with pytest.raises(TrainingError, match="'size'"):
        normalisation_of([replace(SESSIONS[0], labels={})], TINY.config)


def test_no_deviation_is_below_its_share_of_the_common_one_where_the_recipe_says_so() -> None:
    plain = normalisation_of(SESSIONS, TINY.config).modalities
    floored = normalisation_of(SESSIONS, TINY.config, {"left": 0.9}).modalities
    common = float(np.sqrt(np.mean(np.square(plain["left"].std))))
    assert min(plain["left"].std) < 0.9 * common
    assert min(floored["left"].std) == pytest.approx(0.9 * common)
    assert max(floored["left"].std) == pytest.approx(max(plain["left"].std))
    assert floored["right"] == plain["right"]


def test_varied_streams_are_drawn_anew_raw_and_normalised_as_the_others() -> None:
    def turned_up(stream: StreamFrames, rng: np.random.Generator) -> StreamFrames:
        return replace(stream, frames=stream.frames + np.float32(rng.uniform(1, 2)))

    plain = prepare(TINY, SESSIONS, np.random.default_rng(0))
    data = prepare(replace(TINY, varied=turned_up), SESSIONS, np.random.default_rng(0))
    assert data.normalisation == plain.normalisation, "that of the streams as they are"
    rng = np.random.default_rng(0)
    once, twice = (data.drawn(0, rng).streams[0].frames for _ in range(2))
    std = np.array(data.normalisation.modalities[data.training[0].streams[0].modality].std)
    raised = (once - plain.drawn(0, rng).streams[0].frames) * std
    assert raised.min() > 0.99
    assert raised.max() < 2.01
    assert np.abs(twice - once).max() > 0
    assert data.validation[0].streams[0].frames.max() == plain.validation[0].streams[0].frames.max()


def test_a_spoiled_copy_trains_beside_each_session_and_none_validates() -> None:
    def louder(stream: StreamFrames, rng: np.random.Generator) -> StreamFrames:
        return replace(stream, frames=stream.frames + np.float32(100.0 + rng.random()))

    plain = prepare(TINY, SESSIONS, np.random.default_rng(0))
    data = prepare(replace(TINY, spoiled=louder), SESSIONS, np.random.default_rng(0))
    assert [session.session for session in data.validation] == [session.session for session in plain.validation]
    assert Counter(session.session for session in data.training) == Counter(
        {session.session: 2 for session in plain.training}
    )
    half = len(plain.training)
    parts = data.training[:half], data.training[half:]
    clean, spoiled = (np.concatenate([s.streams[0].frames for s in part]) for part in parts)
    assert spoiled.min() > clean.max()
