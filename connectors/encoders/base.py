"""The contract between raw media and the runtime: samples of one stream in, frames out.

An encoder sits between a source and the windowing. There is one for each stream that a route makes; what they share (a
model, a pool of processes) belongs to their `EncoderFactory`, of which there is one for each route.

    factory = options.build()
    async with factory:
        encoder = factory.encoder(stream="cam_left")
        for frames in await encoder.encode(samples): ...

- `encode` is given samples whose event times are on the wall clock already, in order. It never blocks the event loop:
  work of more than a millisecond goes to a thread or, if it holds the interpreter's lock, to a process. The factory
  may put samples of many encoders into one batch of its model.
- Where there is nothing to see (no face, silence, no word) there are no frames: the gap is how the model learns
  that a modality is missing. Never zeros.
- `snapshot` is JSON, small, and complete: an encoder restored from it makes of the next samples the very frames that
  this one would. After a crash the samples since the snapshot come again, so frames must not depend on the wall clock,
  nor on how samples were batched.
- Samples are as their source gave them, bytes or pictures; with a `decode` in the route their value is numbers [T, F].
- Samples that cannot be encoded raise BadSample (codec broken, wrong sample rate) before the encoder has changed
  anything: they are then given again one by one, and the bad ones counted and left out.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from types import TracebackType
from typing import NamedTuple, Self

import numpy as np
import numpy.typing as npt

from connectors.base import JsonValue, Options, Sample


class Frames(NamedTuple):
    """Frames of one stream, in time order."""

    values: npt.NDArray[np.float32]
    """[T, F]"""
    times_s: npt.NDArray[np.float64]
    """[T], event time of each frame, on the clock of the samples; grows"""


class Encoder(ABC):
    """Of one stream."""

    @abstractmethod
    async def encode(self, *, samples: Sequence[Sample]) -> Sequence[Frames]:
        """The frames that these samples complete. Raises BadSample for one that cannot be encoded."""

    async def end(self) -> Sequence[Frames]:
        """Nothing more comes: what is still held back."""
        return ()

    def snapshot(self) -> JsonValue:
        """What the next frames depend on; None for an encoder that has no memory."""
        return None

    def restore(self, *, state: JsonValue) -> None:
        """Go on as the encoder of this snapshot would."""


class EncoderFactory(ABC):
    """Makes the encoders of one route; owns what they share."""

    lag_s: float = math.inf
    """no frame of samples still to come is further before the newest sample: a window before that is closed, though
    nothing comes (no face, silence). Infinite: nothing is known, so only the next frame closes it"""

    a_frame_each: bool = False
    """every sample has one frame in it, if any: those that gave none are counted as frames left out"""

    @abstractmethod
    def encoder(self, *, stream: str) -> Encoder:
        """A new encoder, at the beginning of its stream."""

    async def open(self) -> None:
        """Load models, start processes. Raises SourceBroken, MissingExtra."""

    async def close(self) -> None:
        """Let go of them; may be called twice."""

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()


class EncoderOptions(Options, ABC):
    """What the YAML file says of an encoder; told apart by `kind`."""

    kind: str

    @abstractmethod
    def build(self) -> EncoderFactory:
        """The factory, not opened."""
