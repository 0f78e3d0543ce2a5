from __future__ import annotations

import re
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from connectors import reference
from connectors.config import ConnectOptions
from connectors.kinds import AnyEncoder, AnySource
from connectors.metrics import ConnectMetrics
from connectors.reference import with_reference

PAGE = Path(__file__).parents[2] / "docs" / "connectors.md"


def test_the_options_of_the_page_are_those_of_the_models() -> None:
    page = PAGE.read_text()
    assert with_reference(page) == page, "run `.venv/bin/python -m connectors.reference docs/connectors.md`"


def test_types_are_in_the_words_of_who_writes_the_file() -> None:
    """No name or notation of Python's: `False`, `None`, a class with its arguments."""
    rows = re.findall(r"^\| `\w+` \| (.*?) \| (.*?) \|", reference.reference(), flags=re.M)
    assert len(rows) > 100
    assert [row for row in rows if re.search(r"\b(None|True|False)\b|[A-Za-z_]\(|<class", " ".join(row))] == []


def test_every_option_has_a_description() -> None:
    models = [*reference._members(AnySource), *reference._members(AnyEncoder)]
    models += [model for model, _ in reference._nested(ConnectOptions, "")]
    for model in models:
        for name, field in model.model_fields.items():
            assert field.description or name == "kind", f"{model.__name__}.{name}"


def test_a_page_without_marks_is_refused() -> None:
    with pytest.raises(ValueError, match="no marks"):
        with_reference("# A page")


def test_every_metric_is_on_the_page() -> None:
    registry = CollectorRegistry()
    ConnectMetrics(registry, [])
    names = {family.name + ("_total" if family.type == "counter" else "") for family in registry.collect()}
    assert names == set(re.findall(r"^\| `(grf_connect_\w+)` \|", PAGE.read_text(), flags=re.M))
