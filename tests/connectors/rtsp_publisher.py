"""`python -m tests.connectors.rtsp_publisher FILE ADDRESS`: publishes a file by RTSP once somebody listens there.

A process of its own: PyAV keeps the interpreter's lock while it waits for the other side's answer.
"""

from __future__ import annotations

import sys
import time

import av


def publish(file: str, address: str) -> None:
    with (
        av.open(file) as source,
        av.open(address, "w", format="rtsp", options={"rtsp_transport": "tcp"}) as target,
    ):
        streams = {stream.index: target.add_stream_from_template(stream) for stream in source.streams}
        for packet in source.demux():
            if packet.dts is not None:
                packet.stream = streams[packet.stream.index]
                target.mux(packet)


if __name__ == "__main__":
    for _ in range(200):
        try:
            publish(*sys.argv[1:])
            break
        except av.error.ConnectionRefusedError:
            time.sleep(0.05)
