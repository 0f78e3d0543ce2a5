from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grf_core.step import NO_SLOT, RowStep, StepBatch, StepResult
from runtime.engine.slab import Slab
from runtime.engine.stepper import BoolArray, run_steps
from runtime.messages import Float32Array
from tests.runtime.engine.offline import assert_close
from tests.runtime.engine.world import FRAMES
from tests.runtime.toy_model import POISON, SIGNATURE, ToyModel

pytestmark = pytest.mark.filterwarnings("ignore:overflow:RuntimeWarning")


def steps_of(slab: Slab, ranks: list[int], fresh: list[bool]) -> list[RowStep]:
    """A step for each rank; those that are not fresh go on from a context of their own."""
    rng = np.random.default_rng(len(ranks))
    steps = []
    for i, (rank, is_fresh) in enumerate(zip(ranks, fresh, strict=True)):
        in_slot = NO_SLOT
        if not is_fresh:
            in_slot = slab.allocate()
            shares = rng.dirichlet(np.ones(3)).astype(np.float32)
            slab.write(in_slot, rng.normal(size=(1, 4)).astype(np.float32), np.zeros(3, np.float32), shares, 0.5)
        steps.append(RowStep(in_slot, slab.allocate(), rank, FRAMES[rank][i], 0.0 if is_fresh else 0.1 * i))
    return steps


def poisoned(step: RowStep, value: float) -> RowStep:
    frames = step.frames.copy()
    frames[-1, -1] = value
    return RowStep(step.in_slot, step.out_slot, step.rank, frames, step.elapsed_s)


@settings(max_examples=100)
@given(st.lists(st.tuples(st.integers(0, 2), st.booleans(), st.sampled_from([0, 0, 0, 1, -1])), min_size=1, max_size=9))
def test_a_segment_that_breaks_its_step_fails_alone(rows: list[tuple[int, bool, int]]) -> None:
    model, slab = ToyModel(), Slab(SIGNATURE, 64, torch.device("cpu"))
    good = steps_of(slab, [rank for rank, _, _ in rows], [fresh for _, fresh, _ in rows])
    steps = [
        poisoned(step, poison * POISON) if poison else step for step, (_, _, poison) in zip(good, rows, strict=True)
    ]
    faults = run_steps(model, slab, steps)
    assert [bool(fault) for fault in faults] == [poison != 0 for _, _, poison in rows]
    for fault, (_, _, poison) in zip(faults, rows, strict=True):
        if poison:
            assert fault == (
                "RuntimeError: poisoned segment" if poison > 0 else "the step gave values that are not finite"
            )
    for step, fault in zip(good, faults, strict=True):
        if not fault:
            context, shares = slab.contexts[step.out_slot].clone(), slab.shares[step.out_slot].copy()
            run_steps(model, slab, [step])
            assert_close(slab.contexts[step.out_slot], context, "beside others")
            assert_close(slab.shares[step.out_slot], shares, "shares beside others")
            assert shares.sum() == pytest.approx(1.0, abs=1e-5)


def test_one_bad_segment_among_many_costs_a_few_batches_not_one_for_each() -> None:
    model, slab = ToyModel(), Slab(SIGNATURE, 600, torch.device("cpu"))
    steps = [RowStep(NO_SLOT, slab.allocate(), 0, FRAMES[0][i % 32], 0.0) for i in range(256)]
    steps[100] = poisoned(steps[100], POISON)
    faults = run_steps(model, slab, steps)
    assert [i for i, fault in enumerate(faults) if fault] == [100]
    assert len(model.batches) <= 1 + 2 * 8


def test_a_fresh_context_ignores_what_a_row_held_before() -> None:
    model, slab = ToyModel(), Slab(SIGNATURE, 4, torch.device("cpu"))
    slab.contexts[:] = float("nan")
    slab.shares[:] = float("nan")
    step = RowStep(NO_SLOT, slab.allocate(), 1, FRAMES[1][0], 0.0)
    assert run_steps(model, slab, [step]) == [""]
    assert slab.shares[step.out_slot].tolist() == [0, 1, 0]
    assert bool(torch.isfinite(slab.contexts[step.out_slot]).all())


Spoil = Callable[[StepResult], StepResult]


class Broken(ToyModel):
    def __init__(self, answer: Spoil | BaseException) -> None:
        super().__init__()
        self.answer = answer

    def step(self, batch: StepBatch) -> StepResult:
        if isinstance(self.answer, BaseException):
            raise self.answer
        return self.answer(super().step(batch))


