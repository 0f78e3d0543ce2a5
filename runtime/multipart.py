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
    return _with_rest(socket, [socket.recv(_LAST)])


def receive_of_connection(socket: ZmqSocket) -> tuple[bytes, list[bytes]]:
    """Of a ROUTER: which connection it comes from, and its message. Raises zmq.Again if there is none."""
    return socket.recv(_LAST), _with_rest(socket, [socket.recv(_LAST)])  # behind the connection comes at least a frame


def _with_rest(socket: ZmqSocket, frames: list[bytes]) -> list[bytes]:
    while socket.getsockopt(_HAS_MORE):  # slower than to receive a frame
        frames.append(socket.recv(_LAST))
    return frames
