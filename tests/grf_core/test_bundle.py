from __future__ import annotations

import json
import os
import pickle
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load, save

from grf_core.bundle import CONFIG_FILE, WEIGHTS_FILE, Bundle, BundleError, load_bundle, save_bundle
from grf_core.model import GRF
from grf_core.normalisation import Normalisation
from grf_core.step import StepBatch
from tests.grf_core.models import random_segments, small_model

Change = Callable[[Any], object]

MISFITS: list[tuple[str, Change]] = [
    ("format", lambda c: c.update(format="other")),
    ("format_version", lambda c: c.update(format_version=2)),
    ("format_version", lambda c: c.pop("format_version")),
    ("name", lambda c: c.pop("name")),
    ("name", lambda c: c.update(name=5)),
    ("name", lambda c: c.update(name="\ud800")),
    ("name", lambda c: c.update(name="\x1b[31mred")),
    ("name", lambda c: c.update(name="n" * 129)),
    ("colour", lambda c: c.update(colour="red")),
    ("training", lambda c: c.update(training=[])),
    ("weights_digest", lambda c: c.update(weights_digest="00")),
    ("model.d_modle", lambda c: c["model"].update(d_modle=64)),
    ("model.d_model", lambda c: c["model"].update(d_model=1 << 40)),
    ("model.n_layers", lambda c: c["model"].update(n_layers=1 << 40)),
    ("model.modalities[0].width", lambda c: c["model"]["modalities"][0].update(width=-1)),
    ("model.modalities[1].max_frames", lambda c: c["model"]["modalities"][1].update(max_frames=1 << 40)),
    ("normalisation.modalities", lambda c: c["normalisation"].update(modalities=[])),
    ("normalisation.modalities.text", lambda c: c["normalisation"]["modalities"].pop("text")),
    ("normalisation.modalities.smell", lambda c: c["normalisation"]["modalities"].update(smell={})),
    ("normalisation.modalities.imu", lambda c: c["normalisation"]["modalities"].update(imu=7)),
    ("normalisation.modalities.imu.std", lambda c: c["normalisation"]["modalities"]["imu"].pop("std")),
    ("normalisation.modalities.imu.std", lambda c: c["normalisation"]["modalities"]["imu"].update(std=[1, 1])),
    ("normalisation.modalities.imu.mean", lambda c: c["normalisation"]["modalities"]["imu"].update(mean=["1"])),
    ("normalisation.modalities.imu.mean", lambda c: c["normalisation"]["modalities"]["imu"].update(mean=[True])),
    ("normalisation.modalities.imu", lambda c: c["normalisation"]["modalities"]["imu"].update(std=[0.0])),
    ("normalisation.modalities.imu", lambda c: c["normalisation"]["modalities"]["imu"].update(mean=[10**400])),
    ("normalisation.heads.mood", lambda c: c["normalisation"]["heads"].update(mood={})),
]
MISFIT_WEIGHTS: list[tuple[str, Change]] = [
    ("projections.0.weight", lambda w: w.pop("projections.0.weight")),
    ("extra", lambda w: w.update(extra=torch.zeros(1))),
    ("projections.0.bias", lambda w: w.update({"projections.0.bias": torch.zeros(17)})),
    ("projections.0.bias", lambda w: w.update({"projections.0.bias": torch.zeros(16, dtype=torch.float16)})),
    ("projections.0.bias", lambda w: w.update({"projections.0.bias": torch.zeros(16, dtype=torch.int64)})),
    ("heads.0.0.weight", lambda w: w["heads.0.0.weight"].fill_(float("nan"))),
    ("heads.0.0.weight", lambda w: w["heads.0.0.weight"].fill_(float("inf"))),
]


def numbered(cases: list[tuple[str, Change]]) -> list[str]:
    return [f"{number} {field}" for number, (field, _) in enumerate(cases)]


def saved(path: Path, model: GRF | None = None) -> Bundle:
    model = model or small_model()
    bundle = Bundle.of("small", model, Normalisation.identity(model.config), {"seed": 3})
    save_bundle(path, bundle, card="# small\n")
    return bundle


def refused(path: Path) -> BundleError:
    with pytest.raises(BundleError) as caught:
        load_bundle(path)
    return caught.value


def change_config(path: Path, change: Change) -> None:
    described = json.loads((path / CONFIG_FILE).read_text())
    change(described)
    (path / CONFIG_FILE).write_text(json.dumps(described))


