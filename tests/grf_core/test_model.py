from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from grf_core.model import GRF, SegmentDropout, Step, attend, sinusoidal_positions
from grf_core.packing import pack_segments
from grf_core.step import Float32Array
from tests.grf_core.models import MODALITIES, block_of, random_frames, random_segments, small_model
from tests.grf_core.reference import Reference, positions

TOLERANCE = 1e-5
FORMS: list[dict[str, Any]] = [
    {},
    {"carry": "context", "gate_bias": -1.0},
    {"ageing": True},
    {"context_slots": 3},
    {"n_layers": 1, "context_slots": 2, "carry": "context", "ageing": True},
]


@torch.no_grad()
def step(
    model: GRF,
    contexts: Tensor,
    segments: list[tuple[int, Float32Array]],
    fresh: list[bool] | None = None,
    elapsed_s: list[float] | None = None,
) -> Step:
    packed = pack_segments([frames for _, frames in segments], np.array([rank for rank, _ in segments]))
    fresh_B = torch.tensor(fresh or [False] * len(segments))
    return model.step(contexts, fresh_B, packed, torch.tensor(elapsed_s or [0.0] * len(segments)))


def random_contexts(model: GRF, count: int, rng: np.random.Generator) -> Tensor:
    shape = (count, model.config.context_slots, model.config.d_model)
    return torch.from_numpy(rng.normal(size=shape).astype(np.float32))


def test_dropout_by_segment_drops_the_same_features_in_all_frames() -> None:
    dropout = SegmentDropout(0.5).train()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        dropped_BTD = dropout(torch.ones(20, 3, 8))
    assert (dropped_BTD == dropped_BTD[:, :1]).all()
    assert set(dropped_BTD.unique().tolist()) == {0.0, 2.0}
    assert torch.equal(dropout.eval()(torch.ones(1, 3, 8)), torch.ones(1, 3, 8))


@pytest.mark.parametrize(("by", "same"), [("frame", False), ("segment", True)])
def test_the_config_says_how_the_block_drops(by: str, same: bool) -> None:
    layers = block_of(small_model(dropout_by=by)).enrich.layers
    assert all(
        isinstance(getattr(layer, name), SegmentDropout) == same
        for layer in layers
        for name in ("dropout", "dropout1", "dropout2", "dropout3")
    )


def test_attention_to_a_single_key_is_its_value_for_every_query() -> None:
    attention = torch.nn.MultiheadAttention(8, 2, batch_first=True)
    query_BQD, memory_B1D = torch.randn(3, 5, 8), torch.randn(3, 1, 8)
    full_BQD, _ = attention(query_BQD, memory_B1D, memory_B1D)
    torch.testing.assert_close(attend(attention, query_BQD, memory_B1D, None).expand_as(full_BQD), full_BQD)


@pytest.mark.parametrize("form", FORMS)
def test_a_step_is_what_method_md_writes(form: dict[str, Any]) -> None:
    model, rng = small_model(**form), np.random.default_rng(0)
    reference = Reference(model)
    contexts_BKD, segments = random_contexts(model, 7, rng), random_segments(7, rng)
    elapsed_s = rng.uniform(0, 30, 7).astype(np.float32).tolist()
    stepped = step(model, contexts_BKD, segments, elapsed_s=elapsed_s)
    for row, (rank, frames) in enumerate(segments):
        aged_KD = reference.age(contexts_BKD[row].double().numpy(), elapsed_s[row])
        expected_KD, gate = reference.fuse(aged_KD, reference.embed(frames, rank))
        np.testing.assert_allclose(stepped.contexts[row].numpy(), expected_KD, atol=TOLERANCE)
        assert stepped.gate[row].item() == pytest.approx(gate, abs=TOLERANCE)


@pytest.mark.parametrize("form", FORMS)
def test_a_fresh_row_starts_from_the_mean_of_its_frames_whatever_its_context_held(form: dict[str, Any]) -> None:
    model, rng = small_model(**form), np.random.default_rng(1)
    segments = random_segments(4, rng)
    garbage_BKD = torch.full((4, model.config.context_slots, model.config.d_model), float("nan"))
    stepped = step(model, garbage_BKD, segments, fresh=[True] * 4)
    reference = Reference(model)
    for row, (rank, frames) in enumerate(segments):
        expected_KD = reference.start(reference.embed(frames, rank))
        np.testing.assert_allclose(stepped.contexts[row].numpy(), expected_KD, atol=TOLERANCE)
    assert stepped.gate.tolist() == [1.0] * 4


