"""Is somebody speaking? Silero VAD over chunks of 32 ms, many streams in one call of the model.

Of the package silero-vad only the ONNX file is read, with onnxruntime: the package itself would bring torch. As an
encoder of its own (`kind: voice_activity`) it gives frames of one number, the probability of speech.
"""

from __future__ import annotations

import base64
import importlib.util
import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import numpy as np
import numpy.typing as npt
from pydantic import Field

from connectors.base import JsonValue, Sample
from connectors.encoders.base import EncoderOptions, Frames
from connectors.encoders.hosted import HostedFactory
from connectors.encoders.processes import Job, Outcome, attempt
from connectors.errors import ConnectorError, SourceBroken, need
from connectors.media import SAMPLE_RATE_HZ, Sound, sound_of, time_of

CHUNK, CONTEXT = 512, 64
"""in samples: what the model hears at once, and what it is given of the chunk before"""
CHUNK_S = CHUNK / SAMPLE_RATE_HZ
GAP_S = 0.1
"""sound missing for longer begins the stream anew"""
VERSION = "6.2.3"
MODEL = "data/silero_vad_16k_op15.onnx"


Memory = npt.NDArray[np.float32]


class VoiceActivityOptions(EncoderOptions):
    kind: Literal["voice_activity"] = "voice_activity"
    processes: int = Field(1, ge=1, le=64, description="How many; a stream stays with one of them.")

    def build(self) -> HostedFactory:
        return HostedFactory(VoiceActivityWorkshop, processes=self.processes, lag_s=CHUNK_S)


class Chunk(NamedTuple):
    sound: Sound
    """[CHUNK]"""
    end_s: float
    is_first: bool
    """of its stream, or after a gap"""


class Hearing:
    """Of one stream: sound that does not fill a chunk yet, and what the model remembers."""

    def __init__(self) -> None:
        self.state: Memory = np.zeros((2, 128), np.float32)
        self.context: Memory = np.zeros(CONTEXT, np.float32)
        self._rest: Sound = np.zeros(0, np.int16)
        self._end_s = -math.inf
        """time just after the rest"""
        self._begins = True
        """no chunk has been taken since the last gap"""

    def take(self, samples: Sequence[Sample]) -> list[Chunk]:
        """The chunks they fill. Raises BadSample before it has taken any."""
        blocks = [(sound_of(sample), time_of(sample)) for sample in samples]
        return [chunk for sound, start_s in blocks for chunk in self._fill(sound, start_s)]

    def _fill(self, sound: Sound, start_s: float) -> list[Chunk]:
        if abs(start_s - self._end_s) > GAP_S:
            self._rest, self._begins = sound[:0], True
        self._end_s = start_s + len(sound) / SAMPLE_RATE_HZ
        sound = np.concatenate([self._rest, sound])
        begin_s = self._end_s - len(sound) / SAMPLE_RATE_HZ
        whole = len(sound) // CHUNK
        self._rest = sound[whole * CHUNK :].copy()
        chunks = []
        for number, chunk in enumerate(sound[: whole * CHUNK].reshape(whole, CHUNK), start=1):
            chunks.append(Chunk(chunk, begin_s + number * CHUNK_S, self._begins))
            self._begins = False
        return chunks

    def forget(self) -> None:
        """The model begins anew."""
        self.state = np.zeros((2, 128), np.float32)
        self.context = np.zeros(CONTEXT, np.float32)

    def snapshot(self) -> list[JsonValue]:
        end_s = self._end_s if math.isfinite(self._end_s) else None
        return [packed(self.state), packed(self.context), packed(self._rest), end_s, self._begins]

    def restore(self, state: Sequence[Any]) -> None:
        self.state = unpacked(state[0], np.float32).reshape(2, 128)
        self.context = unpacked(state[1], np.float32)
        self._rest = unpacked(state[2], np.int16)
        self._end_s = -math.inf if state[3] is None else state[3]
        self._begins = state[4]


def packed(array: npt.NDArray[Any]) -> str:
    return base64.b64encode(array.tobytes()).decode()


def unpacked(text: str, dtype: Any) -> npt.NDArray[Any]:
    return np.frombuffer(base64.b64decode(text), dtype).copy()


