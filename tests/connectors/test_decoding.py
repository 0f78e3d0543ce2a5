from __future__ import annotations

import json
import math
from types import SimpleNamespace
from typing import Any

import msgpack
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from connectors.base import Sample
from connectors.decoding import Decoded, DecodeOptions, decoder
from connectors.errors import BadSample
from connectors.stream_keys import KeyOptions, key_reader

NESTED = b"[" * 990 + b"]" * 990
"""as deep as a parser goes, and deeper than `str` does"""


def decoded(value: Any, event_time_s: float | None = None, **options: Any) -> Decoded:
    return decoder(DecodeOptions.model_validate(options))(Sample("k", value, event_time_s))


def test_fields_of_json_by_path_time_in_its_unit_and_an_identity() -> None:
    message = json.dumps({"acc": {"x": 1, "y": [2.5, 3]}, "at": 1500, "id": 17}).encode()
    found = decoded(message, format="json", fields=["acc.x", "acc.y.1"], time="at", time_unit="ms", identity="id")
    assert found.values.tolist() == [[1.0, 3.0]]
    assert (found.stamp_s, found.identity) == (1.5, "17")


def test_many_frames_in_one_message_are_timed_backwards_from_the_last() -> None:
    message = json.dumps({"s": [[1, 2], [3, 4], [5, 6]]}).encode()
    found = decoded(message, 10.0, format="json", values="s", rate_hz=4)
    assert found.values.tolist() == [[1, 2], [3, 4], [5, 6]]
    assert found.before_s is not None
    assert found.before_s.tolist() == [0.5, 0.25, 0.0]
    assert found.stamp_s == 10.0


def test_msgpack_csv_floats_and_values() -> None:
    assert decoded(msgpack.packb({"v": [1, 2]}), format="msgpack", values="v").values.tolist() == [[1, 2]]
    line = decoded(b"12.5; 1 ;2\n", format="csv", delimiter=";", fields=[2, 1], time=0)
    assert (line.values.tolist(), line.stamp_s) == ([[2, 1]], 12.5)
    packed = np.array([[1, 2], [3, 4]], dtype="<i2").tobytes()
    assert decoded(packed, format="floats", dtype="<i2", width=2, scale=0.5).values.tolist() == [[0.5, 1], [1.5, 2]]
    assert decoded(np.array([1, 2, 3])).values.tolist() == [[1, 2, 3]]


def test_every_feature_may_have_a_scale_of_its_own() -> None:
    options: dict[str, Any] = {"format": "json", "values": "v", "scale": [0.5, 10]}
    assert decoded(b'{"v": [[2, 3], [4, 5]]}', **options).values.tolist() == [[1, 30], [2, 50]]
    with pytest.raises(BadSample, match="values have 3 features, scale has 2 numbers"):
        decoded(b'{"v": [2, 3, 4]}', **options)
    for wrong in ({"format": "json", "fields": ["a", "b", "c"]}, {"format": "floats", "width": 3}):
        with pytest.raises(ValidationError, match="scale has 2 numbers, for 3 features"):
            DecodeOptions.model_validate({**wrong, "scale": [0.5, 10]})


@pytest.mark.parametrize(
    ("format", "fields", "value", "key"),
    [
        ("json", ["device.id", "unit"], b'{"device": {"id": "car-7"}, "unit": 3}', "k/car-7/3"),
        ("msgpack", ["id"], msgpack.packb({"id": "\u00e4"}), "k/\u00e4"),
        ("csv", [1], b"2.5,car-7\n", "k/car-7"),
        ("values", ["header.frame_id"], SimpleNamespace(header=SimpleNamespace(frame_id="left")), "k/left"),
    ],
)
def test_what_a_payload_says_of_whose_it_is_becomes_part_of_its_key(
    format: str, fields: list[str | int], value: Any, key: str
) -> None:
    assert key_reader(KeyOptions.model_validate({"format": format, "fields": fields}))(Sample("k", value)) == key


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        *((value, "field") for value in (b"{}", b'{"id": null}', b'{"id": 7.5}', b'{"id": true}', b'{"id": ""}')),
        *((b'{"id": "' + text + b'"}', "field") for text in (b"\\ud800", b"a\\u0000", b"x" * 201)),
        *((value, "format") for value in (b"car-7", b"\xff")),
    ],
)
def test_a_payload_that_does_not_say_whose_it_is_is_left_out(value: bytes, reason: str) -> None:
    with pytest.raises(BadSample) as bad:
        key_reader(KeyOptions(fields=("id",)))(Sample("k", value))
    assert bad.value.reason == reason


