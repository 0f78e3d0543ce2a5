from __future__ import annotations

from dataclasses import replace

import pytest

from grf_core.experiments.comparison import answer, best_arm, failures
from grf_core.experiments.results import Metric, against, figure_text, headline, ranking, row, rows_of
from grf_core.experiments.runner import Finished
from tests.grf_core.training.tiny import TINY

ACCURACY = Metric.named("accuracy")


def finished(arm: str, seed: int, accuracy: float, failed: str | None = None, **more: float) -> Finished:
    scores = {} if failed else {"all": {"accuracy": accuracy, "n": 16.0, **more}, "some": {"accuracy": 0.0, "n": 8.0}}
    return Finished(arm, seed, scores, {}, 0.1, 3, 5, 100, 2.0, failed)


RUNS = [
    finished("a", 0, 0.8),
    finished("a", 1, 0.9),
    finished("b", 0, 0.7),
    finished("b", 1, 0.6),
    finished("c", 0, 0.9),
    finished("c", 1, 0.8),
]


def test_a_row_is_the_mean_and_the_spread_over_the_seeds() -> None:
    rows = rows_of(RUNS)
    assert [(r.arm, r.condition) for r in rows] == [(arm, c) for arm in "abc" for c in ("all", "some")]
    assert rows[0].mean["accuracy"] == pytest.approx(0.85)
    assert rows[0].std["accuracy"] == pytest.approx(0.0707, abs=1e-4)
    assert (rows[0].n, rows[0].seeds, rows[0].sessions, rows[0].seconds) == (2, (0, 1), 16, 2.0)
    assert "n" not in rows[0].mean
    assert figure_text(rows[0], "accuracy") == "0.850 ± 0.071"


def test_one_seed_has_no_spread() -> None:
    rows = rows_of(RUNS[:1])
    assert rows[0].std == {"accuracy": None}
    assert figure_text(rows[0], "accuracy") == "0.800"


def test_a_metric_that_a_seed_lacks_is_not_averaged_over_the_others() -> None:
    rows = rows_of([finished("a", 0, 0.8, corr=0.5), finished("a", 1, 0.9)])
    assert set(rows[0].mean) == {"accuracy"}
    assert figure_text(rows[0], "corr") == "-"


def test_seeds_that_failed_are_counted_and_left_out() -> None:
    rows = rows_of([finished("a", 0, 0.8), finished("a", 1, 0, "diverged"), finished("b", 0, 0, "diverged")])
    assert (rows[0].n, rows[0].failed_seeds, rows[0].mean["accuracy"]) == (1, (1,), 0.8)
    assert (rows[-1].arm, rows[-1].n, rows[-1].mean) == ("b", 0, {})
    assert failures(rows) == [
        "a diverged with seed 1; the figures leave that out.",
        "b diverged with seed 0; the figures leave that out.",
    ]


def test_arms_are_told_apart_only_where_every_seed_agrees() -> None:
    rows = rows_of(RUNS)
    a, b, c = (row(rows, arm) for arm in "abc")
    assert against(b, a, ACCURACY) == "b is worse in all 2 seeds than a (accuracy -0.200 ± 0.141)."
    assert against(a, b, ACCURACY).startswith("a is better in all 2 seeds than b (accuracy +0.200")
    assert against(c, a, ACCURACY).startswith("c is not told apart (1 of 2 seeds better, 1 worse) from a")
    better, worse = (rows_of(RUNS[i : i + 1])[0] for i in (0, 2))
    assert "with one seed only, better than" in against(better, worse, ACCURACY)
    assert "no seed in common" in against(rows_of(RUNS[:1])[0], rows_of(RUNS[1:2])[0], ACCURACY)


def test_of_an_error_the_smaller_is_better() -> None:
    mae = Metric.named("size/mae")
    assert mae.smaller_is_better
    runs = [finished(arm, 0, 0, None, **{"size/mae": value}) for arm, value in (("a", 2.0), ("b", 1.0))]
    rows = rows_of(runs)
    assert [r.arm for r in ranking(rows, mae)] == ["b", "a"]
    assert "b is, with one seed only, better than a" in against(row(rows, "b"), row(rows, "a"), mae)


def test_an_answer_names_the_best_under_the_first_condition_and_each_other_arm() -> None:
    rows = rows_of(RUNS)
    assert best_arm(rows, ACCURACY) in ("a", "c")
    told = answer(rows, ACCURACY, "b")
    assert told[0].startswith("The best mean accuracy is that of a, 0.850")
    assert len(told) == 3
    assert answer(rows_of([finished("a", 0, 0, "diverged")]), ACCURACY, "a") == []


def test_a_recipe_is_judged_by_what_stops_it_or_by_its_first_head() -> None:
    assert headline(TINY) == ACCURACY
    assert headline(replace(TINY, schedule=replace(TINY.schedule, stop_on="size/mae"))).smaller_is_better
    regression = replace(TINY.config, heads=TINY.config.heads[1:])
    assert headline(replace(TINY, config=regression)).name == "mae"
