"""What the controller last said, kept while it is away."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import pytest

from runtime.client.locate import NotLocated
from runtime.gateway.route_table import RouteTable

WORKER = {"name": "w0", "endpoint": "tcp://a:1"}


class Source:
    def __init__(self, *answers: Mapping[str, Any] | Exception) -> None:
        self.answers = list(answers)
        self.asked = 0

    def routes(self) -> Mapping[str, Any]:
        self.asked += 1
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer

    def cluster(self) -> Mapping[str, Any]:
        return self.routes()


def test_an_answer_is_used_for_a_moment_and_then_asked_for_again() -> None:
    source = Source({"workers": [WORKER]}, {"workers": [{**WORKER, "endpoint": "tcp://b:2"}]})
    table = RouteTable(source)
    assert [table.locate(), table.locate()] == ["tcp://a:1"] * 2
    assert source.asked == 1
    table._asked_s -= 0.5  # half a second later: fresh for readers, too old for who has lost its worker
    assert table.read().workers[0].endpoint == "tcp://a:1"
    assert table.locate() == "tcp://b:2"


def test_another_worker_is_named_each_time_for_the_last_may_have_died() -> None:
    table = RouteTable(Source({"workers": [WORKER, {**WORKER, "endpoint": "tcp://b:2"}]}))
    assert [table.locate() for _ in range(3)] == ["tcp://a:1", "tcp://b:2", "tcp://a:1"]


def test_the_last_answer_outlives_its_controller() -> None:
    table = RouteTable(Source({"workers": [WORKER]}, ConnectionError("gone")))
    table.locate()
    table._asked_s = float("-inf")
    assert table.locate() == "tcp://a:1"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"workers": []}, "no worker is serving"),
        ({"workers": [], "taken_by": ["worker-0/b"]}, "another runtime .* has the key groups: worker-0/b"),
        (ConnectionError("gone"), "gone"),
        ({}, "workers"),
        ({"workers": [{}]}, "name"),
        ({"workers": [{**WORKER, "groups": "many"}]}, "many"),
        (None, "does not answer"),
    ],
)
def test_without_a_worker_the_reason_is_given(answer: Any, why: str) -> None:
    with pytest.raises(NotLocated, match=why):
        RouteTable(Source(answer)).locate()


def test_a_controller_that_hangs_delays_only_the_one_who_asks() -> None:
    source = Source({"workers": [WORKER]})
    table = RouteTable(source)
    table.locate()
    table._asked_s = float("-inf")
    hanging, answer = threading.Event(), threading.Event()

    def routes() -> Mapping[str, Any]:
        hanging.set()
        assert answer.wait(5)
        return {"workers": [WORKER]}

    source.routes = routes  # type: ignore[method-assign]  # as if the call itself hung
    asking = threading.Thread(target=table.locate)
    asking.start()
    assert hanging.wait(5)
    assert table.locate() == "tcp://a:1"
    answer.set()
    asking.join(5)
