from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from grf_core.data.sessions import Cutting, Dataset, LabelledSession
from grf_core.experiments.baselines import LateFusion
from grf_core.experiments.runner import Arm, Laboratory, Task, UnderConditions, described_callable, loaded
from grf_core.experiments.variants import Variant, VariantFactory
from grf_core.model import GRF
from grf_core.training.evaluation import evaluate
from grf_core.training.recipe import Augmentation, Condition, Schedule
from grf_core.training.run import TrainingRun
from grf_core.training.trainer import bundle_of
from tests.grf_core.training.tiny import TINY, WHOLE, tiny_dataset

SHORT = replace(WHOLE, schedule=replace(WHOLE.schedule, epochs=2))
STREAM = replace(TINY, schedule=replace(TINY.schedule, epochs=2))
ARMS = [Arm("GRF", SHORT), Arm("late fusion", SHORT, LateFusion)]


def test_every_arm_is_run_with_every_seed_and_in_that_order(tmp_path: Path) -> None:
    told: list[str] = []
    results = Laboratory(tmp_path, seeds=2, tell=told.append).run(ARMS)
    assert [(r.arm, r.seed) for r in results] == [
        ("GRF", 0),
        ("GRF", 1),
        ("late fusion", 0),
        ("late fusion", 1),
    ]
    assert results[0].scores["all modalities"] != results[1].scores["all modalities"]
    assert results[0].scores["all modalities"]["n"] == 16
    assert results[0].parameters == sum(p.numel() for p in GRF(SHORT.config).parameters())
    assert len(told) == 4
    assert "4 of 4: late fusion, seed 1" in told[-1]


def test_an_interrupted_experiment_goes_on_where_it_was(tmp_path: Path) -> None:
    told: list[str] = []
    first = Laboratory(tmp_path, seeds=1).run(ARMS)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    again = Laboratory(tmp_path, seeds=2, tell=told.append).run(ARMS)
    assert told[0].startswith("2 of 4 are kept")
    assert len(told) == 3
    assert [r for r in again if r.seed == 0] == first
    assert all(path.stat().st_mtime_ns == modified for path, modified in kept.items())


def test_fresh_does_again_what_is_kept_and_finds_the_same(tmp_path: Path) -> None:
    first = Laboratory(tmp_path, seeds=1).run(ARMS[:1])
    told: list[str] = []
    again = Laboratory(tmp_path, seeds=1, fresh=True, tell=told.append).run(ARMS[:1])
    assert len(told) == 1
    assert again[0].scores == first[0].scores


def test_a_file_cut_short_is_done_again(tmp_path: Path) -> None:
    first = Laboratory(tmp_path, seeds=1).run(ARMS[:1])
    next(tmp_path.iterdir()).write_text('{"arm": "GRF", "see')
    assert Laboratory(tmp_path, seeds=1).run(ARMS[:1])[0].scores == first[0].scores


def test_the_key_changes_with_recipe_model_measure_and_data() -> None:
    plain = Task(Arm("a", SHORT), 0, None, False)
    others = [
        replace(plain, seed=1),
        replace(plain, quick=True),
        replace(plain, data=Path("elsewhere")),
        replace(plain, arm=Arm("a", replace(SHORT, schedule=replace(SHORT.schedule, epochs=3)))),
        replace(plain, arm=Arm("a", replace(SHORT, config=replace(SHORT.config, n_layers=2)))),
        replace(plain, arm=Arm("a", SHORT, VariantFactory(Variant()))),
        replace(plain, arm=Arm("a", SHORT, VariantFactory(Variant(norm="pre")))),
        replace(plain, arm=Arm("a", SHORT, measure=UnderConditions((Condition("x", Cutting(1, 1)),)))),
    ]
    assert len({task.key for task in [plain, *others]}) == 1 + len(others)
    assert replace(plain).key == plain.key
    assert "0x" not in described_callable(GRF) + described_callable(VariantFactory(Variant()))


def test_other_processes_find_the_same_as_this_one(tmp_path: Path) -> None:
    here = Laboratory(tmp_path / "one", seeds=2).run(ARMS[:1])
    there = Laboratory(tmp_path / "two", seeds=2, jobs=2).run(ARMS[:1])
    assert [r.scores for r in there] == [r.scores for r in here]


def test_a_stream_is_scored_as_its_bundle_is(tmp_path: Path) -> None:
    """The live model on normalised frames, and the bundle on raw ones, give the same figures."""
    condition = Condition("cut", Cutting(0.5, 0.5), silent=("right",))
    arm = Arm("stream", STREAM, measure=UnderConditions((condition,)))
    [result] = Laboratory(tmp_path, seeds=1).run([arm])
    run = TrainingRun(STREAM, tiny_dataset().train, seed=0)
    list(run.epochs())
    expected = evaluate(bundle_of(run, {}), tiny_dataset().test, condition)
    assert result.scores["cut"] == pytest.approx(expected, abs=1e-5)


def test_noise_is_in_standard_deviations(tmp_path: Path) -> None:
    """The tiny signal is hundreds of times stronger in another unit: the same noise does the same harm."""
    loud = Condition("loud", Cutting(0.5, 0.5), Augmentation(noise=3.0), repeats=3)
    scores = []
    for load in (tiny_dataset, loud_dataset):
        arm = Arm("stream", replace(STREAM, load=load), measure=UnderConditions((loud,)))
        scores.append(Laboratory(tmp_path, seeds=1).run([arm])[0].scores["loud"])
    assert scores[0] == pytest.approx(scores[1], abs=1e-3)


def loud_dataset(path: Path | None = None) -> Dataset:
    dataset = tiny_dataset(path)

    def louder(sessions: Sequence[LabelledSession]) -> tuple[LabelledSession, ...]:
        return tuple(replace(s, streams=tuple(replace(x, frames=300 * x.frames) for x in s.streams)) for s in sessions)

    return replace(dataset, train=louder(dataset.train), test=louder(dataset.test))


def test_a_training_that_diverges_is_kept_as_failed_and_the_others_go_on(tmp_path: Path) -> None:
    wild = replace(SHORT, schedule=Schedule(learning_rate=1e30, warmup_epochs=1, epochs=3))
    results = Laboratory(tmp_path, seeds=1).run([Arm("wild", wild), *ARMS])
    assert "validation loss" in (results[0].failed or "")
    assert [r.failed for r in results[1:]] == [None, None]


def test_a_quick_run_takes_sessions_from_all_of_the_dataset(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("grf_core.experiments.runner.QUICK_TRAINING_SESSIONS", 6)
    names = [s.session for s in loaded(TINY, None, quick=True).train]
    assert names == [f"tiny-{k}" for k in (0, 4, 8, 12, 16, 20)]
    assert len(loaded(TINY, None, quick=False).train) == 24


def test_the_random_state_and_the_threads_are_left_as_they_were(tmp_path: Path) -> None:
    before, threads = torch.get_rng_state(), torch.get_num_threads()
    Laboratory(tmp_path, seeds=1).run(ARMS[:1])
    assert torch.equal(torch.get_rng_state(), before)
    assert torch.get_num_threads() == threads
