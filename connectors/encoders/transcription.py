"""Where somebody speaks, what is said: utterances found by voice activity, their words by a recognizer.

An utterance begins when speech is likely, a little before that, and ends when it has not been for a while, or after
`longest_s`. While it lasts, the words so far are told whenever they change; at its end they are final. All of it goes
by the sound's own time: how it was cut into samples changes nothing.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import numpy as np
from pydantic import Field

from connectors.base import JsonValue, Options
from connectors.encoders.processes import Job, Outcome
from connectors.encoders.recognizers import AnyRecognizer, HeardWord, PocketsphinxOptions, Recognizer
from connectors.encoders.voice_activity import (
    CHUNK,
    CHUNK_S,
    Chunk,
    ListeningWork,
    VoiceActivity,
    listen,
    packed,
    unpacked,
)
from connectors.media import Sound


class TranscriptionOptions(Options):
    recognizer: AnyRecognizer = Field(PocketsphinxOptions(), description="What makes words of sound.")
    speech: float = Field(0.5, gt=0, lt=1, description="An utterance begins where speech is at least so likely.")
    silence: float = Field(0.35, gt=0, lt=1, description="And ends where it stays less likely than this ...")
    silence_s: float = Field(0.4, gt=0, le=5, description="... for so long.")
    lead_s: float = Field(0.3, ge=0, le=2, description="Sound from before its beginning that belongs to it.")
    longest_s: float = Field(15.0, gt=0, le=30, description="It is ended after so long, and the next begins.")
    partial_every_s: float = Field(0.2, ge=0, le=10, description="Words so far are asked for so often; 0: never.")


class TimedWord(NamedTuple):
    text: str
    start_s: float
    end_s: float


class Utterance(NamedTuple):
    words: tuple[TimedWord, ...]
    """times on the clock of the samples"""
    heard_until_s: float
    """sound up to here was heard for it: when the words can have been known"""
    is_final: bool

    @property
    def text(self) -> str:
        return " ".join(word.text for word in self.words)


class TranscriptionWorkshop:
    """Of one process: one recognizer's model for all streams."""

    def __init__(self, options: TranscriptionOptions) -> None:
        self._model = VoiceActivity()
        self._recognizers = options.recognizer.build()
        self._options = options

    def work(self, stream: str) -> TranscriptionWork:
        return TranscriptionWork(self._model, self._recognizers.new(), self._options)

    def encode(self, jobs: Sequence[Job]) -> list[Outcome]:
        return listen(self._model, jobs)


class TranscriptionWork(ListeningWork):
    def __init__(self, model: VoiceActivity, recognizer: Recognizer, options: TranscriptionOptions) -> None:
        super().__init__(model)
        self._recognizer = recognizer
        self._options = options
        self._lead: deque[Sound] = deque(maxlen=math.ceil(options.lead_s / CHUNK_S))
        """the newest chunks while nobody speaks"""
        self._said: list[Sound] | None = None
        """chunks of the utterance; None while nobody speaks"""
        self._begin_s = 0.0
        self._heard_until_s = 0.0
        self._silent = 0
        """chunks without speech at the end of the utterance so far"""
        self._told = ""

    def heard(self, chunks: Sequence[Chunk], speech: Sequence[float]) -> list[Utterance]:
        return [said for chunk, likely in zip(chunks, speech, strict=True) for said in self._hear(chunk, likely)]

    def _hear(self, chunk: Chunk, likely: float) -> list[Utterance]:
        told = []
        if chunk.is_first:
            told += self.end()
            self._lead.clear()
        if self._said is None:
            self._lead.append(chunk.sound)
            if likely >= self._options.speech:
                self._begin(chunk.end_s)
            return told
        self._add(chunk.sound, chunk.end_s)
        self._silent = self._silent + 1 if likely < self._options.silence else 0
        is_over = self._silent * CHUNK_S >= self._options.silence_s
        if is_over or chunk.end_s - self._begin_s >= self._options.longest_s:
            return told + self.end()
        return told + self._partial()

    def _begin(self, end_s: float) -> None:
        lead = list(self._lead)
        self._lead.clear()
        self._said, self._silent, self._told = [], 0, ""
        self._begin_s = end_s - len(lead) * CHUNK_S
        self._recognizer.begin()
        for number, sound in enumerate(lead, start=1):
            self._add(sound, self._begin_s + number * CHUNK_S)

    def _add(self, sound: Sound, end_s: float) -> None:
        assert self._said is not None
        self._said.append(sound)
        self._heard_until_s = end_s
        self._recognizer.add(sound)

    def _partial(self) -> list[Utterance]:
        assert self._said is not None
        every = round(self._options.partial_every_s / CHUNK_S)
        if not every or len(self._said) % every:
            return []
        words = self._recognizer.words_so_far()
        if words is None:
            return []
        return self._tell(words, is_final=False)

    def _tell(self, words: Sequence[HeardWord], *, is_final: bool) -> list[Utterance]:
        timed = tuple(TimedWord(one.text, self._begin_s + one.start_s, self._begin_s + one.end_s) for one in words)
        said = Utterance(timed, self._heard_until_s, is_final)
        if not timed or (said.text == self._told and not is_final):
            return []
        self._told = said.text
        return [said]

    def end(self) -> list[Utterance]:
        """What is being said is over."""
        if self._said is None:
            return []
        self._said = None
        return self._tell(self._recognizer.finish(), is_final=True)

    # ---- snapshot: an utterance is its sound, heard again by the recognizer ----

    def snapshot(self) -> JsonValue:
        lead = packed(_joined(list(self._lead)))
        utterance: JsonValue = None
        if self._said is not None:
            said = packed(_joined(self._said))
            utterance = [said, self._begin_s, self._heard_until_s, self._silent, self._told]
        return [super().snapshot(), lead, utterance]

    def restore(self, state: JsonValue) -> None:
        hearing, lead, utterance = cast(list[Any], state)
        super().restore(hearing)
        self._lead.extend(unpacked(lead, np.int16).reshape(-1, CHUNK))
        if utterance is not None:
            said, self._begin_s, heard_until_s, self._silent, self._told = utterance
            self._said = []
            self._recognizer.begin()
            for sound in unpacked(said, np.int16).reshape(-1, CHUNK):
                self._add(sound, heard_until_s)


def _joined(chunks: list[Sound]) -> Sound:
    return np.concatenate(chunks) if chunks else np.zeros(0, np.int16)
