from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from grf_core.folded import FoldedStepModel
from grf_core.inference import GRFStepModel, signature_of
from grf_core.model import GRF
from grf_core.native import NativeStepModel
from grf_core.normalisation import Normalisation, Statistics
from grf_core.step import Float32Array, HeadSignature, ModalitySignature, StepBatch, StepModel, StepResult
from tests.grf_core.kernels import kernels
from tests.grf_core.models import MODALITIES, random_segments, small_config, small_model
from tests.grf_core.reference import Reference

TOLERANCE = 1e-5
MakeStepModel = Callable[..., StepModel]
NORMALISATION = Normalisation(
    modalities={
        "text": Statistics((1.0, 2.0, 3.0, 4.0, 5.0), (0.5, 1.0, 2.0, 3.0, 4.0)),
        "audio": Statistics((0.1, -0.2, 0.3), (2.0, 2.0, 0.25)),
        "imu": Statistics((-9.8,), (10.0,)),
    },
    heads={"effort": Statistics((50.0,), (20.0,))},
)


def native_form(model: GRF, normalisation: Normalisation, name: str, digest: str, device: torch.device) -> StepModel:
    return NativeStepModel(model, normalisation, name, digest, kernels())


@pytest.fixture(params=[GRFStepModel, FoldedStepModel, native_form], ids=["readable", "folded", "native"])
def step_model(request: pytest.FixtureRequest) -> MakeStepModel:
    form = request.param
    return lambda model=None: form(model or small_model(), NORMALISATION, "small", "d1", torch.device("cpu"))


def normalised(rank: int, frames: Float32Array) -> Float32Array:
    statistics = NORMALISATION.modalities[MODALITIES[rank].name]
    mean, std = np.array(statistics.mean, np.float32), np.array(statistics.std, np.float32)
    scaled = (frames - mean) / std
    return scaled


def fuse(
    model: StepModel, contexts: torch.Tensor, segments: list[tuple[int, Float32Array]], **given: Any
) -> StepResult:
    count = len(segments)
    batch: dict[str, Any] = {"fresh": np.zeros(count, bool), "elapsed_s": np.zeros(count, np.float32)} | given
    ranks = np.array([rank for rank, _ in segments])
    return model.step(StepBatch(contexts=contexts, ranks=ranks, frames=[frames for _, frames in segments], **batch))


def one_at_a_time(model: StepModel, segments: list[tuple[int, Float32Array]]) -> list[StepResult]:
    """The offline way: a session's segments, already in fusion order, each in a batch of its own."""
    results: list[StepResult] = []
    context_1KD = torch.zeros(1, *model.signature.context_shape)
    for segment in segments:
        results.append(fuse(model, context_1KD, [segment], fresh=np.array([not results])))
        context_1KD = results[-1].contexts
    return results


def test_a_stream_gives_the_contexts_and_answers_of_the_reference(step_model: MakeStepModel) -> None:
    model = small_model(carry="context")
    segments = random_segments(12, np.random.default_rng(0))
    results = one_at_a_time(step_model(model), segments)
    reference = Reference(model)
    expected = reference.contexts([(rank, normalised(rank, frames)) for rank, frames in segments])
    for result, context_KD in zip(results, expected, strict=True):
        np.testing.assert_allclose(result.contexts[0].numpy(), context_KD, atol=TOLERANCE)
        odds_O = np.exp(reference.head(context_KD, 0))
        np.testing.assert_allclose(result.outputs[0, :3], odds_O / odds_O.sum(), atol=TOLERANCE)
        np.testing.assert_allclose(result.outputs[0, 3:], reference.head(context_KD, 1) * 20 + 50, atol=1e-3)
    assert results[0].gate[0] == 1.0
    assert all(0 < result.gate[0] < 1 for result in results[1:])


