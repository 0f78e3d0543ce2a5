from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grf_core.data.conversion import write_sessions
from grf_core.data.recordings import RecordingsError
from grf_core.data.sessions import Cutting, LabelledSession, LabelTrack
from grf_core.recording import RecordedSession, RecordingHead, RecordingWriter
from grf_core.training.checks import RecipeError
from grf_core.training.recipes.custom import custom_recipe
from grf_core.training.run import TrainingRun
from tests.grf_core.training.tiny import tiny_dataset

HEAD = RecordingHead("tiny", "made up", "CC0-1.0", {"left": 2, "right": 2})
SESSIONS = tiny_dataset().train


def recorded(folder: Path, sessions: tuple[LabelledSession, ...] = SESSIONS, head: RecordingHead = HEAD) -> Path:
    path = folder / f"{len(list(folder.iterdir()))}.grfrec"
    write_sessions(path, head, sessions, Cutting(0.5, 0.5), 8)
    return path


def names(sessions: tuple[LabelledSession, ...]) -> list[str]:
    return [session.session for session in sessions]


def test_what_the_file_does_not_say_comes_from_the_recordings(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    recipe = custom_recipe({}, path)
    side, size = recipe.config.heads
    assert (side.name, side.kind, side.labels) == ("side", "classification", ("down", "up"))
    assert (size.name, size.kind) == ("size", "regression")
    assert [(m.name, m.width, m.max_frames) for m in recipe.config.modalities] == [("left", 2, 2), ("right", 2, 2)]
    assert recipe.cutting.shortest_s == pytest.approx(0.25)
    assert recipe.cutting.longest_s == pytest.approx(1.0)
    dataset = recipe.load(path)
    assert (dataset.name, dataset.licence) == ("tiny", "CC0-1.0")
    assert len(dataset.train) + len(dataset.test) == 24
    assert len(dataset.test) == 4


def test_an_empty_file_says_nothing(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    assert custom_recipe(None, path).to_json() == custom_recipe({}, path).to_json()


def test_what_the_file_says_holds(tmp_path: Path) -> None:
    options = {
        "name": "mine",
        "modalities": {"right": {"max_frames": 5}},
        "heads": {"side": {"labels": ["up", "down"]}},
        "regime": "whole",
        "model": {"d_model": 8, "n_heads": 2},
        "schedule": {"epochs": 3},
        "objective": {"regression": "huber", "class_weights": {"side": {"up": 1, "down": 2.5}}},
        "augmentation": {"noise": 0.1},
        "limits": "None.",
    }
    recipe = custom_recipe(options, recorded(tmp_path))
    assert (recipe.name, recipe.regime, recipe.limits, recipe.schedule.epochs) == ("mine", "whole", "None.", 3)
    assert [(m.name, m.max_frames) for m in recipe.config.modalities] == [("right", 5)]
    assert [head.labels for head in recipe.config.heads] == [("up", "down")]
    assert recipe.objective.class_weights == {"side": (1, 2.5)}
    assert recipe.objective.regression == "huber"


@pytest.mark.parametrize("regime", ["streaming", "whole"])
def test_a_custom_recipe_trains(tmp_path: Path, regime: str) -> None:
    options = {"regime": regime, "objective": {"class_weights": "balanced"}, "model": {"d_model": 8, "n_heads": 2}}
    recipe = custom_recipe(options, recorded(tmp_path))
    assert recipe.objective.class_weights == {"side": "balanced"}
    run = TrainingRun(recipe, recipe.load(None).train)
    assert next(run.epochs()).training_loss > 0


def test_sessions_are_held_out_by_name_by_prefix_or_by_share(tmp_path: Path) -> None:
    path = recorded(tmp_path)
    by_name = custom_recipe({"test": {"sessions": ["tiny-3", "tiny-5"]}}, path).load(None)
    assert names(by_name.test) == ["tiny-3", "tiny-5"]
    by_prefix = custom_recipe({"test": {"prefix": "tiny-1"}}, path).load(None)
    assert len(by_prefix.test) == 11
    assert not set(names(by_prefix.train)) & set(names(by_prefix.test))
    assert len(custom_recipe({"test": {"share": 0.5}}, path).load(None).test) == 12
    assert custom_recipe({"test": {"share": 0}}, path).load(None).test == ()


def test_a_pattern_keeps_groups_together_in_test_and_validation(tmp_path: Path) -> None:
    recipe = custom_recipe({"group_pattern": r"-(\d)"}, recorded(tmp_path))
    dataset = recipe.load(None)

    def groups(sessions: tuple[LabelledSession, ...]) -> set[str]:
        return {session.session.split("-")[1][0] for session in sessions}

    assert not groups(dataset.train) & groups(dataset.test)
    run = TrainingRun(recipe, dataset.train)
    assert not groups(tuple(run.data.training)) & groups(tuple(run.data.validation))


def test_a_folder_of_recordings_is_one_set_of_sessions(tmp_path: Path) -> None:
    recorded(tmp_path, SESSIONS[:10])
    recorded(tmp_path, SESSIONS[10:])
    assert len(custom_recipe({"test": {"share": 0}}, tmp_path).load(None).train) == 24


def test_recordings_that_contradict_each_other_are_refused(tmp_path: Path) -> None:
    recorded(tmp_path, SESSIONS[:2])
    recorded(tmp_path, SESSIONS[1:3])
    with pytest.raises(RecordingsError, match="'tiny-1' is in another file"):
        custom_recipe({}, tmp_path)
    (tmp_path / "1.grfrec").unlink()
    recorded(tmp_path, (), RecordingHead("", "", "", {"left": 3}))
    with pytest.raises(RecordingsError, match="'left' is 3 wide, and 2"):
        custom_recipe({}, tmp_path)


@pytest.mark.parametrize(("damage", "told"), [(b"", "not a recording"), (b"\0" * 200, "0 bytes; 1 to")])
def test_of_several_recordings_the_damaged_one_is_named(tmp_path: Path, damage: bytes, told: str) -> None:
    recorded(tmp_path, SESSIONS[:10])
    recorded(tmp_path, SESSIONS[10:])
    whole = (tmp_path / "1.grfrec").read_bytes()
    (tmp_path / "1.grfrec").write_bytes(damage and whole + damage)
    with pytest.raises(RecordingsError, match=f"1.grfrec: at byte .*{told}"):
        custom_recipe({}, tmp_path)


def test_a_recording_that_was_cut_short_is_learned_from_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = recorded(tmp_path)
    path.write_bytes(path.read_bytes()[:-10])
    assert len(custom_recipe({"test": {"share": 0}}, tmp_path).load(None).train) == 24
    assert [f"{path} ends in the middle of a record" in text for text in caplog.messages] == [True]


def test_of_how_many_sessions_nothing_can_be_learned_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = recorded(tmp_path, (*SESSIONS[:20], replace(SESSIONS[20], labels={}), replace(SESSIONS[21], labels={})))
    with RecordingWriter(path, HEAD, resume=True) as writer:
        writer.write(RecordedSession("absent", {"side": "up"}))
    assert len(custom_recipe({"test": {"share": 0}}, path).load(None).train) == 20
    told = "of 23 sessions 2 are left out, since they have no label, and 1 that have no segment"
    assert caplog.messages == [told]


def test_labels_along_the_session_and_numbered_classes_are_learned(tmp_path: Path) -> None:
    changing = {
        "state": LabelTrack(np.array([0.0, 1.0]), (0, 1)),
        "size": LabelTrack(np.array([0.5]), (1.5,)),
    }
    path = recorded(tmp_path, tuple(replace(session, labels=changing) for session in SESSIONS))
    recipe = custom_recipe({"heads": {"state": {"kind": "classification"}, "size": {}}}, path)
    assert recipe.config.heads[0].labels == ("0", "1")
    run = TrainingRun(replace(recipe, schedule=replace(recipe.schedule, epochs=1)), recipe.load(None).train)
    (progress,) = run.epochs()
    assert progress.validation["state/accuracy"] >= 0


@pytest.mark.parametrize(
    ("field", "options"),
    [
        ("recipe", ["a list"]),
        ("recipe.epoch", {"epoch": 3}),
        ("schedule.epochs", {"schedule": {"epochs": 0}}),
        ("schedule.epochs", {"schedule": {"epochs": "many"}}),
        ("schedule.averaging", {"schedule": {"averaging": 1}}),
        ("schedule.rate", {"schedule": {"rate": 1}}),
        ("model.dropout", {"model": {"dropout": 2}}),
        ("model.n_heads", {"model": {"n_heads": 7}}),
        ("model.depth", {"model": {"depth": 7}}),
        ("modalities.smell", {"modalities": {"smell": {}}}),
        ("modalities.left.max_frames", {"modalities": {"left": {"max_frames": 0}}}),
        ("heads.mood", {"heads": {"mood": {}}}),
        ("heads.side", {"heads": {"side": {"kind": "regression"}}}),
        ("heads.side.kind", {"heads": {"side": {"kind": "guess"}}}),
        ("heads.side.labels", {"heads": {"side": {"labels": ["up", "left"]}}}),
        ("heads.side.labels", {"heads": {"side": {"labels": ["up", "down", True]}}}),
        ("test", {"test": {"share": 0.2, "prefix": "a"}}),
        ("test.share", {"test": {"share": 2}}),
        ("test.share", {"test": {"share": 0.001}}),
        ("test.sessions", {"test": {"sessions": ["nobody"]}}),
        ("test.prefix", {"test": {"prefix": "nobody"}}),
        ("group_pattern", {"group_pattern": "("}),
        ("group_pattern", {"group_pattern": "tiny"}),
        ("group_pattern", {"group_pattern": "(big)"}),
        ("regime", {"regime": "both"}),
        ("overlong", {"overlong": "cut"}),
        ("objective.regression", {"objective": {"regression": "l3"}}),
        ("objective.class_weights.size", {"objective": {"class_weights": {"size": "balanced"}}}),
        ("objective.class_weights.side", {"objective": {"class_weights": {"side": {"up": 1}}}}),
        ("objective.head_weights.mood", {"objective": {"head_weights": {"mood": 1}}}),
        ("cutting", {"cutting": {"shortest_s": 2, "longest_s": 1}}),
        ("cutting.longest_s", {"cutting": {"shortest_s": 2}}),
        ("cutting.longest_s", {"cutting": {"shortest_s": 2, "longest_s": float("inf")}}),
        ("cutting.shortest_s", {"cutting": {"shortest_s": "short", "longest_s": 1}}),
        ("cutting.shortest_s", {"cutting": {"shortest_s": 1e-9, "longest_s": 1}}),
        ("cutting.vary", {"cutting": {"shortest_s": 1, "longest_s": 1, "vary": "much"}}),
        ("augmentation.noise", {"augmentation": {"noise": -1}}),
        ("name", {"name": 3}),
        ("name", {"name": "../mine"}),
        ("name", {"name": "/mine"}),
        ("name", {"name": ".."}),
    ],
)
def test_what_does_not_fit_is_told_by_field(tmp_path: Path, field: str, options: Any) -> None:
    with pytest.raises(RecipeError) as told:
        custom_recipe(options, recorded(tmp_path))
    assert told.value.field == field
    assert str(told.value).startswith(f"{field}: ")


def test_recordings_without_labels_cannot_be_learned_from(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="no session with labels"):
        custom_recipe({}, recorded(tmp_path, tuple(replace(session, labels={}) for session in SESSIONS)))