@pytest.mark.parametrize("error", [MemoryError(), torch.OutOfMemoryError("CUDA out of memory"), KeyboardInterrupt()])
def test_running_out_of_memory_is_no_segment_s_fault(error: BaseException) -> None:
    slab = Slab(SIGNATURE, 8, torch.device("cpu"))
    with pytest.raises(type(error)):
        run_steps(Broken(error), slab, steps_of(slab, [0, 1], [True, False]))


@pytest.mark.skipif(not hasattr(torch, "AcceleratorError"), reason="since torch 2.8")
def test_a_broken_device_is_no_segment_s_fault() -> None:
    slab = Slab(SIGNATURE, 8, torch.device("cpu"))
    with pytest.raises(torch.AcceleratorError):
        run_steps(Broken(torch.AcceleratorError("an illegal memory access")), slab, steps_of(slab, [0], [True]))


@pytest.mark.parametrize(
    "spoil",
    [
        lambda r: StepResult(r.contexts[:, :, :2], r.outputs, r.gate),
        lambda r: StepResult(r.contexts[:0], r.outputs, r.gate),
        lambda r: StepResult(r.contexts, r.outputs[:, :1], r.gate),
        lambda r: StepResult(r.contexts, r.outputs, r.gate[:, None]),
    ],
    ids=["narrow context", "rows missing", "outputs missing", "gate of two dimensions"],
)
def test_a_model_that_answers_in_another_shape_fails_the_segments_and_not_the_worker(spoil: Spoil) -> None:
    slab = Slab(SIGNATURE, 8, torch.device("cpu"))
    faults = run_steps(Broken(spoil), slab, steps_of(slab, [0, 1], [True, False]))
    assert all(fault.startswith("ValueError: the model returned ") for fault in faults)


@pytest.mark.parametrize("field", ["outputs", "gate"])
def test_outputs_that_are_not_finite_fail_the_segment_though_the_context_is(field: str) -> None:
    def spoil(result: StepResult) -> StepResult:
        getattr(result, field)[1] = np.nan
        return result

    slab = Slab(SIGNATURE, 8, torch.device("cpu"))
    faults = run_steps(Broken(spoil), slab, steps_of(slab, [0, 1, 2], [True, False, False]))
    assert [bool(fault) for fault in faults] == [False, True, False]


@pytest.mark.parametrize("gate", [7.0, -0.1, 1.001])
def test_a_gate_that_would_make_nonsense_of_the_shares_fails_the_segment(gate: float) -> None:
    def spoil(result: StepResult) -> StepResult:
        result.gate[1] = gate
        return result

    slab = Slab(SIGNATURE, 8, torch.device("cpu"))
    faults = run_steps(Broken(spoil), slab, steps_of(slab, [0, 1, 2], [True, False, False]))
    assert faults == ["", f"the step gave a gate of {gate:g}, which is not from 0 to 1", ""]


class InPlace(ToyModel):
    """Steps rows where they are, but none of a batch that holds a poisoned segment."""

    def __init__(self) -> None:
        super().__init__()
        self.in_place = 0

    def step_rows(self, steps: Sequence[RowStep], contexts: torch.Tensor, host: Float32Array) -> BoolArray:
        if any(np.abs(step.frames[-1, -1]) == POISON for step in steps):
            raise RuntimeError("poisoned")
        self.in_place += len(steps)
        contexts[[step.out_slot for step in steps]] = 0.5
        return np.array([step.rank != 2 for step in steps])


def test_a_model_may_step_the_rows_where_they_are() -> None:
    model, slab = InPlace(), Slab(SIGNATURE, 64, torch.device("cpu"))
    steps = steps_of(slab, [0, 2, 1], [True, False, False])
    assert run_steps(model, slab, steps) == ["", "the step gave values that are not finite", ""]
    assert model.in_place == 3
    assert not model.batches
    assert (slab.contexts[steps[0].out_slot] == 0.5).all()


def test_a_segment_that_breaks_its_step_in_place_fails_alone_too() -> None:
    model, slab = InPlace(), Slab(SIGNATURE, 64, torch.device("cpu"))
    steps = steps_of(slab, [0, 1, 0, 1], [True, False, False, True])
    steps[2] = poisoned(steps[2], POISON)
    faults = run_steps(model, slab, steps)
    assert [bool(fault) for fault in faults] == [False, False, True, False]
    assert model.in_place == 3
    assert not model.batches
