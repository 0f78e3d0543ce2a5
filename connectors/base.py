"""The contract between a transport and the rest: what a source promises, and what it does not.

    async with source.opened(position=last_committed):
        async for samples in source:
            ...                                       # a list of `Sample`s, at least one
            await source.commit(position=samples[-1].position)

Four questions, answered for every source; `connectors.contract` tests the answers.

- **Waking.** The iteration waits for as long as nothing comes, in the event loop: a source whose library blocks runs it
  in a thread. It hands over what is there, at most `MAX_BATCH` samples, without waiting for more. Cancelling the
  iteration is always allowed and loses nothing that was not handed over. *Not promised*: a rate, or that a batch is
  of one stream.
- **Resuming.** A `replayable` source gives each sample a position; positions are JSON, grow in the order of delivery
  and mean nothing outside the source. Opened with the position of a sample, a source that `seeks` continues with the
  sample after it, whatever was committed. One that does not seek (a broker's session) hands over again what was not
  committed, and perhaps the newest of what was (a commit may be lost on its way): at most `redelivers_at_most` samples,
  each with an `identity`, in the source or in the payload, by which it is known. A `live` source has no
  positions, and what passes while nobody reads is lost to us.
- **Closing.** `opened` closes, whatever happened. `close` returns within seconds, commits nothing, may be called
  twice, and may never be called: a killed process does not. The end of the iteration means that nothing more will
  ever come; a source that merely lost its connection raises SourceUnavailable instead, and is opened again.
- **Time.** `event_time_s` is the source's own clock, never our guess: None where it has none, and then the payload or
  the arrival tells the time (`connectors.clock`). `arrival_s` is the wall time at which the transport took the
  message, if it keeps that, else the wall time at which we got it. Samples of one key come in the source's order,
  which need not be that of their times.

A transport is one file: its options (pydantic), its source, its table of foreign exceptions. It imports its library
in `open`, so that the options can be read without it. One exception per sample never ends a source: what cannot be
decoded is for the pipeline to count.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from types import MappingProxyType
from typing import Any, ClassVar, Literal, NamedTuple, Self

from pydantic import BaseModel, ConfigDict

MAX_BATCH = 256
"""samples that a source hands over at once, at most"""

JsonValue = int | float | str | bool | list[Any] | dict[str, Any] | None
Position = JsonValue
"""where a source is: JSON, made and read by that source only; never None for a sample of a replayable source"""

Delivery = Literal["replayable", "live"]
NO_ATTRIBUTES: Mapping[str, Any] = MappingProxyType({})


class Sample(NamedTuple):
    """One message, row, packet or picture, as its source gave it."""

    stream_key: str
    """which of the source's streams: a topic, a file's name, a path"""
    value: Any
    """bytes to be decoded, or what an encoder takes: numbers [F] or [T, F], a picture, a block of sound"""
    event_time_s: float | None = None
    """on the source's own clock; None if the transport tells none"""
    arrival_s: float | None = None
    """wall time, seconds since 1970; None in a file that does not tell"""
    position: Position = None
    """everything up to and with this sample; None for a live source"""
    identity: str = ""
    """the same for a sample handed over twice, "" where the source seeks and so never does"""
    attributes: Mapping[str, Any] = NO_ATTRIBUTES
    """what else the transport tells: MQTT's user properties, a schema's name, a sample rate"""


class Options(BaseModel):
    """Options of a source or an encoder: fields with a description each, from which the docs are made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Source(ABC):
    """See the head of this file. Arguments are given by name; opened any number of times, once at a time."""

    delivery: Delivery = "live"
    seeks: bool = False
    """a replayable source that continues at any position given; otherwise its samples have identities"""
    redelivers_at_most: int = 0
    """of a source that does not seek: samples handed over and not committed, at most"""
    dropped: int = 0
    """samples given up by the source itself because nobody took them in time, since it was made"""

    @property
    def may_repeat(self) -> bool:
        """May a sample come twice? One that was given by a live source, or by one that seeks, never does."""
        return self.delivery == "replayable" and not self.seeks

    def ask(self, fault_of: Callable[[Sample], str]) -> None:
        """Before it is opened: whom to ask why no route takes a sample ("" if one does), which counts those.

        For a source whose sender hears the answer; of any other they are counted once they are handed over.
        """

    @abstractmethod
    async def open(self, *, position: Position) -> None:
        """Begin after `position`, or where the options say if it is None. Raises SourceUnavailable, SourceBroken."""

    @abstractmethod
    def __aiter__(self) -> AsyncGenerator[Sequence[Sample], None]:
        """Batches of samples, until nothing more will ever come. Raises SourceUnavailable, SourceBroken.

        Written as an async generator: `async def __aiter__(self): ... yield samples`.
        """

    async def commit(self, *, position: Position) -> None:
        """Everything up to this position is durable and need not be delivered again.

        Positions come in the order of delivery; one of before the source was opened again is no error and does nothing.
        """

    async def close(self) -> None:
        """Let go of everything; of a source that is not open, nothing."""

    @asynccontextmanager
    async def opened(self, *, position: Position = None) -> AsyncIterator[Self]:
        try:
            await self.open(position=position)
            yield self
        finally:
            await self.close()


class SourceOptions(Options, ABC):
    """What the YAML file says of one source; each transport has its own, told apart by `kind`."""

    kind: str
    extra: ClassVar[str] = ""
    """the extra of this package that brings what the transport needs, "" if there is none"""

    @abstractmethod
    def build(self) -> Source:
        """The source, not opened; nothing is imported, connected or read yet."""

    def for_a_look(self) -> Self:
        """The same for a dry run, which must not disturb a connector that runs with these options."""
        return self
