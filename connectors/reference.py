"""The options of docs/connectors.md, made from the models themselves.

python -m connectors.reference docs/connectors.md      writes them between the two marks of that page
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from connectors.config import ConnectOptions, SourceEntry
from connectors.kinds import AnyEncoder, AnySource

BEGIN = "<!-- options: made by python -m connectors.reference -->"
END = "<!-- end of options -->"


def reference() -> str:
    """Markdown: the file's own options, then every kind of source and of encoder with the head of its module."""
    parts = ["## Options of the file\n"]
    parts += [_section(model, path) for model, path in _nested(ConnectOptions, "")]
    parts.append("## Sources\n")
    parts += [_kind(model) for model in _members(AnySource)]
    parts.append("## Encoders\n")
    parts += [_kind(model) for model in _members(AnyEncoder)]
    return "\n".join(parts)


def with_reference(page: str) -> str:
    """The page with what is between its marks made anew. ValueError if it has no marks."""
    before, begin, rest = page.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise ValueError("the page has no marks for its options")
    made = re.sub(r"\n{3,}", "\n\n", reference())
    return f"{before}{BEGIN}\n\n{made}\n{END}{after}"


def _nested(model: type[BaseModel], path: str) -> Iterator[tuple[type[BaseModel], str]]:
    """The models inside this one that are not kinds of sources or encoders, with where they stand in the file."""
    yield model, path
    for name, field in model.model_fields.items():
        inner = [part for part in _members(field.annotation) if _is_model(part)]
        if len(inner) == 1 and name not in ("from_", "encoder"):
            many = {"sources": "sources.NAME", "routes": "routes[]"}.get(name, name)
            yield from _nested(inner[0], f"{path}.{many}".lstrip("."))


def _is_model(kind: Any) -> bool:
    return inspect.isclass(kind) and issubclass(kind, BaseModel)


def _members(annotation: Any) -> list[Any]:
    """The classes that an annotation is made of, whatever stands around them."""
    origin = typing.get_origin(annotation)
    if origin is None or origin is Literal:
        return [annotation]
    found: list[Any] = []
    for part in typing.get_args(annotation):
        if not isinstance(part, FieldInfo):
            found += _members(part)
    return found


def _section(model: type[BaseModel], path: str) -> str:
    title = f"### `{path}`\n" if path else "### The file\n"
    return f"{title}\n{_table(model)}"


def _kind(model: type[BaseModel]) -> str:
    head = inspect.getdoc(importlib.import_module(model.__module__)) or ""
    nested = [part for field in model.model_fields.values() for part in _members(field.annotation) if _is_model(part)]
    tables = [f"Each of its `{_name_of(model, part)}`:\n\n{_table(part)}" for part in nested]
    return "\n".join([f"### `kind: {model.model_fields['kind'].default}`\n", head, "", _table(model), *tables])


def _name_of(model: type[BaseModel], part: type[BaseModel]) -> str:
    return next(name for name, field in model.model_fields.items() if part in _members(field.annotation))


def _table(model: type[BaseModel]) -> str:
    rows = ["| option | values | default | meaning |", "| --- | --- | --- | --- |"]
    for name, field in model.model_fields.items():
        if name != "kind" or len(typing.get_args(field.annotation)) > 1:
            meaning = (field.description or "").replace("|", "\\|")
            shown = field.alias or name
            rows.append(f"| `{shown}` | {_values(field)} | {_default(field)} | {meaning} |")
    return "\n".join(rows) + "\n"


def _values(field: FieldInfo) -> str:
    return _type(field.annotation) + _bounds(field)


def _type(annotation: Any) -> str:
    origin = typing.get_origin(annotation)
    if annotation is type(None):
        return ""
    if origin is Literal:
        return ", ".join(f"`{_in_yaml(choice)}`" for choice in typing.get_args(annotation))
    if origin is typing.Annotated:  # beside the type stands a rule, which the meaning tells
        return _type(typing.get_args(annotation)[0])
    if origin in (tuple, list):
        return f"list of {_type(typing.get_args(annotation)[0])}"
    if origin is dict:
        return "map" if typing.get_args(annotation)[1] is Any else f"map of {_type(typing.get_args(annotation)[1])}"
    if origin in (typing.Union, types.UnionType):
        parts = [_type(part) for part in typing.get_args(annotation)]
        return " or ".join(dict.fromkeys(part for part in parts if part))
    names = {str: "text", int: "whole number", float: "number", bool: "`true`, `false`", SourceEntry: "source"}
    return names.get(annotation, "section" if _is_model(annotation) else str(annotation))


def _bounds(field: FieldInfo) -> str:
    bounds = [
        f"{sign} {getattr(rule, name):g}"
        for rule in field.metadata
        for name, sign in (("gt", ">"), ("ge", "≥"), ("lt", "<"), ("le", "≤"))
        if hasattr(rule, name)
    ]
    return f", {', '.join(bounds)}" if bounds else ""


def _default(field: FieldInfo) -> str:
    if field.is_required():
        return "required"
    default = field.default
    if default in (None, "", (), {}) or isinstance(default, BaseModel):
        return ""
    return f"`{_in_yaml(list(default) if isinstance(default, tuple) else default)}`"


def _in_yaml(value: Any) -> str:
    return json.dumps(value).strip('"')


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m connectors.reference PAGE")
    page = Path(sys.argv[1])
    page.write_text(with_reference(page.read_text()))
