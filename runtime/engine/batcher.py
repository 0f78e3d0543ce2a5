"""Which sessions take part in the next micro-batch.

Continuous batching: whenever the device is free, take what is ready; nobody waits for a timer. A session is ready
while its next segment waits, and takes part in a batch at most once, because its steps follow one another.

Tenants take fair turns (start-time fair queueing on frames of work): the tenant that has been served least goes
next, and one that was away does not catch up on what it did not ask for. Within a tenant, the session that has
been ready longest goes first.
"""

from __future__ import annotations

import heapq
from collections import OrderedDict
from collections.abc import Callable, Iterator

from runtime.engine.policies import BatchPolicy
from runtime.keys import SessionKey


class _TenantQueue:
    __slots__ = ("served_frames", "sessions")

    def __init__(self) -> None:
        self.sessions: OrderedDict[SessionKey, int] = OrderedDict()
        """ready sessions, longest first, with the frames of their next segment"""
        self.served_frames = 0


class ReadyQueue:
    """Sessions whose next segment waits for its step."""

    def __init__(self, policy: BatchPolicy) -> None:
        self._policy = policy
        self._tenants: dict[str, _TenantQueue] = {}
        self._round_frames = 0
        """served frames of the tenant that was served last: where a tenant joins that comes back"""
        self._length = 0

    def __len__(self) -> int:
        return self._length

    def add(self, key: SessionKey, frames: int) -> None:
        """The session's next segment, of so many frames, is ready. Adding it again only corrects the frames."""
        tenant = self._tenants.get(key.tenant)
        if tenant is None:
            tenant = self._tenants[key.tenant] = _TenantQueue()
        if not tenant.sessions:
            tenant.served_frames = max(tenant.served_frames, self._round_frames)
        if key not in tenant.sessions:
            self._length += 1
        tenant.sessions[key] = frames

    def discard(self, key: SessionKey) -> None:
        tenant = self._tenants.get(key.tenant)
        if tenant is not None and tenant.sessions.pop(key, None) is not None:
            self._length -= 1

    def take(self, fits: Callable[[SessionKey], bool], at_most: int | None = None) -> list[SessionKey]:
        """The sessions of the next batch, `at_most` so many, within the policy's limits. `fits` may pass one over; it
        stays ready."""
        most = self._policy.max_segments if at_most is None else min(at_most, self._policy.max_segments)
        batch: list[SessionKey] = []
        longest = 0
        turns = self._turns()
        while turns and len(batch) < most:
            _, name, tenant, waiting = turns[0]
            item = next(waiting, None)
            if item is None:
                heapq.heappop(turns)
                continue
            key, frames = item
            longest = max(longest, frames)
            if batch and longest * (len(batch) + 1) > self._policy.max_padded_frames:
                break
            if fits(key):
                batch.append(key)
                self._round_frames = max(self._round_frames, tenant.served_frames)
                tenant.served_frames += frames
                heapq.heapreplace(turns, (tenant.served_frames, name, tenant, waiting))
        for key in batch:
            del self._tenants[key.tenant].sessions[key]
        self._length -= len(batch)
        self._forget_idle_tenants()
        return batch

    def _turns(self) -> list[tuple[int, str, _TenantQueue, Iterator[tuple[SessionKey, int]]]]:
        """A heap of the tenants with ready sessions, by what they have been served, and those sessions."""
        tenants = [(name, tenant) for name, tenant in self._tenants.items() if tenant.sessions]
        turns = [(tenant.served_frames, name, tenant, iter(tenant.sessions.items())) for name, tenant in tenants]
        heapq.heapify(turns)  # names differ: what stands behind them is never compared
        return turns

    def _forget_idle_tenants(self) -> None:
        if not self._length:  # everyone has got all that was asked for: the turns begin anew
            self._tenants.clear()
            self._round_frames = 0
            return
        idle = [
            name
            for name, tenant in self._tenants.items()
            if not tenant.sessions and tenant.served_frames <= self._round_frames
        ]
        for name in idle:
            del self._tenants[name]
