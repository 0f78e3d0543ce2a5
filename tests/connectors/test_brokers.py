"""Brokers and networks that fail, at the level of the source."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiomqtt
import pytest
from pydantic import ValidationError

from connectors.base import Source
from connectors.config import SourceEntry
from connectors.contract import run, take
from connectors.dry_run import try_out
from connectors.errors import SourceBroken, SourceUnavailable
from connectors.jetstream import NatsOptions
from connectors.mqtt import MqttOptions, MqttSource
from tests.connectors.materials import mqtt_options, payload, publish_mqtt, publish_nats, run_nats
from tests.connectors.servers import Mosquitto, Nats
from tests.relay import Relay


def numbers(samples: Any) -> list[int]:
    return [json.loads(sample.value)["n"] for sample in samples]


def test_a_cut_network_is_told_and_what_was_not_committed_comes_again(mosquitto: Mosquitto) -> None:
    async def main() -> None:
        with Relay(mosquitto.port) as relay:
            source = mqtt_options(relay.port, "cut").build()
            async with source.opened():
                await publish_mqtt(mosquitto.port, "cut", range(10))
                first = await take(source, 10)
                relay.reset()
                with pytest.raises(SourceUnavailable, match=f":{relay.port}"):
                    await take(source, 1)
            await source.commit(position=first[-1].position)  # too late: it was of the connection that is lost
            async with source.opened():
                assert numbers(await take(source, 10)) == list(range(10))

    run(main())


def test_a_cut_network_is_told_by_jetstream_too(nats: Nats) -> None:
    run_nats(nats, lambda jetstream: jetstream.add_stream(name="CUT", subjects=["CUT.>"]))

    async def main() -> None:
        with Relay(nats.port) as relay:
            source = NatsOptions(servers=(f"nats://127.0.0.1:{relay.port}",), stream="CUT").build()
            async with source.opened():
                await publish_nats(nats, "CUT.row", range(5))
                first = await take(source, 5)
                relay.reset()
                with pytest.raises(SourceUnavailable, match="stream CUT at"):
                    await take(source, 1)
            async with source.opened(position=first[2].position):
                assert numbers(await take(source, 2)) == [3, 4]

    run(main())


def test_a_stream_that_is_not_there_or_is_another_breaks_the_source(nats: Nats) -> None:
    def options(stream: str) -> NatsOptions:
        return NatsOptions(servers=(f"nats://127.0.0.1:{nats.port}",), stream=stream)

    async def opened(source: Source, position: Any = None) -> None:
        async with source.opened(position=position):
            pass

    with pytest.raises(SourceBroken, match="NOWHERE"):
        run(opened(options("NOWHERE").build()))
    run_nats(nats, lambda jetstream: jetstream.add_stream(name="OTHER", subjects=["OTHER.>"]))
    with pytest.raises(SourceBroken, match="ends at 0, and 12 was read"):
        run(opened(options("OTHER").build(), 12))


def test_what_a_streams_limits_removed_is_counted_and_new_means_from_now_on(nats: Nats) -> None:
    run_nats(nats, lambda jetstream: jetstream.add_stream(name="SHORT", subjects=["SHORT.>"], max_msgs=4))

    async def main() -> None:
        await publish_nats(nats, "SHORT.row", range(10))
        options = NatsOptions(servers=(f"nats://127.0.0.1:{nats.port}",), stream="SHORT")
        source = options.build()
        for _ in range(2):  # the second time it goes on where it was, for nothing had come
            async with source.opened(position=2):
                assert source.dropped == 4
        async with source.opened(position=2):
            assert numbers(await take(source, 4)) == [6, 7, 8, 9]
        assert source.dropped == 4
        new = options.model_copy(update={"start": "new"}).build()
        async with new.opened():
            await publish_nats(nats, "SHORT.row", range(10, 12))
            assert numbers(await take(new, 2)) == [10, 11]

    run(main())


def test_what_comes_before_a_source_that_begins_with_what_is_new_is_opened_again_is_new_too(nats: Nats) -> None:
    run_nats(nats, lambda jetstream: jetstream.add_stream(name="NEW", subjects=["NEW.>"]))

    async def main() -> None:
        await publish_nats(nats, "NEW.row", range(3))
        source = NatsOptions(servers=(f"nats://127.0.0.1:{nats.port}",), stream="NEW", start="new").build()
        async with source.opened():
            pass  # and the network is lost
        await publish_nats(nats, "NEW.row", range(3, 5))
        async with source.opened():
            assert numbers(await take(source, 2)) == [3, 4]

    run(main())


def test_what_limits_remove_before_a_slow_reader_comes_to_it_is_counted_and_other_subjects_are_not(nats: Nats) -> None:
    run_nats(nats, lambda jetstream: jetstream.add_stream(name="SLOW", subjects=["SLOW.>"], max_msgs=8))

    async def main() -> None:
        options = NatsOptions(servers=(f"nats://127.0.0.1:{nats.port}",), stream="SLOW", subjects=("SLOW.row",))
        source = options.build()
        await publish_nats(nats, "SLOW.row", range(10))
        async with source.opened():
            batches = aiter(source)
            assert numbers(await anext(batches)) == list(range(2, 10))
            await publish_nats(nats, "SLOW.other", range(3))
            await publish_nats(nats, "SLOW.row", range(10, 12))
            assert numbers(await anext(batches)) == [10, 11]
            assert source.dropped == 0
            await publish_nats(nats, "SLOW.row", range(12, 32))
            assert numbers(await anext(batches)) == list(range(24, 32))
            assert source.dropped == 12
            await batches.aclose()

    run(main())


def test_a_wrong_password_is_told(tmp_path: Path, server_program: Callable[[str], str]) -> None:
    class Guarded(Mosquitto):
        def command(self) -> Any:
            command = super().command()
            config = self.folder / "mosquitto.conf"
            config.write_text(config.read_text().replace("allow_anonymous true", "allow_anonymous false"))
            return command

    async def main(port: int) -> None:
        async with mqtt_options(port, "guarded").build().opened():
            pass

    with (
        Guarded(server_program("mosquitto"), tmp_path, persistent=False) as server,
        pytest.raises(SourceUnavailable, match=r"(?i)not authori[sz]ed"),
    ):
        run(main(server.port))


def test_a_topic_that_may_not_be_read_breaks_the_source(mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mosquitto grants what it will never deliver; other brokers say so, with this code."""
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.reasoncodes import ReasonCode

    async def refused(client: aiomqtt.Client, topics: Any) -> list[ReasonCode]:
        return [ReasonCode(PacketTypes.SUBACK, "Not authorized") for _ in topics]

    async def main() -> None:
        async with mqtt_options(mosquitto.port, "closed").build().opened():
            pass

    monkeypatch.setattr(aiomqtt.Client, "subscribe", refused)
    with pytest.raises(SourceBroken, match="closed/# cannot be subscribed: Not authorized"):
        run(main())


