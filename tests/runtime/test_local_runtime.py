from __future__ import annotations

import os
import shutil
import threading
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from runtime.local_runtime import RAY_ATTEMPTS, RAY_ENVIRONMENT, LocalRuntime
from runtime.settings import Settings, load_settings
from runtime.state_dir import Note, StartError, has_left_note, take_lock, write_note
from runtime.store.sqlite import SqliteStore, read_records
from tests.runtime.store.samples import key, record, save

WAITED_FOR_WITHIN_S = 30.0


LATE = [ray.exceptions.RaySystemError("Failed to connect to GCS"), Exception("The current node timed out")]
"""as Ray says it of the GCS, and of a raylet"""


def ray_that_fails(monkeypatch: pytest.MonkeyPatch, times: int, error: Exception = LATE[0]) -> list[str]:
    """What is done with Ray, which does not answer so many times."""
    done: list[str] = []

    def init(**_: Any) -> None:
        done.append("init")
        if done.count("init") <= times:
            raise error

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: done.append("shutdown"))
    return done


@pytest.mark.parametrize("error", LATE)
def test_ray_is_started_again_where_it_does_not_answer_in_time(
    monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    done, told = ray_that_fails(monkeypatch, 1, error), list[str]()
    LocalRuntime(Settings())._start_ray("namespace", told.append)
    assert done == ["init", "shutdown", "init"]
    assert told == ["Ray did not answer in time: starting it again"]


def test_what_ray_writes_is_bounded_unless_the_operator_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    set_when_ray_starts: dict[str, str] = {}

    def init(**_: Any) -> None:
        set_when_ray_starts.update(os.environ)
        raise StartError("far enough")

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    for name in RAY_ENVIRONMENT:
        monkeypatch.setenv(name, "")  # put back afterwards
        monkeypatch.delenv(name)
    monkeypatch.setenv("RAY_ROTATION_BACKUP_COUNT", "9")
    with pytest.raises(StartError):
        LocalRuntime(Settings())._start(lambda text: None)
    assert int(set_when_ray_starts["RAY_ROTATION_MAX_BYTES"]) <= 1 << 25
    assert set_when_ray_starts["RAY_ROTATION_BACKUP_COUNT"] == "9"


def test_what_a_start_of_ray_has_left_ends_with_its_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    starters: list[threading.Thread] = []

    def init(**_: Any) -> None:
        starters.append(threading.current_thread())
        if len(starters) == 1:
            raise LATE[1]

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    LocalRuntime(Settings())._start_ray("namespace", lambda text: None)
    assert [starter.is_alive() for starter in starters] == [False, True]


def test_a_ray_that_never_answers_is_an_error_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    done = ray_that_fails(monkeypatch, RAY_ATTEMPTS)
    with pytest.raises(StartError, match=r"Ray does not start: .*Failed to connect to GCS"):
        LocalRuntime(Settings())._start_ray("namespace", lambda text: None)
    assert done.count("init") == done.count("shutdown") == RAY_ATTEMPTS


def test_a_start_that_is_interrupted_is_waited_for_before_ray_is_ended(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Ray's processes would end with the thread that still starts them, and Ray wait for them at the exit."""
    done, is_waited_for = list[str](), threading.Event()

    def init(**_: Any) -> None:
        if is_waited_for.wait(WAITED_FOR_WITHIN_S):
            done.append("init")

    def interrupted(future: Future[Any], timeout: float | None = None) -> None:
        raise KeyboardInterrupt  # a real signal is seen late where it comes just before the wait

    def waiting(call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        is_waited_for.set()
        return call(*arguments, **options)

    monkeypatch.setattr(ray, "init", init)
    monkeypatch.setattr(ray, "is_initialized", lambda: "init" in done)
    monkeypatch.setattr(ray, "shutdown", lambda: done.append("shutdown"))
    runtime = LocalRuntime(Settings())
    runtime._lock = take_lock(tmp_path)
    with monkeypatch.context() as while_it_starts:
        while_it_starts.setattr(Future, "result", interrupted)
        with pytest.raises(KeyboardInterrupt):
            runtime._start_ray("namespace", lambda text: None)
    for name in ("submit", "shutdown"):
        monkeypatch.setattr(runtime._ray_thread, name, partial(waiting, getattr(runtime._ray_thread, name)))
    runtime.stop()
    assert done == ["init", "shutdown"]
    assert not runtime.stop(), "it was stopped"


@pytest.mark.parametrize("saves", [True, False])
def test_the_note_stays_where_not_all_was_saved(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, saves: bool) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(LocalRuntime, "_stop_workers", lambda self, drain_s: saves)
    runtime = LocalRuntime(load_settings([f"runtime.state_dir={tmp_path}"], environment={}))
    runtime._lock, runtime._controller = take_lock(tmp_path), object()
    write_note(tmp_path, Note(1, runtime.address))
    assert runtime.stop() is saves
    assert has_left_note(tmp_path, 1) is not saves


def test_a_store_whose_processes_were_ended_is_left_in_one_file(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(ray, "is_initialized", lambda: True)
    monkeypatch.setattr(ray, "shutdown", lambda: None)
    monkeypatch.setattr(LocalRuntime, "_stop_workers", lambda self, drain_s: True)
    runtime = LocalRuntime(load_settings([f"runtime.state_dir={tmp_path / 'state'}"], environment={}))
    runtime._lock, runtime._controller = take_lock(tmp_path / "state"), object()
    held = SqliteStore(tmp_path / "held.db")
    save(held, record(key("a")))
    for suffix in ("", "-wal"):
        shutil.copyfile(f"{held.path}{suffix}", tmp_path / "state" / f"grf.db{suffix}")
    held.close()
    assert runtime.stop()
    assert [file.name for file in (tmp_path / "state").glob("grf.db*")] == ["grf.db"]
    assert [found.key for found in read_records(tmp_path / "state" / "grf.db", 256)] == [key("a")]
