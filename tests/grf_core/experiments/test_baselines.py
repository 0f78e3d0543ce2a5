from __future__ import annotations

import pytest
import torch

from grf_core.config import ConfigError
from grf_core.experiments.baselines import Concatenation, LateFusion, ModalityEncoder, single_modality
from tests.grf_core.experiments.samples import TOLERANCE, random_samples
from tests.grf_core.models import MODALITIES, small_config


def test_late_fusion_is_the_mean_of_what_each_present_modality_answers() -> None:
    model, samples = LateFusion(small_config()).eval(), random_samples(small_config(), 14)
    with torch.no_grad():
        outputs = model(samples.inputs, samples.lengths).outputs
        for row in range(14):
            answers = []
            for rank, modality in enumerate(MODALITIES):
                if length := int(samples.lengths[modality.name][row]):
                    frames_1TF = samples.inputs[modality.name][row : row + 1, :length]
                    answers.append(model.heads[rank](model.encoders[rank](frames_1TF, torch.tensor([length]))))
            for head, answer_BO in outputs.items():
                mean_O = torch.stack([answer[head][0] for answer in answers]).mean(dim=0)
                torch.testing.assert_close(answer_BO[row], mean_O, atol=TOLERANCE, rtol=0)


def test_concatenation_puts_the_learned_vector_where_a_modality_is_absent() -> None:
    model, samples = Concatenation(small_config()).eval(), random_samples(small_config(), 14)
    with torch.no_grad():
        outputs = model(samples.inputs, samples.lengths).outputs
        for row in range(14):
            parts = []
            for rank, modality in enumerate(MODALITIES):
                length = int(samples.lengths[modality.name][row])
                frames_1TF = samples.inputs[modality.name][row : row + 1, :length]
                encode = model.encoders[rank]
                parts.append(encode(frames_1TF, torch.tensor([length]))[0] if length else model.absent_nD[rank])
            for head, answer_1O in model.heads(torch.cat(parts)[None]).items():
                torch.testing.assert_close(outputs[head][row], answer_1O[0], atol=TOLERANCE, rtol=0)


def test_an_encoder_is_what_torch_builds_of_the_same_layers() -> None:
    encoder = LateFusion(small_config()).encoders[0].eval()
    assert isinstance(encoder, ModalityEncoder)
    stack = torch.nn.Sequential(*encoder.layers)
    frames_BTF = torch.randn(3, 7, MODALITIES[0].width)
    with torch.no_grad():
        expected_BD = stack(encoder.projection(frames_BTF) + encoder.positions_TD[:7]).mean(dim=1)
        encoded_BD = encoder(frames_BTF, torch.tensor([7, 7, 7]))
    torch.testing.assert_close(encoded_BD, expected_BD, atol=TOLERANCE, rtol=0)
    assert not any(layer.norm_first for layer in encoder.layers)


def test_single_modality_keeps_everything_else_of_the_config() -> None:
    config = small_config(shared_block=False)
    alone = single_modality(config, "imu")
    assert alone.modalities == (MODALITIES[2],)
    assert (alone.heads, alone.d_model, alone.n_layers) == (config.heads, config.d_model, config.n_layers)


def test_a_modality_the_config_has_not_is_refused() -> None:
    with pytest.raises(ConfigError, match="there is no 'smell'"):
        single_modality(small_config(), "smell")
