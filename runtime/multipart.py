"""Multipart messages of ZeroMQ, without waiting.

As `zmq.Socket.send_multipart` and `recv_multipart`, a third of the time: those combine their flags, which are enums,
anew for every part.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import zmq

from runtime.wire import MAX_GROUPS, Frame

MAX_FRAMES = 1 + MAX_GROUPS
"""of a message to a worker: its header, and a tensor for each group of segments"""
SKIPPED_AT_ONCE = 256

_LAST = int(zmq.DONTWAIT)
_MORE = int(zmq.DONTWAIT | zmq.SNDMORE)
_HAS_MORE = int(zmq.RCVMORE)

ZmqSocket = zmq.Socket[bytes]


def send(socket: ZmqSocket, frames: Sequence[Frame]) -> None:
    """Raises zmq.Again if the message cannot be taken now: then none of it was."""
    for frame in frames[:-1]:
        socket.send(frame, _MORE)
    socket.send(frames[-1], _LAST)


def receive(socket: ZmqSocket) -> list[bytes]:
    """Raises zmq.Again if there is no message."""
    return _with_rest(socket, [socket.recv(_LAST)], sys.maxsize)


def receive_of_connection(socket: ZmqSocket) -> tuple[bytes, list[bytes]]:
    """Of a ROUTER: which connection it comes from, and its message. Raises zmq.Again if there is none.

    Of one with more than MAX_FRAMES only the first are returned, one more than that: the rest is for `skip_rest`.
    """
    # Behind the connection comes at least a frame.
    return socket.recv(_LAST), _with_rest(socket, [socket.recv(_LAST)], MAX_FRAMES)


def skip_rest(socket: ZmqSocket) -> bool:
    """Drop some of the rest of a message, which may have millions of frames; True if that was all."""
    for _ in range(SKIPPED_AT_ONCE):
        if not socket.getsockopt(_HAS_MORE):
            return True
        socket.recv(_LAST)
    return False


def _with_rest(socket: ZmqSocket, frames: list[bytes], most: int) -> list[bytes]:
    while len(frames) <= most and socket.getsockopt(_HAS_MORE):  # slower than to receive a frame
        frames.append(socket.recv(_LAST))
    return frames