def test_a_key_of_columns_is_told_by_number() -> None:
    with pytest.raises(ValidationError, match="columns are numbers"):
        KeyOptions(format="csv", fields=("id",))


def test_an_object_as_ros_messages_are_is_read_by_its_fields() -> None:
    message = SimpleNamespace(header=SimpleNamespace(stamp=SimpleNamespace(sec=5, nanosec=250_000_000)), v=[1.0, 2.0])
    found = decoded(message, fields=["v.1", "v.0"], time="header.stamp", time_unit="ros")
    assert (found.values.tolist(), found.stamp_s) == ([[2, 1]], 5.25)


def test_iso_times_without_a_zone_are_utc() -> None:
    options = {"format": "json", "values": "v", "time": "t", "time_unit": "iso8601"}
    assert decoded(b'{"v": [1], "t": "1970-01-01T00:00:02"}', None, **options).stamp_s == 2.0
    assert decoded(b'{"v": [1], "t": "1970-01-01T01:00:02+01:00"}', None, **options).stamp_s == 2.0


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("2026-10-25T01:59:59", 1792886399.0),
        ("2026-10-25T02:30:00", 1792888200.0),  # the clocks go through this hour twice: the first is meant
        ("2026-10-25T03:00:00", 1792893600.0),
        ("2026-10-25T02:30:00+01:00", 1792891800.0),
    ],
)
def test_iso_times_without_a_zone_may_be_local(text: str, seconds: float) -> None:
    options = {"fields": [1], "time": 0, "time_unit": "iso8601", "time_zone": "Europe/Berlin"}
    assert decoded(f"{text},5", None, format="csv", **options).stamp_s == seconds


def test_a_zone_that_is_none_is_refused() -> None:
    with pytest.raises(ValidationError, match="'Berlin' is no time zone, as Europe/Berlin is"):
        DecodeOptions(time_zone="Berlin")


@pytest.mark.parametrize("option", ["time", "identity"])
def test_what_would_not_be_looked_at_is_refused(option: str) -> None:
    with pytest.raises(ValidationError, match="say fields or values too"):
        DecodeOptions.model_validate({option: "id"})


def test_a_missing_field_is_refused_or_left_to_the_encoder() -> None:
    assert math.isnan(decoded(b'{"a": null}', format="json", fields=["a"], missing="nan").values[0, 0])
    assert math.isnan(decoded(b"{}", format="json", fields=["a"], missing="nan").values[0, 0])


def test_zeros_stand_for_what_is_missing_where_that_is_asked_for() -> None:
    assert decoded(b'{"a": null, "b": 2}', format="json", fields=["a", "b"], missing="zero").values.tolist() == [[0, 2]]
    assert decoded([1.0, math.nan], missing="zero").values.tolist() == [[1, 0]]


def test_columns_of_what_the_source_gives_as_numbers() -> None:
    assert decoded(np.array([5, 6, 7]), fields=[2, 0]).values.tolist() == [[7, 5]]


