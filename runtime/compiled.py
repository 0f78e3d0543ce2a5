"""Which modules `make compiled` compiles, the path of a segment, and which of them have changed since.

A compiled module is imported in place of the source beside it, and does the same in less time. See
docs/decisions/compiled.md for what may stand in them.
"""

from __future__ import annotations

from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

RUNTIME = Path(__file__).parent
STAMP = ".compiled"
"""in a checkout, touched once all are compiled: sources are compared with it"""
PATH_OF_A_SEGMENT = (
    *("keys.py", "packer.py", "records.py", "history.py", "wire.py", "wire_tensors.py", "wire_values.py"),
    *("multipart.py", "unsent.py", "worker_loop.py"),
    *("client/published.py", "client/publisher_core.py", "client/send_queue.py", "client/stream_buffer.py"),
    *("engine/*.py", "dispatch/*.py"),
)
LEFT_OUT = frozenset(
    {
        *("engine/__init__.py", "dispatch/__init__.py"),
        # Settings read their annotations, of which a compiled class keeps the plain ones, and Ray pickles them.
        *("engine/policies.py", "dispatch/policy.py"),
        # A property test puts quotas in their place that refuse for no reason, and a compiled class has no other heirs.
        "engine/quota.py",
    }
)


def sources(package: Path = RUNTIME) -> list[Path]:
    """What is compiled."""
    found = sorted(path for pattern in PATH_OF_A_SEGMENT for path in package.glob(pattern))
    return [path for path in found if path.relative_to(package).as_posix() not in LEFT_OUT]


def compiled_modules(package: Path = RUNTIME) -> list[Path]:
    """The sources in whose place a compiled module is imported."""
    return [path for path in sources(package) if path.with_suffix(EXTENSION_SUFFIXES[0]).exists()]


def stale_modules(package: Path = RUNTIME) -> list[Path]:
    """Those that have changed since they were compiled: what runs is not what one reads."""
    stamp = package / STAMP
    if not stamp.exists():  # installed, where nobody changes anything
        return []
    return [path for path in compiled_modules(package) if path.stat().st_mtime > stamp.stat().st_mtime]
