"""Stays of the PhysioNet/CinC 2012 challenge as MQTT messages, one for each charting, all beds merged by time.

python examples/icu/publish.py physionet-2012.tar.xz --stays 8 --hours-per-second 1
"""

from __future__ import annotations

import argparse
import asyncio
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import aiomqtt
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from grf_core.data.archives import tar_members
from grf_core.data.physionet_2012 import MEASURED, RECORD, Physionet2012DataError

ADMITTED_S = 1_700_000_000 // 60 * 60
"""wall time of every admission: the challenge tells minutes since then"""
DESCRIPTORS = ("Age", "Gender", "Height", "Weight", "ICUType")
MODALITY_OF = {variable.name: modality for modality, variables in MEASURED.items() for variable in variables}


class Message(NamedTuple):
    minutes: int
    bed: str
    kind: str
    """patient, or one of the modalities"""
    values: dict[str, float]


def messages_of(bed: str, text: str) -> Iterator[Message]:
    """What a ward would send of one stay, in order: who it is, then what is charted, by minute and modality."""
    patient: dict[str, float] = {}
    charts: dict[tuple[int, str], dict[str, float]] = {}
    for line in text.splitlines()[1:]:
        time, _, rest = line.partition(",")
        name, _, value = rest.partition(",")
        hours, _, minutes = time.partition(":")
        at = 60 * int(hours) + int(minutes) if minutes else 0
        if at == 0 and name in DESCRIPTORS and name not in patient:
            patient[name] = float(value)  # the first weight, at admission, belongs to the patient
        elif name in MODALITY_OF:
            charts.setdefault((at, MODALITY_OF[name]), {})[name] = float(value)
    yield Message(0, bed, "patient", patient)
    for (at, modality), values in charts.items():
        yield Message(at, bed, modality, values)


async def publish(client: aiomqtt.Client, message: Message) -> None:
    properties = Properties(PacketTypes.PUBLISH)
    identity = f"{message.bed}-{message.kind}-{message.minutes}"
    properties.UserProperty = [("id", identity), ("t", str(ADMITTED_S + 60 * message.minutes))]
    topic = f"icu/{message.bed}/{message.kind}"
    await client.publish(topic, json.dumps(message.values), qos=1, properties=properties)


async def main(arguments: argparse.Namespace) -> None:
    files = ((RECORD.search(name), content) for name, content in tar_members(arguments.archive, Physionet2012DataError))
    stays = ((f"bed-{found[2]}", content.decode()) for found, content in files if found)
    messages = [one for bed, text in islice(stays, arguments.stays) for one in messages_of(bed, text)]
    messages.sort(key=lambda message: message.minutes)
    now = 0
    async with aiomqtt.Client(arguments.host, arguments.port, protocol=aiomqtt.ProtocolVersion.V5) as client:
        for message in messages:
            if message.minutes > now and arguments.hours_per_second:
                await asyncio.sleep((message.minutes - now) / 60 / arguments.hours_per_second)
            now = message.minutes
            await publish(client, message)
    print(f"published {len(messages)} charts of {arguments.stays} stays")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", type=Path)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=1883)
    parser.add_argument("--stays", type=int, default=8)
    parser.add_argument("--hours-per-second", type=float, default=1.0, help="0: at once")
    asyncio.run(main(parser.parse_args()))
