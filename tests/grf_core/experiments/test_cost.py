from __future__ import annotations

from itertools import pairwise

import pytest
import torch
from torch import Tensor, nn

from grf_core.config import GRFConfig, HeadConfig, ModalityConfig
from grf_core.experiments.baselines import Concatenation, LateFusion
from grf_core.experiments.cost import flops, measured_time_s, parameters, peak_memory_bytes
from grf_core.experiments.mult import MulT
from grf_core.model import GRF, SampleOutput

D, FFN, WIDTH = 8, 12, 5


def config(modalities: int, n_layers: int = 1, d_model: int = D, d_ffn: int = FFN, max_frames: int = 64) -> GRFConfig:
    return GRFConfig(
        tuple(ModalityConfig(f"m{rank}", WIDTH, max_frames) for rank in range(modalities)),
        (HeadConfig("effort", "regression", 1),),
        d_model=d_model,
        n_layers=n_layers,
        n_heads=2,
        d_ffn=d_ffn,
        auxiliary_heads=False,
    )


def product(rows: int, inner: int, columns: int) -> int:
    return 2 * rows * inner * columns


def attention(targets: int, sources: int, width: int) -> int:
    """Query, key and value; scores and weighted sum, over all heads; output. A single source gives its value to all."""
    if sources == 1:
        return 2 * product(1, width, width)
    projections = product(targets, width, width) + product(sources, width, 2 * width)
    return projections + 2 * product(targets, width, sources) + product(targets, width, width)


def ffn(frames: int, width: int, hidden: int) -> int:
    return 2 * product(frames, width, hidden)


def head(width: int) -> int:
    return product(1, width, width // 2) + product(1, width // 2, 1)


def test_flops_of_an_encoder_are_those_counted_by_hand() -> None:
    by_hand = product(7, WIDTH, D) + attention(7, 7, D) + ffn(7, D, FFN) + head(D)
    assert flops(LateFusion(config(1)), 7) == by_hand
    assert flops(Concatenation(config(1)), 7) == by_hand


def test_flops_of_grf_are_those_counted_by_hand() -> None:
    enrich = attention(1, 1, D) + attention(1, 9, D) + ffn(1, D, FFN)
    contextualise = attention(9, 9, D) + attention(9, 1, D) + ffn(9, D, FFN)
    gate = 2 * product(1, 2 * D, D)
    by_hand = product(7, WIDTH, D) + product(9, WIDTH, D) + enrich + contextualise + gate + head(D)
    assert flops(GRF(config(2)), {"m0": 7, "m1": 9}) == by_hand


def test_flops_of_mult_are_those_counted_by_hand() -> None:
    crossmodal = attention(7, 9, D) + ffn(7, D, FFN) + attention(9, 7, D) + ffn(9, D, FFN)
    joint = 3 * sum(attention(frames, frames, D) + ffn(frames, D, FFN) for frames in (7, 9))
    residual = 2 * product(1, 2 * D, 2 * D)
    projections = product(7, WIDTH, D) + product(9, WIDTH, D)
    assert flops(MulT(config(2)), {"m0": 7, "m1": 9}) == projections + crossmodal + joint + residual + head(2 * D)


@pytest.mark.parametrize("make", [GRF, MulT, LateFusion, Concatenation])
def test_flops_grow_with_the_batch_and_do_not_ask_how_the_model_was_used(make: type[GRF]) -> None:
    model = make(config(3, n_layers=2)).train()
    in_training = flops(model, 6)
    assert model.training
    assert flops(model.eval(), 6) == in_training
    assert flops(model, 6, batch=4) == 4 * in_training
    assert torch.backends.mha.get_fastpath_enabled()


def test_a_model_without_memory_for_its_weights_has_the_same_parameters_and_flops() -> None:
    with torch.device("meta"):
        weightless = MulT(config(4))
    model = MulT(config(4))
    assert (parameters(weightless), flops(weightless, 5)) == (parameters(model), flops(model, 5))


def test_grf_has_a_quarter_of_the_parameters_of_mult_and_two_fifths_of_its_flops_at_most() -> None:
    sizes = config(3, n_layers=4, d_model=64, d_ffn=256)
    with torch.device("meta"):
        grf, mult = GRF(sizes), MulT(sizes)
    assert parameters(grf) <= 0.25 * parameters(mult)
    assert flops(grf, 50) <= 0.40 * flops(mult, 50)


def test_another_modality_costs_grf_the_same_every_time_and_mult_more_every_time() -> None:
    def added(make: type[GRF] | type[MulT]) -> list[int]:
        with torch.device("meta"):
            costs = [flops(make(config(count)), 16) for count in (2, 3, 4, 5)]
        return [after - before for before, after in pairwise(costs)]

    assert len(set(added(GRF))) == 1
    third, fourth, fifth = added(MulT)
    assert fourth > 1.5 * third
    assert fifth > 1.5 * fourth


class Allocating(nn.Module):
    """Holds 3 tensors of a million float32 at its peak, and 1 in the end."""

    def __init__(self) -> None:
        super().__init__()
        self.config = config(1)
        self.weight = nn.Parameter(torch.ones(1))

    def forward(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> SampleOutput:
        first = torch.ones(1_000_000)
        second = first + 1
        third = first + second
        del first, second
        return SampleOutput({"effort": third}, {}, [], [])


def test_peak_memory_is_what_is_held_at_once() -> None:
    assert peak_memory_bytes(Allocating(), 4) == pytest.approx(12_000_000, rel=0.01)


def test_peak_memory_of_a_model_grows_with_its_frames() -> None:
    model = GRF(config(2))
    assert peak_memory_bytes(model, 64, batch=8) > 4 * peak_memory_bytes(model, 8, batch=8) > 0


def test_measured_time_is_that_of_a_forward_without_the_warm_up() -> None:
    class Slow(Allocating):
        calls = 0

        def forward(self, inputs: dict[str, Tensor], lengths: dict[str, Tensor]) -> SampleOutput:
            assert not self.training
            Slow.calls += 1
            torch.ones(3_000_000 if Slow.calls <= 2 else 1).sort()
            return SampleOutput({}, {}, [], [])

    with_warm_up_s = measured_time_s(Slow(), 4, repeats=3, warm_up=2)
    assert Slow.calls == 5
    Slow.calls = 0
    assert measured_time_s(Slow(), 4, repeats=3, warm_up=0) > 10 * with_warm_up_s > 0
