"""A worker that has more to read than it can: what waits in its inbox is not silence."""

from __future__ import annotations

import pytest

from runtime import messages as m
from runtime.engine.policies import BatchPolicy, OrderPolicy
from runtime.keys import SessionKey
from tests.runtime.dispatch.desk import FRAMES, Desk

TURN_S = 0.4
SEGMENTS = 16
"""of each stream: a slice of the inbox"""


def message_of(session: str, streams: tuple[str, ...], first: int = 1) -> m.Segments:
    """So many segments of each stream from this number on; the streams alternate in time."""
    return m.Segments(
        tuple(
            m.StreamSegments(
                session,
                stream,
                1,
                tuple(
                    m.SegmentEntry(number, 0.2 * number + 0.1 * place, FRAMES)
                    for number in range(first, first + SEGMENTS)
                ),
            )
            for place, stream in enumerate(streams)
        )
    )


def slow_turns(desk: Desk, turns: int) -> None:
    for _ in range(turns):
        desk.now_s += TURN_S
        desk.dispatcher.work(desk.now_s)
        desk.jobs += desk.dispatcher.store.take()
        desk.run_jobs()
        desk.told += [(to, message) for to, message in desk.dispatcher.outbox.take() if isinstance(message, m.Nack)]


def refusals(desk: Desk) -> list[m.Nack]:
    return [message for _, message in desk.told if isinstance(message, m.Nack)]


@pytest.mark.parametrize("connections", [1, 12])
def test_streams_whose_segments_wait_to_be_looked_at_are_waited_for(connections: int) -> None:
    desk = Desk(order=OrderPolicy(lateness_s=0.5, idle_timeout_s=2.0), batch=BatchPolicy(max_segments=8))
    sessions = [f"s{number}" for number in range(12)]
    owners = [b"p%d" % (number % connections) for number in range(12)]
    for who in sorted(set(owners)):
        desk.hello(who)
    for who, session in zip(owners, sessions, strict=True):
        desk.say(who, m.Open(session, "left", "audio", 1), m.Open(session, "right", "audio", 1))
    for first in (1, 1 + SEGMENTS):
        for who, session in zip(owners, sessions, strict=True):
            desk.deliver_message(who, message_of(session, ("left", "right"), first))
    slow_turns(desk, 120)
    assert not refusals(desk), "a segment that was sent in order was refused"
    settled = [desk.dispatcher.engine.sessions[SessionKey("default", name)].settled_version for name in sessions]
    assert settled == [4 * SEGMENTS] * len(sessions), "silence is known once all is read"


def test_a_tenant_s_backlog_does_not_keep_another_s_silent_sessions_from_settling() -> None:
    desk = Desk(order=OrderPolicy(idle_timeout_s=2.0), batch=BatchPolicy(max_segments=8))
    desk.hello(b"quiet", "quiet")
    desk.hello(b"loud", "loud")
    desk.say(b"quiet", m.Open("s", "mic", "audio", 1))
    desk.say(b"loud", m.Open("s", "mic", "audio", 1))
    desk.publish(b"quiet", "s", 1)
    for first in range(1, 40 * SEGMENTS, SEGMENTS):
        desk.deliver_message(b"loud", message_of("s", ("mic",), first))
    slow_turns(desk, 8)
    engine = desk.dispatcher.engine
    assert engine.sessions[SessionKey("quiet", "s")].settled_version == 1
    assert engine.sessions[SessionKey("loud", "s")].settled_version == 0
