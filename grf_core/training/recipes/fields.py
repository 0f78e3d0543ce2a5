"""Reading a recipe file's mapping: every error is a `RecipeError` that names the field."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

from grf_core.training.checks import RecipeError

Made = TypeVar("Made")


def made(cls: type[Made], field: str, value: object) -> Made:
    """A frozen dataclass of what is given; its own errors say which of its fields."""
    given = mapping(field, value, tuple(entry.name for entry in fields(cls)))  # type: ignore[arg-type]  # "a dataclass" has no type
    try:
        return cls(**given)
    except RecipeError as error:
        raise error.inside(field) from None
    except (TypeError, ValueError) as error:
        raise RecipeError(field, str(error)) from None


def mapping(field: str, value: object, known: Sequence[str] | None = None) -> dict[Any, Any]:
    if not isinstance(value, Mapping):
        raise RecipeError(field, f"a mapping is expected, not {type(value).__name__}")
    for name in value if known is not None else ():
        if name not in (known or ()):
            raise RecipeError(f"{field}.{name!s:.60}", f"unknown; there is {', '.join(known or ())}")
    return dict(value)


def text(field: str, value: object) -> str:
    if not isinstance(value, str) or not value:
        raise RecipeError(field, f"{value!r:.60} is not text")
    return value
