"""Settled versions, kept and stored as runs or as rows: read back as they were, and nothing else is taken for them."""

from __future__ import annotations

from itertools import count
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from runtime.history import (
    ROWS_FORMAT,
    RUN_FORMAT,
    SettledRun,
    SettledStep,
    decode_history,
    decode_row,
    encode_history,
    encode_row,
)
from runtime.records import HistoryRow, RecordError
from tests.runtime.test_records import numbers, times, values

history_rows = st.builds(HistoryRow, st.integers(0, 2**62), times, st.text(), numbers, numbers, times)
floats = st.floats(width=32, allow_nan=False)


@st.composite
def settled_runs(draw: st.DrawFn) -> tuple[SettledRun, list[HistoryRow]]:
    """A run, and what is to be read of it."""
    modalities, outputs = draw(st.lists(st.text(), min_size=1, max_size=3)), draw(st.integers(0, 3))
    first = draw(st.integers(1, 2**62))
    steps, rows = [], []
    for version, time_s in zip(count(first), draw(st.lists(times, max_size=5)), strict=False):
        rank = draw(st.integers(0, len(modalities) - 1))
        width = outputs + len(modalities) + 1
        row = draw(st.lists(floats, min_size=width, max_size=width))
        steps.append(SettledStep(version, time_s, rank, np.array(row, "<f4").tobytes()))
        rows.append(
            HistoryRow(version, time_s, modalities[rank], tuple(row[:outputs]), tuple(row[outputs:-1]), row[-1])
        )
    return SettledRun(steps, modalities), rows


@given(history_rows)
def test_a_row_is_read_back_as_it_was_written(row: HistoryRow) -> None:
    assert decode_row(row.version, row.event_time_s, encode_row(row)) == row


@given(st.lists(history_rows, max_size=5))
def test_rows_are_read_back_as_they_were_written(rows: list[HistoryRow]) -> None:
    assert decode_history(encode_history(rows)) == rows


@given(settled_runs())
def test_a_run_is_read_back_as_it_was_written(drawn: tuple[SettledRun, list[HistoryRow]]) -> None:
    run, rows = drawn
    assert decode_history(encode_history(run)) == list(run) == run[:] == rows


# ---- what is no history ----


@settings(max_examples=200)
@given(st.binary(max_size=60) | values.map(msgpack.packb))
def test_arbitrary_bytes_are_a_row_or_refused(data: bytes) -> None:
    try:
        row = decode_row(1, 2.0, data)
    except RecordError:
        return
    assert all(type(value) is float for value in (*row.outputs, *row.shares, row.gate))


@settings(max_examples=400)
@given(
    st.binary(max_size=60)
    | values.map(lambda rows: msgpack.packb((ROWS_FORMAT, rows)))
    | st.lists(values, min_size=5, max_size=5).map(lambda fields: msgpack.packb((RUN_FORMAT, *fields)))
)
def test_arbitrary_bytes_are_history_or_refused(data: bytes) -> None:
    try:
        rows = decode_history(data)
    except RecordError:
        return
    assert all(type(value) is float for row in rows for value in (*row.outputs, *row.shares, row.gate))


DAMAGED_RUNS: dict[str, tuple[Any, ...]] = {
    "one time less": (5, ["imu"], bytes(8), bytes(4), bytes(24)),
    "one rank less": (5, ["imu"], bytes(16), bytes(2), bytes(24)),
    "half a row less": (5, ["imu"], bytes(16), bytes(4), bytes(20)),
    "a modality that is not there": (5, ["imu"], bytes(8), b"\1\0", bytes(12)),
    "fewer numbers than modalities": (5, ["imu", "audio"], bytes(8), bytes(2), bytes(8)),
}


@pytest.mark.parametrize("name", DAMAGED_RUNS)
def test_a_run_that_contradicts_itself_is_refused(name: str) -> None:
    with pytest.raises(RecordError, match=r"^history: "):
        decode_history(msgpack.packb((RUN_FORMAT, *DAMAGED_RUNS[name])))


def test_history_of_another_format_is_refused() -> None:
    with pytest.raises(RecordError, match="history format 3, this version reads 1 and 2"):
        decode_history(msgpack.packb((RUN_FORMAT + 1, [])))
