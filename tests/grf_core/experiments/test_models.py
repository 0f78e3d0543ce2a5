"""What holds for every model of whole samples, GRF included."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

from grf_core.config import GRFConfig
from grf_core.experiments.baselines import Concatenation, LateFusion, single_modality
from grf_core.experiments.mult import MulT
from grf_core.model import GRF
from tests.grf_core.experiments.samples import TOLERANCE, all_answers, random_samples
from tests.grf_core.models import HEADS, MODALITIES, small_config

MODELS: list[Callable[[GRFConfig], nn.Module]] = [GRF, MulT, LateFusion, Concatenation]
COUNT = 21


def every_weight_drawn(make: Callable[[GRFConfig], nn.Module], config: GRFConfig) -> nn.Module:
    torch.manual_seed(0)
    model = make(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


@pytest.mark.parametrize("make", MODELS)
def test_a_sample_is_answered_the_same_in_a_batch_as_alone_whatever_it_lacks(
    make: Callable[[GRFConfig], nn.Module],
) -> None:
    model, samples = every_weight_drawn(make, small_config()), random_samples(small_config(), COUNT)
    with torch.no_grad():
        together = all_answers(model(samples.inputs, samples.lengths))
        for row in range(COUNT):
            alone = samples.row(row)
            answer = all_answers(model(alone.inputs, alone.lengths))
            torch.testing.assert_close(together[row : row + 1], answer, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("make", MODELS)
def test_what_stands_in_the_padding_or_in_an_absent_modality_changes_nothing(
    make: Callable[[GRFConfig], nn.Module],
) -> None:
    model, samples = every_weight_drawn(make, small_config()), random_samples(small_config(), COUNT)
    other = samples.with_other_padding()
    with torch.no_grad():
        first, second = (all_answers(model(each.inputs, each.lengths)) for each in (samples, other))
    torch.testing.assert_close(first, second, atol=TOLERANCE, rtol=TOLERANCE)


@pytest.mark.parametrize("make", MODELS)
def test_every_modality_that_is_there_counts(make: Callable[[GRFConfig], nn.Module]) -> None:
    model, samples = every_weight_drawn(make, small_config()), random_samples(small_config(), 5, absent=False)
    with torch.no_grad():
        complete = all_answers(model(samples.inputs, samples.lengths))
        for modality in MODALITIES:
            without = samples.lengths | {modality.name: torch.zeros(5, dtype=torch.int64)}
            assert ((all_answers(model(samples.inputs, without)) - complete).abs().max(dim=1).values > 1e-3).all()


@pytest.mark.parametrize("make", MODELS)
def test_gradients_are_finite_and_reach_every_weight_although_modalities_are_absent(
    make: Callable[[GRFConfig], nn.Module],
) -> None:
    model = every_weight_drawn(make, small_config(auxiliary_heads=False)).train()
    samples = random_samples(small_config(), COUNT)
    all_answers(model(samples.inputs, samples.lengths)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.isfinite().all(), name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("make", [MulT, LateFusion, Concatenation])
@pytest.mark.parametrize("modalities", [MODALITIES[:1], MODALITIES[:2], MODALITIES])
def test_any_number_of_modalities_is_answered_by_every_head_with_its_outputs(
    make: Callable[[GRFConfig], nn.Module], modalities: tuple[object, ...]
) -> None:
    config = small_config(modalities=modalities)
    samples = random_samples(config, 3)
    output = make(config)(samples.inputs, samples.lengths)
    assert {name: answer.shape for name, answer in output.outputs.items()} == {
        head.name: (3, head.outputs) for head in HEADS
    }
    assert (output.auxiliary, output.contexts, output.gates) == ({}, [], [])


@pytest.mark.parametrize("make", MODELS)
def test_one_modality_alone_is_a_model_that_takes_nothing_else(make: Callable[[GRFConfig], nn.Module]) -> None:
    config = single_modality(small_config(), "audio")
    model, samples = every_weight_drawn(make, config), random_samples(config, 4)
    assert list(samples.inputs) == ["audio"]
    assert all_answers(model(samples.inputs, samples.lengths)).isfinite().all()
