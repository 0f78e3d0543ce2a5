"""What can go wrong at a connector.

ConnectorError
 ├── SourceUnavailable   the other side does not answer now: tried again, with back-off
 ├── SourceBroken        what it gave cannot be used, now or later: the source stops, with the reason
 │    └── MissingExtra   the package it needs is not installed; the text names the extra
 ├── BadSample           one sample cannot be used: it is counted and left out, the source goes on
 ├── ConfigError         the YAML file is wrong; the text has file and line
 └── SnapshotError       what was kept of an earlier run does not fit this one

Foreign exceptions never leave a connector: `translated` turns them into these by the transport's table.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from types import ModuleType


class ConnectorError(Exception):
    """Base of all errors of the connectors."""


class SourceUnavailable(ConnectorError):
    """The other side does not answer now."""


class SourceBroken(ConnectorError):
    """What the source gave cannot be used."""


class MissingExtra(SourceBroken):
    """A package is not installed."""

    def __init__(self, module: str, extra: str) -> None:
        super().__init__(f"needs the package {module!r}: pip install 'grf-runtime[{extra}]'")
        self.module = module
        self.extra = extra

    def __reduce__(self) -> tuple[type[MissingExtra], tuple[str, str]]:
        """Encoders send their errors from other processes."""
        return type(self), (self.module, self.extra)


class BadSample(ConnectorError):
    """One sample cannot be used. `reason` is one of a few words, for the metrics."""

    def __init__(self, reason: str, text: str) -> None:
        super().__init__(text)
        self.reason = reason

    def __reduce__(self) -> tuple[type[BadSample], tuple[str, str]]:
        return type(self), (self.reason, str(self))


class ConfigError(ConnectorError):
    """The file is wrong."""


class SnapshotError(ConnectorError):
    """What was kept of an earlier run does not fit this one."""


Translation = Mapping[type[BaseException], type[ConnectorError]]
"""by class of the foreign exception; the nearest class in its method resolution order counts"""

NETWORK: Translation = {OSError: SourceUnavailable}
"""part of the table of every transport over a network: refused and lost connections, names that do not resolve"""
DISK: Translation = {OSError: SourceBroken, MemoryError: SourceBroken}
"""part of the table of every transport that reads files: not there, not allowed, places in it that cannot be"""


def translate(error: BaseException, table: Translation) -> ConnectorError | None:
    """Ours for a foreign exception; None if the table does not know it, which is a defect of the connector."""
    for kind in type(error).__mro__:
        ours = table.get(kind)
        if ours is not None:
            strerror = error.strerror if isinstance(error, OSError) else None  # without number and name of the file
            text = strerror or str(error) or type(error).__name__
            return ours("foreign", text) if ours is BadSample else ours(text)
    return None


@contextmanager
def translated(table: Translation, what: str) -> Iterator[None]:
    """Foreign exceptions leave as ours, with `what` in front: the address, the file."""
    try:
        yield
    except ConnectorError:
        raise
    except Exception as error:
        ours = translate(error, table)
        if ours is None:
            raise
        raise type(ours)(f"{what}: {ours}") from error


def need(module: str, extra: str) -> ModuleType:
    """Import what an extra brings. Raises MissingExtra."""
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if error.name is None or not module.startswith(error.name.partition(".")[0]):
            raise
        raise MissingExtra(module, extra) from error
