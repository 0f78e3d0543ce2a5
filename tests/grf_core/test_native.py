"""The compiled step against the readable model and torch's folded form; and what it may not do to memory."""

from __future__ import annotations

import platform
import shutil
from ctypes import byref
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grf_core import native
from grf_core.bundle import Bundle
from grf_core.config import ModalityConfig
from grf_core.folded import FoldedStepModel
from grf_core.kernels.library import (
    FOLDER,
    INSTRUCTION_SETS,
    KernelsMissing,
    load,
)
from grf_core.kernels.weights import aligned, packed
from grf_core.model import GRF
from grf_core.native import NativeStepModel, best_instruction_set, kernels_here, shares_of, steps_here
from grf_core.normalisation import Normalisation
from grf_core.step import NO_SLOT, RowStep, StepBatch, StepResult
from tests.grf_core.kernels import build, kernels
from tests.grf_core.models import MODALITIES, small_config
from tests.grf_core.test_folded import (
    assert_near,
    float64_step,
    folded_form,
    model_and_batch_of_lengths,
    part_of,
    random_batch,
    random_model,
    readable_form,
    rows_of,
)
from tests.grf_core.test_inference import NORMALISATION

LESS_EXACT = 3.0
"""The error of the compiled step beside that of torch's folded form, both against float64: it sums in one row."""


@pytest.fixture(params=INSTRUCTION_SETS)
def instruction_set(request: pytest.FixtureRequest) -> str:
    kernels(request.param)
    return str(request.param)


def native_form(model: GRF, instruction_set: str | None = None) -> NativeStepModel:
    return NativeStepModel(model, NORMALISATION, "small", "d1", kernels(instruction_set))


def assert_same_bits(result: StepResult, expected: StepResult) -> None:
    assert torch.equal(result.contexts, expected.contexts)
    np.testing.assert_array_equal(result.outputs, expected.outputs)
    np.testing.assert_array_equal(result.gate, expected.gate)


@settings(max_examples=80, deadline=None)
@given(
    instruction_set=st.sampled_from(sorted(INSTRUCTION_SETS)),
    seed=st.integers(0, 10**6),
    rows=st.sampled_from([1, 2, 9, 40, 150]),
    slots=st.sampled_from([1, 2, 4]),
    layers=st.integers(1, 3),
    width=st.sampled_from([(16, 2), (20, 5), (24, 1), (40, 2), (64, 4), (66, 3)]),
    d_ffn=st.sampled_from([1, 24, 70]),
    carry=st.sampled_from(["enriched", "context"]),
    ageing=st.booleans(),
    fresh=st.sampled_from([0.0, 0.3, 1.0]),
)
def test_it_is_the_model_as_exactly_as_torch_computes_it(
    instruction_set: str,
    seed: int,
    rows: int,
    slots: int,
    layers: int,
    width: tuple[int, int],
    d_ffn: int,
    carry: str,
    ageing: bool,
    fresh: float,
) -> None:
    d_model, heads = width
    changes: dict[str, Any] = {"context_slots": slots, "n_layers": layers, "d_model": d_model, "n_heads": heads}
    model = random_model(seed, **changes, d_ffn=d_ffn, carry=carry, ageing=ageing)
    batch = random_batch(model, rows, seed, fresh)
    result, folded = native_form(model, instruction_set).step(batch), folded_form(model).step(batch)
    expected_BKD, gate_B = float64_step(model, batch)
    assert _error(result.contexts, expected_BKD) < LESS_EXACT * _error(folded.contexts, expected_BKD) + 1e-6
    torch.testing.assert_close(result.contexts, folded.contexts, atol=1e-3, rtol=0)  # of any single one
    np.testing.assert_allclose(result.gate, gate_B.numpy(), atol=1e-5)
    np.testing.assert_allclose(result.outputs, folded.outputs, atol=1e-3, rtol=1e-3)


def _error(values: torch.Tensor, expected: torch.Tensor) -> float:
    return float((values.double() - expected).pow(2).mean().sqrt())


