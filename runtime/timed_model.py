"""A model that notes how long its steps take; the engine itself reads no clock."""

from __future__ import annotations

import time

import torch

from grf_core.step import ModelSignature, StepBatch, StepModel, StepResult


class TimedModel:
    """Any StepModel, with the seconds of each step collected until they are taken."""

    def __init__(self, model: StepModel) -> None:
        self._model = model
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

    def take_seconds(self) -> list[float]:
        seconds, self._seconds = self._seconds, []
        return seconds
