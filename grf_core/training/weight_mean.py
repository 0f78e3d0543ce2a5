"""The running mean of a model's weights: what the last steps of training agree on.

Steps that each follow one batch wander around; their mean is a smoother model that costs nothing at run time
(Polyak and Juditsky, 1992). Young means are corrected as Adam's are, so the first steps do not weigh for ever.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor, nn


class WeightMean:
    """An exponential mean that keeps `decay` of itself with every step; with 0 it is the model itself."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self._decay = decay
        self._steps = 0
        self._sums = {name: torch.zeros_like(weight) for name, weight in model.named_parameters()} if decay else {}

    @torch.no_grad()
    def add(self, model: nn.Module) -> None:
        if not self._decay:
            return
        self._steps += 1
        weights = dict(model.named_parameters())
        torch._foreach_lerp_(list(self._sums.values()), [weights[name] for name in self._sums], 1 - self._decay)

    @contextmanager
    def worn_by(self, model: nn.Module) -> Iterator[None]:
        """The model with the mean for its weights, until the block ends."""
        if not self._steps:
            yield
            return
        own = {name: weight.detach().clone() for name, weight in model.named_parameters()}
        share = 1 - self._decay**self._steps
        _set(model, {name: total / share for name, total in self._sums.items()})
        yield
        _set(model, own)

    def state(self) -> dict[str, object]:
        return {"steps": self._steps, "sums": self._sums}

    def resume(self, state: Mapping[str, object]) -> None:
        steps, sums = state["steps"], state["sums"]
        assert isinstance(steps, int)
        assert isinstance(sums, dict)
        self._steps = steps
        for name, total in self._sums.items():
            total.copy_(sums[name])


@torch.no_grad()
def _set(model: nn.Module, weights: Mapping[str, Tensor]) -> None:
    for name, weight in model.named_parameters():
        weight.copy_(weights[name])
