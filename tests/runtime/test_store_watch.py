"""What an operator is told of a store that fails, from the write that is refused to `grf status`."""

from __future__ import annotations

import logging
import time
from pathlib import Path
from typing import Any

import pytest

from runtime import messages as m
from runtime.cli.status import _lines
from runtime.client import Publisher
from runtime.cluster_view import describe_fully
from runtime.placement import Beat, Member
from runtime.store.base import StoreUnavailable
from runtime.store.sqlite import SqliteStore
from runtime.store_watch import StoreWatch
from tests.runtime.dispatch.desk import Desk
from tests.runtime.test_worker_cluster import FRAMES, MODALITY, wait_until
from tests.runtime.worker_cluster import WorkerCluster


class Scene:
    """A worker that saves a session, and the log that an operator reads."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, "runtime.store_watch")
        self.desk = Desk()
        self.desk.hello(b"a")
        self._watch = StoreWatch()
        self._patch = monkeypatch
        self._log = caplog

    def fill_disk(self) -> None:
        def save(*_: object) -> None:
            raise StoreUnavailable("database or disk is full")

        self._patch.setattr(self.desk.store, "save", save)

    def told(self) -> list[tuple[str, str]]:
        """Levels and texts since this was last asked."""
        self._watch.look(self.desk.dispatcher.store.health)
        told = [(record.levelname, record.getMessage()) for record in self._log.records]
        self._log.clear()
        return told


@pytest.fixture
def scene(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> Scene:
    return Scene(monkeypatch, caplog)


def test_a_full_disk_is_told_once_and_so_is_its_end(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.desk.settle(b"a", "s", 1)
    assert scene.told() == []
    scene.fill_disk()
    scene.desk.settle(b"a", "s", 2)
    ((level, text),) = scene.told()
    assert (level, text.partition(". ")[0]) == ("ERROR", "the store cannot be written: database or disk is full")
    scene.desk.work(10.0)
    assert scene.told() == [], "it was tried again"
    monkeypatch.undo()
    scene.desk.work(10.0)
    assert scene.told() == [("INFO", "no write to the store fails any more")]


def test_what_can_still_be_read_from_a_full_disk_does_not_count_as_written(scene: Scene) -> None:
    scene.fill_disk()
    scene.desk.settle(b"a", "s", 1)
    scene.desk.store_is_stuck = True
    scene.desk.jobs.clear()
    scene.desk.say(b"a", m.ListSessions(1, "", 10))
    scene.desk.run_jobs()
    health = scene.desk.dispatcher.store.health
    assert (health.last_error, health.failing_since_s is None) == ("database or disk is full", False)
    scene.desk.dispatcher.own({})
    assert (health.last_error, health.failing_since_s) == ("", None), "nothing is left to be saved"


def test_a_write_that_another_owner_fences_off_is_told_and_the_store_answers(scene: Scene) -> None:
    scene.desk.crash()
    scene.desk.settle(b"a", "s", 1)
    ((level, text),) = scene.told()
    assert (level, text.partition(":")[0]) == ("WARNING", "the store refused a write")
    assert scene.desk.dispatcher.store.health.failing_since_s is None


def test_who_owns_nothing_any_more_is_not_called_fenced_for_a_write_that_was_on_its_way(scene: Scene) -> None:
    scene.desk.crash()
    scene.desk.settle(b"a", "s", 1)
    dispatcher = scene.desk.dispatcher
    dispatcher.own({})
    dispatcher.store.health.fenced = True
    dispatcher.own({})
    assert not dispatcher.store.health.fenced


def test_the_status_says_what_the_beat_says_of_the_store() -> None:
    def lines(beat: Beat) -> str:
        member = Member(beat, 0.0, 0.0)
        return "\n".join(_lines(describe_fully(member, {}, 0.0, serves=True, leaves=False)))

    ill = lines(Beat("worker-0", "a", "tcp://w", "http://m", fenced=True, store_error="read-only"))
    assert "serving, fenced" in ill
    assert "the store cannot be written: read-only" in ill
    assert "fenced" not in (well := lines(Beat("worker-0", "a", "tcp://w", "http://m")))
    assert "store" not in well


def test_a_running_worker_says_so_in_its_beat_and_in_its_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def save(*_: object) -> None:
        raise StoreUnavailable("attempt to write a readonly database")

    monkeypatch.setattr(SqliteStore, "save", save)
    with WorkerCluster(tmp_path, workers=1, standbys=0) as cluster:
        wait_until(lambda: bool(cluster.serving()))
        with Publisher(cluster.endpoint("worker-0")) as publisher:
            publisher.publish("s", "left", MODALITY.name, FRAMES, 1.0)
            wait_until(lambda: "readonly" in _worker(cluster)["store_error"])
            wait_until(lambda: "the store cannot be written: attempt" in caplog.text)
            monkeypatch.undo()
            publisher.end("s", "left")
            publisher.flush(10.0)
            wait_until(lambda: not _worker(cluster)["store_error"])


def _worker(cluster: WorkerCluster) -> dict[str, Any]:
    (worker,) = cluster.controller.cluster(time.monotonic())["workers"]
    return dict(worker)
