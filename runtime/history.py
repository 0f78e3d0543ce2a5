"""The settled versions of a session in a row: as they are kept, as they are stored, as they are read.

Under load a session settles hundreds of versions between two saves, and hardly any is ever read. So they are kept and
stored as the numbers lie in the slab, and become rows only for those who read them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from typing import NamedTuple, overload

import msgpack
import numpy as np

from runtime.packer import pack
from runtime.records import HistoryRow, RecordError, count, time_s

RUN_FORMAT = 2
ROWS_FORMAT = 1


class SettledStep(NamedTuple):
    """One settled version."""

    version: int
    event_time_s: float
    rank: int
    """of its modality in the model"""
    numbers: bytes
    """float32, little-endian: outputs, shares and gate, as in `Slab.host`"""


class SettledRun(Sequence[HistoryRow]):
    """Versions of one session and one model that follow one another, oldest first."""

    __slots__ = ("modalities", "steps")

    def __init__(self, steps: Sequence[SettledStep], modalities: Sequence[str]) -> None:
        self.steps = steps
        self.modalities = modalities

    def __len__(self) -> int:
        return len(self.steps)

    @overload
    def __getitem__(self, index: int) -> HistoryRow: ...
    @overload
    def __getitem__(self, index: slice) -> list[HistoryRow]: ...
    def __getitem__(self, index: int | slice) -> HistoryRow | list[HistoryRow]:
        if isinstance(index, slice):
            return [self._row(step) for step in self.steps[index]]
        return self._row(self.steps[index])

    def _row(self, step: SettledStep) -> HistoryRow:
        numbers = np.frombuffer(step.numbers, "<f4").tolist()
        return _row(step.version, step.event_time_s, self.modalities[step.rank], numbers, len(self.modalities))


def first_version(rows: Sequence[HistoryRow]) -> int:
    """Of at least one row."""
    return rows.steps[0].version if isinstance(rows, SettledRun) else rows[0].version


def encode_history(rows: Sequence[HistoryRow]) -> bytes:
    """Rows that follow one another, as one piece: what a session has settled between two saves."""
    if isinstance(rows, SettledRun):
        return _encode_run(rows)
    return pack((ROWS_FORMAT, rows))


def _encode_run(run: SettledRun) -> bytes:
    versions, times_s, ranks, numbers = zip(*run.steps, strict=True) if run else ((), (), (), ())
    length = len(versions)
    columns = struct.pack(f"<{length}d", *times_s), struct.pack(f"<{length}H", *ranks), b"".join(numbers)
    return pack((RUN_FORMAT, versions[0] if versions else 0, run.modalities, *columns))


def decode_history(data: bytes) -> list[HistoryRow]:
    """Rows as `encode_history` was given them. Raises RecordError for anything but what it made."""
    try:
        number, *fields = msgpack.unpackb(data)
        if number == RUN_FORMAT:
            return _decode_run(*fields)
        if number == ROWS_FORMAT:
            (rows,) = fields
            return [_checked_row(*row) for row in rows]
        raise RecordError(f"history format {number!r}, this version reads {ROWS_FORMAT} and {RUN_FORMAT}")
    except RecordError:
        raise
    except Exception as error:  # any shape of foreign bytes may come out of a store
        raise RecordError(f"history: {error or type(error).__name__}") from None


def _decode_run(version: int, modalities: list[str], times: bytes, ranks: bytes, numbers: bytes) -> list[HistoryRow]:
    times_s, ranked = np.frombuffer(times, "<f8").tolist(), np.frombuffer(ranks, "<u2").tolist()
    rows = np.frombuffer(numbers, "<f4").reshape(len(times_s), -1 if times_s else 0).tolist()
    names = [str(name) for name in modalities]
    return [
        _row(count(version) + place, at_s, names[rank], row, len(names))
        for place, (at_s, rank, row) in enumerate(zip(times_s, ranked, rows, strict=True))
    ]


def _row(version: int, event_time_s: float, modality: str, numbers: list[float], modalities: int) -> HistoryRow:
    *outputs_and_shares, gate = numbers
    outputs = len(outputs_and_shares) - modalities
    if outputs < 0:
        raise RecordError(f"history: {len(numbers)} numbers for {modalities} modalities")
    return HistoryRow(
        version, event_time_s, modality, tuple(outputs_and_shares[:outputs]), tuple(outputs_and_shares[outputs:]), gate
    )


def encode_row(row: HistoryRow) -> bytes:
    """All of a row but its version and event time, which stand beside it in an archive."""
    return pack([row.modality, row.outputs, row.shares, row.gate])


def decode_row(version: int, event_time_s: float, data: bytes) -> HistoryRow:
    try:
        return _checked_row(version, event_time_s, *msgpack.unpackb(data))
    except Exception as error:  # as in decode_history
        raise RecordError(f"history of version {version}: {error or type(error).__name__}") from None


def _checked_row(
    version: int, event_time_s: float, modality: str, outputs: list[float], shares: list[float], gate: float
) -> HistoryRow:
    numbers = tuple(map(float, outputs)), tuple(map(float, shares))
    return HistoryRow(count(version), time_s(event_time_s), str(modality), *numbers, float(gate))
