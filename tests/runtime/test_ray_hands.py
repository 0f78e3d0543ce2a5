"""Where new workers are put, of the nodes that Ray has."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import ray

from runtime import controller_actor
from runtime.controller_actor import RayHands
from runtime.settings import Settings

A, B, C = ("a" * 56, "10.0.0.1"), ("b" * 56, "10.0.0.2"), ("c" * 56, "10.0.0.2")


def hands_of(monkeypatch: pytest.MonkeyPatch, *nodes: tuple[str, str], draining: Sequence[str] = ()) -> RayHands:
    def listed() -> list[dict[str, object]]:
        return [{"NodeID": node, "NodeManagerAddress": address, "Alive": True} for node, address in nodes]

    monkeypatch.setattr(ray, "nodes", listed)
    monkeypatch.setattr(controller_actor, "draining_nodes", lambda: list(draining))
    return RayHands(Settings())


@pytest.mark.parametrize("name", ["b" * 12, "10.0.0.2"])
def test_nobody_is_started_on_a_node_that_was_drained(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    hands = hands_of(monkeypatch, A, B)
    assert hands._emptiest_node("worker-0", []) == A[0]
    assert hands._emptiest_node("worker-1", ["worker-0"]) == B[0]
    hands.avoid(name)
    assert hands._emptiest_node("worker-2", ["worker-0"]) == A[0]
    assert hands.usable_nodes() == [A[0]]


def test_a_machine_that_comes_back_is_used_again(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = hands_of(monkeypatch, A, B)
    hands.avoid("10.0.0.2")
    hands_of(monkeypatch, A, C)
    assert hands.usable_nodes() == [A[0], C[0]]


def test_the_only_node_is_used_though_it_was_drained_and_a_worker_is_no_node(monkeypatch: pytest.MonkeyPatch) -> None:
    hands = hands_of(monkeypatch, A, draining=["b" * 12])
    hands.avoid("worker-0")
    assert hands.usable_nodes() == [A[0]]
    hands.avoid("10.0.0.1")
    assert hands._emptiest_node("worker-0", []) == A[0]
