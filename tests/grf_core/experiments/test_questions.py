"""Every experiment, from its arms to its report, on a dataset that is learned in a moment."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from grf_core.data.sessions import Dataset, StreamFrames
from grf_core.experiments.catalogue import EXPERIMENTS
from grf_core.experiments.experiment import ExperimentError, Setup, with_every_modality
from grf_core.experiments.questions import scaling as scaling_question
from grf_core.experiments.questions.learned_order import best_on_validation
from grf_core.experiments.questions.orders import every_order
from grf_core.experiments.report import MAX_FILE_BYTES, Findings, write_report
from grf_core.experiments.runner import Finished, Laboratory
from grf_core.training.recipe import Recipe
from grf_core.training.recipes import RECIPES
from tests.grf_core.data.test_mosi import mult, write
from tests.grf_core.training.tiny import TINY, tiny_dataset

DAY = date(2026, 1, 2)


def three_modalities(path: Path | None = None) -> Dataset:
    """The tiny dataset with a third stream, of which the recipe knows nothing."""

    def more(sessions: tuple[Any, ...]) -> tuple[Any, ...]:
        return tuple(replace(s, streams=(*s.streams, _middle(s.streams[0]))) for s in sessions)

    dataset = tiny_dataset(path)
    return replace(dataset, train=more(dataset.train), test=more(dataset.test))


def _middle(stream: StreamFrames) -> StreamFrames:
    return StreamFrames("middle", "middle", np.ascontiguousarray(stream.frames[:, :1]), stream.times_s)


def asked(name: str, recipe: Recipe, tmp_path: Path, data: Path | None = None, seeds: int = 1) -> tuple[Findings, Path]:
    laboratory = Laboratory(tmp_path / "work" / name, data, seeds, quick=True)
    findings = EXPERIMENTS[name].ask(Setup(laboratory, recipe))
    folder = tmp_path / "report"
    write_report(folder, name, EXPERIMENTS[name].question, f"grf experiment {name}", DAY, findings)
    return findings, folder


def check_report(folder: Path, name: str) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "result.json").read_text())
    page = (folder / "README.md").read_text()
    assert (result["experiment"], result["date"]) == (name, "2026-01-02")
    assert result["question"] in page
    assert {"cpu", "cores", "torch"} <= result["hardware"].keys()
    assert all(path.stat().st_size <= MAX_FILE_BYTES for path in folder.iterdir())
    for plot in folder.glob("*.png"):
        assert f"({plot.name})" in page
        assert plot.with_suffix(".svg").exists()
    return result


@pytest.mark.parametrize("name", ["gate", "norm", "slots", "ageing"])
def test_questions_about_streams(name: str, tmp_path: Path) -> None:
    asked(name, TINY, tmp_path, seeds=2)
    result = check_report(tmp_path / "report", name)
    assert {row["condition"] for row in result["rows"]} == {"calm", "left alone"}
    for row in result["rows"]:
        assert row["n"] == 2
        assert row["seeds"] == [0, 1]
        assert set(row["mean"]) == set(row["std"]) >= {"side/accuracy", "size/mae"}
    assert result["settings"]["regime"] == "streaming"
    assert len(result["answer"]) == len({row["arm"] for row in result["rows"]})


def test_compare_measures_every_model_with_and_without_each_modality(tmp_path: Path) -> None:
    asked("compare", TINY, tmp_path)
    result = check_report(tmp_path / "report", "compare")
    arms = ["GRF", "MulT", "late fusion", "concatenation", "left alone", "right alone"]
    assert list(dict.fromkeys(row["arm"] for row in result["rows"])) == arms
    conditions = [row["condition"] for row in result["rows"] if row["arm"] == "MulT"]
    assert conditions == ["all modalities", "without left", "without right"]
    assert result["cost"]["MulT"]["flops"] > result["cost"]["GRF"]["flops"] > result["cost"]["left alone"]["flops"] > 0


def test_orders_are_all_there_are_of_all_modalities_of_the_data(tmp_path: Path) -> None:
    asked("orders", replace(TINY, load=three_modalities), tmp_path)
    result = check_report(tmp_path / "report", "orders")
    assert len({row["arm"] for row in result["rows"]}) == 6
    assert "left, right, middle" in {row["arm"] for row in result["rows"]}
    assert any(sentence.startswith("middle does better") for sentence in result["answer"])


def test_ablations_exchange_one_part_at_a_time(tmp_path: Path) -> None:
    asked("ablations", replace(TINY, load=three_modalities), tmp_path)
    result = check_report(tmp_path / "report", "ablations")
    parameters = {row["arm"]: row["parameters"] for row in result["rows"]}
    assert len(parameters) == 11
    assert parameters["separate blocks"] > parameters["GRF, L = 1"] > parameters["only the context attends"]
    assert parameters["L = 6"] > parameters["L = 4"] > parameters["L = 2"]


def test_robustness_is_told_of_both_trainings_under_every_accident(tmp_path: Path) -> None:
    asked("robustness", replace(TINY, load=three_modalities, config=_three()), tmp_path)
    result = check_report(tmp_path / "report", "robustness")
    conditions = {row["condition"] for row in result["rows"] if row["arm"] == "trained plain"}
    assert conditions == {row["condition"] for row in result["rows"] if row["arm"] == "trained with augmentation"}
    assert {"everything heard", "without left", "without left and middle", "80% of the segments lost"} <= conditions
    assert set(result["sweeps"]) == {"Late segments", "Lost segments", "Noise", "Time"}
    of = {(row["arm"], row["condition"]): row["mean"] for row in result["rows"]}
    assert of["trained plain", "everything heard"] == of["trained plain", "noise of 0 deviations"]


def test_a_learned_order_is_held_against_the_order_that_is_best_on_validation(tmp_path: Path) -> None:
    asked("learned_order", TINY, tmp_path)
    result = check_report(tmp_path / "report", "learned_order")
    assert {row["arm"] for row in result["rows"]} == {"learned order", "random order", "left, right", "right, left"}
    assert result["best_fixed_on_validation"] in ("left, right", "right, left")
    told: list[str] = []
    again = Laboratory(tmp_path / "work" / "orders", None, 1, quick=True, tell=told.append)
    EXPERIMENTS["orders"].ask(Setup(again, TINY))
    assert told == [f"2 of 2 are kept from before in {tmp_path / 'work' / 'orders'}"]


def test_the_best_order_is_chosen_without_a_look_at_the_test_part() -> None:
    def finished(arm: str, seed: int, figure: float | None, accuracy: float) -> Finished:
        scores = {"all modalities": {"accuracy": accuracy, "n": 4}}
        return Finished(arm, seed, scores, {}, figure, 1, 1, 1, 1.0, None if figure is not None else "diverged")

    runs = [finished("a", 0, 0.4, 0.9), finished("a", 1, 0.6, 0.9), finished("b", 0, 0.3, 0.1)]
    assert best_on_validation(runs, ["a", "b"]) == "b"
    assert best_on_validation([finished("a", 0, None, 0.0)], ["a"]) is None


def test_embeddings_are_drawn_and_measured_step_by_step(tmp_path: Path) -> None:
    findings, folder = asked("embedding", TINY, tmp_path)
    result = check_report(folder, "embedding")
    steps = [row["condition"] for row in result["rows"] if "probe_accuracy" in row["mean"]]
    assert steps[:2] == ["after left", "after right"]
    assert steps[-1] == "after 100% of the segments"
    drawn = {plot.name for plot in findings.plots}
    assert drawn == {"separability", "shares"} | {
        f"{kind}-{regime}" for kind in ("embedding", "gates", "confusion") for regime in ("whole", "streams")
    }


def test_scaling_needs_no_data_and_tells_what_grows_how(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(scaling_question, "QUICK_MODALITIES", (2, 3, 6))
    monkeypatch.setattr(scaling_question, "QUICK_FRAMES", (16, 32))
    monkeypatch.setattr(scaling_question, "MAX_PARAMETERS", 200_000)
    asked("scaling", TINY, tmp_path)
    result = check_report(tmp_path / "report", "scaling")
    assert result["grf_flops_r2_light"] > 0.999
    assert result["mult_flops_slope_light"] > 1.8
    assert result["mult_over_grf_flops_at_6_light"] > 10
    assert set(result["mult_over_grf_seconds_by_frames_light"]) == {"16", "32"}
    assert {"grf_r2", "params_ratio_n3", "flops_ratio_n3"} <= result.keys()
    skipped = [row for row in result["rows"] if row["model"] == "MulT" and row["modalities"] == 6]
    assert [(row["seconds"], row["peak_bytes"]) for row in skipped] == [(None, None)]
    assert skipped[0]["flops"] > 0
    assert "not run" in (tmp_path / "report" / "README.md").read_text()


def test_growth_is_fitted() -> None:
    assert scaling_question.straightness({2: 5.0, 4: 9.0, 8: 17.0}) == 1.0
    assert (scaling_question.straightness({1: 1.0, 2: 4.0, 3: 1.0}) or 0) < 0.5
    assert scaling_question.log_slope({2: 12.0, 4: 48.0, 8: 192.0}) == 2.0


def test_the_table_on_mosi_from_a_file_as_the_field_hands_it_around(tmp_path: Path) -> None:
    data = write(tmp_path / "mosi_data_noalign.pkl", mult(aligned=False))
    asked("mosi", RECIPES["mosi"], tmp_path, data)
    result = check_report(tmp_path / "report", "mosi")
    arms = list(dict.fromkeys(row["arm"] for row in result["rows"]))
    assert arms[:2] == ["GRF: text, audio, vision", "MulT"]
    assert len(arms) == 7
    assert {"mae", "corr", "acc2_nonneg", "acc7", "f1_nonneg"} <= result["rows"][0]["mean"].keys()
    assert result["settings"]["data"] == "CMU-MOSI, mult-unaligned"
    assert result["settings"]["model"]["n_layers"] == 4
    assert str(tmp_path) not in (tmp_path / "report" / "README.md").read_text()


def test_every_order_has_the_modalities_and_no_more_than_can_be_trained() -> None:
    assert list(every_order(TINY)) == ["left, right", "right, left"]
    one = replace(TINY, config=replace(TINY.config, modalities=TINY.config.modalities[:1]))
    with pytest.raises(ExperimentError, match="1 modalities"):
        every_order(one)


def test_modalities_that_the_recipe_leaves_out_come_behind_its_own() -> None:
    every = with_every_modality(TINY, three_modalities())
    assert [(m.name, m.width, m.max_frames) for m in every.config.modalities] == [
        ("left", 2, 8),
        ("right", 2, 8),
        ("middle", 1, 8),
    ]


def _three() -> Any:
    return with_every_modality(TINY, three_modalities()).config
