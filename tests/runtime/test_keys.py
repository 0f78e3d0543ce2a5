from __future__ import annotations

import unicodedata

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runtime.keys import KEY_GROUPS, MAX_ID_BYTES, InvalidId, SessionKey, check_id, check_tenant, key_group

any_text = st.text(st.characters(), max_size=250)


@given(any_text)
def test_an_id_is_taken_as_it_is_or_refused_with_the_reason(value: str) -> None:
    if is_fit(value):
        assert check_id("session", value) is value
    else:
        with pytest.raises(InvalidId, match=r"^session "):
            check_id("session", value)


def is_fit(value: str) -> bool:
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        return False
    return 0 < size <= MAX_ID_BYTES and not any(unicodedata.category(char) == "Cc" for char in value)


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("", "session is empty"),
        ("x" * 201, "session has 201 bytes, more than 200"),
        ("é" * 101, "session has 202 bytes, more than 200"),
        ("a\nb", r"session has a control character: 'a\nb'"),
        ("\x00", r"session has a control character: '\x00'"),
        ("\x7f", r"session has a control character: '\x7f'"),
        ("\x85", r"session has a control character: '\x85'"),
        ("\ud800", "session is not valid Unicode text"),
    ],
)
def test_what_no_id_may_be(value: str, reason: str) -> None:
    with pytest.raises(InvalidId) as caught:
        check_id("session", value)
    assert str(caught.value) == reason


@pytest.mark.parametrize(
    "value", ["7", "07", "７", " ", "a/b", "../..", "é", "e\u0301", "😀", "x" * 200, "é" * 100, "\u200b"]
)
def test_what_an_id_may_be(value: str) -> None:
    assert check_id("session", value) == value


def test_a_tenant_holds_no_slash_so_that_a_key_reads_in_one_way_only() -> None:
    assert check_tenant("north") == "north"
    with pytest.raises(InvalidId, match="tenant has a slash"):
        check_tenant("north/1")


def test_two_encodings_of_an_id_are_two_sessions() -> None:
    ids = ["7", "07", "７", "7 ", "é", "e\u0301"]
    assert len({SessionKey("t", value) for value in ids}) == len(ids)
    assert len({key_group(SessionKey("t", value)) for value in ids}) == len(ids)


@given(st.text(max_size=50), st.text(max_size=50))
def test_every_session_has_a_key_group(tenant: str, session: str) -> None:
    assert 0 <= key_group(SessionKey(tenant, session)) < KEY_GROUPS


def test_key_groups_never_change_for_they_are_in_every_store() -> None:
    keys = [SessionKey("default", "1"), SessionKey("north", "camera/left"), SessionKey("é", "😀")]
    assert [key_group(key) for key in keys] == [38, 70, 195]


def test_sessions_spread_over_the_key_groups() -> None:
    groups = [key_group(SessionKey("default", f"session-{i}")) for i in range(20 * KEY_GROUPS)]
    counts = [groups.count(group) for group in range(KEY_GROUPS)]
    assert min(counts) > 0
    assert max(counts) < 3 * 20


@pytest.mark.parametrize("value", [7, None, b"abc", 0])
def test_what_is_no_text_is_no_id(value: object) -> None:
    with pytest.raises(TypeError):  # in the words of mypyc, once it is compiled
        check_id("session", value)  # type: ignore[arg-type]  # as who checks no types may
