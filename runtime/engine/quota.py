"""What one tenant may ask of a worker: sessions, pending bytes, segments per second. Time is an argument."""

from __future__ import annotations

from dataclasses import dataclass
from math import inf

from runtime.engine.policies import QuotaPolicy

BYTE_LIMITS = ("tenant_bytes", "worker_bytes")
"""the refusals that mean: too much has landed that is not settled"""
SHARE_OF_THOSE_AHEAD = 0.75
"""of the limits on bytes. The rest is kept for the streams that hold their sessions back: what has landed ahead of
them settles only when they go on, and would otherwise keep them out for good"""
SLOW_DOWN_MS = 50
"""how long a sender waits that met a limit which the engine's own work relieves"""


@dataclass(frozen=True, slots=True)
class Refusal:
    """Over a limit: the reason, and when to try again."""

    reason: str
    text: str
    retry_after_ms: int = SLOW_DOWN_MS


class Usage:
    """What one tenant uses of the worker now."""

    __slots__ = ("pending_bytes", "refilled_s", "rows_ahead", "sessions", "tokens")

    def __init__(self, tokens: float) -> None:
        self.sessions = 0
        self.pending_bytes = 0
        self.rows_ahead = 0
        """rows of the slab that hold what is fused and not settled"""
        self.tokens = tokens
        self.refilled_s = -inf


class Quotas:
    def __init__(self, policy: QuotaPolicy) -> None:
        self._policy = policy
        self._tenants: dict[str, Usage] = {}
        self.pending_bytes = 0
        """of all tenants together"""
        self.largest_segment_bytes = SHARE_OF_THOSE_AHEAD * min(policy.max_pending_bytes, policy.worker_pending_bytes)
        """a larger one could wait for ever: it may have to enter ahead of others"""

    def refuses_session(self, tenant: str) -> Refusal | None:
        usage = self._tenants.get(tenant)
        if usage is not None and usage.sessions >= self._policy.max_sessions:
            return Refusal("tenant_sessions", f"tenant has {self._policy.max_sessions} sessions in memory", 1000)
        return None

    def refuses_segment(self, tenant: str, n_bytes: int, now_s: float, share: float = 1.0) -> Refusal | None:
        """A reason not to take a segment now; None takes a token from the tenant's rate.

        `share` of the limits on bytes is what this kind of segment may use.
        """
        usage = self._usage(tenant)
        if usage.pending_bytes + n_bytes > share * self._policy.max_pending_bytes:
            return Refusal("tenant_bytes", f"tenant has {usage.pending_bytes} bytes pending")
        if self.pending_bytes + n_bytes > share * self._policy.worker_pending_bytes:
            return Refusal("worker_bytes", f"worker has {self.pending_bytes} bytes pending")
        rate = self._policy.max_segments_per_s
        if rate == inf:
            return None
        usage.tokens = min(max(rate, 1.0), usage.tokens + rate * (now_s - usage.refilled_s))
        usage.refilled_s = now_s
        if usage.tokens < 1.0:
            wait_ms = int(1000 * (1.0 - usage.tokens) / rate) + 1
            return Refusal("tenant_rate", f"tenant sends more than {rate:g} segments/s", wait_ms)
        usage.tokens -= 1.0
        return None

    def session_added(self, tenant: str) -> Usage:
        usage = self._usage(tenant)
        usage.sessions += 1
        return usage

    def session_removed(self, tenant: str) -> None:
        usage = self._usage(tenant)
        usage.sessions -= 1
        if not (usage.sessions or usage.pending_bytes) and self._policy.max_segments_per_s == inf:
            del self._tenants[tenant]

    def pending(self, tenant: str, n_bytes: int) -> None:
        """Bytes that have landed (positive) or are settled or dropped (negative)."""
        self._usage(tenant).pending_bytes += n_bytes
        self.pending_bytes += n_bytes

    def _usage(self, tenant: str) -> Usage:
        usage = self._tenants.get(tenant)
        if usage is None:
            usage = self._tenants[tenant] = Usage(min(self._policy.max_segments_per_s, 1e18))
        return usage
