"""What the fields of a message may be, and the limits of a message: whoever sends them is not trusted."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from runtime.nack_codes import FinalCode

Frame = bytes | memoryview

MAX_MESSAGE_BYTES = 16 << 20
MAX_GROUPS = 4096
MAX_SEGMENTS = 4096
"""in one message: each costs time, however empty"""
MAX_SEQUENCE = 2**62
MAX_EVENT_TIME_S = 1e15
"""either way: beyond it a float does not tell tenths of a second apart"""


class DecodeError(ValueError):
    """A peer sent something that is not a message; `code` is the Nack code that tells it so."""

    def __init__(self, code: FinalCode, text: str) -> None:
        super().__init__(text)
        self.code: FinalCode = code

    def __reduce__(self) -> tuple[type[DecodeError], tuple[FinalCode, str]]:
        """It may be raised in another process."""
        return type(self), (self.code, str(self))


def malformed(text: str) -> DecodeError:
    return DecodeError("malformed", text)


def brief(value: Any) -> str:
    """What a peer sent, for a text: it may be of any size, and nested deeper than `repr` can follow."""
    return repr(value)[:80] if type(value) in (int, float, str) else f"of type {type(value).__name__}"


NUMBER = "a number"
"""an integer stands for a float of the same value"""
CHECKS: dict[Any, tuple[Callable[[Any], bool], str]] = {
    int: (lambda value: type(value) is int and -(2**63) <= value < 2**63, "an integer"),
    float: (lambda value: type(value) in (int, float) and not math.isnan(value), NUMBER),
    str: (lambda value: type(value) is str, "text"),
    bool: (lambda value: type(value) is bool, "true or false"),
    list: (lambda value: type(value) is list, "an array"),
    bytes: (lambda value: type(value) is bytes, "bytes"),
    dict[str, Any]: (lambda value: isinstance(value, dict), "a map"),
    list[str]: (lambda value: isinstance(value, list) and all(type(item) is str for item in value), "texts"),
    list[dict[str, Any]]: (lambda value: isinstance(value, list) and all(isinstance(m, dict) for m in value), "maps"),
}


def is_of(value: Any, kind: type) -> bool:
    return CHECKS[kind][0](value)