@pytest.mark.parametrize(
    ("value", "options", "reason"),
    [
        (b"{", {"format": "json", "fields": ["a"]}, "format"),
        (b"\xff", {"format": "json", "fields": ["a"]}, "format"),
        (b"[" * 100_000, {"format": "json", "fields": ["a"]}, "format"),
        (b"{}", {"format": "json", "fields": ["a"]}, "field"),
        (b'{"a": "high"}', {"format": "json", "fields": ["a"]}, "field"),
        (b'{"a": null}', {"format": "json", "fields": ["a"]}, "field"),
        (b'{"a": NaN}', {"format": "json", "fields": ["a"]}, "not_finite"),
        (b'{"a": 1e39}', {"format": "json", "fields": ["a"]}, "not_finite"),
        (b'{"a": 1, "n": NaN, "b": ' + b"9" * 400 + b"}", {"format": "json", "fields": ["a", "b"]}, "not_finite"),
        (b'{"a": 1, "i": ' + NESTED + b"}", {"format": "json", "fields": ["a"], "identity": "i"}, "format"),
        (b'{"a": 1, "t": ' + NESTED + b"}", {"format": "json", "fields": ["a"], "time": "t"}, "format"),
        (b'{"v": [[1], [1, 2]]}', {"format": "json", "values": "v"}, "shape"),
        (b'{"v": []}', {"format": "json", "values": "v"}, "shape"),
        (b'{"v": [[[1]]]}', {"format": "json", "values": "v"}, "shape"),
        (b'{"a": 1, "t": "noon"}', {"format": "json", "fields": ["a"], "time": "t"}, "time"),
        (b'{"a": 1, "t": Infinity}', {"format": "json", "fields": ["a"], "time": "t"}, "time"),
        (b'{"a": 1, "t": 5}', {"format": "json", "fields": ["a"], "time": "t", "time_unit": "iso8601"}, "time"),
        (b"\xc1", {"format": "msgpack", "fields": ["a"]}, "format"),
        (b"1,2\n3,4", {"format": "csv", "fields": [0]}, "format"),
        (b"1", {"format": "csv", "fields": [1]}, "field"),
        (b"12345", {"format": "floats"}, "length"),
        (b"", {"format": "floats"}, "length"),
        (b"\0\0\xc0\x7f", {"format": "floats"}, "not_finite"),
        (b"abc", {"format": "values"}, "format"),
        (["a", "b"], {"format": "values"}, "shape"),
        ({"a": 1}, {"format": "values"}, "format"),
        (None, {"format": "values", "fields": ["a"]}, "field"),
        (SimpleNamespace(a=1), {"fields": ["__class__"]}, "field"),
    ],
)
def test_a_message_that_is_not_as_described_is_told_by_a_reason(
    value: Any, options: dict[str, Any], reason: str
) -> None:
    with pytest.raises(BadSample) as told:
        decoded(value, 0.0, **options)
    assert told.value.reason == reason


@given(
    st.binary(max_size=200) | st.text(max_size=80).map(str.encode),
    st.sampled_from(["json", "msgpack", "csv", "floats"]),
)
def test_any_bytes_are_numbers_or_a_bad_sample(value: bytes, kind: str) -> None:
    options: dict[str, Any] = {"format": kind, "fields": [0]} if kind != "floats" else {"format": kind, "width": 3}
    try:
        found = decoded(value, 1.0, **options)
    except BadSample:
        return
    assert found.values.dtype == np.float32
    assert np.isfinite(found.values).all()


@pytest.mark.parametrize(
    ("options", "wrong"),
    [
        ({"format": "json"}, "either fields or values"),
        ({"format": "json", "fields": ["a"], "values": "b"}, "either fields or values"),
        ({"format": "csv"}, "the columns"),
        ({"format": "csv", "fields": ["a"]}, "columns are numbers"),
        ({"format": "floats", "time": "t"}, "nothing but numbers"),
        ({"format": "floats", "dtype": "object"}, "dtype"),
    ],
)
def test_options_that_cannot_be_are_refused(options: dict[str, Any], wrong: str) -> None:
    with pytest.raises(ValidationError, match=wrong):
        DecodeOptions.model_validate(options)
