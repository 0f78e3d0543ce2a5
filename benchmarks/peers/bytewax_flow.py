"""Bytewax: a keyed, stateful step. State belongs to one key, and so does a batch: sessions are never stepped together.

A source and a sink of our own, on one ZeroMQ socket in one worker, since a dataflow has no server. Recovery is on: the
state is in Bytewax's recovery store at the end of each epoch. A socket cannot be read again from an earlier position,
as Kafka can, so what came after the last epoch is lost with the process.

    BYTEWAX_ENDPOINT=tcp://... python -m bytewax.run benchmarks.peers.bytewax_flow -r FOLDER -s 1 -b 0
"""

from __future__ import annotations

import os
import struct
from typing import Any

import bytewax.operators as op
import zmq
from bytewax.dataflow import Dataflow
from bytewax.inputs import DynamicSource, StatelessSourcePartition
from bytewax.outputs import DynamicSink, StatelessSinkPartition

from benchmarks.peers.session_model import STATS, SessionModel

MOST_AT_ONCE = 64
POLL_MS = 1

socket: zmq.Socket[bytes] = zmq.Context.instance().socket(zmq.ROUTER)
model = SessionModel()


class Requests(StatelessSourcePartition):
    def next_batch(self) -> list[tuple[str, tuple[bytes, bytes]]]:
        batch: list[tuple[str, tuple[bytes, bytes]]] = []
        if socket.poll(POLL_MS):
            while len(batch) < MOST_AT_ONCE:
                try:
                    identity, body = socket.recv_multipart(zmq.DONTWAIT)
                except zmq.Again:
                    break
                batch.append((str(struct.unpack_from("<I", body)[0]), (identity, body)))
        return batch


class RequestSource(DynamicSource):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> Requests:
        if worker_index == 0:
            socket.bind(os.environ["BYTEWAX_ENDPOINT"])
        return Requests()


class Answers(StatelessSinkPartition):
    def write_batch(self, items: list[tuple[str, tuple[bytes, bytes]]]) -> None:
        for _, answer in items:
            socket.send_multipart(answer)


class AnswerSink(DynamicSink):
    def build(self, step_id: str, worker_index: int, worker_count: int) -> Answers:
        return Answers()


def step(state: Any, request: tuple[bytes, bytes]) -> tuple[Any, tuple[bytes, bytes]]:
    identity, body = request
    session = struct.unpack_from("<I", body)[0]
    if state is not None:
        model.restore(session, state)
    (answer,) = model.answer([body])
    return None if session == STATS else model.snapshot(session), (identity, body[:4] + answer)


flow = Dataflow("fusion")
requests = op.input("requests", flow, RequestSource())
answers = op.stateful_map("step", requests, step)
op.output("answers", answers, AnswerSink())
