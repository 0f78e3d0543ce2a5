"""Triton's Python backend: the whole batch of the sequence batcher at once, one request per slot.

`servers.triton` writes a model repository that imports it. CORRID is the session, START begins it anew.
"""

from __future__ import annotations

import struct
from typing import Any

import numpy as np
import triton_python_backend_utils as pb  # of Triton's Python backend, not a package

from benchmarks.peers.session_model import SessionModel


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        self._model = SessionModel()

    def execute(self, requests: list[Any]) -> list[Any]:
        """A slot whose sequence has no request now is there as well, not READY: it gets an empty answer."""
        bodies: dict[int, bytes] = {}
        for place, request in enumerate(requests):
            if not pb.get_input_tensor_by_name(request, "READY").as_numpy().any():
                continue
            session = int(pb.get_input_tensor_by_name(request, "CORRID").as_numpy().flat[0])
            if pb.get_input_tensor_by_name(request, "START").as_numpy().any():
                self._model.forget(session)
            segment = pb.get_input_tensor_by_name(request, "SEGMENT").as_numpy()
            bodies[place] = struct.pack("<I", session) + segment.tobytes()
        answers = dict(zip(bodies, self._model.answer(list(bodies.values())), strict=True))
        return [_response(answers.get(place, b"")) for place in range(len(requests))]


def _response(answer: bytes) -> pb.InferenceResponse:
    return pb.InferenceResponse([pb.Tensor("ANSWER", np.frombuffer(answer, np.uint8)[None])])
