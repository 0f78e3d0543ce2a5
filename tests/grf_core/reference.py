"""GRF as method.md writes it, the slow obvious way: one row, no batch, no padding, float64, nothing of torch.nn.

Shapes: T frames, F feature width, K context slots, D model width, Q queries, S keys.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt
from numpy.typing import NDArray

from grf_core.config import GRFConfig
from grf_core.model import GRF

Array = NDArray[np.float64]


class Reference:
    def __init__(self, model: GRF) -> None:
        self.config: GRFConfig = model.config
        self.weights: dict[str, Array] = {key: value.double().numpy() for key, value in model.state_dict().items()}

    def embed(self, frames_TF: npt.ArrayLike, rank: int) -> Array:
        projected_TD = self._linear(np.asarray(frames_TF, np.float64), f"projections.{rank}")
        return projected_TD + positions(len(projected_TD), self.config.d_model)

    def start(self, x_TD: Array) -> Array:
        slots_KD = self.weights.get("slots_KD", np.zeros((1, self.config.d_model)))
        mean_D: Array = x_TD.mean(axis=0)
        return mean_D + slots_KD

    def age(self, context_KD: Array, elapsed_s: float) -> Array:
        if "ageing_D" not in self.weights:
            return context_KD
        return context_KD * np.exp(-np.log1p(np.exp(self.weights["ageing_D"])) * elapsed_s)

    def fuse(self, context_KD: Array, x_TD: Array, block: int = 0) -> tuple[Array, float]:
        """h' [K, D] and the mean gate."""
        name = f"blocks.{block}"
        enriched_KD = self._decode(context_KD, x_TD, f"{name}.enrich")
        modality_D = self._decode(x_TD, context_KD, f"{name}.contextualise").mean(axis=0)
        both_K2D = np.concatenate([enriched_KD, np.tile(modality_D, (len(context_KD), 1))], axis=1)
        z_KD = 1 / (1 + np.exp(-self._linear(both_K2D, f"{name}.fuse.gate")))
        c_KD = np.tanh(self._linear(both_K2D, f"{name}.fuse.candidate"))
        kept_KD = enriched_KD if self.config.carry == "enriched" else context_KD
        return self._norm((1 - z_KD) * kept_KD + z_KD * c_KD, f"{name}.fuse.norm"), float(z_KD.mean())

    def contexts(self, segments: Sequence[tuple[int, npt.ArrayLike]], elapsed_s: Sequence[float] = ()) -> list[Array]:
        """The context after each of a session's (rank, frames), fused one at a time in the order given."""
        contexts: list[Array] = []
        for step, (rank, frames_TF) in enumerate(segments):
            x_TD = self.embed(frames_TF, rank)
            if not contexts:
                contexts.append(self.start(x_TD))
                continue
            context_KD = self.age(contexts[-1], elapsed_s[step] if elapsed_s else 0.0)
            contexts.append(self.fuse(context_KD, x_TD)[0])
        return contexts

    def head(self, context_KD: Array, head: int, heads: str = "heads") -> Array:
        hidden_H = np.maximum(self._linear(context_KD.mean(axis=0), f"{heads}.{head}.0"), 0)
        return self._linear(hidden_H, f"{heads}.{head}.3")

    def _decode(self, target_QD: Array, memory_SD: Array, name: str) -> Array:
        for layer in range(self.config.n_layers):
            prefix = f"{name}.layers.{layer}"
            target_QD = self._norm(
                target_QD + self._attend(target_QD, target_QD, f"{prefix}.self_attn"), f"{prefix}.norm1"
            )
            target_QD = self._norm(
                target_QD + self._attend(target_QD, memory_SD, f"{prefix}.multihead_attn"), f"{prefix}.norm2"
            )
            hidden = gelu(self._linear(target_QD, f"{prefix}.linear1"))
            target_QD = self._norm(target_QD + self._linear(hidden, f"{prefix}.linear2"), f"{prefix}.norm3")
        return target_QD

    def _attend(self, query_QD: Array, memory_SD: Array, name: str) -> Array:
        weight, bias = self.weights[f"{name}.in_proj_weight"], self.weights[f"{name}.in_proj_bias"]
        (wq, wk, wv), (bq, bk, bv) = np.split(weight, 3), np.split(bias, 3)
        q_QD, k_SD, v_SD = query_QD @ wq.T + bq, memory_SD @ wk.T + bk, memory_SD @ wv.T + bv
        width = self.config.d_model // self.config.n_heads
        mixed = []
        for first in range(0, self.config.d_model, width):
            own = slice(first, first + width)
            score_QS = np.exp(q_QD[:, own] @ k_SD[:, own].T / math.sqrt(width))
            mixed.append(score_QS / score_QS.sum(axis=1, keepdims=True) @ v_SD[:, own])
        return self._linear(np.concatenate(mixed, axis=1), f"{name}.out_proj")

    def _linear(self, x: Array, name: str) -> Array:
        result: Array = x @ self.weights[f"{name}.weight"].T + self.weights[f"{name}.bias"]
        return result

    def _norm(self, x: Array, name: str) -> Array:
        centred = x - x.mean(axis=-1, keepdims=True)
        scaled = centred / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + 1e-5)
        result: Array = scaled * self.weights[f"{name}.weight"] + self.weights[f"{name}.bias"]
        return result


def positions(frames: int, d_model: int) -> Array:
    table_TD = np.empty((frames, d_model))
    for position in range(frames):
        for pair in range(d_model // 2):
            angle = position / 10_000 ** (2 * pair / d_model)
            table_TD[position, 2 * pair : 2 * pair + 2] = math.sin(angle), math.cos(angle)
    return table_TD


def gelu(x: Array) -> Array:
    erf: Array = np.vectorize(math.erf)(x / math.sqrt(2))
    return x * 0.5 * (1 + erf)
