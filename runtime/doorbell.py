"""Wakes a thread that waits in a poll: any thread may ring, the bell is quiet again once heard."""

from __future__ import annotations

import socket
import threading


class Doorbell:
    """Register `fileno()` for reading with the poller."""

    def __init__(self) -> None:
        self._hear, self._ring = socket.socketpair()
        self._hear.setblocking(False)
        self._ring.setblocking(False)
        self._closing = threading.Lock()
        self._closed = False

    def ring(self) -> None:
        """Nothing happens once it is closed."""
        with self._closing:  # or the ring might go into a file that has got the closed one's number
            if self._closed:
                return
            try:
                self._ring.send(b"!")
            except BlockingIOError:  # so many rings wait unheard that one more tells nothing new
                return

    def hear(self) -> None:
        """Take all rings so far."""
        try:
            while len(self._hear.recv(4096)) == 4096:
                pass
        except BlockingIOError:
            return

    def fileno(self) -> int:
        return self._hear.fileno()

    def close(self) -> None:
        with self._closing:
            self._closed = True
            self._hear.close()
            self._ring.close()
