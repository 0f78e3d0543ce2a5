"""The folded form against the readable one. In float64 for the algebra, then in the precision it runs in."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grf_core import bundle as bundle_module
from grf_core import folded
from grf_core.bundle import Bundle
from grf_core.folded import FoldedStepModel
from grf_core.folded_weights import FoldedWeights
from grf_core.folding import fold, numbers_of
from grf_core.inference import GRFStepModel
from grf_core.model import GRF
from grf_core.normalisation import Normalisation, Statistics
from grf_core.packing import pack_segments
from grf_core.step import Float32Array, StepBatch, StepResult
from tests.grf_core.models import MODALITIES, random_frames, random_segments, small_config, small_model
from tests.grf_core.test_inference import NORMALISATION

CPU = torch.device("cpu")
ALGEBRA = 1e-9
FLOAT32 = 1e-5
BFLOAT16 = 0.15
"""Contexts are normalised, so of size 1; a bfloat16 has 8 bits, and a block a dozen sums of such in a row."""
BFLOAT16_MEAN = 0.02


def random_model(seed: int, **changes: Any) -> GRF:
    torch.manual_seed(seed)
    return small_model(seed, **changes)


def random_batch(model: GRF, rows: int, seed: int, fresh: float = 0.3, one_length: bool = False) -> StepBatch:
    rng = np.random.default_rng(seed)
    segments = random_segments(rows, rng)
    if one_length:
        segments = [(rank, np.resize(frames, (5, frames.shape[1]))) for rank, frames in segments]
    return StepBatch(
        contexts=torch.from_numpy(rng.normal(size=(rows, model.config.context_slots, model.config.d_model))).float(),
        fresh=rng.random(rows) < fresh,
        ranks=np.array([rank for rank, _ in segments]),
        frames=[frames for _, frames in segments],
        elapsed_s=rng.exponential(10, rows).astype(np.float32),
    )


def folded_form(
    model: GRF, dtype: torch.dtype = torch.float32, normalisation: Normalisation = NORMALISATION
) -> FoldedStepModel:
    return FoldedStepModel(model, normalisation, "small", "d1", CPU, dtype)


def readable_form(model: GRF, normalisation: Normalisation = NORMALISATION) -> GRFStepModel:
    return GRFStepModel(model, normalisation, "small", "d1", CPU)


def assert_near(result: StepResult, expected: StepResult, atol: float = FLOAT32) -> None:
    torch.testing.assert_close(result.contexts, expected.contexts, atol=atol, rtol=0)
    np.testing.assert_allclose(result.outputs[:, :3], expected.outputs[:, :3], atol=atol)
    np.testing.assert_allclose(
        result.outputs[:, 3:], expected.outputs[:, 3:], atol=100 * atol
    )  # around 50, scaled by 20
    np.testing.assert_allclose(result.gate, expected.gate, atol=atol)


def promised(expected: StepResult) -> float:
    """What promise 1 allows: 1e-5 of the largest number."""
    return FLOAT32 * max(1.0, float(expected.contexts.abs().max()))


def float64_step(model: GRF, batch: StepBatch) -> tuple[torch.Tensor, torch.Tensor]:
    """The readable model's next contexts and gate, frames normalised here, all in float64."""
    segments = pack_segments(batch.frames, batch.ranks)
    frames = {}
    for rank, frames_NF in segments.frames.items():
        statistics = NORMALISATION.modalities[MODALITIES[rank].name]
        mean_F, std_F = (torch.tensor(part, dtype=torch.float64) for part in (statistics.mean, statistics.std))
        frames[rank] = ((frames_NF.double() - mean_F) / std_F).clamp(-1e4, 1e4)
    with torch.no_grad():
        stepped = model.double().step(
            batch.contexts.double(),
            torch.from_numpy(batch.fresh),
            segments.with_frames(frames),
            torch.from_numpy(batch.elapsed_s).double(),
        )
    return stepped.contexts, stepped.gate


