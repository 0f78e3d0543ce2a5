"""The heads of a config on a vector of any width: GRF reads its context so, a baseline whatever it ends with."""

from __future__ import annotations

from torch import Tensor, nn

from grf_core.config import GRFConfig
from grf_core.model import Head


class Heads(nn.Module):
    def __init__(self, config: GRFConfig, width: int) -> None:
        super().__init__()
        self.names = [head.name for head in config.heads]
        self.heads = nn.ModuleList(Head(width, head.outputs, config.dropout) for head in config.heads)

    def forward(self, fused_BW: Tensor) -> dict[str, Tensor]:
        """Logits, or normalised values, [B, O] by head name."""
        return {name: head(fused_BW) for name, head in zip(self.names, self.heads, strict=True)}
