"""Warnings of what is tried again and again, some of it four times a second: the same one is logged once a minute."""

from __future__ import annotations

import logging

AGAIN_AFTER_S = 60.0


class SeldomLog:
    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._said_s: dict[str, float] = {}
        """in the last minute"""

    def warn(self, now_s: float, what: str, error: Exception) -> None:
        """`what` fails, and why, in one line: Ray's errors have whole tracebacks in them."""
        self._said_s = {text: said_s for text, said_s in self._said_s.items() if now_s - said_s < AGAIN_AFTER_S}
        if what not in self._said_s:
            self._said_s[what] = now_s
            self._log.warning("%s: %s", what, str(error).partition("\n")[0])