def model_and_batch_of_lengths(lengths: Sequence[int]) -> tuple[GRF, StepBatch]:
    """Segments of one modality, of these lengths, none of them the first of its session."""
    modalities = tuple(replace(modality, max_frames=max(lengths)) for modality in MODALITIES)
    model, rng = random_model(3, modalities=modalities), np.random.default_rng(3)
    batch = StepBatch(
        contexts=torch.randn(len(lengths), 1, 16),
        fresh=np.zeros(len(lengths), bool),
        ranks=np.full(len(lengths), 1),
        frames=[rng.normal(size=(length, 3)).astype(np.float32) for length in lengths],
        elapsed_s=np.zeros(len(lengths), np.float32),
    )
    return model, batch


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.sampled_from([1, 2, 9, 40]),
    slots=st.sampled_from([1, 2, 4]),
    layers=st.integers(1, 4),
    heads=st.sampled_from([1, 2, 4]),
    carry=st.sampled_from(["enriched", "context"]),
    ageing=st.booleans(),
    fresh=st.sampled_from([0.0, 0.3, 1.0]),
    one_length=st.booleans(),
    most_frames=st.sampled_from([20, 10_000]),
)
def test_the_algebra_is_exact(
    seed: int,
    rows: int,
    slots: int,
    layers: int,
    heads: int,
    carry: str,
    ageing: bool,
    fresh: float,
    one_length: bool,
    most_frames: int,
) -> None:
    model = random_model(seed, context_slots=slots, n_layers=layers, n_heads=heads, carry=carry, ageing=ageing)
    batch = random_batch(model, rows, seed, fresh, one_length)
    step_model = folded_form(model, torch.float64)
    step_model._most_frames = most_frames
    result = step_model.step(replace(batch, contexts=batch.contexts.double()))
    expected_BKD, gate_B = float64_step(model, batch)
    torch.testing.assert_close(result.contexts, expected_BKD, atol=ALGEBRA, rtol=0)
    np.testing.assert_allclose(result.gate, gate_B.numpy(), atol=ALGEBRA)


@pytest.mark.parametrize("rows", [1, 7, 60])
@pytest.mark.parametrize("slots", [1, 2, 4])
def test_float32_is_the_readable_model_to_rounding(rows: int, slots: int) -> None:
    for seed, carry in enumerate(("enriched", "context")):
        model = random_model(seed, context_slots=slots, carry=carry, n_layers=3, ageing=seed == 1)
        batch = random_batch(model, rows, seed)
        assert_near(folded_form(model).step(batch), readable_form(model).step(batch))


def test_long_segments_are_the_readable_model_to_rounding() -> None:
    lengths = (200, 190, 130, 60, 50, 49, 48, 33, 33, 32, 31, 30, 17, 16, 15, 4, 3, 2, 1, 1)
    model, batch = model_and_batch_of_lengths(lengths)
    assert_near(folded_form(model).step(batch), readable_form(model).step(batch))


def test_bfloat16_stays_within_its_own_tolerance() -> None:
    model = random_model(4)
    batch = random_batch(model, 60, 4)
    result, expected = folded_form(model, torch.bfloat16).step(batch), readable_form(model).step(batch)
    assert result.contexts.dtype == torch.float32
    torch.testing.assert_close(result.contexts, expected.contexts, atol=BFLOAT16, rtol=0)
    assert (result.contexts - expected.contexts).abs().mean() < BFLOAT16_MEAN
    np.testing.assert_allclose(result.gate, expected.gate, atol=BFLOAT16)


def test_what_shares_the_batch_changes_nothing_beyond_rounding(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folded, "FEWEST_FRAMES", 50)
    monkeypatch.setattr(folded, "BUCKET_BYTES", 0)
    model = random_model(5)
    step_model, batch = folded_form(model), random_batch(model, 100, 5)
    together = step_model.step(batch)
    assert len(step_model.prepare(batch.frames, batch.ranks)) > 5
    for row in range(0, 100, 9):
        assert_near(step_model.step(rows_of(batch, [row])), part_of(together, [row]))


@pytest.mark.parametrize("fresh", [True, False])
def test_a_context_that_is_not_finite_harms_no_other_row(fresh: bool) -> None:
    model = random_model(6)
    batch = random_batch(model, 20, 6, fresh=0.0)
    expected = folded_form(model).step(batch)
    batch.contexts[11] = torch.nan
    batch.fresh[11] = fresh
    result = folded_form(model).step(batch)
    others = [row for row in range(20) if row != 11]
    assert_near(part_of(result, others), part_of(expected, others))
    assert result.contexts[11].isfinite().all() == fresh


@pytest.mark.parametrize("value", [0.0, 1e-30, -3e4, 1e6, 1e30])
def test_absurd_frames_are_clipped_as_by_the_readable_model(value: float) -> None:
    model = random_model(7)
    batch = random_batch(model, 3, 7, fresh=0.5)
    frames = [np.full_like(segment, value) for segment in batch.frames]
    result = folded_form(model).step(replace(batch, frames=frames))
    assert result.contexts.isfinite().all()
    expected = readable_form(model).step(replace(batch, frames=frames))
    torch.testing.assert_close(result.contexts, expected.contexts, atol=FLOAT32, rtol=1e-5)