@pytest.mark.parametrize("topic", ["a/#/b", "a/b#", "a+/b", ""])
def test_a_filter_that_is_none_is_told_before_anything_is_connected(topic: str) -> None:
    with pytest.raises(ValidationError, match="topics"):
        MqttOptions(host="h", topics=(topic,), client_id="c")


def test_a_look_leaves_the_session_alone(mosquitto: Mosquitto) -> None:
    async def main() -> None:
        options = mqtt_options(mosquitto.port, "looked-at")
        async with options.build().opened():
            pass
        async with options.for_a_look().build().opened() as look:
            await publish_mqtt(mosquitto.port, "looked-at", range(3))
            assert numbers(await take(look, 3)) == [0, 1, 2]
        async with options.build().opened() as source:
            assert numbers(await take(source, 3)) == [0, 1, 2]

    run(main())


def test_a_look_shows_what_the_session_itself_could_not_recognise(mosquitto: Mosquitto) -> None:
    route = {"session": "s", "stream": "t", "modality": "m", "decode": {"format": "json", "fields": ["n"]}}
    options = mqtt_options(mosquitto.port, "nameless", identity_property="")
    entry = SourceEntry.model_validate({"from": options, "routes": [route]})

    async def main() -> None:
        looking = asyncio.create_task(try_out(options.for_a_look().build(), entry, 1.0))
        while not looking.done():
            await publish_mqtt(mosquitto.port, "nameless", [1])
        trial = await looking
        assert not trial.streams
        assert set(trial.tally.bad) == {"identity"}

    run(main())