def test_sessions_in_one_batch_get_what_each_gets_alone(step_model: MakeStepModel) -> None:
    model, rng = step_model(), np.random.default_rng(1)
    sessions = [random_segments(int(rng.integers(1, 9)), rng) for _ in range(13)]
    contexts_BKD = torch.zeros(13, *model.signature.context_shape)
    for step in range(8):
        rows = [row for row, segments in enumerate(sessions) if step < len(segments)]
        shuffled = rng.permutation(rows)
        batch = [sessions[row][step] for row in shuffled]
        fresh = np.full(len(batch), step == 0)
        contexts_BKD[shuffled] = fuse(model, contexts_BKD[shuffled], batch, fresh=fresh).contexts
    for row, segments in enumerate(sessions):
        alone = one_at_a_time(model, segments)[-1].contexts[0]
        torch.testing.assert_close(contexts_BKD[row], alone, atol=TOLERANCE, rtol=0)


def test_the_same_batch_gives_the_same_bits(step_model: MakeStepModel) -> None:
    model, rng = step_model(), np.random.default_rng(2)
    segments = random_segments(9, rng)
    contexts_BKD = torch.randn(9, *model.signature.context_shape)
    first, second = fuse(model, contexts_BKD, segments), fuse(model, contexts_BKD, segments)
    assert torch.equal(first.contexts, second.contexts)
    np.testing.assert_array_equal(first.outputs, second.outputs)


def test_a_step_leaves_the_contexts_it_was_given_alone(step_model: MakeStepModel) -> None:
    model = step_model()
    contexts_BKD = torch.ones(3, *model.signature.context_shape)
    fuse(model, contexts_BKD, random_segments(3, np.random.default_rng(3)))
    assert (contexts_BKD == 1).all()


def test_read_only_arrays_are_taken(step_model: MakeStepModel) -> None:
    model = step_model()
    frames, fresh, elapsed_s = np.ones((2, 1), np.float32), np.zeros(1, bool), np.zeros(1, np.float32)
    for array in (frames, fresh, elapsed_s):
        array.flags.writeable = False
    contexts_BKD = torch.zeros(1, *model.signature.context_shape)
    result = fuse(model, contexts_BKD, [(2, frames)], fresh=fresh, elapsed_s=elapsed_s)
    assert result.contexts.isfinite().all()


def test_results_can_be_written_into_a_slab_and_need_no_gradient(step_model: MakeStepModel) -> None:
    model = step_model()
    slab = torch.zeros(10, *model.signature.context_shape)
    result = fuse(model, slab[:2], random_segments(2, np.random.default_rng(4)))
    slab[torch.tensor([7, 3])] = result.contexts
    assert not result.contexts.requires_grad
    assert slab[7].any()
    assert slab[3].any()


@pytest.mark.parametrize("magnitude", [0.0, 1e-30, 1e6, 1e30])
def test_finite_frames_of_any_magnitude_give_finite_contexts(step_model: MakeStepModel, magnitude: float) -> None:
    model = step_model()
    frames = np.full((4, 1), magnitude, np.float32)
    contexts_BKD = torch.zeros(1, *model.signature.context_shape)
    result = fuse(model, contexts_BKD, [(2, frames)])
    assert result.contexts.isfinite().all()
    assert np.isfinite(result.outputs).all()


def test_elapsed_seconds_reach_an_ageing_model(step_model: MakeStepModel) -> None:
    model = step_model(small_model(ageing=True, carry="context"))
    contexts_BKD = torch.ones(1, *model.signature.context_shape)
    segments = random_segments(1, np.random.default_rng(5))
    soon = fuse(model, contexts_BKD, segments, elapsed_s=np.array([0.1], np.float32))
    late = fuse(model, contexts_BKD, segments, elapsed_s=np.array([100.0], np.float32))
    assert not torch.allclose(soon.contexts, late.contexts)


def test_the_signature_tells_ranks_widths_and_columns() -> None:
    signature = signature_of(small_config(context_slots=2), "small", "d1")
    assert (signature.name, signature.digest, signature.context_shape) == ("small", "d1", (2, 16))
    assert signature.modalities[1] == ModalitySignature("audio", 3, 9)
    assert signature.rank("imu") == 2
    assert signature.heads == (
        HeadSignature("mood", "classification", 0, 3, ("low", "even", "high")),
        HeadSignature("effort", "regression", 3, 4),
    )
    assert signature.output_width == 4
