from __future__ import annotations

import json
import re
import runpy
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner, Result

from grf_core.bundle import load_bundle
from grf_core.data.conversion import write_sessions
from grf_core.data.sessions import Cutting
from grf_core.recording import (
    RecordedSegment,
    RecordedSession,
    RecordingHead,
    RecordingWriter,
    read_recording,
)
from grf_core.training.recipes import RECIPES
from grf_core.training.run import Progress, TrainingRun
from runtime.cli import grf
from tests.grf_core.training.tiny import TINY, tiny_dataset

HEAD = RecordingHead("tiny", "made up", "CC0-1.0", {"left": 2, "right": 2})
CONFIG = """
name: sides
heads:
  side: {labels: [down, up]}
  size: {kind: regression}
test: {prefix: tiny-3}
model: {d_model: 8, n_heads: 2, d_ffn: 16, dropout: 0}
schedule: {epochs: 2, learning_rate: 1e-2, batch_sessions: 8}
objective: {class_weights: balanced}
"""


def run(*arguments: object) -> Result:
    return CliRunner().invoke(grf, [str(argument) for argument in arguments])


def last_line(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0, result.output
    answer: dict[str, Any] = json.loads(result.stdout.splitlines()[-1])
    return answer


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    dataset = tiny_dataset()
    write_sessions(tmp_path / "x.grfrec", HEAD, (*dataset.train, *dataset.test), Cutting(0.5, 0.5), 8)
    return tmp_path / "x.grfrec"


def train_custom(folder: Path, recording: Path, config: str = CONFIG, *more: str) -> Result:
    (folder / "recipe.yaml").write_text(config)
    return run(
        "train",
        "custom",
        "--data",
        recording,
        "--config",
        folder / "recipe.yaml",
        "--out",
        folder / "bundle",
        "--runs",
        folder / "runs",
        "--device",
        "cpu",
        "--threads",
        1,
        *more,
    )


def test_a_users_recordings_become_a_bundle_that_is_evaluated_on_what_it_has_not_seen(
    tmp_path: Path, recording: Path
) -> None:
    told = last_line(train_custom(tmp_path, recording))
    bundle = load_bundle(tmp_path / "bundle")
    assert bundle.name == "sides"
    assert told["segments of 0.5 s"]["n"] == 11
    assert (tmp_path / "runs" / "sides-0" / "checkpoint.pt").is_file()
    evaluated = run("evaluate", tmp_path / "bundle", "--data", recording)
    figures = last_line(evaluated)
    assert figures["n"] == 11
    assert figures["accuracy"] == figures["side/accuracy"]
    assert "mae" not in figures
    assert figures["size/mae"] > 0
    assert "29 sessions left out" in evaluated.stderr


def test_a_bundle_trained_on_everything_is_evaluated_all_the_same_and_that_is_said(
    tmp_path: Path, recording: Path
) -> None:
    train_custom(tmp_path, recording, CONFIG.replace("{prefix: tiny-3}", "{share: 0}"))
    evaluated = run("evaluate", tmp_path / "bundle", "--data", recording)
    assert last_line(evaluated)["n"] == 40
    assert "trained on all 40 sessions" in evaluated.stderr


@pytest.mark.parametrize("regime", ["streaming", "whole"])
def test_a_recipe_that_takes_less_than_the_recording_has_is_evaluated_on_it(
    tmp_path: Path, recording: Path, regime: str
) -> None:
    config = f"{CONFIG}regime: {regime}\nmodalities: {{right: {{max_frames: 1}}}}\n"
    told = last_line(train_custom(tmp_path, recording, config))
    evaluated = run("evaluate", tmp_path / "bundle", "--data", recording)
    assert last_line(evaluated)["n"] == 11
    assert last_line(evaluated) == pytest.approx(next(iter(told.values())))
    assert "left out, since the bundle does not take it: left" in evaluated.stderr


@pytest.mark.parametrize("modalities", ["", "modalities: {right: {max_frames: 1}}\n"])
def test_a_bundle_of_a_users_recordings_is_evaluated_under_the_conditions_of_its_card(
    tmp_path: Path, recording: Path, modalities: str
) -> None:
    told = last_line(train_custom(tmp_path, recording, CONFIG + modalities))
    evaluated = run("evaluate", tmp_path / "bundle", "--data", recording, "--conditions")
    assert last_line(evaluated)["n"] == 11
    conditions = dict(re.findall(r"^(.*): (\{.*\})$", evaluated.stderr, flags=re.M))
    assert {name: json.loads(figures) for name, figures in conditions.items()} == told


def test_epochs_and_resume_are_taken_from_the_command_line(tmp_path: Path, recording: Path) -> None:
    assert train_custom(tmp_path, recording, CONFIG, "--epochs", "3").exit_code == 0
    metrics = tmp_path / "runs" / "sides-0" / "metrics.jsonl"
    before = metrics.read_text()
    assert len(before.splitlines()) == 3
    assert train_custom(tmp_path, recording, CONFIG, "--epochs", "3", "--resume").exit_code == 0
    assert metrics.read_text() == before


def test_each_epoch_is_told_where_no_terminal_shows_a_bar(tmp_path: Path, recording: Path) -> None:
    told = train_custom(tmp_path, recording).stderr.splitlines()
    assert [line.split(":")[0] for line in told if line.startswith("epoch")] == ["epoch 1 of 2", "epoch 2 of 2"]
    assert "validation loss" in told[0]


def test_who_stops_a_training_is_told_how_it_goes_on(
    tmp_path: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stopped(self: TrainingRun) -> Iterator[Progress]:
        raise KeyboardInterrupt

    monkeypatch.setattr(TrainingRun, "epochs", stopped)
    result = train_custom(tmp_path, recording)
    assert result.exit_code != 0
    assert "with --resume the same goes on" in result.stderr


def test_training_takes_one_thread_unless_more_are_asked_for(
    tmp_path: Path, recording: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    used: list[int] = []
    monkeypatch.setattr(TrainingRun, "epochs", lambda _: used.append(torch.get_num_threads()))
    config, before = tmp_path / "recipe.yaml", torch.get_num_threads()
    config.write_text(CONFIG)
    torch.set_num_threads(2)
    for more in ([], ["--threads", 2]):
        run("train", "custom", "--data", recording, "--config", config, "--runs", tmp_path / "runs", *more)
    assert torch.get_num_threads() == 2
    torch.set_num_threads(before)
    assert used == [1, 2]


def test_a_recipe_of_ours_is_found_by_the_bundles_name_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(_: Path) -> list[Any]:
        return [*tiny_dataset().train, *tiny_dataset().test]

    recipe = TINY.__class__(**{name: getattr(TINY, name) for name in TINY.__slots__} | {"read": read})
    monkeypatch.setitem(RECIPES, "motion", recipe)
    monkeypatch.setitem(RECIPES, "tiny", recipe)
    trained = run("train", "motion", "--out", tmp_path / "b", "--runs", tmp_path, "--epochs", 1, "--device", "cpu")
    assert trained.exit_code == 0, trained.output
    headline = run("evaluate", tmp_path / "b", "--data", tmp_path)
    assert last_line(headline)["n"] == 16
    assert "24 sessions left out" in headline.stderr
    assert "left alone" not in headline.stderr
    every = run("evaluate", tmp_path / "b", "--data", tmp_path, "--conditions")
    assert last_line(every) == last_line(headline)
    assert "left alone: {" in every.stderr
    assert last_line(run("evaluate", tmp_path / "b"))["n"] == 16


@pytest.mark.parametrize(
    ("config", "told"),
    [
        (CONFIG.replace("epochs: 2", "epochs: none"), "schedule.epochs"),
        (CONFIG.replace("heads:", "haeds:"), "haeds"),
        ("name: motion", "a recipe of ours"),
        ("a: [", "recipe.yaml"),
    ],
)
def test_a_recipe_file_that_does_not_fit_is_told_in_one_line(
    tmp_path: Path, recording: Path, config: str, told: str
) -> None:
    result = train_custom(tmp_path, recording, config)
    assert result.exit_code == 1
    assert told in result.stderr
    assert not (tmp_path / "runs").exists()


def test_classes_may_be_called_yes_and_no(tmp_path: Path) -> None:
    dataset = tiny_dataset()
    answers = tuple(
        replace(one, labels={"up": {"up": "yes", "down": "no"}[str(one.labels["side"])]}) for one in dataset.train
    )
    write_sessions(tmp_path / "x.grfrec", HEAD, answers, Cutting(0.5, 0.5), 8)
    config = "heads: {up: {labels: [no, yes]}}\nobjective: {class_weights: {up: {no: 1, yes: 2}}}\n"
    last_line(train_custom(tmp_path, tmp_path / "x.grfrec", config, "--epochs", "1"))
    assert load_bundle(tmp_path / "bundle").config.heads[0].labels == ("no", "yes")


def test_custom_needs_data_and_a_recipe_file_and_nothing_else_takes_one(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("{}")
    assert "needs --data and --config" in run("train", "custom").stderr
    assert "--config is for custom" in run("train", "motion", "--config", tmp_path / "recipe.yaml").stderr


def test_a_bundle_of_an_unknown_recipe_asks_for_a_recording(tmp_path: Path, recording: Path) -> None:
    train_custom(tmp_path, recording)
    result = run("evaluate", tmp_path / "bundle")
    assert result.exit_code == 1
    assert "give a recording" in result.stderr


def test_a_damaged_recording_is_not_taken_for_data_of_another_kind(tmp_path: Path, recording: Path) -> None:
    train_custom(tmp_path, recording)
    recording.write_bytes(b"")
    result = run("evaluate", tmp_path / "bundle", "--data", recording)
    assert result.exit_code == 1
    assert "x.grfrec: at byte 0: not a recording" in result.stderr


def test_the_example_of_the_documentation_works(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    example, *_ = [code for code in re.findall(r"```python\n(.*?)```", page, flags=re.S) if "RecordingWriter" in code]
    (recipe,) = re.findall(r"```yaml\n(.*?)```", page, flags=re.S)
    monkeypatch.chdir(tmp_path)
    Path("example.py").write_text(example)
    Path("machines.yaml").write_text(recipe)
    runpy.run_path("example.py")
    commands = re.findall(r"^    grf (train custom .*|evaluate bundles/machines .*)$", page, flags=re.M)
    assert len(commands) == 2
    trained, evaluated = (
        run(*command.split(), "--device", "cpu", *more)
        for command, more in zip(commands, (["--epochs", "2"], []), strict=True)
    )
    assert trained.exit_code == 0, trained.output
    figures = last_line(evaluated)
    assert figures["n"] == 12
    assert {"accuracy", "wear/auroc", "load/mae"} <= figures.keys()


def test_a_live_recording_can_be_made_and_labelled_as_the_documentation_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    page = (Path(__file__).parents[3] / "docs" / "training.md").read_text()
    codes = re.findall(r"```python\n(.*?)```", page, flags=re.S)
    (untrained,) = [code for code in codes if "untrained" in code]
    (labels,) = [code for code in codes if "resume=True" in code]
    monkeypatch.chdir(tmp_path)
    Path("untrained.py").write_text(untrained)
    runpy.run_path("untrained.py")
    widths = {one.name: one.width for one in load_bundle("bundles/untrained").step_model("cpu").signature.modalities}
    assert widths == {"vibration": 3, "current": 1}
    with RecordingWriter("machines.grfrec", RecordingHead("live", "", "", widths)) as writer:
        writer.write(RecordedSegment("machine07-run3", "mains", "current", 1, 1.0, np.ones((5, 1), np.float32)))
    Path("labels.py").write_text(labels)
    runpy.run_path("labels.py")
    told = [record.labels for record in read_recording("machines.grfrec") if isinstance(record, RecordedSession)]
    assert told == [{"wear": "worn"}, {"load": 2.0}]


def test_a_device_that_is_not_there_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    result = run("train", "motion", "--device", "cuda", "--runs", tmp_path)
    assert result.exit_code == 2
    assert "torch sees no such device" in result.stderr
