from __future__ import annotations

import pickle
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from grf_core.experiments.variants import (
    PLAIN,
    LinearAttention,
    UncrossedLayer,
    Variant,
    VariantError,
    VariantFactory,
    VariantGRF,
)
from grf_core.model import GRF, DecoderStack
from grf_core.packing import pack_segments
from tests.grf_core.experiments.samples import TOLERANCE, all_answers, random_samples
from tests.grf_core.models import block_of, random_segments, small_config

CONFIG = small_config()
ONE_CHANGE = [
    Variant(fusion="linear"),
    Variant(cross="context_only"),
    Variant(cross="modality_only"),
    Variant(first="sequence"),
    Variant(attention="linear"),
    Variant(norm="pre"),
    Variant(first="sequence", attention="linear", norm="pre", cross="context_only"),
]


def made(variant: Variant, seed: int = 0, **changes: object) -> VariantGRF:
    torch.manual_seed(seed)
    return VariantGRF(small_config(**changes), variant).eval()


def layers_of(stack: DecoderStack) -> list[nn.TransformerDecoderLayer]:
    layers = [layer for layer in stack.layers if isinstance(layer, nn.TransformerDecoderLayer)]
    assert len(layers) == len(stack.layers)
    return layers


def test_the_default_variant_is_grf_weight_for_weight() -> None:
    torch.manual_seed(3)
    plain = GRF(CONFIG).eval()
    variant = made(PLAIN, seed=3)
    assert list(variant.state_dict()) == list(plain.state_dict())
    assert all(torch.equal(value, variant.state_dict()[key]) for key, value in plain.state_dict().items())
    samples = random_samples(CONFIG, 20)
    ours, theirs = variant(samples.inputs, samples.lengths), plain(samples.inputs, samples.lengths)
    assert torch.equal(all_answers(ours), all_answers(theirs))
    assert all(torch.equal(a, b) for a, b in zip(ours.contexts, theirs.contexts, strict=True))


def test_a_block_without_a_change_computes_what_the_block_of_grf_does() -> None:
    """The exchanged parts take the weights of GRF's own and give the same numbers: nothing else was changed."""
    variant, plain = made(Variant(norm="pre")), GRF(CONFIG).eval()
    variant.variant = PLAIN
    for stack in (block_of(variant).enrich, block_of(variant).contextualise):
        stack.norm = torch.nn.Identity()
        for layer in layers_of(stack):
            layer.norm_first = False
    variant.load_state_dict(plain.state_dict())
    samples = random_samples(CONFIG, 20)
    torch.testing.assert_close(
        all_answers(variant(samples.inputs, samples.lengths)), all_answers(plain(samples.inputs, samples.lengths))
    )


def test_what_grf_drops_in_training_its_variants_drop() -> None:
    """Another rate would be told as the effect of the part that was exchanged."""
    torch.manual_seed(0)
    plain, variant = GRF(CONFIG), VariantGRF(CONFIG, Variant(norm="pre", cross="context_only"))
    for layer, same in zip(layers_of(block_of(plain).enrich), layers_of(block_of(variant).enrich), strict=True):
        assert layer.self_attn.dropout == same.self_attn.dropout
        assert layer.multihead_attn.dropout == same.multihead_attn.dropout
        assert layer.dropout2.p == same.dropout2.p == CONFIG.dropout
    uncrossed_layers = block_of(variant).contextualise.layers
    for layer, uncrossed in zip(layers_of(block_of(plain).contextualise), uncrossed_layers, strict=True):
        assert isinstance(uncrossed, UncrossedLayer)
        assert layer.self_attn.dropout == uncrossed.self_attn.dropout
        assert [m.p for m in uncrossed.feed_forward if isinstance(m, torch.nn.Dropout)] == [CONFIG.dropout] * 2


@pytest.mark.parametrize("variant", ONE_CHANGE, ids=repr)
def test_every_variant_answers_otherwise_than_grf(variant: Variant) -> None:
    samples = random_samples(CONFIG, 20, absent=False)
    theirs = made(PLAIN)(samples.inputs, samples.lengths)
    ours = made(variant)(samples.inputs, samples.lengths)
    assert (all_answers(ours) - all_answers(theirs)).abs().max() > 1e-3
    assert torch.isfinite(all_answers(ours)).all()


@pytest.mark.parametrize("variant", ONE_CHANGE, ids=repr)
@pytest.mark.parametrize("shared", [True, False])
def test_a_sample_does_not_see_its_padding_nor_the_other_samples(variant: Variant, shared: bool) -> None:
    model = made(variant, shared_block=shared)
    samples = random_samples(CONFIG, 21)
    answers_BO = all_answers(model(samples.inputs, samples.lengths))
    padded = samples.with_other_padding()
    torch.testing.assert_close(all_answers(model(padded.inputs, padded.lengths)), answers_BO, atol=1e-5, rtol=1e-4)
    for row in range(21):
        alone = samples.row(row)
        answer_O = all_answers(model(alone.inputs, alone.lengths))[0]
        torch.testing.assert_close(answer_O, answers_BO[row], atol=TOLERANCE, rtol=1e-4)


