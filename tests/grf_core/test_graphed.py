"""The step in fixed shapes against the readable model, computed without a GPU; tests/gpu has it recorded, on one."""

from __future__ import annotations

import gc
import weakref
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grf_core import graphed
from grf_core.graphed import GraphedStepModel, shapes_of
from grf_core.step import NO_SLOT, RowStep, StepBatch
from tests.grf_core.models import CHANGES
from tests.grf_core.test_folded import (
    assert_near,
    folded_form,
    model_and_batch_of_lengths,
    part_of,
    promised,
    random_batch,
    random_model,
    readable_form,
)
from tests.grf_core.test_inference import NORMALISATION

CPU = torch.device("cpu")


def graphed_form(seed: int, **changes: Any) -> GraphedStepModel:
    return GraphedStepModel(random_model(seed, **changes), NORMALISATION, "small", "d1", CPU)


@settings(max_examples=60, deadline=None)
@given(
    seed=st.integers(0, 10**6),
    rows=st.sampled_from([1, 2, 9, 40, 300]),
    changes=CHANGES,
    fresh=st.sampled_from([0.0, 0.3, 1.0]),
    one_length=st.booleans(),
)
def test_it_is_the_readable_model_to_rounding(
    seed: int, rows: int, changes: dict[str, Any], fresh: float, one_length: bool
) -> None:
    batch = random_batch(random_model(seed, **changes), rows, seed, fresh, one_length)
    expected = readable_form(random_model(seed, **changes)).step(batch)
    assert_near(graphed_form(seed, **changes).step(batch), expected, promised(expected))


@pytest.mark.parametrize("most_frames", [600, 1 << 16])
def test_long_segments_are_the_readable_model_to_rounding(most_frames: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(graphed, "MOST_FRAMES", most_frames)
    model, batch = model_and_batch_of_lengths((600, 513, 257, 256, 255, 65, 64, 33, 17, 16, 15, 7, 2, 1))
    step_model = GraphedStepModel(model, NORMALISATION, "small", "d1", CPU)
    assert_near(step_model.step(batch), readable_form(model).step(batch))


def test_nothing_of_the_batch_before_is_left_in_a_step() -> None:
    step_model, model = graphed_form(4), random_model(4)
    for seed, rows in ((1, 64), (2, 3), (3, 40), (4, 1)):
        batch = random_batch(model, rows, seed)
        batch.contexts[: rows // 3] = torch.nan
        result, expected = step_model.step(batch), readable_form(model).step(batch)
        good = list(range(rows // 3, rows))
        assert_near(part_of(result, good), part_of(expected, good))


def test_rows_of_a_slab_are_stepped_in_place() -> None:
    step_model, model = graphed_form(5), random_model(5)
    batch, rng = random_batch(model, 30, 5), np.random.default_rng(5)
    slab = torch.from_numpy(rng.normal(size=(100, 1, 16))).float()
    host = rng.random((100, step_model.signature.output_width + 3 + 1)).astype(np.float32)
    steps = [
        RowStep(NO_SLOT if fresh else row, 50 + row, int(rank), frames, float(elapsed_s))
        for row, (fresh, rank, frames, elapsed_s) in enumerate(
            zip(batch.fresh, batch.ranks, batch.frames, batch.elapsed_s, strict=True)
        )
    ]
    before, expected = slab.clone(), folded_form(model).step(replace(batch, contexts=slab[:30].clone()))
    shares = np.where(batch.fresh[:, None], 0, host[:30, 4:7])
    assert step_model.step_rows(steps, slab, host).all()
    torch.testing.assert_close(slab[50:80], expected.contexts, atol=1e-5, rtol=0)
    assert torch.equal(slab[:50], before[:50])
    assert torch.equal(slab[80:], before[80:])
    np.testing.assert_allclose(host[50:80, 7], expected.gate, atol=1e-5)
    shares = shares * (1 - expected.gate[:, None])
    shares[np.arange(30), batch.ranks] += expected.gate
    np.testing.assert_allclose(host[50:80, 4:7], shares, atol=1e-5)


def test_a_row_that_is_not_finite_is_told() -> None:
    step_model = graphed_form(6)
    slab, host = torch.zeros(10, 1, 16), np.zeros((10, 8), np.float32)
    slab[1, 0, 3] = torch.nan
    frames = np.ones((4, 5), np.float32)
    steps = [RowStep(0, 5, 0, frames, 0.0), RowStep(1, 6, 0, frames, 0.0), RowStep(NO_SLOT, 7, 0, frames, 0.0)]
    assert step_model.step_rows(steps, slab, host).tolist() == [True, False, True]


@pytest.mark.parametrize(
    "spoil",
    [
        lambda batch: replace(batch, ranks=batch.ranks + 3),
        lambda batch: replace(batch, ranks=batch.ranks - 3),
        lambda batch: replace(batch, frames=[frames[:, :0] for frames in batch.frames]),
        lambda batch: replace(batch, frames=[frames[:0] for frames in batch.frames]),
        lambda batch: replace(batch, frames=[np.repeat(frames, 20, axis=0) for frames in batch.frames]),
        lambda batch: replace(batch, frames=[frames.astype(np.float64) for frames in batch.frames]),
        lambda batch: replace(batch, elapsed_s=batch.elapsed_s[:-1]),
        lambda batch: replace(batch, contexts=batch.contexts[..., :-1]),
        lambda batch: replace(batch, contexts=batch.contexts.double()),
    ],
    ids=["rank", "negative", "width", "empty", "long", "dtype", "times", "narrow", "double"],
)
def test_a_batch_of_another_model_is_refused(spoil: Any) -> None:
    batch: StepBatch = random_batch(random_model(7), 5, 7)
    step_model = graphed_form(7)
    with pytest.raises(ValueError, match=r"segments|frames|contexts"):
        step_model.step(spoil(batch))
    assert step_model.step(batch).contexts.isfinite().all()


@given(longest=st.integers(1, 70_000), widest=st.integers(1, 5_000))
def test_every_batch_has_a_shape_and_none_takes_more_memory_than_it_may(longest: int, widest: int) -> None:
    shapes = list(shapes_of(longest, widest))
    lengths = sorted({frames for _, frames in shapes})
    assert longest <= lengths[-1] < longest + graphed.TILE
    assert all((1, frames) in shapes for frames in lengths)
    assert all(rows == 1 or rows * frames <= graphed.MOST_FRAMES for rows, frames in shapes)
    assert all(rows == 1 or rows * frames * widest <= graphed.MOST_VALUES for rows, frames in shapes)
    assert len(shapes) <= graphed.LENGTHS * 9


def test_a_model_and_its_memory_are_let_go_of_at_once_and_wait_for_no_garbage_collector() -> None:
    model = graphed_form(1)
    gone = weakref.ref(model)
    gc.disable()
    try:
        del model
        assert gone() is None
    finally:
        gc.enable()


class _Cycle:
    def __init__(self) -> None:
        self.itself = self


def test_while_graphs_are_recorded_there_is_no_garbage_and_none_is_collected() -> None:
    before = weakref.ref(_Cycle())
    with graphed._nothing_collected():
        assert before() is None
        meanwhile = weakref.ref(_Cycle())
        assert [_Cycle() for _ in range(10_000)], "enough for several collections"
        assert meanwhile() is not None
    assert gc.isenabled()
    gc.collect()
    assert meanwhile() is None
