"""Somebody talks in a video: lips and sound fused by `bundles/grid-s1`, live; the words beside them.

video -> pictures 25/s -> lips    ┐
      -> sound         -> log-mel ┴-> the runtime -> digit, colour, command, shares
                       -> words (shown; the bundle has no modality of text)
"""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from prometheus_client import CollectorRegistry

from connectors.backoff import Backoff, RestartOptions
from connectors.base import Sample, Source
from connectors.clock import ClockOptions
from connectors.delivery import SnapshotOptions
from connectors.encoders.base import EncoderFactory
from connectors.encoders.lips import LipsOptions
from connectors.encoders.log_mel import LogMelOptions
from connectors.encoders.processes import Processes
from connectors.encoders.recognizers import PocketsphinxOptions
from connectors.encoders.transcription import TranscriptionOptions, TranscriptionWorkshop, Utterance
from connectors.errors import BadSample
from connectors.metrics import ConnectMetrics
from connectors.pipeline import Pipeline
from connectors.routes import RouteOptions
from connectors.runner import Runner
from connectors.sink import Sink
from connectors.windowing import WindowOptions
from grf_core.data.grid_s1 import (
    ADVERBS,
    COLOURS,
    COMMANDS,
    DIGITS,
    LETTERS,
    LIPS_HZ,
    MAX_FRAMES,
    PREPOSITIONS,
    STACKED,
)
from runtime.client import AsyncPublisher, ClientError, StateClient
from runtime.demo.staging import Span, Staged

SEGMENT_S = 0.5
FLUSH_WITHIN_S = 30.0
NOT_KEPT_S = 3600.0
"""The demo plays from the beginning, so nothing of it is kept for a restart."""
HEADS = ("digit", "colour", "command")


def grid_grammar() -> str:
    """The sentences of GRID in JSGF."""
    places = {
        "command": COMMANDS,
        "colour": COLOURS,
        "preposition": PREPOSITIONS,
        "letter": LETTERS,
        "digit": DIGITS,
        "adverb": ADVERBS,
    }
    rules = [f"<{name}> = {' | '.join(words.values())};" for name, words in places.items()]
    sentence = " ".join(f"<{name}>" for name in places)
    return "\n".join(["#JSGF V1.0;", "grammar grid;", f"public <sentence> = {sentence};", *rules])


def routes(session: str) -> tuple[RouteOptions, ...]:
    window = WindowOptions(seconds=SEGMENT_S, max_frames=min(MAX_FRAMES.values()))
    return (
        RouteOptions(
            match="**/pictures",
            session=session,
            stream="lips",
            modality="lips",
            encoder=LipsOptions(movement_hz=LIPS_HZ),
            window=window,
        ),
        RouteOptions(
            match="**/sound",
            session=session,
            stream="audio",
            modality="audio",
            encoder=LogMelOptions(stack=STACKED),
            window=window,
        ),
    )


@dataclass(frozen=True, slots=True)
class Video:
    session: str
    source: Source
    """its keys end in /pictures and /sound"""
    pieces: frozenset[str]
    """pictures, sound: what the source gives"""


@dataclass(slots=True)
class Watched:
    """One video as far as it has been played."""

    session: str
    states: list[Mapping[str, Any]] = field(default_factory=list)
    """every live state the runtime told, in order"""
    utterance: Utterance | None = None
    samples: Counter[str] = field(default_factory=Counter)
    segments: Counter[str] = field(default_factory=Counter)
    """published, by modality"""
    bad: Counter[str] = field(default_factory=Counter)
    final: Mapping[str, Any] | None = None
    """the settled state after the last segment"""
    health: str = "starting"
    reason: str = ""

    @property
    def settled_segments(self) -> int:
        return int(self.final["settled"]["version"]) if self.final and self.final["settled"] else 0


class _Counting:
    """An AsyncPublisher that counts what goes through it."""

    def __init__(self, publisher: AsyncPublisher, watched: Watched) -> None:
        self._publisher = publisher
        self._watched = watched
        self.begin = publisher.begin
        self.end = publisher.end
        self.forget = publisher.forget
        self.flush = publisher.flush
        self.wait_until = publisher.wait_until

    @property
    def unfinished(self) -> int:
        return self._publisher.unfinished

    async def publish(self, session: str, stream: str, modality: str, *arguments: Any, sequence: int | None) -> Any:
        receipt = await self._publisher.publish(session, stream, modality, *arguments, sequence=sequence)
        self._watched.segments[modality] += 1
        return receipt


class _NotKept:
    """A demo is not continued after a crash."""

    def load(self) -> None:
        return None

    async def save(self, snapshot: Any) -> None:
        return None


