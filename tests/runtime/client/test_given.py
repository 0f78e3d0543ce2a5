"""What a user may hand over, and what is told of the rest."""

from __future__ import annotations

import datetime
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest

from runtime import messages as m
from runtime.client.asking import ask_history, ask_state, ask_to_delete
from runtime.client.given import as_frames, as_time_s
from runtime.keys import InvalidId
from runtime.wire import decode, encode


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((2, 3), "datetime64[s]"),
        np.zeros((2, 3), "timedelta64[ns]"),
        np.zeros((2, 3), complex),
        np.array([["1", "2"]]),
        [["1", "2"]],
        [[np.datetime64("2026-01-01", "ns")]],
        [[np.complex64(1j)]],
        np.array([["1", 2.0]], object),
        np.array([[np.datetime64("2026-01-01", "ns")]], object),
    ],
)
def test_frames_that_numpy_would_make_numbers_of_are_refused(frames: npt.NDArray[Any]) -> None:
    with pytest.raises(TypeError, match="are no numbers"):
        as_frames(frames)


def test_frames_with_masked_values_are_refused_and_those_without_are_taken() -> None:
    values = np.arange(6.0).reshape(2, 3)
    with pytest.raises(ValueError, match="masked"):
        as_frames(np.ma.masked_greater(values, 3.0))
    assert np.array_equal(as_frames(np.ma.masked_greater(values, 9.0)), values)


def test_questions_may_be_asked_with_numbers_of_numpy() -> None:
    state = ask_state("s", np.int64(5), 0.0, False).question(1)  # type: ignore[arg-type]  # as who checks no types may
    assert decode(encode(state)) == m.Query(1, "s", 5, 0, False)
    past = ask_history("s", np.float32(1.5), np.int64(2), np.int32(3)).question(2)  # type: ignore[arg-type]  # likewise
    assert decode(encode(past)) == m.QueryHistory(2, "s", 1.5, 2.0, 3)


def test_a_date_is_no_time_to_ask_for() -> None:
    with pytest.raises(TypeError, match="is no number of seconds"):
        ask_history("s", datetime.datetime(2026, 1, 1), 2.0, 3)  # type: ignore[arg-type]  # likewise


@pytest.mark.parametrize("time_s", [np.array("1.5"), np.array(np.datetime64("2026-01-01", "ns")), np.str_("1.5")])
def test_nor_is_one_that_numpy_has_wrapped(time_s: Any) -> None:
    with pytest.raises(TypeError, match="is no number of seconds"):
        as_time_s(time_s)


def test_times_and_frames_of_any_kind_of_number_are_taken() -> None:
    assert [as_time_s(time_s) for time_s in (2, np.float32(2), np.array(2), np.int8(2))] == [2.0] * 4
    for frames in ([[1, 2]], [[True, 2.0]], np.array([[1, 2.0]], object), [np.ones(2), np.ones(2)]):
        assert as_frames(frames).dtype == np.float32


def test_a_session_that_cannot_be_is_not_asked_for() -> None:
    """Of an id that is no text the message could not even be written."""
    for session in ("\udcff", "\x1b", ""):
        with pytest.raises(InvalidId):
            ask_state(session, 0, 0.0, include_context=False)
        with pytest.raises(InvalidId):
            ask_history(session, 0.0, 1.0, 1)
        with pytest.raises(InvalidId):
            ask_to_delete(session)
