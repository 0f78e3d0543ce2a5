from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from click.testing import CliRunner

from grf_core.experiments.catalogue import EXPERIMENTS
from grf_core.experiments.plots import style
from grf_core.training.recipes import RECIPES
from runtime.cli import grf
from tests.grf_core.training.tiny import TINY

DOCS = Path(__file__).parents[3] / "docs" / "experiments" / "README.md"


@pytest.fixture
def in_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setitem(RECIPES, "utd-mhad", replace(TINY, name="utd-mhad"))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_every_experiment_asks_a_question_and_is_in_the_documentation() -> None:
    page = DOCS.read_text()
    for name, experiment in EXPERIMENTS.items():
        assert name == experiment.name
        assert experiment.question.endswith("?")
        assert experiment.recipe in RECIPES
        assert f"| `{name}` |" in page


def test_an_experiment_writes_a_dated_folder_and_keeps_its_trainings(in_a_folder: Path) -> None:
    run = ["experiment", "ageing", "--quick", "--date", "2026-01-02"]
    first = CliRunner().invoke(grf, run)
    assert first.exit_code == 0, first.output
    assert first.stdout.splitlines()[-1] == "docs/experiments/2026-01-02-ageing"
    result = json.loads((in_a_folder / "docs/experiments/2026-01-02-ageing/result.json").read_text())
    assert result["settings"]["quick"]
    assert len(list((in_a_folder / "runs/experiments/ageing").glob("*.json"))) == 2
    again = CliRunner().invoke(grf, run)
    assert "2 of 2 are kept" in again.stderr
    assert "2 of 2 are kept" not in CliRunner().invoke(grf, [*run, "--fresh"]).stderr


def test_the_destination_the_seeds_and_the_epochs_may_be_chosen(in_a_folder: Path) -> None:
    run = ["experiment", "ageing", "--seeds", "2", "--epochs", "1", "--out", "elsewhere"]
    result = CliRunner().invoke(grf, run)
    assert result.exit_code == 0, result.output
    told = json.loads((in_a_folder / "elsewhere" / "result.json").read_text())
    assert [row["seeds"] for row in told["rows"]] == [[0, 1]] * 4
    assert told["settings"]["schedule"]["epochs"] == 1


def test_a_missing_extra_is_told_before_anything_is_trained(in_a_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(package: str) -> None:
        raise style.MissingPlotting(f"{package} is missing: pip install grf-runtime[experiments]")

    # By its name: in the package the command hides the module.
    monkeypatch.setattr(sys.modules["runtime.cli.experiment"], "need", missing)
    result = CliRunner().invoke(grf, ["experiment", "ageing", "--quick"])
    assert result.exit_code == 1
    assert "grf-runtime[experiments]" in result.output
    assert not (in_a_folder / "runs").exists()


def test_data_that_cannot_be_read_are_told_in_one_line(in_a_folder: Path) -> None:
    (in_a_folder / "mosi.pkl").write_bytes(b"no pickle")
    for arguments in (["mosi"], ["mosi", "--data", "mosi.pkl"]):
        result = CliRunner().invoke(grf, ["experiment", *arguments, "--quick"])
        assert result.exit_code == 1
        assert result.output.startswith("Error: ")
        assert "Traceback" not in result.output