class TalkDemo:
    """Plays videos one after another from an event loop in a thread of its own; follows the sessions from another."""

    def __init__(self, address: str, videos: Sequence[Video], *, mute: Span, cover: Span, words: bool = True) -> None:
        self.watched: list[Watched] = []
        self._address = address
        self._videos = videos
        self._mute, self._cover = mute, cover
        self._with_words = words
        self._runner: Runner | None = None
        self._stopping = False
        self._error: BaseException | None = None
        self._client = StateClient(address, client="talk-reader")
        self._loop = asyncio.new_event_loop()
        self._player = threading.Thread(target=self._run, name="talk-player", daemon=True)
        self._follower = threading.Thread(target=self._follow, name="talk-follower", daemon=True)

    def start(self) -> None:
        self._follower.start()
        self._player.start()

    @property
    def is_playing(self) -> bool:
        return self._player.is_alive()

    def stop(self) -> None:
        """Take no more samples; what was published becomes durable. Raises what broke the demo."""
        self._stopping = True
        if self._player.is_alive():
            self._loop.call_soon_threadsafe(lambda: self._runner.stop() if self._runner is not None else None)
        self._player.join()
        if self._error is not None:
            raise self._error

    def close(self) -> None:
        self._client.close()

    # ---- threads ----

    def _follow(self) -> None:
        try:
            for update in self._client.subscribe():
                session = update.state["session"]
                for watched in self.watched:
                    if watched.session == session:
                        watched.states.append(update.state)
        except ClientError:  # closed, or refused: what was seen stays on the board
            return

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._play_all())
        except BaseException as error:  # raised by `stop`, where somebody sees it
            self._error = error
        finally:
            self._loop.close()

    # ---- in the event loop ----

    async def _play_all(self) -> None:
        options = TranscriptionOptions(recognizer=PocketsphinxOptions(grammar=grid_grammar()))
        words = Processes(partial(TranscriptionWorkshop, options), count=1)
        try:
            if self._with_words:
                await words.open()
            for video in self._videos:
                if not self._stopping:
                    await self._play(video, words)
        finally:
            await words.close()

    async def _play(self, video: Video, words: Processes) -> None:
        watched = Watched(video.session)
        self.watched.append(watched)
        sounds: asyncio.Queue[Sample | None] = asyncio.Queue()

        def on_samples(samples: Sequence[Sample]) -> None:
            for sample in samples:
                watched.samples[sample.stream_key.rpartition("/")[2]] += 1
                if sample.stream_key.endswith("/sound"):
                    sounds.put_nowait(sample)

        source = Staged(video.source, mute=self._mute, cover=self._cover, on_samples=on_samples)
        async with AsyncPublisher(self._address, client=f"talk-{video.session}") as publisher:
            listener = asyncio.create_task(self._listen(watched, sounds, words))
            try:
                await self._run_source(video, source, _Counting(publisher, watched), watched)
                await publisher.flush(FLUSH_WITHIN_S)
            finally:
                sounds.put_nowait(None)
                await listener
        watched.final = await asyncio.to_thread(self._settled, watched)

    async def _run_source(self, video: Video, source: Source, sink: Sink, watched: Watched) -> None:
        used = [route for route in routes(video.session) if route.match.rpartition("/")[2] in video.pieces]
        pipeline = Pipeline(used, ClockOptions(), may_repeat=source.may_repeat)
        factories: dict[int, EncoderFactory] = {
            index: route.encoder.build() for index, route in enumerate(used) if route.encoder is not None
        }
        self._runner = runner = Runner(
            video.session,
            source,
            pipeline,
            factories,
            sink,
            _NotKept(),
            ConnectMetrics(CollectorRegistry(), [video.session]),
            options=SnapshotOptions(every_s=NOT_KEPT_S, idle_s=NOT_KEPT_S),
            backoff=Backoff(RestartOptions()),
        )
        if not self._stopping:
            await runner.run()
        watched.health, watched.reason = runner.health, runner.reason

    async def _listen(self, watched: Watched, sounds: asyncio.Queue[Sample | None], words: Processes) -> None:
        """Words are shown as they are understood; a stream that is behind hears all that waits at once."""
        anew, ended = True, False
        while not ended:
            waiting = [await sounds.get()]
            while not sounds.empty():
                waiting.append(sounds.get_nowait())
            ended = waiting[-1] is None
            samples = [sample for sample in waiting if sample is not None]
            if not self._with_words:
                continue
            said: list[Utterance] = []
            try:
                if samples:
                    said += (await words.encode(watched.session, samples, anew=anew, state=None)).results
                    anew = False
                if ended:
                    said += (await words.end(watched.session, anew=anew, state=None)).results
            except BadSample:  # told by the pipeline, which was given the same
                continue
            watched.utterance = said[-1] if said else watched.utterance

    def _settled(self, watched: Watched) -> Mapping[str, Any] | None:
        if not watched.segments:
            return None
        return self._client.state(watched.session)


def shares_of(state: Mapping[str, Any] | None) -> Mapping[str, float]:
    fused = (state or {}).get("live") or {}
    shares: Mapping[str, float] = fused.get("shares", {})
    return shares


def answers_of(fused: Mapping[str, Any] | None) -> dict[str, tuple[str, float]]:
    """Label and confidence by head; ("-", 0) for one that has none yet."""
    outputs = (fused or {}).get("outputs", {})
    found = {}
    for head in HEADS:
        output = outputs.get(head, {})
        found[head] = (str(output.get("label", "-")), float(output.get("confidence", math.nan)))
    return found
