from __future__ import annotations

import pytest
import torch

from grf_core.training.weight_mean import WeightMean


def model_of(value: float) -> torch.nn.Linear:
    model = torch.nn.Linear(1, 1, bias=False)
    torch.nn.init.constant_(model.weight, value)
    return model


def worn(mean: WeightMean, model: torch.nn.Linear) -> float:
    with mean.worn_by(model):
        return model.weight.item()


def test_the_mean_is_exponential_and_corrected_while_it_is_young() -> None:
    model = model_of(0.0)
    mean = WeightMean(model, 0.5)
    for value in (1.0, 2.0, 4.0):
        torch.nn.init.constant_(model.weight, value)
        mean.add(model)
    assert worn(mean, model) == pytest.approx((0.25 * 1 + 0.5 * 2 + 1 * 4) / 1.75)
    assert model.weight.item() == 4.0, "the model has its own weights back"


def test_without_a_decay_or_a_step_the_model_is_its_own_mean() -> None:
    model = model_of(3.0)
    never, young = WeightMean(model, 0.0), WeightMean(model, 0.9)
    never.add(model)
    assert worn(never, model) == worn(young, model) == 3.0


def test_a_mean_goes_on_from_its_state() -> None:
    model = model_of(1.0)
    mean, resumed = WeightMean(model, 0.9), WeightMean(model, 0.9)
    mean.add(model)
    resumed.resume(mean.state())
    torch.nn.init.constant_(model.weight, 2.0)
    for each in (mean, resumed):
        each.add(model)
    assert worn(resumed, model) == worn(mean, model) < 2.0
