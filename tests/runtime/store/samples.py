"""Records as the engine makes them, in the size and the oddities that a store must take."""

from __future__ import annotations

from dataclasses import replace
from math import inf
from zlib import crc32

import numpy as np

from runtime.keys import SessionKey, key_group
from runtime.records import HistoryRow, SessionRecord, StreamRecord
from runtime.store.base import Store

LOOK_ALIKES = [
    "é",
    "e\u0301",
    "É",
    "Ａ",
    "A",
    "a",
    "ﬀ",
    "ff",
    "7",
    "07",
    "７",
    " a",
    "a ",
    "a/b",
    "👩‍🚀",
    "\U0010ffff",
    "\uffff",
]
"""ids that meet when somebody normalises, folds, trims or converts them"""


def key(session: str, tenant: str = "default") -> SessionKey:
    return SessionKey(tenant, session)


def history_row(version: int, event_time_s: float | None = None) -> HistoryRow:
    outputs = (0.5, -float(version))
    return HistoryRow(version, float(version) if event_time_s is None else event_time_s, "imu", outputs, (1.0,), 0.25)


def record(of: SessionKey, version: int = 1, rows: range | None = None, width: int = 256) -> SessionRecord:
    """A record of about 1.5 KB with history rows of the versions `rows` (its own version, if not given)."""
    rng = np.random.default_rng(crc32(f"{of} {version}".encode()))
    return SessionRecord(
        key=of,
        model_digest="digest-1",
        incarnation="worker-1",
        version=version,
        event_time_s=float(version),
        watermark_s=-inf,
        lineage=rng.bytes(16),
        context_KD=rng.normal(size=(1, width)).astype(np.float32),
        outputs=(0.5, -float(version)),
        shares=(0.75, 0.25),
        gate=0.125,
        freshness_s={"imu": float(version)},
        streams=(
            StreamRecord("cam_left", "video", version, (version + 2,), -inf),
            StreamRecord("é", "imu", 0, (), inf),
        ),
        history=tuple(history_row(row) for row in (range(version, version + 1) if rows is None else rows)),
    )


def owned(store: Store, *keys: SessionKey, owner: str = "worker-1") -> dict[int, int]:
    """Claim the groups of these keys, whoever has them now; the epochs to save with."""
    current = store.ownership()
    groups = sorted({key_group(of) for of in keys})
    return store.claim(owner, {group: current[group].epoch if group in current else 0 for group in groups})


def save(store: Store, *records: SessionRecord) -> dict[int, int]:
    epochs = owned(store, *(saved.key for saved in records))
    store.save(epochs, records)
    return epochs


def versions(store: Store, of: SessionKey) -> list[int]:
    return [row.version for row in store.history(of, -inf, inf, 1000)]


def assert_same(found: SessionRecord | None, saved: SessionRecord) -> None:
    """Equal in every field but the history, to the bit."""
    assert found is not None
    assert found.context_KD is not None
    assert saved.context_KD is not None
    assert found.context_KD.tobytes() == saved.context_KD.tobytes()
    assert found.context_KD.shape == saved.context_KD.shape
    plain = replace(saved, context_KD=None, history=())
    assert replace(found, context_KD=None, history=()) == plain
