"""What was measured at a bed into the frames that the bundle `physionet-2012` was trained on: an encoder of one's own.

A message is all that was charted at one time: {"HR": 73, "Temp": 37.1}. Its frame has, for each variable of the
modality: the last value so far, scaled; whether it was measured now; and its age, log1p of hours. That is what
grf_core.data.physionet_2012 makes of the files of the challenge, one message at a time.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from connectors.base import JsonValue, Sample
from connectors.encoders.base import Encoder, EncoderFactory, Frames
from connectors.errors import BadSample
from grf_core.data.physionet_2012 import MEASURED, OLDEST_H, patient_frame
from grf_core.data.physionet_2012_variables import Scaling


class Measurements(EncoderFactory):
    def encoder(self, *, stream: str) -> Encoder:
        modality = stream.rpartition("/")[2]
        if modality == "patient":
            return Patient()
        if modality not in MEASURED:
            raise BadSample("field", f"{modality!r} is none of patient, {', '.join(MEASURED)}")
        return Bedside(modality)


def charted(sample: Sample) -> dict[str, float]:
    """Values by name. Raises BadSample."""
    try:
        return {str(name): float(value) for name, value in json.loads(sample.value).items()}
    except (ValueError, TypeError, AttributeError) as error:
        raise BadSample("format", f"not a chart of values: {error!r}") from None


class Bedside(Encoder):
    """Of one modality of one bed."""

    def __init__(self, modality: str) -> None:
        self._scaling = Scaling(MEASURED[modality])
        self._values = [0.0] * len(MEASURED[modality])
        self._measured_s = [-math.inf] * len(MEASURED[modality])

    async def encode(self, *, samples: Sequence[Sample]) -> Sequence[Frames]:
        charts = [(sample.event_time_s, self._scaled(charted(sample))) for sample in samples]  # all are checked first
        return [self._frame(at_s, chart) for at_s, chart in charts if at_s is not None and chart]

    def _scaled(self, chart: dict[str, float]) -> dict[int, float]:
        """By position; what is implausible counts as not measured."""
        unknown = chart.keys() - self._scaling.names.keys()
        if unknown:
            raise BadSample("field", f"there is no {min(unknown)!r} here")
        positions = np.array([self._scaling.names[name] for name in chart], dtype=np.int64)
        scaled = self._scaling(positions, np.array(list(chart.values()), dtype=np.float64))
        return {int(at): float(value) for at, value in zip(positions, scaled, strict=True) if math.isfinite(value)}

    def _frame(self, at_s: float, chart: dict[int, float]) -> Frames:
        for position, value in chart.items():
            self._values[position], self._measured_s[position] = value, at_s
        measured_s = np.array(self._measured_s)
        age_h = np.where(np.isfinite(measured_s), (at_s - measured_s) / 3600, OLDEST_H).clip(max=OLDEST_H)
        row = np.stack([np.array(self._values), measured_s == at_s, np.log1p(age_h)], axis=1)
        return Frames(row.reshape(1, -1).astype(np.float32), np.array([at_s]))

    def snapshot(self) -> JsonValue:
        return [self._values, self._measured_s]

    def restore(self, *, state: Any) -> None:
        self._values, self._measured_s = state


class Patient(Encoder):
    """Who lies in the bed: {"Age": 61, "Gender": 1, "ICUType": 2}, once."""

    async def encode(self, *, samples: Sequence[Sample]) -> Sequence[Frames]:
        return [Frames(patient_frame(charted(sample)), np.array([sample.event_time_s])) for sample in samples]
