"""MQTT 5. Needs the extra `mqtt` (aiomqtt).

    from: {kind: mqtt, host: broker.local, topics: ["ward/+/vitals"], qos: 1, client_id: ward-connector}

A stream key is a topic. Event time is a user property (`time_property`) or a field of the payload (`decode.time`);
without either, the arrival.

- `qos: 1` is **replayable**: the session outlives the connection (`client_id`, `session_expiry_s`), and a message is
  acknowledged to the broker (PUBACK, in order) only once all that was made of it is durable. The broker cannot seek: it
  sends again what was not acknowledged, `receive_maximum` messages at most, and those are recognised by their
  identity: a user property (`identity_property`) or a field (`decode.identity`). Without an identity, a message whose
  time stamp is not after the last one of its topic is taken for one that came again: good for a sensor that never
  stamps two messages alike, and whose clock is set. A message with neither is refused.
- `qos: 0` is **live**: what comes while nobody takes it waits in a queue; at its end the oldest is dropped and counted.

A retained message is a sample when the source is first opened, and not again with every connection.

Mosquitto sends 20 unacknowledged messages to a client at most; set `max_inflight_messages 0` in its configuration, or
every 20 messages wait for the store. It keeps 1000 for a client that is away, and drops the others in silence: set
`max_queued_messages` to what may come in that time (0: no limit). And it forgets sessions when it is restarted, unless
`persistence true` is set and it may write to `persistence_location`; the log says so when that has happened.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections import deque
from collections.abc import AsyncGenerator, Sequence
from contextlib import AsyncExitStack, suppress
from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, StringConstraints, model_validator

from connectors.base import MAX_BATCH, Position, Sample, Source, SourceOptions
from connectors.decoding import SECONDS
from connectors.errors import NETWORK, SourceBroken, SourceUnavailable, Translation, need, translated

log = logging.getLogger("grf.connect")

CLOSE_WITHIN_S = 2.0
CALL_WITHIN_S = 30.0
"""an answer to connecting or subscribing may come behind all the messages that wait in the session"""
QUEUE = 65_536
"""messages of QoS 0 that wait to be taken"""


def errors_table() -> Translation:
    aiomqtt = need("aiomqtt", "mqtt")
    return {**NETWORK, aiomqtt.MqttError: SourceUnavailable, ssl.SSLError: SourceUnavailable}


FILTER = r"^(?:(?:\+|[^/+#]*)/)*(?:\+|#|[^/+#]+)$"
Filter = Annotated[str, StringConstraints(pattern=FILTER)]


class MqttOptions(SourceOptions):
    extra: ClassVar[str] = "mqtt"

    kind: Literal["mqtt"] = "mqtt"
    host: str = Field(min_length=1, description="Of the broker.")
    port: int = Field(1883, ge=1, le=65_535, description="8883 is usual with tls.")
    tls: bool = Field(False, description="Encrypted, with the certificates that the operating system trusts.")
    tls_ca: str = Field("", description="File with the certificate to trust instead.")
    username: str = Field("", description="Empty: none.")
    password: str = Field("", description="Better as ${NAME}.", repr=False)
    topics: tuple[Filter, ...] = Field(min_length=1, description="Filters: + is one level, # the rest.")
    qos: Literal[0, 1] = Field(1, description="1: replayable. 0: live.")
    client_id: str = Field("", description="Names the session at the broker; required for qos 1, and must not change.")
    session_expiry_s: int = Field(604_800, ge=1, description="How long the broker keeps messages while we are away.")
    receive_maximum: int = Field(4096, ge=1, le=65_535, description="Messages not acknowledged, at most.")
    keepalive_s: int = Field(30, ge=1, description="So long silent, the broker is asked; so long again, it is lost.")
    identity_property: str = Field("", description="User property that tells a message from every other.")
    time_property: str = Field("", description="User property with the time stamp.")
    time_unit: Literal["s", "ms", "us", "ns"] = Field("s", description="Of time_property.")

    @model_validator(mode="after")
    def _has_a_session(self) -> Self:
        if self.qos == 1 and not self.client_id:
            raise ValueError("qos 1 needs a client_id: it names the session at the broker, and must not change")
        return self

    def build(self) -> MqttSource:
        return MqttSource(self)

    def for_a_look(self) -> MqttOptions:
        """Beside the session, which keeps its messages for the connector that owns it."""
        return self.model_copy(update={"qos": 0, "client_id": ""})


class _Queue(asyncio.Queue[Any]):
    """Drops the oldest where aiomqtt would drop the newest, and counts."""

    dropped = 0

    def put_nowait(self, item: Any) -> None:
        if self.full():
            self.get_nowait()
            self.dropped += 1
        super().put_nowait(item)


class MqttSource(Source):
    seeks = False

    def __init__(self, options: MqttOptions) -> None:
        self._options = options
        self.delivery = "replayable" if options.qos else "live"
        self.redelivers_at_most = options.receive_maximum if options.qos else 0
        self._stack = AsyncExitStack()
        self._client: Any = None
        self._queue: _Queue | None = None
        self._delivered = 0
        """position of the newest message"""
        self._session_is_kept = False
        """by the broker, from before this connection"""
        self._was_open = False
        self._unacknowledged: deque[tuple[int, int]] = deque()
        """position and message id, of this connection"""
        self._errors: Translation = {}

    @property
    def _place(self) -> str:
        return f"{self._options.host}:{self._options.port}"

    async def open(self, *, position: Position) -> None:
        aiomqtt = need("aiomqtt", "mqtt")
        self._errors = errors_table()
        self._unacknowledged.clear()
        with translated(self._errors, self._place):
            self._client = self._connection(aiomqtt)
            await self._stack.enter_async_context(self._client)
            # Now, for it has one from here on: should subscribing fail, the next connection finds it.
            if position is not None and not self._session_is_kept:
                session = self._options.client_id
                log.warning("%s: has no session %s any more: what it had kept for us is lost", self._place, session)
            codes = await self._client.subscribe([(topic, self._subscription()) for topic in self._options.topics])
        for topic, code in zip(self._options.topics, codes, strict=True):
            if code.is_failure:
                raise SourceBroken(f"{self._place}: {topic} cannot be subscribed: {code}")
        self._was_open = True

    def _connection(self, aiomqtt: Any) -> Any:
        packets = need("paho.mqtt.packettypes", "mqtt")
        properties = need("paho.mqtt.properties", "mqtt").Properties(packets.PacketTypes.CONNECT)
        options = self._options
        if options.qos:
            properties.SessionExpiryInterval = options.session_expiry_s
            properties.ReceiveMaximum = options.receive_maximum
        client = aiomqtt.Client(
            options.host,
            options.port,
            username=options.username or None,
            password=options.password or None,
            identifier=options.client_id or None,
            protocol=aiomqtt.ProtocolVersion.V5,
            clean_start=not options.qos,
            properties=properties,
            keepalive=options.keepalive_s,
            timeout=CALL_WITHIN_S,
            tls_context=self._tls_context(),
            queue_type=self._new_queue,
            max_queued_incoming_messages=0 if options.qos else QUEUE,
        )
        if options.qos:
            # aiomqtt does not pass this on: a message is acknowledged by `commit`, not by having been received.
            client._client.manual_ack_set(True)
        connected = client._client.on_connect

        def on_connect(paho: Any, userdata: Any, flags: Any, *more: Any) -> None:
            self._session_is_kept = flags.session_present
            connected(paho, userdata, flags, *more)

        client._client.on_connect = on_connect
        return client

    def _new_queue(self, maxsize: int = 0) -> _Queue:
        self._queue = _Queue(maxsize)
        return self._queue

    def _tls_context(self) -> ssl.SSLContext | None:
        if not self._options.tls:
            return None
        try:
            return ssl.create_default_context(cafile=self._options.tls_ca or None)
        except (OSError, ssl.SSLError) as error:
            raise SourceBroken(f"tls_ca {self._options.tls_ca}: {error}") from None

    def _subscription(self) -> Any:
        # A retained message comes with a new subscription, not again with every connection; of QoS 0 each is new.
        handling = 2 if self._was_open and not self._options.qos else 1
        return need("paho.mqtt.subscribeoptions", "mqtt").SubscribeOptions(
            qos=self._options.qos, retainHandling=handling
        )

    async def __aiter__(self) -> AsyncGenerator[Sequence[Sample], None]:
        assert self._client is not None, "the source is not open"
        assert self._queue is not None
        queue = self._queue
        # aiomqtt's iterator notices a lost connection, at the price of two tasks for each message; the rest of what is
        # there is taken from its queue.
        with translated(self._errors, self._place):
            async for message in self._client.messages:
                arrival_s = time.time()
                batch = [self._sample(message, arrival_s)]
                while len(batch) < MAX_BATCH and not queue.empty():
                    batch.append(self._sample(queue.get_nowait(), arrival_s))
                self.dropped += queue.dropped
                queue.dropped = 0
                yield batch

    def _sample(self, message: Any, arrival_s: float) -> Sample:
        self._delivered += 1
        position: Position = None
        if self._options.qos:
            position = self._delivered
            if message.qos:
                self._unacknowledged.append((position, message.mid))
        user = dict(getattr(message.properties, "UserProperty", None) or ())
        identity = user.get(self._options.identity_property, "") if self._options.identity_property else ""
        return Sample(message.topic.value, message.payload, self._time(user), arrival_s, position, str(identity), user)

    def _time(self, user: dict[str, str]) -> float | None:
        if not self._options.time_property:
            return None
        try:
            return float(user[self._options.time_property]) * SECONDS[self._options.time_unit]
        except (KeyError, ValueError):
            return None

    async def commit(self, *, position: Position) -> None:
        assert isinstance(position, int)
        with translated(self._errors, self._place):
            while self._unacknowledged and self._unacknowledged[0][0] <= position:
                _, message_id = self._unacknowledged.popleft()
                self._client._client.ack(message_id, 1)

    async def _send_what_waits(self, paho: Any) -> None:
        """Acknowledgements go out one by one; disconnecting would leave the rest behind."""
        with suppress(TimeoutError):
            async with asyncio.timeout(CLOSE_WITHIN_S):
                while paho.want_write() and paho.is_connected():
                    await asyncio.sleep(0)

    async def close(self) -> None:
        self._unacknowledged.clear()
        client, self._client = self._client, None
        if client is not None:
            await self._send_what_waits(client._client)
        stack, self._stack = self._stack, AsyncExitStack()
        with suppress(SourceUnavailable), translated(self._errors, self._place):
            await stack.aclose()  # the connection may be gone already
        if client is not None and client._client.socket() is not None:
            # Where a broker takes the connection and never answers, aiomqtt leaves it open.
            client._client.disconnect()
            client._client.loop_write()