def test_times_and_identities_come_from_user_properties(mosquitto: Mosquitto) -> None:
    from paho.mqtt.packettypes import PacketTypes
    from paho.mqtt.properties import Properties

    async def main() -> None:
        options = MqttOptions(
            host="127.0.0.1",
            port=mosquitto.port,
            topics=("timed/#",),
            client_id="timed",
            time_property="ms",
            time_unit="ms",
            identity_property="id",
        )
        async with options.build().opened() as source:
            async with aiomqtt.Client("127.0.0.1", mosquitto.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
                for stamp in ("1500", "noon"):
                    properties = Properties(PacketTypes.PUBLISH)
                    properties.UserProperty = [("ms", stamp), ("id", f"is-{stamp}")]
                    await client.publish("timed/a", b"1", qos=1, properties=properties)
            samples = await take(source, 2)
        assert [sample.event_time_s for sample in samples] == [1.5, None]
        assert [sample.identity for sample in samples] == ["is-1500", "is-noon"]

    run(main())


async def retain_mqtt(port: int, topic: str, number: int) -> None:
    async with aiomqtt.Client("127.0.0.1", port) as client:
        await client.publish(f"{topic}/row", payload(number), qos=1, retain=True)


@pytest.mark.parametrize("qos", [0, 1])
def test_a_retained_message_comes_once_and_not_with_every_connection(mosquitto: Mosquitto, qos: int) -> None:
    async def main() -> None:
        await retain_mqtt(mosquitto.port, f"kept-{qos}", 1)
        source = mqtt_options(mosquitto.port, f"kept-{qos}", qos=qos).build()
        for expected in (1, 2, 3):
            async with source.opened(position=None if expected == 1 or not qos else expected - 1):
                if expected > 1:
                    await publish_mqtt(mosquitto.port, f"kept-{qos}", [expected])
                (sample,) = await take(source, 1)
                assert numbers([sample]) == [expected]
                if qos:
                    await source.commit(position=sample.position)

    run(main())


@pytest.mark.parametrize("persistent", [True, False])
def test_a_session_that_the_broker_has_lost_is_told(
    tmp_path: Path, server_program: Callable[[str], str], caplog: pytest.LogCaptureFixture, persistent: bool
) -> None:
    async def opened(position: Any) -> None:
        async with source.opened(position=position):
            pass

    with Mosquitto(server_program("mosquitto"), tmp_path, persistent=persistent) as server:
        source = mqtt_options(server.port, "lost").build()
        run(opened(None))
        server.stop()
        server.start()
        run(opened(1))
    assert ("has no session client-lost any more" in caplog.text) is not persistent


def test_a_lost_session_is_told_though_the_connection_is_lost_before_it_is_subscribed(
    mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The next one finds a session: that which the first has begun."""

    async def lost(*_: Any) -> None:
        raise aiomqtt.MqttError("lost")

    async def main() -> None:
        source = mqtt_options(mosquitto.port, "begun").build()
        with monkeypatch.context() as patch:
            patch.setattr(aiomqtt.Client, "subscribe", lost)
            with pytest.raises(SourceUnavailable):
                async with source.opened(position=1):
                    pass
        async with source.opened(position=1):
            pass

    run(main())
    assert caplog.text.count("has no session client-begun any more") == 1


def test_a_queue_of_qos_0_gives_up_the_oldest_and_counts(mosquitto: Mosquitto, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("connectors.mqtt.QUEUE", 5)

    async def main() -> None:
        source = mqtt_options(mosquitto.port, "flood", qos=0).build()
        assert isinstance(source, MqttSource)
        async with source.opened():
            assert source._queue is not None
            await publish_mqtt(mosquitto.port, "flood", range(20), qos=0)
            await publish_mqtt(mosquitto.port, "flood", range(20, 21), qos=1)  # answered behind the others
            while source._queue.dropped < 16:
                await asyncio.sleep(0.01)
            assert numbers(await take(source, 5)) == [16, 17, 18, 19, 20]
            assert source.dropped == 16

    run(main())
