from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from grf_core.bundle import load_bundle
from grf_core.data.sessions import Dataset
from grf_core.training.preparation import TrainingError
from grf_core.training.recipe import Recipe, RegimeName
from grf_core.training.run import Progress
from grf_core.training.trainer import train, train_seeds
from tests.grf_core.training.tiny import TINY, WHOLE, tiny_dataset

SHORT = replace(TINY, schedule=replace(TINY.schedule, epochs=2))
LONGER = replace(TINY, schedule=replace(TINY.schedule, epochs=4))


class Stopped(Exception):
    """What a test throws into a run."""


def stop_after(epochs: int) -> Callable[[Progress], None]:
    def stop(progress: Progress) -> None:
        if progress.epoch == epochs:
            raise Stopped

    return stop


@pytest.mark.parametrize("recipe", [TINY, WHOLE])
def test_a_run_learns_and_leaves_a_bundle_its_metrics_and_its_recipe(tmp_path: Path, recipe: Recipe) -> None:
    seen: list[Progress] = []
    result = train(recipe, None, tmp_path / "run", seed=1, on_progress=seen.append)
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["epoch"] for line in lines] == [progress.epoch for progress in seen]
    assert lines[-1]["validation"]["side/accuracy"] == seen[-1].validation["accuracy"] == 1.0
    first, last = seen[0].validation_loss, seen[-1].validation_loss
    assert first is not None
    assert last is not None
    assert last < 0.5 * first
    assert json.loads((tmp_path / "run" / "recipe.json").read_text())["seed"] == 1
    assert result.path == tmp_path / "run" / "bundle"
    assert load_bundle(result.path).digest == result.bundle.digest
    assert result.test["calm"]["side/accuracy"] == 1.0
    assert result.test["calm"]["size/mae"] < 0.4
    assert result.test["left alone"]["n"] == 16


def test_the_model_card_tells_data_split_figures_and_limits(tmp_path: Path) -> None:
    result = train(SHORT, None, tmp_path, seed=0)
    card = (result.path / "README.md").read_text()
    for said in ("made up", "CC0-1.0", "first and second half", "left alone", "side/accuracy", "It knows nothing."):
        assert said in card
    assert result.bundle.training["data"]["licence"] == "CC0-1.0"


def test_several_seeds_give_the_first_ones_bundle_and_tell_the_spread_of_all(tmp_path: Path) -> None:
    alone = train(SHORT, None, tmp_path / "alone", seed=4)
    other = train(SHORT, None, tmp_path / "other", seed=5)
    result = train_seeds(SHORT, None, tmp_path, (4, 5))
    assert result.path == tmp_path / f"{SHORT.name}-4" / "bundle"
    assert load_bundle(result.path).training["seeds"] == [4, 5]
    assert result.test == alone.test
    mean, deviation = load_bundle(result.path).training["spread"]["calm"]["size/mae"]
    both = [found.test["calm"]["size/mae"] for found in (alone, other)]
    assert mean == pytest.approx(sum(both) / 2)
    assert deviation == pytest.approx(abs(both[0] - both[1]) / 2**0.5)
    assert f"{mean:.3f} ± {deviation:.3f}" in (result.path / "README.md").read_text()


def test_the_bundle_names_the_sessions_that_had_a_part_in_it(tmp_path: Path) -> None:
    trained_on = train(SHORT, None, tmp_path, seed=0).bundle.training["trained_on"]
    assert trained_on == sorted(session.session for session in tiny_dataset().train)


def test_the_same_seed_gives_the_same_bundle_and_another_seed_another(tmp_path: Path) -> None:
    digests = [train(SHORT, None, tmp_path / str(run), seed).bundle.digest for run, seed in enumerate([5, 5, 6])]
    assert digests[0] == digests[1] != digests[2]