def test_a_mean_far_larger_than_the_deviation_costs_no_precision() -> None:
    model, rng = random_model(8), np.random.default_rng(8)
    modalities = dict(NORMALISATION.modalities) | {"imu": Statistics((101_325.0,), (0.5,))}
    normalisation = replace(NORMALISATION, modalities=modalities)
    frames = [(101_325 + rng.normal(size=(6, 1))).astype(np.float32) for _ in range(4)]
    batch = replace(random_batch(model, 4, 8, fresh=0.0), ranks=np.full(4, 2), frames=frames)
    assert_near(
        folded_form(model, normalisation=normalisation).step(batch), readable_form(model, normalisation).step(batch)
    )


def test_segments_prepared_ahead_give_the_same_bits_as_often_as_they_are_used() -> None:
    for slots in (1, 2):
        model = random_model(9, context_slots=slots)
        step_model, batch = folded_form(model), random_batch(model, 30, 9)
        prepared = step_model.prepare(batch.frames, batch.ranks)
        expected = step_model.step(batch)
        for _ in range(2):
            result = step_model.step(batch, prepared)
            assert torch.equal(result.contexts, expected.contexts)
            np.testing.assert_array_equal(result.outputs, expected.outputs)


def test_frames_and_contexts_given_are_left_as_they_were() -> None:
    model = random_model(10, ageing=True)
    batch = random_batch(model, 12, 10)
    before = batch.contexts.clone(), [frames.copy() for frames in batch.frames]
    folded_form(model).step(batch)
    assert torch.equal(batch.contexts, before[0])
    for frames, expected in zip(batch.frames, before[1], strict=True):
        np.testing.assert_array_equal(frames, expected)


def test_the_model_that_was_folded_is_left_as_it_was() -> None:
    model = random_model(11)
    before = {key: value.clone() for key, value in model.state_dict().items()}
    folded_form(model).step(random_batch(model, 3, 11))
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("slots", [1, 3])
def test_the_size_of_folded_weights_is_known_before_they_are_made(slots: int) -> None:
    config = small_config(d_model=32, n_heads=8, n_layers=3, context_slots=slots)
    made = _numbers(fold(GRF(config), NORMALISATION, CPU, torch.float32))
    assert made <= numbers_of(config) <= 2 * made


def test_a_bundle_too_large_to_fold_is_stepped_by_the_readable_model(monkeypatch: pytest.MonkeyPatch) -> None:
    bundle = Bundle.of("small", random_model(12), NORMALISATION, {})
    assert not isinstance(bundle.step_model(), GRFStepModel)
    assert isinstance(bundle.readable_step_model(), GRFStepModel)
    assert bundle.step_model().signature == bundle.readable_step_model().signature
    monkeypatch.setattr(bundle_module, "MAX_FOLDED_NUMBERS", 1000)
    assert isinstance(bundle.step_model(), GRFStepModel)


def test_one_frame_of_every_modality_in_one_batch() -> None:
    model, rng = random_model(13), np.random.default_rng(13)
    frames: list[Float32Array] = [random_frames(rank, rng)[:1] for rank in (2, 0, 1, 0)]
    batch = replace(random_batch(model, 4, 13), ranks=np.array([2, 0, 1, 0]), frames=frames)
    assert_near(folded_form(model).step(batch), readable_form(model).step(batch))


def rows_of(batch: StepBatch, rows: Sequence[int]) -> StepBatch:
    index = list(rows)
    return StepBatch(
        batch.contexts[index],
        batch.fresh[index],
        batch.ranks[index],
        [batch.frames[row] for row in index],
        batch.elapsed_s[index],
    )


def part_of(result: StepResult, rows: Sequence[int]) -> StepResult:
    index = list(rows)
    return StepResult(result.contexts[index], result.outputs[index], result.gate[index])


def _numbers(value: object) -> int:
    if isinstance(value, torch.Tensor):
        return value.numel()
    if isinstance(value, tuple):
        return sum(map(_numbers, value))
    if isinstance(value, FoldedWeights) or hasattr(value, "__dataclass_fields__"):
        return sum(_numbers(getattr(value, name)) for name in value.__dataclass_fields__)
    return 0