@pytest.mark.parametrize("rows", [1, 7, 60])
@pytest.mark.parametrize("slots", [1, 2, 4])
def test_it_is_the_readable_model_to_rounding(instruction_set: str, rows: int, slots: int) -> None:
    for seed, carry in enumerate(("enriched", "context")):
        model = random_model(seed, context_slots=slots, carry=carry, n_layers=3, ageing=seed == 1)
        batch = random_batch(model, rows, seed)
        assert_near(native_form(model, instruction_set).step(batch), readable_form(model).step(batch))


@pytest.mark.parametrize("slots", [1, 2])
def test_a_row_has_the_same_bits_whatever_shares_its_batch(instruction_set: str, slots: int) -> None:
    model = random_model(5, context_slots=slots)
    step_model, batch = native_form(model, instruction_set), random_batch(model, 200, 5)
    together, order = step_model.step(batch), np.random.default_rng(5).permutation(200).tolist()
    for row in range(0, 200, 9):
        assert_same_bits(step_model.step(rows_of(batch, [row])), part_of(together, [row]))
    assert_same_bits(step_model.step(rows_of(batch, order)), part_of(together, order))


def test_several_threads_compute_the_same_bits(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(6)
    step_model, batch = native_form(model), random_batch(model, 300, 6)
    expected = step_model.step(batch)
    monkeypatch.setattr(native, "FRAMES_PER_THREAD", 20)
    for threads in (2, 3, 7):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert_same_bits(step_model.step(batch), expected)


def test_bits_do_not_depend_on_how_a_compiler_optimises(instruction_set: str, tmp_path: Path) -> None:
    """GCC 13 fused products and sums in tiles of some rows and not in those of others, where it was left to it."""
    shutil.copytree(FOLDER, tmp_path / "kernels", ignore=shutil.ignore_patterns("*.so"))
    build(instruction_set, tmp_path / "kernels", "-O1", "--param=avoid-fma-max-bits=512")
    model = random_model(17)
    batch = random_batch(model, 100, 17)
    otherwise = NativeStepModel(model, NORMALISATION, "small", "d1", load(instruction_set, tmp_path / "kernels"))
    assert_same_bits(otherwise.step(batch), native_form(model, instruction_set).step(batch))


@given(lengths=st.lists(st.integers(1, 700), min_size=1, max_size=40), threads=st.integers(1, 5))
def test_every_row_is_in_one_share_and_no_share_is_empty(lengths: list[int], threads: int) -> None:
    shares = shares_of(np.array(lengths), threads)
    assert shares[0] == 0
    assert shares[-1] == len(lengths)
    assert shares == sorted(set(shares))
    assert len(shares) <= threads + 1


def test_long_segments_are_the_readable_model_to_rounding(instruction_set: str) -> None:
    lengths = (600, 513, 257, 256, 255, 65, 64, 63, 33, 32, 31, 17, 16, 15, 9, 8, 7, 6, 2, 1)
    model, batch = model_and_batch_of_lengths(lengths)
    assert_near(native_form(model, instruction_set).step(batch), readable_form(model).step(batch))


@pytest.mark.parametrize("value", [0.0, 1e-30, -3e4, 1e6, 1e30])
def test_absurd_frames_are_clipped_as_by_the_readable_model(instruction_set: str, value: float) -> None:
    model = random_model(7)
    batch = random_batch(model, 50, 7, fresh=0.5)
    absurd = replace(batch, frames=[np.full_like(frames, value) for frames in batch.frames])
    result = native_form(model, instruction_set).step(absurd)
    assert result.contexts.isfinite().all()
    torch.testing.assert_close(result.contexts, readable_form(model).step(absurd).contexts, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("width", [1, 15, 16, 17, 74, 200])
def test_frames_of_any_width_are_the_readable_model_to_rounding(instruction_set: str, width: int) -> None:
    modalities = (ModalityConfig("video", width, 12),)
    config, rng = small_config(modalities=modalities), np.random.default_rng(width)
    model, normalisation = random_model(7, modalities=modalities), Normalisation.identity(config)
    batch = StepBatch(
        contexts=torch.randn(9, 1, config.d_model),
        fresh=rng.random(9) < 0.3,
        ranks=np.zeros(9, np.int64),
        frames=[rng.normal(size=(length, width)).astype(np.float32) for length in range(1, 10)],
        elapsed_s=np.zeros(9, np.float32),
    )
    result = NativeStepModel(model, normalisation, "small", "d1", kernels(instruction_set)).step(batch)
    assert_near(result, readable_form(model, normalisation).step(batch))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_context_that_is_not_finite_harms_no_other_row(instruction_set: str, value: float) -> None:
    model = random_model(8)
    step_model, batch = native_form(model, instruction_set), random_batch(model, 20, 8, fresh=0.0)
    expected = step_model.step(batch)
    batch.contexts[11] = value
    result = step_model.step(batch)
    others = [row for row in range(20) if row != 11]
    assert_same_bits(part_of(result, others), part_of(expected, others))
    assert not result.contexts[11].isfinite().all()
    batch.fresh[11] = True
    assert step_model.step(batch).contexts[11].isfinite().all()


def test_frames_and_contexts_given_are_left_as_they_were() -> None:
    model = random_model(10, ageing=True)
    batch = random_batch(model, 12, 10)
    before = batch.contexts.clone(), [frames.copy() for frames in batch.frames]
    for frames in batch.frames:
        frames.flags.writeable = False
    native_form(model).step(batch)
    assert torch.equal(batch.contexts, before[0])
    for frames, expected in zip(batch.frames, before[1], strict=True):
        np.testing.assert_array_equal(frames, expected)


@pytest.mark.parametrize("slots", [1, 3])
@pytest.mark.parametrize("width", [(64, 4), (20, 5)])
def test_it_writes_nowhere_but_in_its_scratch_and_its_results(
    instruction_set: str, slots: int, width: tuple[int, int]
) -> None:
    """Guards around both, and a scratch of NaN: nothing of what was there before may reach a result."""
    model = random_model(11, context_slots=slots, d_model=width[0], n_heads=width[1])
    step_model, batch = native_form(model, instruction_set), random_batch(model, 200, 11)
    expected = step_model.step(batch)
    floats = step_model._scratch_floats
    guarded = aligned(floats + 64)
    guarded[:] = np.nan
    guarded[floats:] = 1234.5
    step_model._workplace().scratch_address = guarded.ctypes.data
    assert_same_bits(step_model.step(batch), expected)
    assert (guarded[floats:] == 1234.5).all()


def test_what_does_not_fit_the_model_is_refused_before_memory_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    model = random_model(12)
    step_model, batch = native_form(model), random_batch(model, 4, 12)
    wide = [np.zeros((2, 7), np.float32), *batch.frames[1:]]
    for wrong, reason in (
        (replace(batch, frames=wide), "other shapes"),
        (replace(batch, frames=[frames.astype(np.float64) for frames in batch.frames]), "float64"),
        (replace(batch, contexts=batch.contexts[:3]), "contexts are"),
        (replace(batch, contexts=batch.contexts.double()), "contexts are torch.float64"),
        (replace(batch, frames=[np.zeros((0, f.shape[1]), np.float32) for f in batch.frames]), "other shapes"),
        (replace(batch, frames=[np.zeros((99, f.shape[1]), np.float32) for f in batch.frames]), "other shapes"),
        (replace(batch, ranks=np.full(4, 3)), "other shapes"),
        (replace(batch, ranks=np.full(4, -1)), "other shapes"),
        (replace(batch, elapsed_s=batch.elapsed_s[:3]), "3 times"),
    ):
        for threads in (1, 2):
            monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
            with pytest.raises(ValueError, match=reason):
                step_model.step(wrong)


def test_frames_are_read_where_they_are_and_copied_only_if_they_are_in_pieces() -> None:
    model = random_model(18)
    step_model, batch = native_form(model), random_batch(model, 8, 18)
    expected = step_model.step(batch)
    in_bytes = [np.ndarray(frames.shape, "<f4", frames.tobytes()) for frames in batch.frames]  # as the wire has them
    assert_same_bits(step_model.step(replace(batch, frames=in_bytes)), expected)
    askew = [np.frombuffer(b"." + frames.tobytes(), "<f4", offset=1).reshape(frames.shape) for frames in batch.frames]
    assert not askew[0].flags.aligned
    assert_same_bits(step_model.step(replace(batch, frames=askew)), expected)
    in_pieces = [np.repeat(frames, 2, axis=1)[:, ::2] for frames in batch.frames]
    assert not in_pieces[0].flags.c_contiguous
    assert_same_bits(step_model.step(replace(batch, frames=in_pieces)), expected)
    for wrong in ([0.5], batch.frames[0][0], batch.frames[0].astype("<i4"), batch.frames[0].astype(">f4")):
        with pytest.raises((ValueError, TypeError, AttributeError)):
            step_model.step(replace(batch, frames=[wrong, *batch.frames[1:]]))  # type: ignore[list-item]  # refused


def test_weights_are_packed_into_panels() -> None:
    weight = np.arange(6, dtype=np.float32).reshape(2, 3)
    assert packed(weight, 2).tolist() == [[[0, 1], [3, 4]], [[2, 0], [5, 0]]]


def test_a_bundle_is_stepped_by_compiled_code_where_there_is_some(monkeypatch: pytest.MonkeyPatch) -> None:
    kernels()
    bundle = Bundle.of("small", random_model(13), NORMALISATION, {})
    kernels_here.cache_clear()
    assert isinstance(bundle.step_model(), NativeStepModel)
    assert steps_here() == f"kernels for {best_instruction_set()}"
    monkeypatch.setenv("GRF_KERNELS", "off")
    kernels_here.cache_clear()
    assert isinstance(bundle.step_model(), FoldedStepModel)
    assert steps_here() == "torch, without kernels: GRF_KERNELS=off"
    kernels_here.cache_clear()


@pytest.mark.parametrize(("machine", "expected"), [("aarch64", "NEON"), ("arm64", "NEON"), ("x86_64", "DEFAULT")])
def test_an_arm_has_neon_whatever_torch_calls_it(monkeypatch: pytest.MonkeyPatch, machine: str, expected: str) -> None:
    monkeypatch.setattr(platform, "machine", lambda: machine)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "DEFAULT")
    assert best_instruction_set() == expected


def test_a_library_that_is_missing_or_of_other_sources_is_not_used(tmp_path: Path) -> None:
    here, lanes = best_instruction_set(), kernels().lanes
    with pytest.raises(KernelsMissing, match="DEFAULT"):
        load("DEFAULT")
    with pytest.raises(KernelsMissing, match="not built"):
        load(here, tmp_path)
    shutil.copytree(FOLDER, tmp_path / "kernels")
    assert load(here, tmp_path / "kernels").lanes == lanes
    (tmp_path / "kernels" / "step.cc").write_text("// changed")
    with pytest.raises(KernelsMissing, match="other sources"):
        load(here, tmp_path / "kernels")


def test_scratch_memory_does_not_grow_with_the_batch() -> None:
    """The figure is of the model alone."""
    step_model = native_form(random_model(14))
    model = step_model._native.model
    assert step_model._library.grf_scratch_floats(byref(model)) == step_model._scratch_floats < 1 << 20


@settings(max_examples=40, deadline=None)
@given(
    instruction_set=st.sampled_from(sorted(INSTRUCTION_SETS)),
    seed=st.integers(0, 10**6),
    rows=st.sampled_from([1, 2, 30, 150]),
    slots=st.sampled_from([1, 2]),
    threads=st.sampled_from([1, 3]),
)
def test_rows_of_a_slab_are_stepped_as_a_batch_is(
    instruction_set: str, seed: int, rows: int, slots: int, threads: int
) -> None:
    """Shares too; and no row is touched that is not to be written."""
    model, rng = random_model(seed, context_slots=slots), np.random.default_rng(seed)
    step_model, batch = native_form(model, instruction_set), random_batch(model, rows, seed)
    capacity, outputs, shares = 2 * rows + 5, step_model.signature.output_width, len(MODALITIES)
    places = rng.permutation(capacity)
    steps = [
        RowStep(NO_SLOT if fresh else int(places[row]), int(places[rows + row]), int(rank), frames, float(elapsed_s))
        for row, (fresh, rank, frames, elapsed_s) in enumerate(
            zip(batch.fresh, batch.ranks, batch.frames, batch.elapsed_s, strict=True)
        )
    ]
    contexts = torch.full((capacity, *step_model.signature.context_shape), torch.nan)
    host = rng.dirichlet(np.ones(shares), capacity).astype(np.float32)
    host = np.concatenate([np.full((capacity, outputs), np.nan), host, np.full((capacity, 1), np.nan)], 1, dtype="<f4")
    contexts[places[:rows]] = batch.contexts
    before, old_shares = contexts.clone(), host[places[:rows], outputs:-1]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(native, "FRAMES_PER_THREAD", 20)
        patch.setattr(torch, "get_num_threads", lambda: threads)
        finite = step_model.step_rows(steps, contexts, host)
    expected, written = step_model.step(batch), places[rows : 2 * rows]
    assert finite.all()
    assert_same_bits(StepResult(contexts[written], host[written, :outputs], host[written, -1]), expected)
    z = expected.gate[:, None]
    old_shares = np.where(batch.fresh[:, None], np.float32(0), old_shares) * (1 - z)
    old_shares[np.arange(rows), batch.ranks] += expected.gate
    np.testing.assert_allclose(host[written, outputs:-1], old_shares, atol=1e-7)
    untouched = np.setdiff1d(np.arange(capacity), written)
    torch.testing.assert_close(contexts[untouched], before[untouched], rtol=0, atol=0, equal_nan=True)
    assert np.isnan(host[untouched, :outputs]).all()


def test_a_row_that_is_not_finite_is_told_and_no_other() -> None:
    model = random_model(15)
    step_model, batch = native_form(model), random_batch(model, 4, 15, fresh=0.0)
    contexts, host = torch.zeros(8, 1, 16), np.zeros((8, step_model.signature.output_width + 4), "<f4")
    contexts[2, 0, 3] = torch.inf
    steps = [RowStep(row, 4 + row, int(batch.ranks[row]), batch.frames[row], 0.0) for row in range(4)]
    assert step_model.step_rows(steps, contexts, host).tolist() == [True, True, False, True]


@pytest.mark.parametrize(("in_slot", "out_slot"), [(-2, 1), (8, 1), (0, -1), (0, 8)])
def test_rows_beyond_the_slab_are_refused(in_slot: int, out_slot: int) -> None:
    model = random_model(16)
    step_model, batch = native_form(model), random_batch(model, 1, 16)
    contexts, host = torch.zeros(8, 1, 16), np.zeros((8, step_model.signature.output_width + 4), "<f4")
    with pytest.raises(ValueError, match="rows that are not there"):
        step_model.step_rows([RowStep(in_slot, out_slot, int(batch.ranks[0]), batch.frames[0], 0.0)], contexts, host)
    good = [RowStep(0, 1, int(batch.ranks[0]), batch.frames[0], 0.0)]
    for wrong_contexts, wrong_host, reason in (
        (contexts[:4], host, "contexts are"),
        (torch.zeros(16, 1, 16)[::2], host, "in one piece"),
        (contexts, host[:, :-1], "what is known"),
        (contexts, np.asfortranarray(host), "what is known"),
        (contexts, host.astype(np.float64), "what is known"),
    ):
        with pytest.raises(ValueError, match=reason):
            step_model.step_rows(good, wrong_contexts, wrong_host)  # type: ignore[arg-type]  # refused
