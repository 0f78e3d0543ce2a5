"""How fast features change, as features: what one frame cannot show, and a mean over frames cannot keep."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

Float32Array = npt.NDArray[np.float32]

MOVEMENT_S = 0.3
"""Changes are told as per so long: then they are about as large as what changes, where somebody gestures."""


def with_movement(frames_TF: Float32Array, rate_hz: float, before_F: Float32Array | None = None) -> Float32Array:
    """[T, 3 F]: the frames, their change since the frame before, and its size.

    `before_F` is the last frame of the stream's segment before; without one the first frame has not moved.
    """
    before_1F = frames_TF[:1] if before_F is None else before_F[None]
    change_TF = np.diff(frames_TF, axis=0, prepend=before_1F) * np.float32(rate_hz * MOVEMENT_S)
    return np.concatenate([frames_TF, change_TF, np.abs(change_TF)], axis=1)
