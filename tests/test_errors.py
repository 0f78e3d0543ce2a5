"""Errors that cross from one process to another: of a pool, of an actor, of an encoder's process."""

from __future__ import annotations

import importlib
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
NAME = re.compile(r"^class (\w+)\(.*(?:Error|Exception|Refused|Broken|Closed|Sample)\b.*\):", re.MULTILINE)


def errors() -> Iterator[type[Exception]]:
    for package in ("grf_core", "runtime", "connectors"):
        for file in sorted((ROOT / package).rglob("*.py")):
            for name in NAME.findall(file.read_text()):
                error = getattr(importlib.import_module(".".join(file.relative_to(ROOT).with_suffix("").parts)), name)
                assert issubclass(error, Exception)
                yield error


@pytest.mark.parametrize("error", list(errors()), ids=str)
def test_an_error_arrives_in_another_process_as_it_was_raised(error: type[Exception]) -> None:
    takes_more = "__init__" in {name for ours in error.__mro__ if ours.__module__ != "builtins" for name in vars(ours)}
    raised = error(*inspect.signature(error).parameters) if takes_more else error("text")
    arrived = pickle.loads(pickle.dumps(raised))
    assert (type(arrived), str(arrived), vars(arrived)) == (error, str(raised), vars(raised))
