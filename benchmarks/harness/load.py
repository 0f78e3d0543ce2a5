"""Loads for a worker (or the echo), each a process of its own.

`raw` speaks the wire protocol with as little work per segment as Python allows, so that it is not what is measured: its
messages are as large as it is told, and it keeps the window full. `product` is `runtime.client.Publisher` as a user has
it. `subscriber` follows every session, grants credit and throws the updates away.

A publishing process says `{"ready": ...}` once its streams are open and what the plan has `before` that is fused. It
starts at the next line it is sent, and says what came of it: when it sent its first segment, when all were fused and
all durable (the monotonic clock, which is the same in all processes), its processor time, and how many segments were
refused.
"""

from __future__ import annotations

import select
import sys
import time
from collections.abc import Sequence
from typing import Any

import msgpack
import zmq

from benchmarks.harness.blocks import BLOCKS, MODALITIES
from benchmarks.harness.processes import Process, plan_of_this_process, say, wait_for_go
from runtime.client import Publisher, Receipt

STEP_S = 0.05
"""of event time between two segments of a session"""
DIFFERENT_SEGMENTS = 64
SILENT_AFTER_S = 30.0
CREDIT = 256


class LoadProcess(Process):
    """A publishing process; `start`, then `finish`."""

    def __init__(self, kind: str, endpoint: str, **plan: Any) -> None:
        super().__init__("benchmarks.harness.load", {"kind": kind, "endpoint": endpoint, **plan})

    def wait_until_ready(self, within_s: float = 120.0) -> None:
        self.hear(within_s)

    def start(self) -> None:
        self.tell({})

    def finish(self, within_s: float = 600.0) -> dict[str, Any]:
        return self.hear(within_s)


def names(prefix: str, count: int) -> list[str]:
    return [f"{prefix}-{number}" for number in range(count)]


Stream = tuple[str, str]


def streams_of(plan: dict[str, Any]) -> list[Stream]:
    """Both modalities of each session, or `streams` of them."""
    modalities = MODALITIES[: plan.get("streams", len(MODALITIES))]
    return [(session, stream) for session in names(plan["prefix"], plan["sessions"]) for stream in modalities]


def event_time_s(stream: str, number: int) -> float:
    """The streams of a session alternate, sessions go along together."""
    return STEP_S * (len(MODALITIES) * number + MODALITIES.index(stream))


class Messages:
    """The frames of one message after another: `groups` streams in turn with `per_group` segments each.

    Both streams of a session stand side by side, so what is out of order in a message is in order once it is read.
    """

    def __init__(self, plan: dict[str, Any]) -> None:
        block = BLOCKS[plan["block"]]
        different = [segment.tobytes() for segment in block.segments(DIFFERENT_SEGMENTS)]
        self._frames = block.frames
        self._streams = streams_of(plan)
        self._groups = min(plan["groups"], len(self._streams))
        self._per_group: int = plan["per_group"]
        starts = range(DIFFERENT_SEGMENTS - self._per_group + 1)
        self._tensors = [b"".join(different[start : start + self._per_group]) for start in starts]
        self._sent = dict.fromkeys(self._streams, 0)
        self._made = 0
        self.segments = self._groups * self._per_group
        """in a message"""

    def next(self, durable: dict[Stream, int]) -> list[bytes]:
        header, tensors = [], []
        for _ in range(self._groups):
            session, stream = name = self._streams[self._made % len(self._streams)]
            sent = self._sent[name]
            self._sent[name] = sent + self._per_group
            numbers = range(sent + 1, sent + self._per_group + 1)
            rows = [[number, event_time_s(stream, number), self._frames] for number in numbers]
            header.append([session, stream, durable.get(name, 0) + 1, "f32", rows])
            tensors.append(self._tensors[self._made % len(self._tensors)])
            self._made += 1
        return [msgpack.packb([1, "segments", header]), *tensors]


class RawSender:
    """Keeps the window full with ready-made messages."""

    def __init__(self, endpoint: str) -> None:
        self._context = zmq.Context()
        self.socket = self._context.socket(zmq.DEALER)
        self.socket.setsockopt(zmq.LINGER, 0)
        self.socket.setsockopt(zmq.SNDHWM, 0)
        self.socket.connect(endpoint)
        self.fused: dict[Stream, int] = {}
        self.durable: dict[Stream, int] = {}
        self.n_fused = self.n_durable = self.refused = 0
        self.window = 0

    def say(self, *message: Any) -> None:
        self.socket.send(msgpack.packb([1, *message]))

    def receive(self) -> list[Any]:
        if not self.socket.poll(int(SILENT_AFTER_S * 1000)):
            raise RuntimeError(f"no answer for {SILENT_AFTER_S:g} s: {self.n_fused} fused, {self.n_durable} durable")
        message: list[Any] = msgpack.unpackb(self.socket.recv_multipart()[0])[1:]
        return message

    def open(self, streams: Sequence[Stream]) -> None:
        self.say("hello", f"load-{time.monotonic_ns()}", "default", "")
        self.window = self.receive()[5]
        for start in range(0, len(streams), 500):
            some = streams[start : start + 500]
            for session, stream in some:
                self.say("open", session, stream, stream, 1, 0)
            opened = 0
            while opened < len(some):
                message = self.receive()
                if message[0] == "nack":
                    raise RuntimeError(f"cannot open: {message}")
                opened += message[0] == "opened"

    def take(self, message: list[Any]) -> None:
        if message[0] == "nack":
            self.refused += 1
            if self.refused == 1:
                print(f"refused: {message}", file=sys.stderr)
        if message[0] != "ack":
            return
        fused_of, durable_of = self.fused, self.durable
        for session, stream, fused, durable, *_ in message[1]:
            name = (session, stream)
            self.n_fused += fused - fused_of.get(name, 0)
            self.n_durable += durable - durable_of.get(name, 0)
            fused_of[name], durable_of[name] = fused, durable

    def take_what_has_come(self) -> None:
        while self.socket.poll(0):
            self.take(self.receive())

    def wait_for_go(self) -> None:
        """As `wait_for_go`, and heard of meanwhile: the worker would let go of a connection that is silent."""
        while not select.select([sys.stdin], [], [], 1.0)[0]:
            self.say("ping", 1)
            self.take_what_has_come()
        wait_for_go()

    def send_all(self, messages: Messages, segments: int, window: int) -> int:
        """At least so many, until all are fused; how many they were."""
        sent, fused_before = 0, self.n_fused
        while sent < segments:
            self.take_what_has_come()
            while sent + messages.segments - (self.n_fused - fused_before) > window:
                self.take(self.receive())
            self.socket.send_multipart(messages.next(self.durable))
            sent += messages.segments
        while self.n_fused < fused_before + sent:
            self.take(self.receive())
        return sent

    def close(self) -> None:
        self._context.destroy(linger=0)


