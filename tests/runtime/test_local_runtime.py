from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import ray

from runtime.local_runtime import RAY_ATTEMPTS, LocalRuntime
from runtime.settings import Settings, load_settings
from runtime.state_dir import Note, StartError, has_left_note, take_lock, write_note


def ray_that_fails(monkeypatch: pytest.MonkeyPatch, times: int) -> list[str]:
    """What is done with Ray, which does not answer so many times."""
    done: list[str] = []

    def init(**_: Any) -> None:
        done.append("init")
        if done.count("init") <= times:
            raise ray.exceptions.RaySystemError("Failed to connect to GCS")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: done.append("shutdown"))
    return done


def test_ray_is_started_again_where_it_does_not_answer_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    done, told = ray_that_fails(monkeypatch, 1), list[str]()
    LocalRuntime(Settings())._start_ray("namespace", told.append)
    assert done == ["init", "shutdown", "init"]
    assert told == ["Ray did not answer in time: starting it again"]


def test_a_ray_that_never_answers_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    done = ray_that_fails(monkeypatch, RAY_ATTEMPTS)
    with pytest.raises(StartError, match=r"Ray does not start: .*Failed to connect to GCS"):
        LocalRuntime(Settings())._start_ray("namespace", lambda text: None)
    assert done.count("init") == done.count("shutdown") == RAY_ATTEMPTS


@pytest.mark.parametrize("saves", [True, False])
def test_the_note_stays_where_not_all_was_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saves: bool) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(LocalRuntime, "_stop_workers", lambda self, drain_s: saves)
    runtime = LocalRuntime(load_settings([f"runtime.state_dir={tmp_path}"], environment={}))
    runtime._lock, runtime._controller = take_lock(tmp_path), object()
    write_note(tmp_path, Note(1, runtime.address))
    assert runtime.stop() is saves
    assert has_left_note(tmp_path) is not saves
