from __future__ import annotations

import json
from datetime import date
from pathlib import Path

import pytest

from grf_core.experiments import report
from grf_core.experiments.plots.bars import Bar, bars
from grf_core.experiments.report import Findings, Plot, Table, folder_of, hardware, json_rows, write_report
from grf_core.experiments.results import rows_of
from tests.grf_core.experiments.test_results import RUNS

DAY = date(2026, 1, 2)
FIGURE = bars([Bar("a", [0.5, 0.6]), Bar("b", [0.7])], "title", "accuracy")
FINDINGS = Findings(
    tables=[Table(["arm", "accuracy"], [["a", "0.5"]], "A table")],
    answer=["It depends."],
    settings={"recipe": "tiny"},
    rows=json_rows(rows_of(RUNS)),
    plots=[Plot("comparison", "Who is better.", FIGURE)],
    values={"grf_r2": 0.99},
    remarks=["Few data."],
)


def test_a_report_is_a_page_a_json_and_two_files_for_each_plot(tmp_path: Path) -> None:
    write_report(tmp_path / "x", "compare", "Who?", "grf experiment compare", DAY, FINDINGS)
    assert {path.name for path in (tmp_path / "x").iterdir()} == {
        "README.md",
        "result.json",
        "comparison.png",
        "comparison.svg",
    }
    page = (tmp_path / "x" / "README.md").read_text()
    told = ("# compare, 2026-01-02", "Who?", "- It depends.", "| a | 0.5 |", "- Few data.", "- recipe: tiny")
    for expected in (*told, "![Who is better.](comparison.png)", "`grf experiment compare`", hardware()["torch"]):
        assert expected in page
    result = json.loads((tmp_path / "x" / "result.json").read_text())
    assert result["grf_r2"] == 0.99
    assert result["rows"][0]["mean"] == {"accuracy": 0.85}
    assert result["rows"][0]["std"] == {"accuracy": 0.07071}
    assert result["hardware"]["cores"] >= 1


def test_the_same_findings_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        write_report(tmp_path / name, "compare", "Who?", "grf", DAY, FINDINGS)
    for path in (tmp_path / "one").iterdir():
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes()


def test_a_plot_that_is_too_large_is_left_out_and_not_linked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "MAX_FILE_BYTES", 10)
    write_report(tmp_path, "compare", "Who?", "grf", DAY, FINDINGS)
    assert not list(tmp_path.glob("comparison*"))
    assert "comparison" not in (tmp_path / "README.md").read_text()


def test_a_number_that_json_does_not_know_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="JSON"):
        write_report(tmp_path, "x", "Who?", "grf", DAY, Findings([], [], {}, [{"mean": float("nan")}]))


def test_the_folder_is_dated_unless_another_is_given() -> None:
    assert folder_of("norm", DAY, None) == Path("docs/experiments/2026-01-02-norm")
    assert folder_of("norm", DAY, Path("here")) == Path("here")
