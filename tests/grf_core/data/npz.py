"""NumPy's archives of arrays, as data sets are kept in."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt


def npz_bytes(**arrays: npt.NDArray[Any]) -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, **arrays)  # type: ignore[arg-type]  # none of them has the name of an option of savez
    return buffer.getvalue()
