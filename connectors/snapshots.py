"""Where snapshots are kept: one small file for each source, replaced in one step.

A file is there whole or not at all: written beside, synced, renamed, and the folder synced. It holds a digest of the
options that the numbering depends on: a snapshot of other routes would continue other windows. One of fewer routes, to
which others were added behind, is good for all: what comes by those begins where it was taken.
"""

from __future__ import annotations

import asyncio
import fcntl
import hashlib
import json
import logging
import os
import zlib
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol, Self

import msgpack

from connectors.base import Options
from connectors.errors import SnapshotError

log = logging.getLogger("grf.connect")

MAGIC = b"GRFSNAP1"
SUFFIX = ".snapshot"


class Snapshots(Protocol):
    """Of one source."""

    def load(self) -> Any:
        """The last one saved; None if there is none. Raises SnapshotError."""

    async def save(self, snapshot: Any) -> None:
        """Once this returns, no crash loses it. Raises OSError."""


def digest(*parts: Options | str) -> str:
    """Of all that a snapshot's meaning depends on. Defaults are left out: a new option changes no snapshot."""
    texts = [part if isinstance(part, str) else part.model_dump_json(exclude_defaults=True) for part in parts]
    return hashlib.sha256(json.dumps(texts).encode()).hexdigest()[:16]


class SnapshotFile:
    def __init__(self, path: Path, digest: str, *of_fewer_routes: str) -> None:
        self._path = path
        self._digest = digest
        self._of_fewer_routes = of_fewer_routes

    def load(self) -> Any:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return None
        checksum, body = data[len(MAGIC) : len(MAGIC) + 4], data[len(MAGIC) + 4 :]
        if not data.startswith(MAGIC) or int.from_bytes(checksum, "little") != zlib.crc32(body):
            raise SnapshotError(f"{self._path}: not a snapshot, or damaged")
        kept = msgpack.unpackb(body, strict_map_key=False)
        if kept["digest"] in self._of_fewer_routes:
            log.warning("%s: routes were added since; they begin where the last run was", self._path)
        elif kept["digest"] != self._digest:
            raise SnapshotError(
                f"{self._path}: the routes, window or clock of this source are not those it was made with. "
                "Undo the change to go on (routes may be added behind the others); or remove the file, and all is read "
                "again that the source still has: then "
                "give its sessions or streams new names in the routes, for under the old ones the runtime would take "
                "the first segments for those that it has seen, or refused, before"
            )
        return kept["snapshot"]

    async def save(self, snapshot: Any) -> None:
        await asyncio.to_thread(self._write, snapshot)

    def _write(self, snapshot: Any) -> None:
        body = msgpack.packb({"digest": self._digest, "snapshot": snapshot})
        beside = self._path.with_suffix(".new")
        with beside.open("wb") as file:
            file.write(MAGIC + zlib.crc32(body).to_bytes(4, "little") + body)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(self._path)
        folder = os.open(self._path.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


class StateFolder:
    """The folder of one `grf connect`; a second one on it is refused."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = -1

    def __enter__(self) -> Self:
        self._path.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._path / "lock", os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(self._lock)
            raise SnapshotError(f"{self._path}: another grf connect keeps its state here") from None
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        os.close(self._lock)

    def of(self, source: str, digest: str, *of_fewer_routes: str) -> SnapshotFile:
        return SnapshotFile(self._path / f"{source}{SUFFIX}", digest, *of_fewer_routes)
