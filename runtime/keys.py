"""Names of sessions and streams, and the key group that places a session.

An id is UTF-8 text, compared byte for byte and never normalised or coerced: `"7"`, `"07"` and `"７"` are
three sessions. A tenant holds no slash, so `tenant/session` can be read in one way only.
"""

from __future__ import annotations

import unicodedata
from typing import NamedTuple
from zlib import crc32

KEY_GROUPS = 1024
MAX_ID_BYTES = 200


class SessionKey(NamedTuple):
    tenant: str
    session: str


class InvalidId(ValueError):
    """An id that no session, stream or tenant may have; the text says why."""


def check_id(what: str, value: str) -> str:
    """Return `value` if it can name a session, stream or client; raise InvalidId saying why not.

    Raises TypeError for what is no text: `7` is not taken for `"7"`.
    """
    if not isinstance(value, str):
        raise TypeError(f"{what} {value!r} is no text")
    if not value:
        raise InvalidId(f"{what} is empty")
    try:
        size = len(value.encode())
    except UnicodeEncodeError:
        raise InvalidId(f"{what} is not valid Unicode text") from None
    if size > MAX_ID_BYTES:
        raise InvalidId(f"{what} has {size} bytes, more than {MAX_ID_BYTES}")
    if not value.isprintable() and any(unicodedata.category(char) == "Cc" for char in value):
        raise InvalidId(f"{what} has a control character: {value!r}")
    return value


def check_tenant(value: str) -> str:
    check_id("tenant", value)
    if "/" in value:
        raise InvalidId(f"tenant has a slash: {value!r}")
    return value


def key_group(key: SessionKey) -> int:
    """The unit of placement and migration that a session belongs to, in [0, KEY_GROUPS)."""
    return crc32(f"{key.tenant}/{key.session}".encode()) % KEY_GROUPS
