from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from grf_core.data.sessions import LabelledSession, Labels, LabelTrack, StreamFrames
from grf_core.normalisation import Normalisation, Statistics
from grf_core.training.objective import (
    Criterion,
    LabelError,
    class_weights,
    encode_values,
    label_values,
    late_weights,
    values_at,
)
from grf_core.training.recipe import Objective, RegressionLoss
from tests.grf_core.models import HEADS, small_config

NORMALISATION = Normalisation({}, {"effort": Statistics((10.0,), (2.0,))})
MOOD, EFFORT = HEADS
CHANGING = LabelTrack(np.array([1.0, 3.0]), ("low", "high"))


def session(**labels: str | LabelTrack) -> LabelledSession:
    times_s = np.arange(8.0) * 0.5
    return LabelledSession("s", labels, (StreamFrames("a", "audio", np.zeros((8, 3), np.float32), times_s),))


def test_labels_become_class_numbers_and_normalised_values() -> None:
    labels: list[Labels] = [{"mood": "high", "effort": 14.0}, {"mood": "low"}, {"effort": 9.0}]
    np.testing.assert_array_equal(label_values(MOOD, labels), [2, 0, math.nan])
    efforts = encode_values(EFFORT, NORMALISATION, label_values(EFFORT, labels))
    np.testing.assert_array_equal(efforts, [2.0, math.nan, -0.5])


def test_a_label_its_head_cannot_have_is_refused() -> None:
    with pytest.raises(LabelError, match=r"mood.*bored"):
        label_values(MOOD, [{"mood": "bored"}])
    with pytest.raises(LabelError, match=r"effort.*much"):
        label_values(EFFORT, [{"effort": "much"}])


def test_a_label_along_the_session_holds_from_its_time_on_until_the_next() -> None:
    values = values_at(MOOD, CHANGING, np.array([0.0, 1.0, 2.9, 3.0, 9.0, 0.9]))
    np.testing.assert_array_equal(values, [math.nan, 0, 0, 2, 2, math.nan])


def test_a_label_of_the_whole_session_holds_at_every_time() -> None:
    np.testing.assert_array_equal(values_at(MOOD, "even", np.array([-5.0, 7.0])), [1, 1])
    np.testing.assert_array_equal(values_at(MOOD, None, np.array([7.0])), [math.nan])


def test_the_loss_is_cross_entropy_plus_l1_and_nothing_for_an_unknown_label() -> None:
    answers = {"mood": torch.tensor([[2.0, 0.0, 0.0]] * 3), "effort": torch.tensor([[0.5]] * 3)}
    targets = {"mood": torch.tensor([0.0, math.nan, math.nan]), "effort": torch.tensor([2.0, 2.0, math.nan])}
    losses_B = Criterion(small_config(), Objective()).total(answers, targets)
    cross_entropy = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert losses_B.tolist() == pytest.approx([cross_entropy + 1.5, 1.5, 0.0])


def test_an_unknown_label_sends_back_no_gradient() -> None:
    effort_BO = torch.tensor([[0.5]], requires_grad=True)
    answers = {"mood": torch.zeros(1, 3), "effort": effort_BO}
    nothing = torch.tensor([math.nan])
    Criterion(small_config(), Objective()).total(answers, {"mood": nothing, "effort": nothing}).sum().backward()
    assert effort_BO.grad is not None
    assert effort_BO.grad.tolist() == [[0.0]]


@pytest.mark.parametrize(("kind", "expected"), [("l1", [3.0, 0.5]), ("l2", [9.0, 0.25]), ("huber", [2.5, 0.125])])
def test_the_regression_loss_is_the_one_asked_for(kind: RegressionLoss, expected: list[float]) -> None:
    answers = {"mood": torch.zeros(2, 3), "effort": torch.tensor([[3.0], [0.5]])}
    targets = {"mood": torch.full((2,), math.nan), "effort": torch.zeros(2)}
    losses = Criterion(small_config(), Objective(regression=kind)).losses(answers, targets)
    assert losses["effort"].tolist() == pytest.approx(expected)


def test_classes_and_heads_weigh_what_was_asked_for() -> None:
    objective = Objective(class_weights={"mood": (1.0, 2.0, 4.0)}, head_weights={"effort": 0.5})
    weights = class_weights(small_config(), objective, [])
    answers = {"mood": torch.zeros(3, 3), "effort": torch.ones(3, 1)}
    targets = {"mood": torch.tensor([0.0, 1.0, 2.0]), "effort": torch.zeros(3)}
    losses = Criterion(small_config(), objective, weights).losses(answers, targets)
    assert losses["mood"].tolist() == pytest.approx([math.log(3), 2 * math.log(3), 4 * math.log(3)])
    assert losses["effort"].tolist() == [0.5] * 3


def test_balanced_classes_weigh_alike_in_all_and_a_label_one_in_the_mean() -> None:
    sessions = [session(mood="low")] * 6 + [session(mood="high")] * 2 + [session()]
    weights = class_weights(small_config(), Objective(class_weights={"mood": "balanced"}), sessions)["mood"]
    assert weights.tolist() == pytest.approx([4 / 6, 0.0, 4 / 2])
    assert np.mean(weights[[0] * 6 + [2] * 2]) == pytest.approx(1.0)


def test_a_changing_label_counts_for_the_frames_at_which_it_holds() -> None:
    """Frames at 1.0 .. 2.5 s are low, at 3.0 and 3.5 s high."""
    weights = class_weights(small_config(), Objective(class_weights={"mood": "balanced"}), [session(mood=CHANGING)])
    assert weights["mood"].tolist() == pytest.approx([3 / 4, 0.0, 3 / 2])


def test_weights_that_fit_no_head_are_refused() -> None:
    with pytest.raises(LabelError, match="'effort'"):
        class_weights(small_config(), Objective(class_weights={"effort": "balanced"}), [])
    with pytest.raises(LabelError, match="2 class weights for the 3 classes"):
        class_weights(small_config(), Objective(class_weights={"mood": (1.0, 2.0)}), [])
    with pytest.raises(LabelError, match="'smell'"):
        Criterion(small_config(), Objective(head_weights={"smell": 1.0}))


def test_late_steps_weigh_more_and_all_weigh_one() -> None:
    weights = late_weights(5, power=2.0).tolist()
    assert weights == sorted(weights)
    assert sum(weights) == pytest.approx(1.0)
    assert weights[4] / weights[0] == pytest.approx(25.0)
    assert late_weights(3, power=0.0).tolist() == pytest.approx([1 / 3] * 3)


def test_a_smoothed_label_pays_for_being_too_sure() -> None:
    sure = {"mood": torch.tensor([[20.0, 0.0, 0.0]]), "effort": torch.zeros(1, 1)}
    target = {"mood": torch.tensor([0.0]), "effort": torch.tensor([0.0])}
    config = small_config()
    hard, smooth = (
        Criterion(config, Objective(label_smoothing=share)).losses(sure, target)["mood"].item() for share in (0.0, 0.3)
    )
    assert hard == pytest.approx(0, abs=1e-6)
    assert smooth == pytest.approx(0.3 * 2 / 3 * 20, rel=1e-4)
