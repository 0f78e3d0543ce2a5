"""What every peer's server runs: a context per session in a dict, and one step for a batch of requests.

This is the code that a user of such a server writes. A request and its answer are bytes:

    request   session u32, modality u16, nothing u16, frames f32 [T, F] of the block
    answer    segments in the session's context u32, outputs f32 [O]

The session STATS is no session: its answer is the steps taken so far u32, and the segments in them as f32.
`PEER_BLOCK` and `PEER_FORM` (readable or folded) in the environment say which model it is.
"""

from __future__ import annotations

import os
import struct

import numpy as np
import torch

from benchmarks.harness.blocks import BLOCKS, D_MODEL
from benchmarks.harness.models import bundle_of
from grf_core.step import StepBatch, StepModel

HEADER = struct.Struct("<IHH")
STATS = 0xFFFFFFFF


class SessionModel:
    def __init__(self) -> None:
        torch.set_num_threads(1)
        self._block = BLOCKS[os.environ["PEER_BLOCK"]]
        bundle = bundle_of(self._block)
        self._model: StepModel = (
            bundle.step_model() if os.environ["PEER_FORM"] == "folded" else bundle.readable_step_model()
        )
        self._none = torch.zeros(1, D_MODEL)
        self._contexts: dict[int, tuple[torch.Tensor, int]] = {}
        """by session: the context, and how many segments are in it"""
        self._steps = self._rows = 0

    def answer(self, requests: list[bytes]) -> list[bytes]:
        """Answers in the order of the requests. A session that stands twice in a batch takes two steps."""
        answers = [b""] * len(requests)
        waiting = list(range(len(requests)))
        while waiting:
            now: dict[int, int] = {}
            for place in waiting:
                session = HEADER.unpack_from(requests[place])[0]
                if session == STATS:
                    answers[place] = struct.pack("<If", self._steps, self._rows)
                else:
                    now.setdefault(session, place)
            self._step(now, requests, answers)
            waiting = [place for place in waiting if not answers[place]]
        return answers

    def forget(self, session: int) -> None:
        self._contexts.pop(session, None)

    def snapshot(self, session: int) -> tuple[torch.Tensor, int] | None:
        return self._contexts.get(session)

    def restore(self, session: int, state: tuple[torch.Tensor, int]) -> None:
        self._contexts[session] = state

    def _step(self, now: dict[int, int], requests: list[bytes], answers: list[bytes]) -> None:
        if not now:
            return
        known = [self._contexts.get(session, (self._none, 0)) for session in now]
        shape = (self._block.frames, self._block.width)
        result = self._model.step(
            StepBatch(
                contexts=torch.stack([context for context, _ in known]),
                fresh=np.array([count == 0 for _, count in known]),
                ranks=np.array([HEADER.unpack_from(requests[place])[1] for place in now.values()]),
                frames=[
                    np.frombuffer(requests[place], np.float32, offset=HEADER.size).reshape(shape)
                    for place in now.values()
                ],
                elapsed_s=np.zeros(len(now), np.float32),
            )
        )
        self._steps += 1
        self._rows += len(now)
        for row, (session, place) in enumerate(now.items()):
            count = known[row][1] + 1
            self._contexts[session] = (result.contexts[row], count)
            answers[place] = struct.pack("<I", count) + result.outputs[row].tobytes()
