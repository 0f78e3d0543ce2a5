"""NATS JetStream. Needs the extra `nats` (nats-py).

    from: {kind: nats, servers: ["nats://127.0.0.1:4222"], stream: SENSORS, subjects: ["car.*.imu"]}

A stream key is a subject, with its dots as slashes (`car/7/imu`), so that patterns work on its parts. Event time is a
header (`time_header`) or a field of the payload; the arrival is when the server stored the message.

**Replayable**: a position is the number of a message in its JetStream stream, and reading goes on after any of them.
The consumer is ours alone and acknowledges nothing, so the stream must keep messages by limits (the default), not until
they are acknowledged. What the limits removed before it was read is counted as dropped, other subjects of the stream
included: the server does not tell them apart. A stream that was removed and made anew is told from the one that was
read, if it is shorter: the source breaks.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Coroutine, Sequence
from contextlib import suppress
from typing import Any, ClassVar, Literal, TypeVar

from pydantic import Field

from connectors.base import MAX_BATCH, Position, Sample, Source, SourceOptions
from connectors.decoding import SECONDS
from connectors.errors import NETWORK, SourceBroken, SourceUnavailable, Translation, need, translated

T = TypeVar("T")

ANSWER_WITHIN_S = 5
"""a server that is asked whether it is there; one whose network has fallen silent never says"""
FETCH_S = 5.0
"""how long a request for a message waits at the server"""
HURRY_S = 0.02
"""the same, for all that is there"""


def errors_table() -> Translation:
    errors, jetstream = need("nats.errors", "nats"), need("nats.js.errors", "nats")
    return {
        **NETWORK,
        errors.Error: SourceUnavailable,
        jetstream.NotFoundError: SourceBroken,
        jetstream.BadRequestError: SourceBroken,
    }


class NatsOptions(SourceOptions):
    extra: ClassVar[str] = "nats"

    kind: Literal["nats"] = "nats"
    servers: tuple[str, ...] = Field(("nats://127.0.0.1:4222",), min_length=1, description="Any of them will do.")
    stream: str = Field(min_length=1, description="The JetStream stream.")
    subjects: tuple[str, ...] = Field((), max_length=1, description="One filter: * is one part, > the rest.")
    start: Literal["first", "new"] = Field("first", description="Where the very first run begins.")
    user: str = Field("", description="Empty: none.")
    password: str = Field("", description="Better as ${NAME}.", repr=False)
    token: str = Field("", description="Instead of user and password.", repr=False)
    credentials: str = Field("", description="File with NATS credentials.")
    time_header: str = Field("", description="Header with the time stamp.")
    time_unit: Literal["s", "ms", "us", "ns"] = Field("s", description="Of time_header.")

    def build(self) -> NatsSource:
        return NatsSource(self)


class NatsSource(Source):
    delivery = "replayable"
    seeks = True

    def __init__(self, options: NatsOptions) -> None:
        self._options = options
        self._connection: Any = None
        self._jetstream: Any = None
        self._subscription: Any = None
        self._last = 0
        """number of the newest message, or of the last before the first there is"""
        self._new_after: int | None = None
        """number of the last message that was there when the source was first opened"""
        self._removed = 0
        """number up to which it is counted what the limits removed"""
        self._errors: Translation = {}

    @property
    def _place(self) -> str:
        return f"stream {self._options.stream} at {', '.join(self._options.servers)}"

    async def open(self, *, position: Position) -> None:
        # Not `nats.connect`: where a server takes the connection and never answers, it leaves it open.
        self._connection = need("nats.aio.client", "nats").Client()
        self._errors = errors_table()
        options = self._options
        with translated(self._errors, self._place):
            await self._connection.connect(
                list(options.servers),
                allow_reconnect=False,  # opening again is ours to do
                connect_timeout=ANSWER_WITHIN_S,
                max_reconnect_attempts=1,
                reconnect_time_wait=0.1,
                user=options.user or None,
                password=options.password or None,
                token=options.token or None,
                user_credentials=options.credentials or None,
                error_cb=_ignored,
            )
            self._jetstream = self._connection.jetstream()
            await self._subscribe((await self._jetstream.stream_info(options.stream)).state, position)

    async def _subscribe(self, state: Any, position: Position) -> None:
        api = need("nats.js.api", "nats")
        if position is None and self._options.start == "new":
            # Opened again before anything came: what has come since then is new as well.
            self._new_after = state.last_seq if self._new_after is None else min(self._new_after, state.last_seq)
            position = self._new_after
        if position is not None:
            assert isinstance(position, int)
            if state.last_seq < position:
                raise SourceBroken(f"{self._place}: ends at {state.last_seq}, and {position} was read: another stream")
            self._last = position
            self._count_removed(state.first_seq - 1)
            self._last = max(position, state.first_seq - 1)
        else:
            self._last = max(0, state.first_seq - 1)
        subject = self._options.subjects[0] if self._options.subjects else ">"
        self._subscription = await self._jetstream.pull_subscribe(
            subject,
            stream=self._options.stream,
            config=api.ConsumerConfig(
                deliver_policy=api.DeliverPolicy.BY_START_SEQUENCE,
                opt_start_seq=self._last + 1,
                ack_policy=api.AckPolicy.NONE,
                mem_storage=True,
                inactive_threshold=60.0,
            ),
        )

    async def __aiter__(self) -> AsyncGenerator[Sequence[Sample], None]:
        assert self._subscription is not None, "the source is not open"
        with translated(self._errors, self._place):
            while True:
                # Many at once only for a moment: servers differ in whether they answer before all of them are there.
                messages = await self._fetched(MAX_BATCH, HURRY_S) or await self._fetched(1, FETCH_S)
                if messages:
                    await self._look_for_removed(messages[0].metadata.sequence.stream)
                    yield [self._sample(message) for message in messages]
                else:
                    await _cancellable(self._connection.flush(ANSWER_WITHIN_S))  # raises if the connection is lost
                    await _cancellable(self._subscription.consumer_info())  # or the consumer, with its server

    async def _look_for_removed(self, next_number: int) -> None:
        """Before the next message lie those of other subjects, and what the limits removed since the newest."""
        if next_number > self._last + 1:
            state = (await _cancellable(self._jetstream.stream_info(self._options.stream))).state
            self._count_removed(min(state.first_seq, next_number) - 1)

    def _count_removed(self, until: int) -> None:
        """Since the newest message, and once: a source that gets none is opened again where it was."""
        self.dropped += max(0, until - max(self._last, self._removed))
        self._removed = max(self._removed, until)

    async def _fetched(self, batch: int, timeout_s: float) -> list[Any]:
        """None within this time is no error."""
        with suppress(need("nats.errors", "nats").TimeoutError, TimeoutError):
            messages: list[Any] = await _cancellable(self._subscription.fetch(batch, timeout=timeout_s))
            return messages
        return []

    def _sample(self, message: Any) -> Sample:
        metadata = message.metadata
        self._last = metadata.sequence.stream
        headers = message.headers or {}
        return Sample(
            message.subject.replace(".", "/"),
            message.data,
            self._time(headers),
            metadata.timestamp.timestamp(),
            self._last,
            "",
            headers,
        )

    def _time(self, headers: dict[str, str]) -> float | None:
        if not self._options.time_header:
            return None
        try:
            return float(headers[self._options.time_header]) * SECONDS[self._options.time_unit]
        except (KeyError, ValueError):
            return None

    async def close(self) -> None:
        connection, self._connection = self._connection, None
        self._subscription = None
        if connection is not None:
            with suppress(Exception), translated(self._errors, self._place):
                async with asyncio.timeout(2.0):
                    await connection.close()


async def _cancellable(call: Coroutine[Any, Any, T]) -> T:
    """What `call` returns. Should it lose a cancellation, it is cancelled again.

    nats-py waits with `asyncio.wait_for`: that of Python 3.11 returns what came in the moment of a cancellation.
    """
    task = asyncio.create_task(call)
    try:
        await asyncio.wait((task,))
    except asyncio.CancelledError:
        while not task.done():
            task.cancel()
            await asyncio.sleep(0)
        if not task.cancelled():
            task.exception()  # looked at, or asyncio logs that nobody did
        raise
    return task.result()


async def _ignored(error: Exception) -> None:
    """Whatever nats-py tells here also fails the call that waits for it."""