class VoiceActivity:
    """The model. Raises SourceBroken or MissingExtra with what to install."""

    def __init__(self) -> None:
        onnxruntime = need("onnxruntime", "media")
        options = onnxruntime.SessionOptions()
        options.inter_op_num_threads = options.intra_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(_model_file()), options, providers=["CPUExecutionProvider"])
        self._rate = np.array(SAMPLE_RATE_HZ, np.int64)

    def probabilities(self, heard: Sequence[tuple[Hearing, Sequence[Chunk]]]) -> list[list[float]]:
        """Of speech, for each chunk of each stream; the first chunks of all streams go together, then the second."""
        found: list[list[float]] = [[] for _ in heard]
        for turn in range(max((len(chunks) for _, chunks in heard), default=0)):
            rows = [row for row, (_, chunks) in enumerate(heard) if turn < len(chunks)]
            speech = self._step([heard[row][0] for row in rows], [heard[row][1][turn] for row in rows])
            for row, probability in zip(rows, speech, strict=True):
                found[row].append(probability)
        return found

    def _step(self, hearings: Sequence[Hearing], chunks: Sequence[Chunk]) -> list[float]:
        for hearing, chunk in zip(hearings, chunks, strict=True):
            if chunk.is_first:
                hearing.forget()
        sound_BN = np.stack([chunk.sound for chunk in chunks]).astype(np.float32) / np.float32(32768)
        context_BN = np.stack([hearing.context for hearing in hearings])
        inputs = {
            "input": np.concatenate([context_BN, sound_BN], axis=1),
            "state": np.stack([hearing.state for hearing in hearings], axis=1),
            "sr": self._rate,
        }
        speech_B1, states = self._session.run(None, inputs)
        for row, hearing in enumerate(hearings):
            hearing.state, hearing.context = states[:, row].copy(), sound_BN[row, -CONTEXT:].copy()
        return [float(probability) for probability in speech_B1[:, 0]]


def _model_file() -> Path:
    spec = importlib.util.find_spec("silero_vad")
    file = Path(next(iter(spec.submodule_search_locations or [""]))) / MODEL if spec else None
    if file is None or not file.is_file():
        raise SourceBroken(
            f"needs silero-vad {VERSION}: `make setup-media`, or: pip install --no-deps silero-vad=={VERSION}"
        )
    return file


class ListeningWork(ABC):
    """Of one stream: what is made of its chunks once it is known how likely each is speech."""

    def __init__(self, model: VoiceActivity) -> None:
        self.hearing = Hearing()
        self._model = model

    @abstractmethod
    def heard(self, chunks: Sequence[Chunk], speech: Sequence[float]) -> list[Any]: ...

    def encode(self, samples: Sequence[Sample]) -> list[Any]:
        chunks = self.hearing.take(samples)
        return self.heard(chunks, self._model.probabilities([(self.hearing, chunks)])[0])

    def end(self) -> list[Any]:
        return []

    def snapshot(self) -> JsonValue:
        return self.hearing.snapshot()

    def restore(self, state: JsonValue) -> None:
        self.hearing.restore(cast(list[Any], state))


def listen(model: VoiceActivity, jobs: Sequence[Job]) -> list[Outcome]:
    """What each job's work makes of its samples; the model hears all streams together."""
    works = [cast(ListeningWork, job.work) for job in jobs]
    outcomes = [attempt(partial(work.hearing.take, job.samples)) for work, job in zip(works, jobs, strict=True)]
    taken = {at: chunks for at, chunks in enumerate(outcomes) if not isinstance(chunks, ConnectorError)}
    speech = model.probabilities([(works[at].hearing, chunks) for at, chunks in taken.items()])
    for (at, chunks), probabilities in zip(taken.items(), speech, strict=True):
        outcomes[at] = attempt(partial(works[at].heard, chunks, probabilities))
    return outcomes


class VoiceActivityWorkshop:
    def __init__(self) -> None:
        self._model = VoiceActivity()

    def work(self, stream: str) -> VoiceActivityWork:
        return VoiceActivityWork(self._model)

    def encode(self, jobs: Sequence[Job]) -> list[Outcome]:
        return listen(self._model, jobs)


class VoiceActivityWork(ListeningWork):
    def heard(self, chunks: Sequence[Chunk], speech: Sequence[float]) -> list[Frames]:
        if not chunks:
            return []
        times_s = np.array([chunk.end_s for chunk in chunks])
        return [Frames(np.array(speech, np.float32)[:, None], times_s)]
