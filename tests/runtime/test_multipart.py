"""Messages of many frames: those of no protocol are not read in one go, for everybody else waits meanwhile."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import zmq

from runtime import multipart


@pytest.fixture
def connected() -> Iterator[tuple[multipart.ZmqSocket, multipart.ZmqSocket]]:
    context = zmq.Context()
    with context, context.socket(zmq.ROUTER) as router, context.socket(zmq.DEALER) as dealer:
        router.bind("inproc://many")
        dealer.connect("inproc://many")
        yield router, dealer


def test_a_message_of_too_many_frames_is_read_in_part_and_its_rest_skipped_in_pieces(
    connected: tuple[multipart.ZmqSocket, multipart.ZmqSocket],
) -> None:
    router, dealer = connected
    multipart.send(dealer, [b"long"] * (multipart.MAX_FRAMES + 1 + 2 * multipart.SKIPPED_AT_ONCE))
    multipart.send(dealer, [b"next", b"one"])
    identity, frames = multipart.receive_of_connection(router)
    assert len(frames) == multipart.MAX_FRAMES + 1
    assert [multipart.skip_rest(router) for _ in range(3)] == [False, False, True]
    assert multipart.receive_of_connection(router) == (identity, [b"next", b"one"])


def test_the_longest_message_of_the_protocol_is_read_whole(
    connected: tuple[multipart.ZmqSocket, multipart.ZmqSocket],
) -> None:
    router, dealer = connected
    multipart.send(dealer, [b"whole"] * multipart.MAX_FRAMES)
    _, frames = multipart.receive_of_connection(router)
    assert frames == [b"whole"] * multipart.MAX_FRAMES
    assert multipart.skip_rest(router)


def test_a_client_reads_whatever_its_worker_sends(
    connected: tuple[multipart.ZmqSocket, multipart.ZmqSocket],
) -> None:
    router, dealer = connected
    multipart.send(dealer, [b"hello"])
    identity, _ = multipart.receive_of_connection(router)
    sent = [b"state"] * (2 * multipart.MAX_FRAMES)
    multipart.send(router, [identity, *sent])
    assert multipart.receive(dealer) == sent
