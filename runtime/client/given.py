"""What a user hands over, as what is sent: NumPy's numbers too, which MessagePack would not take."""

from __future__ import annotations

from operator import index
from typing import SupportsFloat, SupportsIndex

import numpy as np
import numpy.typing as npt

NO_NUMBERS = np.datetime64, np.timedelta64, np.character, np.complexfloating
"""that NumPy makes a float of all the same: of nanoseconds, for example"""
NO_NUMBERS_EITHER = *NO_NUMBERS, str, bytes
"""among objects"""


def as_frames(frames: npt.ArrayLike) -> npt.NDArray[np.float32]:
    """A private float32 copy [T, F]: the caller may reuse its array.

    Raises ValueError for another shape and for masked values, TypeError for an array of something else than numbers.
    """
    given = np.asanyarray(frames)
    if issubclass(given.dtype.type, NO_NUMBERS):
        raise TypeError(f"frames of dtype {given.dtype} are no numbers")
    if given.dtype == object and any(isinstance(value, NO_NUMBERS_EITHER) for value in given.flat):
        raise TypeError("frames are no numbers: some are dates, text or complex")
    if isinstance(given, np.ma.MaskedArray) and np.ma.is_masked(given):
        raise ValueError("frames have masked values: what is behind the mask would be fused")
    array = np.array(given, dtype=np.float32, order="C")
    if array.ndim != 2:
        raise ValueError(f"frames have shape {array.shape}, expected [T, F]")
    return array


def as_time_s(event_time_s: SupportsFloat) -> float:
    """Raises TypeError for what is no number."""
    dtype = getattr(event_time_s, "dtype", None)  # an array without dimensions has one too
    if not isinstance(event_time_s, SupportsFloat) or (dtype is not None and issubclass(dtype.type, NO_NUMBERS)):
        raise TypeError(f"event time {event_time_s!r} is no number of seconds")
    return float(event_time_s)


def as_sequence(sequence: SupportsIndex | None) -> int | None:
    """Likewise."""
    return None if sequence is None else index(sequence)
