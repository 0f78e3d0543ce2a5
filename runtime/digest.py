"""One digest of all settled states: equal digests mean the same segments by name, each once, in the same order.

It is made of the sessions' lineages (event times, modalities, streams and sequence numbers of the segments that were
fused, not their frames), so it is equal to the bit on every device. That the frames were the same the contexts show,
which agree within a tolerance (docs/decisions/version.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from hashlib import blake2b
from typing import NamedTuple

import numpy as np

from runtime.messages import Float32Array

TOLERANCE = 1e-5
"""of `difference`, for contexts in fp32 on one machine; docs/operations.md says what of other devices"""


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


def difference(one_KD: Float32Array, other_KD: Float32Array) -> float:
    """The largest between two contexts, as a part of their largest number where that is above 1: rounding grows with
    the numbers that are rounded."""
    size = max(1.0, float(np.abs(one_KD).max()), float(np.abs(other_KD).max()))
    return float(np.abs(one_KD - other_KD).max()) / size
