"""Speech into embeddings of what is said.

    encoder: {kind: words, recognizer: {kind: pocketsphinx, grammar: commands.gram}, units: sentence}

- `units: sentence`: a frame is the embedding of the utterance's words so far, each time they change, at the time up to
  which sound was heard for them; the last one is final. With `partials: false` there is that one only.
- `units: token`: the final words, a frame for each token in its context, spread over the time in which they were said.
  So they come late by the length of an utterance, and beside other streams a runtime refuses them as late unless it
  waits for that modality: `grf up --set order.lateness_by_modality_s=MODALITY=16`, for utterances of 15 s.

Silence gives no frames.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import partial
from typing import Any, Literal, cast

import numpy as np
from pydantic import Field

from connectors.base import JsonValue, Sample
from connectors.encoders.base import EncoderOptions, Frames
from connectors.encoders.hosted import HostedFactory
from connectors.encoders.processes import Job, Outcome
from connectors.encoders.text_embedding import TextEmbedding
from connectors.encoders.transcription import TranscriptionOptions, TranscriptionWork, TranscriptionWorkshop, Utterance
from connectors.encoders.voice_activity import CHUNK_S
from connectors.errors import ConnectorError

Units = Literal["sentence", "token"]


class WordsOptions(EncoderOptions, TranscriptionOptions):
    kind: Literal["words"] = "words"
    units: Units = Field("sentence", description="What a frame is the embedding of.")
    partials: bool = Field(True, description="Of sentences: words so far as well as final ones.")
    model: str = Field("", description="Folder of sentence-transformers.  [default: all-MiniLM-L6-v2, 384 numbers]")
    processes: int = Field(1, ge=1, le=64, description="How many; a stream stays with one of them.")

    def build(self) -> HostedFactory:
        return HostedFactory(partial(WordsWorkshop, self), processes=self.processes, lag_s=self._lag_s)

    @property
    def _lag_s(self) -> float:
        """A token has the time at which it was said, and is final when its utterance is over."""
        return CHUNK_S if self.units == "sentence" else self.longest_s + self.lead_s + 2 * CHUNK_S


class WordsWorkshop:
    def __init__(self, options: WordsOptions) -> None:
        self._partials = options.partials and options.units == "sentence"
        self.of_tokens = options.units == "token"
        self._transcription = TranscriptionWorkshop(options)
        self._embedding = TextEmbedding(options.model)

    def work(self, stream: str) -> WordsWork:
        return WordsWork(self._transcription.work(stream), self)

    def encode(self, jobs: Sequence[Job]) -> list[Outcome]:
        """One call of each model for all streams."""
        works = [cast(WordsWork, job.work) for job in jobs]
        inner = [Job(work.transcription, job.samples) for work, job in zip(works, jobs, strict=True)]
        said = self._transcription.encode(inner)
        good = [at for at, outcome in enumerate(said) if not isinstance(outcome, ConnectorError)]
        outcomes = list(said)
        for at, frames in zip(good, self.embedded([said[at] for at in good], [works[at] for at in good]), strict=True):
            outcomes[at] = frames
        return outcomes

    def embedded(self, said: Sequence[Any], works: Sequence[WordsWork]) -> list[list[Frames]]:
        """The frames of each stream's utterances."""
        wanted = [[one for one in of_stream if one.is_final or self._partials] for of_stream in said]
        texts = [one.text for of_stream in wanted for one in of_stream]
        if not texts:
            return [[] for _ in said]
        embed = self._embedding.tokens if self.of_tokens else self._embedding.sentences
        vectors = iter(embed(texts))
        return [
            [frames for one in of_stream for frames in work.framed(one, np.atleast_2d(next(vectors)))]
            for of_stream, work in zip(wanted, works, strict=True)
        ]


class WordsWork:
    def __init__(self, transcription: TranscriptionWork, workshop: WordsWorkshop) -> None:
        self.transcription = transcription
        self._workshop = workshop
        self._last_s = -math.inf
        """of the last frame"""

    def framed(self, said: Utterance, vectors: Any) -> list[Frames]:
        """Vectors [N, D] at their times, which grow."""
        times_s = np.array([said.heard_until_s])
        if self._workshop.of_tokens:
            begin_s = max(said.words[0].start_s, self._last_s)
            times_s = np.linspace(begin_s, max(said.words[-1].end_s, begin_s), len(vectors) + 1)[1:]
        later = times_s > self._last_s
        if not later.any():
            return []
        self._last_s = float(times_s[-1])
        return [Frames(vectors[later], times_s[later])]

    def encode(self, samples: Sequence[Sample]) -> list[Frames]:
        return self._workshop.embedded([self.transcription.encode(samples)], [self])[0]

    def end(self) -> list[Frames]:
        return self._workshop.embedded([self.transcription.end()], [self])[0]

    def snapshot(self) -> JsonValue:
        return [self.transcription.snapshot(), self._last_s if math.isfinite(self._last_s) else None]

    def restore(self, state: JsonValue) -> None:
        transcription, last_s = cast(list[Any], state)
        self.transcription.restore(transcription)
        self._last_s = -math.inf if last_s is None else last_s
