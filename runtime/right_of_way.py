"""The model goes first: while it steps, the store's thread waits with whatever needs the interpreter's lock.

A step is about sixty operations, each of which lets go of that lock and wants it back. Against a thread that is busy
in Python each of them would wait for its turn, and a step of one millisecond takes fifteen.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator
from typing import Self, TypeVar

LONGEST_WAIT_S = 0.05
"""the store waits no longer at a time: a model that is slow for its own reasons must not keep it from committing"""

T = TypeVar("T")


class RightOfWay:
    """One thread enters; another asks between two pieces of work."""

    def __init__(self) -> None:
        self._free = threading.Event()
        self._free.set()

    def __enter__(self) -> Self:
        self._free.clear()
        return self

    def __exit__(self, *_: object) -> None:
        self._free.set()

    def giving_way(self, pieces: Iterable[T]) -> Iterator[T]:
        """The same pieces, each as soon as the way is free."""
        for piece in pieces:
            if not self._free.is_set():
                self._free.wait(LONGEST_WAIT_S)
            yield piece
