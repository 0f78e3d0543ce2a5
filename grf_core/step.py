"""What the runtime knows of a model: one step for a batch of segments.

The engine drives anything that satisfies `StepModel`. GRF (`grf_core.bundle.load_bundle(...).step_model()`)
is the one we ship; a recurrent fusion model of your own runs in the same runtime by implementing it.

Shapes: B segments in the batch, T frames, F feature width, K context slots, D model width,
O the widths of all heads together.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

if TYPE_CHECKING:  # recordings are made of the types below, and need no torch
    import torch

HeadKind = Literal["classification", "regression"]
Float32Array = npt.NDArray[np.float32]

NO_SLOT = -1
"""the row of a context that is not there yet"""


@dataclass(frozen=True, slots=True)
class ModalitySignature:
    """A kind of feature: its name, its frame width, and the longest segment the model takes."""

    name: str
    width: int
    max_frames: int


@dataclass(frozen=True, slots=True)
class HeadSignature:
    """One head and the columns `[start, stop)` of the output row that are its own."""

    name: str
    kind: HeadKind
    start: int
    stop: int
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """All that has to agree between a model, a stored context and a publisher.

    The position of a modality is its rank, which breaks ties in the fusion order.
    `digest` changes whenever the weights do: a context fused by another model is refused, not reused.
    """

    name: str
    digest: str
    modalities: tuple[ModalitySignature, ...]
    heads: tuple[HeadSignature, ...]
    context_shape: tuple[int, int]
    """(K, D)"""

    @property
    def output_width(self) -> int:
        return max((head.stop for head in self.heads), default=0)

    def rank(self, modality: str) -> int:
        """Position of a modality in the bundle; KeyError when the model does not know it."""
        for position, known in enumerate(self.modalities):
            if known.name == modality:
                return position
        raise KeyError(modality)


@dataclass(frozen=True, slots=True)
class StepBatch:
    """One micro-batch: row b fuses `frames[b]` into `contexts[b]`. Modalities may be mixed freely.

    A step changes nothing of it: frames that were fused too early are fused again.
    """

    contexts: torch.Tensor
    """[B, K, D] float32 on the model's device; a fresh row's content is ignored."""
    fresh: npt.NDArray[np.bool_]
    """[B]: the session has no context yet, so this segment starts it."""
    ranks: npt.NDArray[np.int64]
    """[B]: the rank of each row's modality in the signature."""
    frames: Sequence[Float32Array]
    """B arrays [T_b, F of its modality], raw (not normalised), finite, on the host, possibly read-only.
    NaN is admitted nowhere; 1 <= T_b <= max_frames of its modality."""
    elapsed_s: Float32Array
    """[B]: event seconds since the segment fused before it; 0 for a fresh row, never negative."""


@dataclass(frozen=True, slots=True)
class StepResult:
    contexts: torch.Tensor
    """[B, K, D] float32 on the model's device."""
    outputs: Float32Array
    """[B, O] on the host, ready to read: class probabilities, or values in the label's own unit."""
    gate: Float32Array
    """[B] on the host: mean update gate in [0, 1]; 1 for a fresh row."""


class RowStep(NamedTuple):
    """Fuse `frames` into the context in row `in_slot` of a slab (NO_SLOT: start one), and put it in row `out_slot`."""

    in_slot: int
    out_slot: int
    rank: int
    frames: Float32Array
    """as in `StepBatch`"""
    elapsed_s: float


class StepRows(Protocol):
    """`step_rows` of a model that steps rows of a slab where they are, in one call instead of a dozen.

    contexts: [capacity, K, D] float32 on the model's device. host: [capacity, O + M + 1] float32: the outputs, the
    share of each of the M modalities (`next_shares`), and the mean gate of the step that made the row. No row is both
    read and written. Returns [B]: is all of the new row finite?
    """

    def __call__(
        self, steps: Sequence[RowStep], contexts: torch.Tensor, host: Float32Array
    ) -> npt.NDArray[np.bool_]: ...


class StepModel(Protocol):
    """A shared recurrent fusion model in inference form.

    `step` must not keep state between calls, and a row's result must not depend on the other rows
    beyond rounding (1e-5): the runtime decides freely which segments share a batch.

    A model may have one more method, `step_rows` (`StepRows`), which is called instead.
    """

    @property
    def signature(self) -> ModelSignature: ...

    @property
    def device(self) -> torch.device: ...

    def step(self, batch: StepBatch) -> StepResult: ...


def next_shares(
    shares_BM: Float32Array, fresh: npt.NDArray[np.bool_], ranks: npt.NDArray[np.int64], gate: Float32Array
) -> Float32Array:
    """Every share is scaled by (1 - z), then the segment's own modality gains z: shares always sum to 1."""
    z = np.where(fresh, np.float32(1), gate)
    shares: Float32Array = np.where(fresh[:, None], np.float32(0), shares_BM) * (1 - z)[:, None]
    shares[np.arange(len(ranks)), ranks] += z
    return shares
