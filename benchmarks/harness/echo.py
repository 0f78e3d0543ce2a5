"""The floor: one Python thread that reads segments over ZeroMQ and msgpack, looks at their tensors and acknowledges.

It speaks just enough of the wire protocol that the loads of `load.py` cannot tell it from a worker. It checks nothing,
orders nothing, fuses nothing, saves nothing.
"""

from __future__ import annotations

from typing import Any

import msgpack
import numpy as np
import zmq

from benchmarks.harness.processes import Process, say, wait_for_go

WINDOW_SEGMENTS, WINDOW_BYTES = 1024, 8 << 20


class EchoProcess(Process):
    """Started, and serving at `endpoint`."""

    def __init__(self) -> None:
        super().__init__("benchmarks.harness.echo", {})
        self.endpoint: str = self.hear()["endpoint"]


def acknowledge(groups: list[Any], tensors: list[bytes]) -> list[Any]:
    rows = []
    for (session, stream, _, _, entries), tensor in zip(groups, tensors, strict=True):
        np.frombuffer(tensor, np.float32)
        last = entries[-1][0]
        rows.append([session, stream, last, last, last, last])
    return rows


def main() -> None:
    context = zmq.Context()
    socket = context.socket(zmq.ROUTER)
    port = socket.bind_to_random_port("tcp://127.0.0.1")
    say({"endpoint": f"tcp://127.0.0.1:{port}"})
    poller = zmq.Poller()
    poller.register(socket, zmq.POLLIN)
    poller.register(0, zmq.POLLIN)
    while True:
        ready = dict(poller.poll())
        if 0 in ready and not wait_for_go():
            break
        while True:
            try:
                identity, header, *tensors = socket.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                break
            _, tag, *fields = msgpack.unpackb(header)
            answer: list[Any]
            if tag == "segments":
                answer = ["ack", acknowledge(fields[0], tensors)]
            elif tag == "hello":
                answer = ["welcome", "echo", "echo", "default", {}, WINDOW_SEGMENTS, WINDOW_BYTES, 16 << 20]
            elif tag == "open":
                answer = ["opened", fields[0], fields[1], 0, 0, 0]
            else:
                continue
            socket.send_multipart([identity, msgpack.packb([1, *answer])])
    context.destroy(linger=0)


if __name__ == "__main__":
    main()
