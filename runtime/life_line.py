"""A TCP connection that breaks the moment its other end's process dies: kernels close what their processes held.

The worker only listens; the kernel completes each connection by itself, so a stopped or busy worker keeps it up, and a
cut network says nothing. Whoever holds the connection hears of the end within milliseconds; Ray's own reference to an
actor took two seconds.
"""

from __future__ import annotations

import contextlib
import errno
import select
import socket
import time

CONNECT_WITHIN_S = 1.0
LISTENERS = 16
PROBES = 20


def hold_out(host: str) -> tuple[socket.socket, int]:
    """The worker's end: keep it open as long as the process lives; others connect to the port."""
    listener = socket.create_server((host, 0), backlog=LISTENERS)
    return listener, int(listener.getsockname()[1])


def wait_for_end(host: str, port: int) -> bool:
    """Block until the process at this port has ended, for certain: True. False if that cannot be said."""
    # Refused, out of reach, or reset because the process ended at this very moment: its kernel is asked next.
    with contextlib.suppress(OSError), socket.create_connection((host, port), CONNECT_WITHIN_S) as line:
        line.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        select.select([line], [], [])
        line.recv(1)
    return refuses(host, port)


def refuses(host: str, port: int) -> bool:
    """Does nobody listen there any more? Only its kernel says so; it takes a moment to tear a process down."""
    for _ in range(PROBES):
        with socket.socket() as probe:
            probe.settimeout(CONNECT_WITHIN_S / PROBES)
            code = probe.connect_ex((host, port))
        if code == errno.ECONNREFUSED:
            return True
        time.sleep(CONNECT_WITHIN_S / PROBES)
    return False
