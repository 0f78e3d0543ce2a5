"""Modules that `make compiled` has compiled: they are imported in place of the source beside them."""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

RUNTIME = Path(__file__).parent


def compiled_modules(package: Path = RUNTIME) -> list[Path]:
    """The compiled file of each module that has a source."""
    suffix = EXTENSION_SUFFIXES[0]
    return sorted(path for path in package.rglob(f"*{suffix}") if _source(path).exists())


def stale_modules(package: Path = RUNTIME) -> list[str]:
    """Modules whose source has changed since they were compiled: what runs is not what one reads."""
    modules = compiled_modules(package)
    return [path.name.partition(".")[0] for path in modules if _source(path).stat().st_mtime > path.stat().st_mtime]


def _source(compiled: Path) -> Path:
    return compiled.with_name(compiled.name.partition(".")[0] + ".py")
