"""MessagePack as everything here is packed: `msgpack.packb` makes a packer each time, which takes longer than what is
short takes to be packed."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import msgpack


class _PackerOfThread(threading.local):
    def __init__(self) -> None:
        self.pack: Callable[[Any], bytes] = msgpack.Packer().pack


_PACKER = _PackerOfThread()


def pack(value: Any) -> bytes:
    return _PACKER.pack(value)