def change_weights(path: Path, change: Change) -> None:
    weights = load((path / WEIGHTS_FILE).read_bytes())
    change(weights)
    (path / WEIGHTS_FILE).write_bytes(save(weights))


def test_a_bundle_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    model = small_model(ageing=True, context_slots=2)
    bundle, loaded = saved(tmp_path, model), load_bundle(tmp_path)
    assert (loaded.name, loaded.config, loaded.training) == ("small", model.config, {"seed": 3})
    assert loaded.normalisation == bundle.normalisation
    assert loaded.digest == bundle.digest
    assert sorted(os.listdir(tmp_path)) == ["README.md", "config.json", "weights.safetensors"]
    for key, value in model.state_dict().items():
        assert torch.equal(loaded.weights[key], value)


def test_a_loaded_model_answers_as_the_saved_one(tmp_path: Path) -> None:
    model = small_model()
    saved(tmp_path, model)
    loaded = load_bundle(tmp_path).model()
    inputs = {modality.name: torch.randn(2, 4, modality.width) for modality in model.config.modalities}
    lengths = dict.fromkeys(inputs, torch.tensor([4, 2]))
    expected, answers = model(inputs, lengths).outputs, loaded(inputs, lengths).outputs
    assert not loaded.training
    assert all(torch.equal(answers[head], expected[head]) for head in expected)


def test_a_step_model_is_ready_to_drive(tmp_path: Path) -> None:
    saved(tmp_path)
    bundle = load_bundle(tmp_path)
    model = bundle.step_model("cpu")
    segments = random_segments(4, np.random.default_rng(0))
    result = model.step(
        StepBatch(
            contexts=torch.zeros(4, *model.signature.context_shape),
            fresh=np.array([True, False, True, False]),
            ranks=np.array([rank for rank, _ in segments]),
            frames=[frames for _, frames in segments],
            elapsed_s=np.zeros(4, np.float32),
        )
    )
    assert model.signature.digest == bundle.digest
    assert result.outputs.shape == (4, model.signature.output_width)


def test_how_dropout_was_drawn_is_no_part_of_the_digest(tmp_path: Path) -> None:
    by_frame, by_segment = (saved(tmp_path, small_model(dropout_by=by)) for by in ("frame", "segment"))
    assert by_frame.digest == by_segment.digest


def test_the_digest_changes_with_weights_config_and_normalisation_only(tmp_path: Path) -> None:
    digests = {saved(tmp_path, small_model(seed=seed)).digest for seed in (0, 1)}
    digests.add(saved(tmp_path, small_model(carry="context")).digest)
    change_config(tmp_path, lambda c: c["normalisation"]["heads"]["effort"].update(mean=[2.0]))
    digests.add(load_bundle(tmp_path).digest)
    assert len(digests) == 4
    change_config(tmp_path, lambda c: c["training"].update(seed=4))
    assert load_bundle(tmp_path).digest in digests


def test_a_model_with_separate_blocks_is_kept_but_cannot_stream(tmp_path: Path) -> None:
    saved(tmp_path, small_model(shared_block=False))
    bundle = load_bundle(tmp_path)
    assert len(bundle.model().blocks) == 2
    with pytest.raises(BundleError, match=r"model\.shared_block"):
        bundle.step_model()


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_missing_file_is_named(tmp_path: Path, file: str) -> None:
    saved(tmp_path)
    (tmp_path / file).unlink()
    assert refused(tmp_path).file == file


def test_a_directory_that_is_not_there_is_refused(tmp_path: Path) -> None:
    assert refused(tmp_path / "nowhere").file == CONFIG_FILE


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_link_that_leads_out_of_the_bundle_is_refused(tmp_path: Path, file: str) -> None:
    saved(tmp_path / "bundle")
    (tmp_path / "bundle" / file).rename(tmp_path / file)
    (tmp_path / "bundle" / file).symlink_to(tmp_path / file)
    error = refused(tmp_path / "bundle")
    assert (error.file, error.reason) == (file, "a link that leads out of the bundle")


def test_links_within_the_bundle_are_followed(tmp_path: Path) -> None:
    """Kubernetes mounts a ConfigMap like this."""
    saved(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / CONFIG_FILE).rename(tmp_path / "data" / CONFIG_FILE)
    (tmp_path / CONFIG_FILE).symlink_to(Path("data") / CONFIG_FILE)
    assert load_bundle(tmp_path).name == "small"


