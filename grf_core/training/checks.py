"""Checks of what a person may write into a recipe; each error names the field as it is written there."""

from __future__ import annotations

import math
from collections.abc import Sequence


class RecipeError(ValueError):
    """A recipe that cannot work. `field` is its path, as in `schedule.epochs`."""

    def __init__(self, field: str, reason: str) -> None:
        super().__init__(f"{field}: {reason}")
        self.field = field
        self.reason = reason

    def __reduce__(self) -> tuple[type[RecipeError], tuple[str, str]]:
        """It may be raised in another process."""
        return type(self), (self.field, self.reason)

    def inside(self, parent: str) -> RecipeError:
        return RecipeError(f"{parent}.{self.field}", self.reason)


def check_int(field: str, value: object, at_least: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < at_least:
        raise RecipeError(field, f"{value!r:.60} is not a whole number of {at_least} or more")


def check_float(field: str, value: object, low: float, high: float = math.inf) -> None:
    """Finite, and low <= value <= high."""
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise RecipeError(field, f"{value!r:.60} is not a finite number")
    if not low <= value <= high:
        raise RecipeError(field, f"{value} is not from {low} to {high}" if high < math.inf else f"{value} < {low}")


def check_positive(field: str, value: object) -> None:
    check_float(field, value, 0.0)
    if value == 0:
        raise RecipeError(field, "0 is not more than 0")


def check_choice(field: str, value: object, choices: Sequence[str]) -> None:
    if value not in choices:
        raise RecipeError(field, f"{value!r:.60} is not one of {', '.join(choices)}")
