"""grf state and grf digest, without a runtime."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from runtime.cli import grf
from runtime.keys import SessionKey
from runtime.records import SessionRecord, StreamRecord
from runtime.store.archive import write_archive
from runtime.store.base import StoreUnavailable
from runtime.store.sqlite import SqliteStore
from tests.runtime.store.samples import key, record


@pytest.mark.parametrize("command", [("state", "export", "backup"), ("state", "inspect"), ("digest",)])
def test_what_only_reads_a_store_says_that_there_is_none_and_makes_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(grf, [*command, "--set", "runtime.state_dir=elsewhere"])
    assert isinstance(result.exception, StoreUnavailable)
    assert "elsewhere/grf.db: there is none" in str(result.exception)
    assert list(tmp_path.iterdir()) == []


def test_a_store_without_sessions_is_exported_all_the_same(tmp_path: Path) -> None:
    SqliteStore(tmp_path / "grf.db").close()
    file = tmp_path / "backup.grfstate"
    result = CliRunner().invoke(grf, ["state", "export", str(file), "--set", f"runtime.state_dir={tmp_path}"])
    assert (result.exit_code, result.output.strip()) == (0, f"0 sessions in {file}")


def test_what_an_archive_says_commands_no_terminal(tmp_path: Path) -> None:
    stream = StreamRecord("w\x9b31m", "gyroscope", 1, (), 1.0)
    record = SessionRecord(
        SessionKey("default", "s"), "\x1b]0;x", "", 1, 1.0, 1.0, bytes(16), None, (), (), 0.0, {}, (stream,)
    )
    file = tmp_path / "of-others.grfstate"
    write_archive(file, [record])
    for options in ([], ["--session", "s"]):
        told = CliRunner().invoke(grf, ["state", "inspect", str(file), *options], color=True).output
        assert "\\u001b]0;x" in told
        assert not {"\x1b", "\x9b"} & {*told}


@pytest.mark.parametrize("kept", [0.5, 0.9])
def test_an_archive_that_was_cut_short_is_not_half_imported(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kept: float
) -> None:
    monkeypatch.setattr("runtime.cli.state.IMPORT_AT_ONCE", 1)
    file, directory = tmp_path / "cut.grfstate", tmp_path / "state"
    write_archive(file, [record(key(session)) for session in "abc"])
    file.write_bytes(file.read_bytes()[: int(kept * file.stat().st_size)])
    result = CliRunner().invoke(grf, ["state", "import", str(file), "--set", f"runtime.state_dir={directory}"])
    assert "cut short" in str(result.exception)
    assert not directory.exists()
