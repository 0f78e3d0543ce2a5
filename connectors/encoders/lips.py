"""A face into lips, as the features of GRID were made: 43 points, 129 numbers.

40 points of the lips, minus the tip of the nose, over the distance of the outer corners of the eyes (in space, not in
the picture); then the tip of the nose and both corners as they are. Coordinates are in widths of the picture, so that a
pixel counts the same across and down. Against the stored features of ten clips no number differs by more than 0.0006,
of which 0.00025 is their rounding.

A picture without a face gives no frame, and is counted (`grf_connect_frames_left_out_total`). What is remembered of a
stream is its last frame and where its face is looked for; the second is not in the snapshot, so after a restart the
first frames differ by a hundredth or so of the distance of the eyes, as they do after any gap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field

from connectors.base import JsonValue, Sample
from connectors.encoders.base import EncoderOptions, Frames
from connectors.encoders.face_mesh import FaceMesh, Landmarks
from connectors.encoders.hosted import HostedFactory
from connectors.media import picture_of, time_of
from grf_core.data.movement import with_movement

# Laid out by hand: the formatter would give each of the forty a line of its own.
# fmt: off
LIPS = (0, 13, 14, 17, 37, 39, 40, 61, 78, 80, 81, 82, 84, 87, 88, 91, 95, 146, 178, 181,
        185, 191, 267, 269, 270, 291, 308, 310, 311, 312, 314, 317, 318, 321, 324, 375, 402, 405, 409, 415)
# fmt: on
NOSE_TIP, EYE_CORNERS = 1, (33, 263)
NUMBERS = 3 * (len(LIPS) + 3)

Lips = npt.NDArray[np.float32]


class LipsOptions(EncoderOptions):
    kind: Literal["lips"] = "lips"
    movement_hz: float | None = Field(
        None,
        gt=0,
        le=1000,
        description="Rate of the pictures; a frame is then three times as wide: the lips, their change since the "
        "frame before, and its size. 25 for bundles/grid-s1.",
    )
    tracking: bool = Field(True, description="Look for the face where it was; off: everywhere in every picture.")
    processes: int = Field(1, ge=1, le=64, description="How many; a stream stays with one of them.")

    def build(self) -> HostedFactory:
        make = partial(LipsWorkshop, self.movement_hz, self.tracking)
        return HostedFactory(make, processes=self.processes, lag_s=0, a_frame_each=True)


class LipsWorkshop:
    """Raises SourceBroken if mediapipe is not there."""

    def __init__(self, movement_hz: float | None, tracking: bool) -> None:
        FaceMesh()
        self._movement_hz = movement_hz
        self._tracking = tracking

    def work(self, stream: str) -> LipsWork:
        return LipsWork(FaceMesh(tracking=self._tracking), self._movement_hz)


class LipsWork:
    def __init__(self, mesh: FaceMesh, movement_hz: float | None) -> None:
        self._mesh = mesh
        self._movement_hz = movement_hz
        self._before: Lips | None = None
        """[129] of the last picture, if it had a face"""
        self._last_s = -math.inf
        """of the last picture that had one"""

    def encode(self, samples: Sequence[Sample]) -> list[Frames]:
        pictures = [(picture_of(sample), time_of(sample)) for sample in samples]
        frames, times_s = [], []
        for picture, time_s in pictures:
            height, width, _ = picture.shape
            landmarks = self._mesh.landmarks(picture)
            lips = None if landmarks is None else lips_of(landmarks, width=width, height=height)
            if lips is None:
                self._before = None
            elif time_s > self._last_s:
                frames.append(self._moving(lips, time_s))
                times_s.append(time_s)
                self._before, self._last_s = lips, time_s
        return [Frames(np.stack(frames), np.array(times_s))] if frames else []

    def _moving(self, lips: Lips, time_s: float) -> Lips:
        """After a gap nothing has moved: how far it went meanwhile is no speed."""
        if self._movement_hz is None:
            return lips
        is_next = time_s - self._last_s < 1.5 / self._movement_hz
        moving_1F = with_movement(lips[None], self._movement_hz, self._before if is_next else None)
        return moving_1F.reshape(-1)

    def end(self) -> list[Frames]:
        return []

    def snapshot(self) -> JsonValue:
        before = None if self._before is None else cast(list[JsonValue], self._before.tolist())
        return [before, self._last_s if math.isfinite(self._last_s) else None]

    def restore(self, state: JsonValue) -> None:
        before, last_s = cast(list[Any], state)
        self._before = None if before is None else np.array(before, np.float32)
        self._last_s = -math.inf if last_s is None else last_s


def lips_of(landmarks: Landmarks, *, width: int, height: int) -> Lips | None:
    """[129] of 468 points of a picture of that size; None for a face that cannot be measured."""
    points = landmarks.astype(np.float64) * (1.0, height / width, 1.0)
    eyes = points[list(EYE_CORNERS)]
    distance = float(np.linalg.norm(eyes[0] - eyes[1]))
    if not np.isfinite(points).all() or distance < 1e-6:
        return None
    lips = (points[list(LIPS)] - points[NOSE_TIP]) / distance
    return np.concatenate([lips, points[NOSE_TIP : NOSE_TIP + 1], eyes]).reshape(-1).astype(np.float32)
