from __future__ import annotations

import gc
import sys
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest

from grf_core.step import StepBatch, StepResult
from runtime.warm_up import COLLECT_AFTER, ROWS, SWITCH_S, quieten_interpreter, warm_up
from tests.runtime.toy_model import ToyModel


class Noting(ToyModel):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[tuple[int, int]] = []

    def step(self, batch: StepBatch) -> StepResult:
        self.seen.append((int(batch.ranks[0]), len(batch.frames)))
        return super().step(batch)


@pytest.fixture
def interpreter_as_it_was() -> Iterator[None]:
    switch_s, thresholds = sys.getswitchinterval(), gc.get_threshold()
    yield
    sys.setswitchinterval(switch_s)
    gc.set_threshold(*thresholds)
    gc.unfreeze()


def test_every_modality_is_stepped_alone_and_in_a_batch() -> None:
    model = Noting()
    warm_up(model)
    assert sorted(model.seen) == [(rank, rows) for rank in range(len(model.signature.modalities)) for rows in ROWS]


class Wide(ToyModel):
    """Gives one output more than it says."""

    def step(self, batch: StepBatch) -> StepResult:
        result = super().step(batch)
        return replace(result, outputs=np.pad(result.outputs, ((0, 0), (0, 1))))


def test_a_model_that_does_not_give_what_its_signature_says_does_not_start() -> None:
    """It would be ready, and refuse every segment."""
    with pytest.raises(ValueError, match=r"the model returned outputs \(1, \d+\)"):
        warm_up(Wide())


@pytest.mark.usefixtures("interpreter_as_it_was")
def test_what_is_loaded_is_collected_no_more() -> None:
    quieten_interpreter()
    assert gc.get_freeze_count() > 10_000
    assert gc.get_threshold() == COLLECT_AFTER
    assert sys.getswitchinterval() == pytest.approx(SWITCH_S)
