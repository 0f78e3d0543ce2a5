"""A face for tests: Grace Hopper's portrait (US Navy, public domain), which matplotlib carries."""

from __future__ import annotations

from pathlib import Path

import av
import matplotlib

from connectors.media import Picture

WIDTH, HEIGHT = 256, 300


def portrait() -> Picture:
    path = Path(matplotlib.get_data_path()) / "sample_data" / "grace_hopper.jpg"
    with av.open(str(path)) as container:
        frame = next(container.decode(video=0))
        picture: Picture = frame.reformat(width=WIDTH, height=HEIGHT).to_ndarray(format="rgb24")
    return picture


def shifted(picture: Picture, pixels: int) -> Picture:
    """The same moved to the right, its left edge repeated."""
    moved = picture.copy()
    moved[:, pixels:] = picture[:, : picture.shape[1] - pixels]
    return moved
