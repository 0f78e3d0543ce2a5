"""How long to wait before a source is opened again. Pure."""

from __future__ import annotations

import random

from pydantic import Field

from connectors.base import Options


class RestartOptions(Options):
    first_s: float = Field(0.5, gt=0, description="Wait before a source is opened again after its first failure.")
    max_s: float = Field(30.0, gt=0, description="It doubles with each failure, up to this.")


class Backoff:
    """Doubles with each failure in a row; a source that was open for `max_s` begins anew."""

    def __init__(self, options: RestartOptions, rng: random.Random | None = None) -> None:
        self._options = options
        self._failures = 0
        self._rng = rng or random.Random()

    def after_failure(self, *, lasted_s: float) -> float:
        """Seconds to wait, within a quarter of what it should be: many sources of one broker do not come as one."""
        if lasted_s >= self._options.max_s:
            self._failures = 0
        wait_s = min(self._options.first_s * 2.0 ** min(self._failures, 30), self._options.max_s)
        self._failures += 1
        return wait_s * self._rng.uniform(0.75, 1.0)
