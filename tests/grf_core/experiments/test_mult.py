"""MulT against its published implementation, whose parameter counts and answers stand here as numbers."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from grf_core.config import ConfigError, GRFConfig, ModalityConfig
from grf_core.experiments.cost import parameters
from grf_core.experiments.mult import Layer, MulT, MulTBody, MulTShape, View
from tests.grf_core.experiments.samples import TOLERANCE, all_answers, random_samples
from tests.grf_core.models import HEADS, small_config

PUBLISHED_PARAMETERS = [
    # widths, D, heads, layers, outputs, parameters
    ((300, 74, 35), 30, 5, 5, 1, 1_073_731),
    ((300, 5, 20), 30, 5, 4, 1, 872_131),
    ((300, 5, 20), 40, 10, 4, 1, 1_537_241),
    ((300, 74, 35), 40, 8, 2, 8, 1_072_128),
]
PUBLISHED_ANSWERS = [
    # hides the future, frames of each modality, answers of two samples
    (True, (6, 6, 6), [[-2.320092, 0.229509], [-2.503092, 0.285676]]),
    (True, (5, 3, 8), [[-2.511688, -0.066559], [-2.897560, -0.397822]]),
    (False, (6, 6, 6), [[-2.283635, 0.240502], [-2.475386, 0.326738]]),
    (False, (5, 3, 8), [[-2.502563, -0.032200], [-2.913635, -0.397717]]),
]
"""Of the published code with D 6, 2 heads, 2 layers, where weights and inputs are `waves`."""


def published_form(widths: tuple[int, ...], d_model: int, n_heads: int, n_layers: int, **changes: bool) -> MulTBody:
    return MulTBody(MulTShape(widths, 64, d_model, n_layers, n_heads, 4 * d_model, **changes)).eval()


def waves(shape: tuple[int, ...], phase: int) -> Tensor:
    """Numbers that anyone can compute again, no two tensors alike."""
    count = torch.Size(shape).numel()
    return torch.sin(0.37 * torch.arange(count, dtype=torch.float64) ** 2 + phase).float().reshape(shape)


@pytest.mark.parametrize(("widths", "d_model", "n_heads", "n_layers", "outputs", "expected"), PUBLISHED_PARAMETERS)
def test_the_published_form_has_as_many_parameters_as_the_published_code(
    widths: tuple[int, ...], d_model: int, n_heads: int, n_layers: int, outputs: int, expected: int
) -> None:
    body = published_form(widths, d_model, n_heads, n_layers)
    assert parameters(body) + parameters(nn.Linear(body.width, outputs)) == expected


@pytest.mark.parametrize(("hides_future", "frames", "expected"), PUBLISHED_ANSWERS)
def test_the_published_form_answers_what_the_published_code_answers(
    hides_future: bool, frames: tuple[int, ...], expected: list[list[float]]
) -> None:
    widths = (5, 4, 3)
    body = published_form(widths, 6, 2, 2, hides_future=hides_future)
    output_layer = nn.Linear(body.width, 2)
    with torch.no_grad():
        for number, parameter in enumerate([*body.parameters(), *output_layer.parameters()]):
            parameter.copy_(0.5 * waves(tuple(parameter.shape), number))
        inputs = [waves((2, frames[rank], width), 100 + rank) for rank, width in enumerate(widths)]
        answers_BO = output_layer(body(inputs, [torch.full((2,), length) for length in frames]))
    torch.testing.assert_close(answers_BO, torch.tensor(expected), atol=2e-5, rtol=0)


def test_a_layer_is_pre_norm_attention_and_ffn_with_one_norm_for_queries_and_source() -> None:
    layer = Layer(12, 3, 20, 0.0).eval()
    attention = nn.MultiheadAttention(12, 3, batch_first=True).eval()
    attention.load_state_dict(
        {
            "in_proj_weight": layer.attention.project.weight,
            "in_proj_bias": layer.attention.project.bias,
            "out_proj.weight": layer.attention.out.weight,
            "out_proj.bias": layer.attention.out.bias,
        }
    )
    x_BTW, source_BSW = torch.randn(2, 4, 12), torch.randn(2, 7, 12)
    view = View.of(torch.full((2,), 4), 4, torch.full((2,), 7), 7, hides_future=False)
    with torch.no_grad():
        source_normed = layer.attention_norm(source_BSW)
        x_expected = x_BTW + attention(layer.attention_norm(x_BTW), source_normed, source_normed)[0]
        x_expected = x_expected + layer.ffn(layer.ffn_norm(x_expected))
        torch.testing.assert_close(layer(x_BTW, source_BSW, view), x_expected, atol=TOLERANCE, rtol=0)


def test_no_frame_sees_a_later_one_and_the_last_frame_sees_the_whole_of_a_longer_source() -> None:
    def admitted(target: int, source: int) -> list[list[int]]:
        view = View.of(torch.tensor([target]), 3, torch.tensor([source]), 4, hides_future=True)
        rows: list[list[int]] = view.admitted_B1TS[0, 0].int().tolist()
        return rows

    assert admitted(3, 3) == [[1, 0, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0]]
    assert admitted(3, 4) == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    assert admitted(2, 3)[:2] == [[1, 1, 0, 0], [1, 1, 1, 0]]


def test_a_source_that_is_absent_leaves_the_target_to_its_own_ffn() -> None:
    layer, x_BTW = Layer(12, 3, 20, 0.0).eval(), torch.randn(2, 4, 12)
    view = View.of(torch.tensor([4, 4]), 4, torch.tensor([0, 0]), 5, hides_future=True)
    with torch.no_grad():
        expected_BTW = x_BTW + layer.ffn(layer.ffn_norm(x_BTW))
        torch.testing.assert_close(layer(x_BTW, torch.randn(2, 5, 12), view), expected_BTW)


def test_attention_to_an_absent_source_is_never_over_nothing() -> None:
    view = View.of(torch.tensor([4, 0]), 4, torch.tensor([0, 0]), 5, hides_future=True)
    assert view.admitted_B1TS.all()
    assert not view.present_B11.any()


def test_a_target_that_is_absent_ends_as_zeros() -> None:
    body, samples = MulTBody(MulTShape.of(small_config())).eval(), random_samples(small_config(), 14)
    last = body.residual[3]
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        last_BC = body(list(samples.inputs.values()), list(samples.lengths.values()))
    for last_BW, length_B in zip(last_BC.chunk(3, dim=-1), samples.lengths.values(), strict=True):
        assert torch.equal((last_BW == 0).all(dim=-1), length_B == 0)


def test_a_wider_convolution_sees_zeros_beyond_the_frames_and_an_even_one_is_refused() -> None:
    config = small_config()
    body = MulTBody(MulTShape.of(config, kernel_size=3)).eval()
    samples = random_samples(config, 6, absent=False)
    names = list(samples.inputs)
    with torch.no_grad():
        together = body([samples.inputs[name] for name in names], [samples.lengths[name] for name in names])
        for row in range(6):
            alone = samples.row(row)
            features_1C = body([alone.inputs[name] for name in names], [alone.lengths[name] for name in names])
            torch.testing.assert_close(together[row], features_1C[0], atol=TOLERANCE, rtol=TOLERANCE)
    with pytest.raises(ConfigError, match="kernel_size: 2 is even"):
        MulTShape.of(config, kernel_size=2)


def test_32_modalities_have_992_crossmodal_transformers_and_give_an_answer() -> None:
    modalities = tuple(ModalityConfig(f"m{rank}", 3, 4) for rank in range(32))
    config = GRFConfig(modalities, HEADS, d_model=2, n_layers=1, n_heads=1, d_ffn=4)
    model, samples = MulT(config).eval(), random_samples(config, 2)
    assert len(model.body.crossmodal) == 992
    with torch.no_grad():
        assert all_answers(model(samples.inputs, samples.lengths)).isfinite().all()