@pytest.mark.parametrize("variant", [v for v in ONE_CHANGE if v.first == "pooled"], ids=repr)
def test_the_step_gives_what_the_whole_sample_gives(variant: Variant) -> None:
    model = made(variant)
    samples = random_samples(CONFIG, 1, absent=False)
    whole = model(samples.inputs, samples.lengths)
    context = torch.zeros(1, 1, CONFIG.d_model)
    for rank, modality in enumerate(CONFIG.modalities):
        frames = samples.inputs[modality.name][0, : int(samples.lengths[modality.name])].numpy()
        packed = pack_segments([frames], np.array([rank]))
        context = model.step(context, torch.tensor([rank == 0]), packed, torch.zeros(1)).contexts
        torch.testing.assert_close(context, whole.contexts[rank], atol=1e-5, rtol=1e-4)


def test_a_sequence_at_first_cannot_stream() -> None:
    model = made(Variant(first="sequence"))
    rank, frames = random_segments(1, np.random.default_rng(0))[0]
    packed = pack_segments([frames], np.array([rank]))
    with pytest.raises(VariantError, match="stream"):
        model.step(torch.zeros(1, 1, 16), torch.tensor([True]), packed, torch.zeros(1))
    with pytest.raises(VariantError, match="stream"):
        model.start(torch.zeros(1, 2, 16), torch.ones(1, 2, dtype=torch.bool))
    with pytest.raises(VariantError, match="slots"):
        VariantGRF(small_config(context_slots=2), Variant(first="sequence"))


def test_two_modalities_that_meet_as_sequences_see_each_other_s_frames() -> None:
    """Changing the order of the frames of the first changes nothing for a pooled start but the position table."""
    config = replace(CONFIG, modalities=CONFIG.modalities[:2])
    samples = random_samples(config, 4, absent=False)
    torch.manual_seed(0)
    model = VariantGRF(config, Variant(first="sequence")).eval()
    model.positions_TD.zero_()
    pooled = VariantGRF(config).eval()
    pooled.positions_TD.zero_()
    mirrored = dict(samples.inputs)
    lengths = {
        name: torch.full_like(length_B, samples.inputs[name].shape[1]) for name, length_B in samples.lengths.items()
    }
    spread = torch.linspace(-2, 2, mirrored["text"].shape[1])[None, :, None]
    mirrored["text"] = samples.inputs["text"] + spread
    for either, differs in ((model, True), (pooled, False)):
        change = all_answers(either(samples.inputs, lengths)) - all_answers(either(mirrored, lengths))
        assert bool(change.abs().max() > 1e-4) == differs


def test_linear_attention_is_the_kernel_s_weighted_mean_of_the_admitted_values() -> None:
    torch.manual_seed(0)
    attention = LinearAttention(8, 2)
    x_BTD, padding_BT = torch.randn(3, 5, 8), torch.arange(5) >= torch.tensor([[5], [3], [1]])
    got_BTD, _ = attention(x_BTD, x_BTD, x_BTD, key_padding_mask=padding_BT)
    query, key, value = (p.unflatten(-1, (2, 4)).transpose(1, 2) for p in attention.project(x_BTD).chunk(3, dim=-1))
    feature = torch.nn.functional.elu
    weights = (feature(query) + 1) @ (feature(key) + 1).transpose(-1, -2)
    weights = weights.masked_fill(padding_BT[:, None, None], 0.0)
    expected = (weights / weights.sum(dim=-1, keepdim=True)) @ value
    torch.testing.assert_close(got_BTD, attention.out(expected.transpose(1, 2).flatten(2)))


def test_one_way_variants_have_fewer_parameters_and_the_closed_way_hears_nothing() -> None:
    model = made(Variant(cross="modality_only"))
    block = block_of(model)
    context_BKD, x_BTD = torch.randn(2, 1, 16), torch.randn(2, 4, 16)
    assert torch.equal(block.enrich(context_BKD, x_BTD, None, None), block.enrich(context_BKD, -x_BTD, None, None))
    other = block.contextualise(x_BTD, -context_BKD, None, None)
    assert not torch.allclose(block.contextualise(x_BTD, context_BKD, None, None), other)
    count = sum(p.numel() for p in model.parameters())
    assert count < sum(p.numel() for p in made(PLAIN).parameters())


def test_a_variant_that_does_not_exist_is_named() -> None:
    with pytest.raises(VariantError, match="fusion is 'sum', not gfu or linear"):
        Variant(fusion="sum")  # type: ignore[arg-type]  # as a name from a file may


def test_a_factory_goes_to_another_process() -> None:
    factory = pickle.loads(pickle.dumps(VariantFactory(Variant(norm="pre"))))
    assert factory(CONFIG).variant == Variant(norm="pre")
