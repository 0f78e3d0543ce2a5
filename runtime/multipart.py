"""Multipart messages of ZeroMQ, without waiting.

As `zmq.Socket.send_multipart` and `recv_multipart`, a third of the time: those combine their flags, which are enums,
anew for every part.
"""

from __future__ import annotations

from collections.abc import Sequence

import zmq

from runtime.wire import Frame

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
    frames = [socket.recv(_LAST)]
    while socket.getsockopt(_HAS_MORE):
        frames.append(socket.recv(_LAST))
    return frames