@pytest.mark.parametrize("form", FORMS)
def test_a_row_does_not_depend_on_its_batch_mates(form: dict[str, Any]) -> None:
    model, rng = small_model(**form), np.random.default_rng(2)
    contexts_BKD, segments = random_contexts(model, 33, rng), random_segments(33, rng)
    fresh = (rng.random(33) < 0.2).tolist()
    together = step(model, contexts_BKD, segments, fresh)
    for row in range(33):
        alone = step(model, contexts_BKD[row : row + 1], [segments[row]], [fresh[row]])
        torch.testing.assert_close(together.contexts[row], alone.contexts[0], atol=TOLERANCE, rtol=0)
        torch.testing.assert_close(together.gate[row], alone.gate[0], atol=TOLERANCE, rtol=0)


def test_a_poisoned_context_stays_in_its_row() -> None:
    model, rng = small_model(), np.random.default_rng(3)
    contexts_BKD, segments = random_contexts(model, 5, rng), random_segments(5, rng)
    clean = step(model, contexts_BKD, segments)
    poisoned_BKD = contexts_BKD.clone()
    poisoned_BKD[2] = float("nan")
    stepped = step(model, poisoned_BKD, segments)
    others = [0, 1, 3, 4]
    torch.testing.assert_close(stepped.contexts[others], clean.contexts[others], atol=TOLERANCE, rtol=0)
    assert stepped.contexts[2].isnan().all()


@pytest.mark.parametrize("form", FORMS)
def test_whole_samples_equal_the_same_segments_stepped_one_by_one(form: dict[str, Any]) -> None:
    model, rng = small_model(**form), np.random.default_rng(4)
    samples = [[random_frames(rank, rng) for rank in range(len(MODALITIES))] for _ in range(6)]
    inputs, lengths = padded(samples)
    with torch.no_grad():
        whole = model(inputs, lengths)
    contexts_BKD = torch.zeros(6, model.config.context_slots, model.config.d_model)
    for rank in range(len(MODALITIES)):
        stepped = step(model, contexts_BKD, [(rank, sample[rank]) for sample in samples], [rank == 0] * 6)
        contexts_BKD = stepped.contexts
        torch.testing.assert_close(whole.contexts[rank], contexts_BKD, atol=TOLERANCE, rtol=0)
        if rank:
            torch.testing.assert_close(whole.gates[rank - 1], stepped.gate, atol=TOLERANCE, rtol=0)
    for head, outputs_BO in model.read_heads(contexts_BKD).items():
        torch.testing.assert_close(whole.outputs[head], outputs_BO, atol=TOLERANCE, rtol=0)


@pytest.mark.parametrize("form", FORMS)
def test_a_sample_that_lacks_modalities_is_the_steps_of_those_it_has(form: dict[str, Any]) -> None:
    model, rng = small_model(**form), np.random.default_rng(7)
    patterns = [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2]]
    samples = [[random_frames(rank, rng) for rank in range(len(MODALITIES))] for _ in patterns]
    inputs, lengths = padded(samples)
    for row, present in enumerate(patterns):
        for rank in {0, 1, 2} - set(present):
            lengths[MODALITIES[rank].name][row] = 0
    with torch.no_grad():
        whole = model(inputs, lengths)
    for row, present in enumerate(patterns):
        contexts_1KD, contexts = random_contexts(model, 1, rng), []
        for rank in present:
            stepped = step(model, contexts_1KD, [(rank, samples[row][rank])], [rank == present[0]])
            contexts_1KD = stepped.contexts
            contexts.append(contexts_1KD[0])
            torch.testing.assert_close(whole.contexts[rank][row], contexts[-1], atol=TOLERANCE, rtol=0)
            if rank:
                assert whole.gates[rank - 1][row].item() == pytest.approx(stepped.gate.item(), abs=TOLERANCE)
        assert not any(context_BKD[row].any() for context_BKD in whole.contexts[: present[0]])
        torch.testing.assert_close(whole.contexts[-1][row], contexts[-1], atol=TOLERANCE, rtol=0)
        first_fused_KD = contexts[min(1, len(contexts) - 1)]
        expected = model._read(model.auxiliary_heads, first_fused_KD[None])
        for head, outputs_1O in expected.items():
            torch.testing.assert_close(whole.auxiliary[head][row], outputs_1O[0], atol=TOLERANCE, rtol=0)