def test_the_test_half_decides_nothing(tmp_path: Path) -> None:
    def without_test(path: Path | None) -> Dataset:
        dataset = tiny_dataset(path)
        return replace(dataset, test=dataset.test[:2])

    whole = train(SHORT, None, tmp_path / "whole", seed=0).bundle
    assert train(replace(SHORT, load=without_test), None, tmp_path / "less", seed=0).bundle.digest == whole.digest


def test_a_dataset_without_a_test_half_gives_a_bundle_whose_card_says_so(tmp_path: Path) -> None:
    result = train(replace(SHORT, load=lambda _: replace(tiny_dataset(), test=())), None, tmp_path)
    assert result.test == {}
    assert "No session was held out" in (result.path / "README.md").read_text()


@pytest.mark.parametrize("recipe", [SHORT, replace(WHOLE, schedule=SHORT.schedule)])
def test_a_condition_that_leaves_nothing_of_the_test_half_costs_no_bundle(tmp_path: Path, recipe: Recipe) -> None:
    """A modality that many sessions lack may be in none of the test half."""
    dataset = tiny_dataset()
    deaf = tuple(replace(session, streams=session.streams[1:]) for session in dataset.test)
    recipe = replace(recipe, load=lambda _: replace(dataset, test=deaf))
    result = train_seeds(recipe, None, tmp_path, [0, 1])
    assert result.test["calm"]["n"] == 16
    assert result.test["left alone"] == {"n": 0}
    rows = [line for line in (result.path / "README.md").read_text().splitlines() if line.startswith("| left alone")]
    assert [row.rpartition("|")[0].rpartition("|")[2].strip() for row in rows] == ["0", "-"]


@pytest.mark.parametrize("regime", ["streaming", "whole"])
def test_a_stopped_run_goes_on_to_the_very_same_end(tmp_path: Path, regime: RegimeName) -> None:
    recipe = replace(
        LONGER,
        regime=regime,
        config=replace(TINY.config, dropout=0.3),
        augmentation=replace(TINY.augmentation, noise=0.1),
    )
    unbroken = train(recipe, None, tmp_path / "unbroken", seed=3)
    with pytest.raises(Stopped):
        train(recipe, None, tmp_path / "broken", seed=3, on_progress=stop_after(2))
    resumed = train(recipe, None, tmp_path / "broken", seed=3, resume=True)
    assert resumed.bundle.digest == unbroken.bundle.digest
    assert resumed.test == unbroken.test
    assert timeless(tmp_path / "broken") == timeless(tmp_path / "unbroken")
    assert (tmp_path / "broken" / "checkpoint.pt").is_file()


def timeless(run: Path) -> list[dict[str, object]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in line.items() if name != "elapsed_s"} for line in lines]


def test_a_line_without_its_checkpoint_is_written_again(tmp_path: Path) -> None:
    with pytest.raises(Stopped):
        train(LONGER, None, tmp_path, on_progress=stop_after(2))
    with (tmp_path / "metrics.jsonl").open("a") as metrics:
        metrics.write('{"epoch": 3, "cut sh')
    train(LONGER, None, tmp_path, resume=True)
    assert [line["epoch"] for line in timeless(tmp_path)] == [1, 2, 3, 4]


def test_a_run_that_has_ended_is_only_finished_again(tmp_path: Path) -> None:
    first = train(SHORT, None, tmp_path)
    seen: list[Progress] = []
    again = train(SHORT, None, tmp_path, resume=True, on_progress=seen.append)
    assert seen == []
    assert again.bundle.digest == first.bundle.digest


def test_without_resume_a_run_begins_anew(tmp_path: Path) -> None:
    train(SHORT, None, tmp_path)
    train(SHORT, None, tmp_path, seed=1)
    assert [line["epoch"] for line in timeless(tmp_path)] == [1, 2]


def test_separate_blocks_are_refused_before_anything_is_trained(tmp_path: Path) -> None:
    separate = replace(WHOLE, config=replace(WHOLE.config, shared_block=False))
    with pytest.raises(TrainingError, match="no bundle"):
        train(separate, None, tmp_path / "run")
    assert not (tmp_path / "run").exists()
