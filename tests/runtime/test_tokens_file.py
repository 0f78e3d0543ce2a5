from __future__ import annotations

from pathlib import Path

import pytest

from runtime.security import Unauthorised
from runtime.settings import SettingError, load_settings
from runtime.tokens_file import TokensFile


def tokens_in(file: Path) -> TokensFile:
    return TokensFile(load_settings([f"runtime.tokens_file={file}"], environment={}))


def test_a_file_that_changes_is_read_again_and_one_that_does_not_is_not(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    file.write_text('{"old": "acme"}')
    read = tokens_in(file)
    assert not read.has_changed()
    other = tmp_path / "other"
    other.write_text('{"new": "acme", "more": "rival"}')
    other.replace(file)
    assert read.has_changed()
    assert not read.has_changed()
    assert read.tokens.tenant_of("new", "") == "acme"
    with pytest.raises(Unauthorised):
        read.tokens.tenant_of("old", "")


def test_a_file_that_says_the_same_in_other_words_has_not_changed(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    file.write_text('{"old": "acme"}')
    read = tokens_in(file)
    file.write_text('{ "old": "acme" }')
    assert not read.has_changed()


@pytest.mark.parametrize("content", ['{"old": "ac', "", "{}", '{"new": "a/b"}', None])
def test_a_file_that_is_damaged_or_gone_shuts_nobody_out_and_is_told_once(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, content: str | None
) -> None:
    file = tmp_path / "tokens.json"
    file.write_text('{"old": "acme"}')
    read = tokens_in(file)
    file.unlink() if content is None else file.write_text(content)
    assert not read.has_changed()
    assert not read.has_changed()
    assert read.tokens.tenant_of("old", "") == "acme"
    assert caplog.text.count("the tokens that were read before stay") == 1
    file.write_text('{"new": "acme"}')
    assert read.has_changed()


def test_a_worker_does_not_start_with_a_damaged_file_and_without_one_never_looks_for_tokens(tmp_path: Path) -> None:
    (tmp_path / "tokens.json").write_text("{")
    with pytest.raises(SettingError):
        tokens_in(tmp_path / "tokens.json")
    read = TokensFile(load_settings(environment={}))
    assert not read.has_changed()
    assert read.tokens.tenant_of("", "anyone") == "anyone"
