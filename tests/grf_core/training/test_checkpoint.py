from __future__ import annotations

import pickle
from pathlib import Path

import numpy as np
import pytest
import torch

from grf_core.training.checkpoint import CheckpointError, load_checkpoint, restore_rng, rng_text, save_checkpoint

FIELDS = frozenset({"epoch", "weights"})
STATE = {"epoch": 3, "weights": {"a": torch.arange(3.0)}}


class Trap:
    def __reduce__(self) -> tuple[object, ...]:
        return Path.touch, (Path("sprung"),)


def test_what_is_saved_is_loaded(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", STATE)
    loaded = load_checkpoint(tmp_path / "c.pt", FIELDS)
    assert loaded["epoch"] == 3
    assert torch.equal(loaded["weights"]["a"], torch.arange(3.0))
    assert [file.name for file in tmp_path.iterdir()] == ["c.pt"]


def test_a_writer_that_fails_leaves_the_older_checkpoint(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", STATE)
    with pytest.raises((AttributeError, TypeError, pickle.PicklingError)):
        save_checkpoint(tmp_path / "c.pt", {"epoch": 4, "weights": lambda: None})
    assert load_checkpoint(tmp_path / "c.pt", FIELDS)["epoch"] == 3


def test_nothing_in_a_checkpoint_is_executed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format_version": 1, "epoch": Trap(), "weights": {}}, "c.pt")
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(Path("c.pt"), FIELDS)
    assert not Path("sprung").exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 no zip", b"\x80\x02."])
def test_other_files_are_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "c.pt").write_bytes(content)
    with pytest.raises(CheckpointError, match=r"c\.pt"):
        load_checkpoint(tmp_path / "c.pt", FIELDS)


def test_a_checkpoint_cut_short_or_lacking_something_is_refused(tmp_path: Path) -> None:
    save_checkpoint(tmp_path / "c.pt", {"epoch": 1})
    with pytest.raises(CheckpointError, match="weights missing"):
        load_checkpoint(tmp_path / "c.pt", FIELDS)
    (tmp_path / "c.pt").write_bytes((tmp_path / "c.pt").read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a checkpoint"):
        load_checkpoint(tmp_path / "c.pt", FIELDS)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_checkpoint(tmp_path / "none.pt", FIELDS)


def test_a_generator_goes_on_where_it_was() -> None:
    rng, other = np.random.default_rng(5), np.random.default_rng(6)
    rng.normal(size=3)
    restore_rng(other, rng_text(rng))
    assert rng.normal(size=4).tolist() == other.normal(size=4).tolist()
