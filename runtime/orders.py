"""What the controller tells a worker in answer to its beat."""

from __future__ import annotations

from dataclasses import dataclass

from runtime.routes import Table


@dataclass(frozen=True, slots=True)
class Orders:
    epochs: dict[int, int]
    """the key groups it owns, with their epochs: all of them, every time"""
    releases: tuple[int, ...] = ()
    """of these, the ones it is to give up: flush, forget, and say so in the next beat"""
    table: Table | None = None
    """unless the worker has it: its beat said so"""
    table_stamp: str = ""
    """to be repeated in the beats to come"""
    leaves: bool = False
    """it is to say in its beats from now on that it leaves"""
