"""What sources of sound and pictures put into a sample, and encoders take out of it.

- Sound: [N] int16, one channel at 16 kHz, whatever the source had. The sample's time is that of its first number.
- A picture: [H, W, 3] uint8, red green blue.
- `Undecodable` where a packet was broken: the sample keeps its place and position, and the encoder refuses it.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import numpy.typing as npt

from connectors.base import Sample
from connectors.errors import BadSample

SAMPLE_RATE_HZ = 16_000
Sound = npt.NDArray[np.int16]
Picture = npt.NDArray[np.uint8]


class Undecodable(NamedTuple):
    """Stands where a picture or a block of sound would have been."""

    reason: str


def sound_of(sample: Sample) -> Sound:
    """[N]. Raises BadSample."""
    sound = _decoded(sample)
    if not isinstance(sound, np.ndarray) or sound.dtype != np.int16 or sound.ndim != 1:
        raise BadSample("shape", f"{_kind_of(sound)} is no block of sound: [N] int16 of one channel at 16 kHz")
    return sound


def picture_of(sample: Sample) -> Picture:
    """[H, W, 3]. Raises BadSample."""
    picture = _decoded(sample)
    if not isinstance(picture, np.ndarray) or picture.dtype != np.uint8 or picture.ndim != 3 or picture.shape[2] != 3:
        raise BadSample("shape", f"{_kind_of(picture)} is no picture: [H, W, 3] uint8")
    if 0 in picture.shape:
        raise BadSample("shape", f"a picture of {picture.shape[1]} x {picture.shape[0]}")
    return picture


def time_of(sample: Sample) -> float:
    """Raises BadSample: encoders are given times by the pipeline's clock."""
    if sample.event_time_s is None:
        raise BadSample("time", "the sample has no event time")
    return sample.event_time_s


def _decoded(sample: Sample) -> object:
    if isinstance(sample.value, Undecodable):
        raise BadSample("codec", sample.value.reason)
    return sample.value


def _kind_of(value: object) -> str:
    if isinstance(value, np.ndarray):
        return f"{value.dtype} {value.shape}"
    return f"a value of type {type(value).__name__}"