def test_a_modality_that_a_sample_lacks_leaves_context_and_gate_untouched() -> None:
    model, rng = small_model(), np.random.default_rng(8)
    inputs, lengths = padded([[random_frames(rank, rng) for rank in range(len(MODALITIES))] for _ in range(3)])
    lengths["audio"] = torch.tensor([0, 0, 1])
    with torch.no_grad():
        whole = model(inputs, lengths)
    assert torch.equal(whole.contexts[1][:2], whole.contexts[0][:2])
    assert not torch.equal(whole.contexts[1][2], whole.contexts[0][2])
    assert whole.gates[0][:2].tolist() == [0.0, 0.0]


def test_heads_read_the_last_context_and_auxiliary_heads_the_first_fused_one() -> None:
    model, rng = small_model(), np.random.default_rng(5)
    samples = [[random_frames(rank, rng) for rank in range(len(MODALITIES))] for _ in range(2)]
    with torch.no_grad():
        whole = model(*padded(samples))
    reference = Reference(model)
    for row, sample in enumerate(samples):
        contexts = reference.contexts(list(enumerate(sample)))
        for head, name in enumerate(["mood", "effort"]):
            np.testing.assert_allclose(whole.outputs[name][row], reference.head(contexts[-1], head), atol=TOLERANCE)
            auxiliary_O = reference.head(contexts[1], head, "auxiliary_heads")
            np.testing.assert_allclose(whole.auxiliary[name][row], auxiliary_O, atol=TOLERANCE)


def test_a_model_without_auxiliary_heads_gives_none() -> None:
    model, rng = small_model(auxiliary_heads=False), np.random.default_rng(5)
    whole = model(*padded([[random_frames(rank, rng) for rank in range(len(MODALITIES))]]))
    assert whole.auxiliary == {}
    assert not any(key.startswith("auxiliary") for key in model.state_dict())


def test_separate_blocks_are_one_for_each_modality_after_the_first() -> None:
    model, rng = small_model(shared_block=False), np.random.default_rng(6)
    sample = [random_frames(rank, rng) for rank in range(len(MODALITIES))]
    with torch.no_grad():
        whole = model(*padded([sample]))
    reference = Reference(model)
    context_KD = reference.start(reference.embed(sample[0], 0))
    for rank in (1, 2):
        context_KD, _ = reference.fuse(context_KD, reference.embed(sample[rank], rank), block=rank - 1)
    assert len(model.blocks) == 2
    np.testing.assert_allclose(whole.contexts[-1][0], context_KD, atol=TOLERANCE)


def test_gate_bias_is_where_the_gate_starts() -> None:
    assert (block_of(GRF(small_model(gate_bias=-2.0).config)).fuse.gate.bias == -2.0).all()


def test_positions_are_the_sinusoidal_table() -> None:
    np.testing.assert_allclose(sinusoidal_positions(50, 16).numpy(), positions(50, 16), atol=TOLERANCE)


def test_a_long_time_fades_the_context_and_no_time_keeps_it() -> None:
    model = small_model(ageing=True)
    contexts_BKD = torch.ones(3, 1, 16)
    now, later, much_later = model.age(contexts_BKD, torch.tensor([0.0, 10.0, 1e6])).detach()
    torch.testing.assert_close(now, contexts_BKD[0])
    assert (later < 1).all()
    assert (much_later < later).all()


def padded(samples: list[list[Float32Array]]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Inputs [B, T, F] and lengths [B] by name, with noise where the padding is."""
    inputs, lengths = {}, {}
    for rank, modality in enumerate(MODALITIES):
        lengths[modality.name] = torch.tensor([len(sample[rank]) for sample in samples])
        frames_BTF = torch.randn(len(samples), int(lengths[modality.name].max()), modality.width)
        for row, sample in enumerate(samples):
            frames_BTF[row, : len(sample[rank])] = torch.from_numpy(sample[rank])
        inputs[modality.name] = frames_BTF
    return inputs, lengths
