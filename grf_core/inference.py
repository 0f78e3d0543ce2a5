"""GRF as the runtime drives it: raw frames in, contexts on the device and answers on the host out.

Shapes: B segments in the batch, K context slots, D model width, F feature width, O the widths of all heads together.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from grf_core.config import GRFConfig
from grf_core.model import GRF
from grf_core.normalisation import FARTHEST_STD, Normalisation, Statistics
from grf_core.packing import PackedSegments, pack_segments
from grf_core.step import HeadSignature, ModalitySignature, ModelSignature, StepBatch, StepResult


class GRFStepModel:
    """A `grf_core.step.StepModel`. It keeps no state between calls, and never changes its weights."""

    def __init__(self, model: GRF, normalisation: Normalisation, name: str, digest: str, device: torch.device) -> None:
        self._model = model.to(device).eval().requires_grad_(False)
        self._device = device
        self._signature = signature_of(model.config, name, digest)
        self._frame_scale = [
            _scale(normalisation.modalities[modality.name], device) for modality in model.config.modalities
        ]
        self._value_scale = {head: _scale(statistics, device) for head, statistics in normalisation.heads.items()}

    @property
    def signature(self) -> ModelSignature:
        return self._signature

    @property
    def device(self) -> torch.device:
        return self._device

    @torch.inference_mode()
    def step(self, batch: StepBatch) -> StepResult:
        segments = self._normalised(pack_segments(batch.frames, batch.ranks, self._device))
        fresh_B = torch.tensor(batch.fresh, device=self._device)
        elapsed_s_B = torch.tensor(batch.elapsed_s, device=self._device)
        stepped = self._model.step(batch.contexts, fresh_B, segments, elapsed_s_B)
        answers_BO = self._answers(self._model.read_heads(stepped.contexts))
        host = torch.cat([*answers_BO, stepped.gate[:, None]], dim=1).cpu().numpy()
        return StepResult(contexts=stepped.contexts, outputs=host[:, :-1], gate=host[:, -1])

    def _normalised(self, segments: PackedSegments) -> PackedSegments:
        frames: dict[int, Tensor] = {}
        for rank, frames_NF in segments.frames.items():
            mean_F, std_F = self._frame_scale[rank]
            frames[rank] = ((frames_NF - mean_F) / std_F).clamp_(-FARTHEST_STD, FARTHEST_STD)
        return segments.with_frames(frames)

    def _answers(self, heads: Mapping[str, Tensor]) -> list[Tensor]:
        """Class probabilities, or values in the label's own unit."""
        answers = []
        for head, logits_BO in heads.items():
            if head in self._value_scale:
                mean_O, std_O = self._value_scale[head]
                answers.append(logits_BO * std_O + mean_O)
            else:
                answers.append(logits_BO.softmax(dim=-1))
        return answers


def signature_of(config: GRFConfig, name: str, digest: str) -> ModelSignature:
    heads, start = [], 0
    for head in config.heads:
        heads.append(HeadSignature(head.name, head.kind, start, start + head.outputs, head.labels))
        start += head.outputs
    return ModelSignature(
        name=name,
        digest=digest,
        modalities=tuple(ModalitySignature(m.name, m.width, m.max_frames) for m in config.modalities),
        heads=tuple(heads),
        context_shape=(config.context_slots, config.d_model),
    )


def _scale(statistics: Statistics, device: torch.device) -> tuple[Tensor, Tensor]:
    return torch.tensor(statistics.mean, device=device), torch.tensor(statistics.std, device=device)
