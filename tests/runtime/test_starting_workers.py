"""Workers that fail before they serve, as the controller sees them and as who starts the runtime is told."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import ray

from runtime import first_service
from runtime.first_service import wait_for_service
from runtime.starting_workers import StartingWorkers
from runtime.state_dir import StartError
from tests.runtime.test_controller import Cluster

BECAUSE = "BundleError: config.json: no such file in /nowhere"


def actor(answer: Any) -> Any:
    """Whose calls are answered so; None: not yet."""
    return type("Actor", (), {"process": type("Method", (), {"remote": staticmethod(lambda: [answer])})})


def failed_to_start() -> ray.exceptions.RayActorError:
    error = ray.exceptions.RayActorError(error_msg=f"a long traceback\n{BECAUSE}\n")
    error._actor_init_failed = True
    return error


@pytest.fixture
def workers(monkeypatch: pytest.MonkeyPatch) -> StartingWorkers:
    def get(made: list[Any]) -> Any:
        if isinstance(made[0], Exception):
            raise made[0]
        return made[0]

    monkeypatch.setattr(ray, "wait", lambda asked, timeout: ([one for one in asked if one != [None]], []))
    monkeypatch.setattr(ray, "get", get)
    return StartingWorkers()


def test_why_a_worker_has_failed_is_told_once_and_known_until_it_is_asked_for_again(workers: StartingWorkers) -> None:
    workers.add("worker-0", actor(failed_to_start()))
    workers.add("worker-1", actor(None))
    assert workers.look() == {"worker-0": BECAUSE}
    assert workers.look() == {}
    assert workers.failed == {"worker-0": BECAUSE}
    workers.add("worker-0", actor(None))
    assert (workers.look(), workers.failed) == ({}, {})
    workers.add("worker-0", actor(failed_to_start()))
    assert (workers.look(), workers.failed) == ({"worker-0": BECAUSE}, {"worker-0": BECAUSE})
    workers.add("worker-0", actor(17))
    assert (workers.look(), workers.failed) == ({}, {})


def test_one_that_dies_after_it_was_made_has_not_failed_to_start(workers: StartingWorkers) -> None:
    workers.add("worker-0", actor(ray.exceptions.RayActorError()))
    assert (workers.look(), workers.failed) == ({}, {})


def test_one_for_which_ray_cannot_prepare_a_node_has_failed_and_the_others_are_told_of_too(
    workers: StartingWorkers,
) -> None:
    workers.add("worker-0", actor(failed_to_start()))
    workers.add("worker-1", actor(ray.exceptions.RuntimeEnvSetupError("pip failed\nno such package")))
    workers.add("worker-2", actor(ray.exceptions.RayError("its node is lost")))
    assert workers.look() == {"worker-0": BECAUSE, "worker-1": "no such package"}


def says(*answers: Mapping[str, Any]) -> Callable[[], Mapping[str, Any]]:
    """A controller with these answers, the last one again and again."""
    left = list(answers)
    return lambda: left.pop(0) if len(left) > 1 else left[0]


NOBODY: Mapping[str, Any] = {"workers": [], "wanted": 1, "failed": {}}


def test_a_start_goes_on_while_one_may_come_and_tells_once_of_each_that_does_not() -> None:
    told: list[str] = []
    one_failed = {"workers": [], "wanted": 2, "failed": {"worker-1": BECAUSE}}
    served = {"workers": ["worker-0"], "wanted": 2, "failed": {"worker-1": BECAUSE}}
    wait_for_service(says(NOBODY, one_failed, one_failed, served), told.append, "")
    assert told == [f"worker-1 does not start: {BECAUSE}"]


def test_a_start_of_which_all_workers_fail_says_why() -> None:
    all_failed = {"workers": [], "wanted": 2, "failed": {"worker-0": BECAUSE, "worker-1": BECAUSE}}
    with pytest.raises(StartError, match=f"no worker starts: {BECAUSE}"):
        wait_for_service(says(NOBODY, all_failed), lambda text: None, "")


def test_a_start_looks_at_how_many_the_controller_wants() -> None:
    """Not as many as are set, where others were asked for before the runtime was killed."""
    killed = Cluster(workers=1)
    killed.controller.scale(3, 1.0)
    after = Cluster(killed.disk, workers=1).controller
    told: list[str] = []
    answers = [after.routes() | {"failed": dict.fromkeys(names, BECAUSE)} for names in (["a"], ["a", "b"], "abc")]
    with pytest.raises(StartError, match="no worker starts"):
        wait_for_service(says(*answers), told.append, "")
    assert len(told) == 3


def test_a_start_that_takes_too_long_says_where_the_log_is(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(first_service, "READY_WITHIN_S", 0.0)
    with pytest.raises(StartError, match="no worker was ready within 0 s; its log is there"):
        wait_for_service(says(NOBODY), lambda text: None, "its log is there")