def send_raw(plan: dict[str, Any]) -> dict[str, Any]:
    sender = RawSender(plan["endpoint"])
    streams, messages = streams_of(plan), Messages(plan)
    sender.open(streams)
    window = max(plan.get("window") or sender.window, messages.segments)
    sender.send_all(messages, plan.get("before", 0), window)
    say({"ready": len(streams)})
    for _ in range(plan.get("rounds", 1) - 1):
        say(send_round(sender, messages, plan["segments"], window))
    told = send_round(sender, messages, plan["segments"], window, ending=streams)
    sender.close()
    return told


def send_round(
    sender: RawSender, messages: Messages, segments: int, window: int, ending: Sequence[Stream] = ()
) -> dict[str, Any]:
    """Send so many once it is told to, and wait until they are durable: of streams that it is not `ending`, until
    their sessions have been silent."""
    sender.wait_for_go()
    refused_before = sender.refused
    started_s, cpu_s = time.monotonic(), time.process_time()
    sent = sender.send_all(messages, segments, window)
    fused_s, used_s = time.monotonic(), time.process_time() - cpu_s
    for session, stream in ending:
        sender.say("end", session, stream, sender.fused.get((session, stream), 0))
    while sender.n_durable < sender.n_fused:
        sender.take(sender.receive())
    return report(sent, started_s, fused_s, time.monotonic(), used_s, sender.refused - refused_before)


def send_product(plan: dict[str, Any]) -> dict[str, Any]:
    """One `publish` per segment; how many go into a message is the client's own affair."""
    block = BLOCKS[plan["block"]]
    segments = block.segments(DIFFERENT_SEGMENTS)
    streams = streams_of(plan)
    with Publisher(plan["endpoint"], on_event=lambda event: print(event, file=sys.stderr)) as publisher:
        publisher.check(30.0)
        say({"ready": len(streams)})
        wait_for_go()
        started_s, cpu_s, sent = time.monotonic(), time.process_time(), 0
        receipts: dict[Stream, Receipt] = {}
        number = 0
        while sent < plan["segments"]:
            number += 1
            for session, stream in streams:
                frames = segments[sent % DIFFERENT_SEGMENTS]
                last = publisher.publish(session, stream, stream, frames, event_time_s(stream, number))
                receipts[session, stream] = last
                sent += 1
        for receipt in receipts.values():
            publisher.wait(receipt, until="fused")
        fused_s, used_s = time.monotonic(), time.process_time() - cpu_s
        for session, stream in streams:
            publisher.end(session, stream)
        publisher.flush(300.0)
        return report(sent, started_s, fused_s, time.monotonic(), used_s, publisher.stats.refused)


def report(sent: int, started_s: float, fused_s: float, durable_s: float, cpu_s: float, refused: int) -> dict[str, Any]:
    return {
        "sent": sent,
        "started_s": started_s,
        "fused_s": fused_s,
        "durable_s": durable_s,
        "cpu_s": cpu_s,
        "refused": refused,
    }


def follow(plan: dict[str, Any]) -> dict[str, Any]:
    """Until it is told to end: updates of every session, with credit for a few hundred ahead."""
    sender = RawSender(plan["endpoint"])
    sender.open([])
    sender.say("subscribe", "", CREDIT, True)
    say({"ready": 0})
    poller = zmq.Poller()
    poller.register(sender.socket, zmq.POLLIN)
    poller.register(0, zmq.POLLIN)
    cpu_s, updates, missed, ping_at_s = time.process_time(), 0, 0, 0.0
    while 0 not in (ready := dict(poller.poll(500))):
        granted = 0
        while ready and sender.socket.poll(0):
            message = sender.receive()
            if message[0] == "updates":
                granted += len(message[1])
                missed += sum(row[2] for row in message[1])
                if granted >= CREDIT // 4:
                    sender.say("credit", granted)
                    updates, granted = updates + granted, 0
        if granted:
            sender.say("credit", granted)
            updates += granted
        if time.monotonic() > ping_at_s:
            sender.say("ping", 1)
            ping_at_s = time.monotonic() + 1.0
    sender.close()
    wait_for_go()
    return {"updates": updates, "missed": missed, "cpu_s": time.process_time() - cpu_s}


KINDS = {"raw": send_raw, "product": send_product, "subscriber": follow}


def main() -> None:
    plan = plan_of_this_process()
    say(KINDS[plan["kind"]](plan))
    wait_for_go()


if __name__ == "__main__":
    main()
