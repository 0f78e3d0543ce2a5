"""One digest of all settled states: equal digests mean the same segments, each once, in the same order.

It is made of the sessions' lineages (names, times and numbers of the segments that were fused), so it is equal to the
bit on every device; the contexts themselves agree within the tolerance of the device (1e-5 in fp32).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple


class SettledSession(NamedTuple):
    tenant: str
    session: str
    version: int
    lineage: str
    """hexadecimal"""


def digest_of(sessions: Iterable[SettledSession]) -> str:
    """Over sessions in any order."""
    digest = blake2b(digest_size=16)
    for tenant, session, version, lineage in sorted(sessions):
        for part in (tenant, session, str(version), lineage):
            encoded = part.encode()
            digest.update(len(encoded).to_bytes(4, "little") + encoded)
    return digest.hexdigest()