@pytest.mark.parametrize("file", [CONFIG_FILE, WEIGHTS_FILE])
def test_a_pipe_or_a_folder_or_a_ring_of_links_in_place_of_a_file_is_refused(tmp_path: Path, file: str) -> None:
    makers: list[Callable[[Path], None]] = [os.mkfifo, Path.mkdir, lambda path: path.symlink_to(path.name)]
    for number, make in enumerate(makers):
        path = tmp_path / str(number)
        saved(path)
        (path / file).unlink()
        make(path / file)
        assert refused(path).file == file


@pytest.mark.parametrize(("field", "change"), MISFITS, ids=numbered(MISFITS))
def test_a_config_that_does_not_fit_is_refused_by_field(tmp_path: Path, field: str, change: Change) -> None:
    saved(tmp_path)
    change_config(tmp_path, change)
    error = refused(tmp_path)
    assert (error.file, error.field) == (CONFIG_FILE, field)


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"[]",
        b"{",
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"format": NaN}',
        b'{"format": 1, "format": 2}',
        b'{"format": ' + b"9" * 5_000 + b"}",
        b" " * (5 << 20),
    ],
    ids=["empty", "list", "half", "not utf-8", "deep", "NaN", "twice", "long number", "huge"],
)
def test_config_bytes_that_are_no_json_object_are_refused(tmp_path: Path, text: bytes) -> None:
    saved(tmp_path)
    (tmp_path / CONFIG_FILE).write_bytes(text)
    assert refused(tmp_path).file == CONFIG_FILE


@pytest.mark.parametrize(("field", "change"), MISFIT_WEIGHTS, ids=numbered(MISFIT_WEIGHTS))
def test_weights_that_do_not_fit_are_refused_by_tensor(tmp_path: Path, field: str, change: Change) -> None:
    saved(tmp_path)
    change_weights(tmp_path, change)
    error = refused(tmp_path)
    assert (error.file, error.field) == (WEIGHTS_FILE, field)


def test_weights_of_another_training_are_refused(tmp_path: Path) -> None:
    saved(tmp_path)
    change_weights(tmp_path, lambda w: w["heads.0.0.weight"].add_(1.0))
    assert refused(tmp_path).field == "weights_digest"


def test_a_pickle_is_never_opened(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
            return os.mkdir, (str(tmp_path / "exploded"),)

    saved(tmp_path)
    (tmp_path / WEIGHTS_FILE).write_bytes(pickle.dumps(Bomb()))
    assert refused(tmp_path).file == WEIGHTS_FILE
    assert not (tmp_path / "exploded").exists()


def test_weights_longer_than_the_config_can_mean_are_not_read(tmp_path: Path) -> None:
    saved(tmp_path)
    with (tmp_path / WEIGHTS_FILE).open("r+b") as file:
        file.truncate(1 << 40)
    assert "longer than" in refused(tmp_path).reason


@given(data=st.binary(max_size=400))
def test_arbitrary_weights_bytes_are_refused(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    path = tmp_path_factory.mktemp("bundle")
    saved(path)
    (path / WEIGHTS_FILE).write_bytes(data)
    assert refused(path).file == WEIGHTS_FILE


@given(position=st.integers(0, 3_000), byte=st.integers(0, 255))
def test_a_config_with_one_byte_changed_loads_or_is_refused(
    tmp_path_factory: pytest.TempPathFactory, position: int, byte: int
) -> None:
    path = tmp_path_factory.mktemp("bundle")
    saved(path)
    text = bytearray((path / CONFIG_FILE).read_bytes())
    text[position % len(text)] = byte
    (path / CONFIG_FILE).write_bytes(text)
    with suppress(BundleError):
        load_bundle(path)


def test_a_model_is_loaded_without_torchs_compiler(tmp_path: Path) -> None:
    """Which takes longer to import than all the rest of it, in every process that has a model."""
    saved(tmp_path, small_model(context_slots=3, ageing=True))
    bundles = ["bundles/motion", str(tmp_path)]
    load = f"from grf_core.bundle import load_bundle; [load_bundle(path).step_model() for path in {bundles}]"
    code = f"import sys; {load}; print({{'torch._dynamo', 'sympy'}} & sys.modules.keys())"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout.strip() == "set()"
