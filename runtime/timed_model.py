"""A model that notes how long its steps take; the engine itself reads no clock."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
import torch

from grf_core.step import Float32Array, ModelSignature, RowStep, StepBatch, StepModel, StepResult, StepRows


class TimedModel:
    """Any StepModel, with the seconds of each step collected until they are taken."""

    def __init__(self, model: StepModel) -> None:
        self._model = model
        self._step_rows: StepRows | None = getattr(model, "step_rows", None)
        self._seconds: list[float] = []

    @property
    def signature(self) -> ModelSignature:
        return self._model.signature

    @property
    def device(self) -> torch.device:
        return self._model.device

    def step(self, batch: StepBatch) -> StepResult:
        started_s = time.perf_counter()
        result = self._model.step(batch)
        self._seconds.append(time.perf_counter() - started_s)
        return result

    @property
    def step_rows(self) -> StepRows | None:
        return None if self._step_rows is None else self._timed_step_rows

    def _timed_step_rows(
        self, steps: Sequence[RowStep], contexts: torch.Tensor, host: Float32Array
    ) -> npt.NDArray[np.bool_]:
        assert self._step_rows is not None
        started_s = time.perf_counter()
        finite = self._step_rows(steps, contexts, host)
        self._seconds.append(time.perf_counter() - started_s)
        return finite

    def take_seconds(self) -> list[float]:
        seconds, self._seconds = self._seconds, []
        return seconds
