from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from grf_core.normalisation import Normalisation, Statistics
from grf_core.training.objective import LabelError, encode_labels, label_values, late_weights, session_losses
from tests.grf_core.models import HEADS, small_config

NORMALISATION = Normalisation({}, {"effort": Statistics((10.0,), (2.0,))})


def test_labels_become_class_numbers_and_normalised_values() -> None:
    labels = [{"mood": "high", "effort": 14.0}, {"mood": "low"}, {"effort": 9.0}]
    encoded = encode_labels(small_config(), NORMALISATION, labels)
    np.testing.assert_array_equal(encoded["mood"], [2, 0, math.nan])
    np.testing.assert_array_equal(encoded["effort"], [2.0, math.nan, -0.5])


def test_a_label_its_head_cannot_have_is_refused() -> None:
    with pytest.raises(LabelError, match=r"mood.*bored"):
        label_values(HEADS[0], [{"mood": "bored"}])
    with pytest.raises(LabelError, match=r"effort.*much"):
        label_values(HEADS[1], [{"effort": "much"}])


def test_the_loss_is_cross_entropy_plus_l1_and_nothing_for_an_unknown_label() -> None:
    answers = {"mood": torch.tensor([[2.0, 0.0, 0.0]] * 3), "effort": torch.tensor([[0.5]] * 3)}
    targets = {"mood": torch.tensor([0.0, math.nan, math.nan]), "effort": torch.tensor([2.0, 2.0, math.nan])}
    losses_B = session_losses(small_config(), answers, targets)
    cross_entropy = -math.log(math.exp(2) / (math.exp(2) + 2))
    assert losses_B.tolist() == pytest.approx([cross_entropy + 1.5, 1.5, 0.0])


def test_an_unknown_label_sends_back_no_gradient() -> None:
    effort_BO = torch.tensor([[0.5]], requires_grad=True)
    answers = {"mood": torch.zeros(1, 3), "effort": effort_BO}
    nothing = torch.tensor([math.nan])
    session_losses(small_config(), answers, {"mood": nothing, "effort": nothing}).sum().backward()
    assert effort_BO.grad is not None
    assert effort_BO.grad.tolist() == [[0.0]]


def test_late_steps_weigh_more_and_all_weigh_one() -> None:
    weights = late_weights(5, power=2.0)
    assert weights == sorted(weights)
    assert sum(weights) == pytest.approx(1.0)
    assert weights[4] / weights[0] == pytest.approx(25.0)
    assert late_weights(3, power=0.0) == pytest.approx([1 / 3] * 3)
