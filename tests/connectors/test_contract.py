"""The contract, over every connector and real parts."""

from __future__ import annotations

from pathlib import Path

import pytest

from connectors.contract import Harness, SourceContract
from tests.connectors.materials import Files, Http, JetStream, Mcap, Mqtt, Ros, Scripted, WebSockets
from tests.connectors.media_materials import MediaFiles, RtpStream

KINDS = [
    "scripted",
    "scripted-redelivers",
    "scripted-live",
    "csv",
    "npz",
    "npy",
    "parquet",
    "mcap",
    "mcap-no-index",
    "ros",
    "mqtt-qos1",
    "mqtt-qos0",
    "nats",
    "http",
    "websocket",
    "media-file",
    "rtp",
]


class TestEveryConnector(SourceContract):
    @pytest.fixture(params=KINDS)
    def harness(self, request: pytest.FixtureRequest, tmp_path: Path) -> Harness:
        match request.param:
            case "scripted":
                return Scripted()
            case "scripted-redelivers":
                return Scripted(redelivers=True)
            case "scripted-live":
                return Scripted(delivery="live")
            case "csv" | "npz" | "npy" | "parquet" as kind:
                return Files(tmp_path, kind)
            case "mcap":
                return Mcap(tmp_path / "rows.mcap")
            case "mcap-no-index":
                return Mcap(tmp_path / "rows.mcap", indexed=False)
            case "ros":
                return Ros(tmp_path / "bag")
            case "mqtt-qos1" | "mqtt-qos0" as kind:
                return Mqtt(request.getfixturevalue("mosquitto"), qos=int(kind[-1]))
            case "nats":
                return JetStream(request.getfixturevalue("nats"))
            case "http":
                return Http()
            case "websocket":
                return WebSockets()
            case "media-file":
                return MediaFiles(tmp_path)
            case "rtp":
                rtp: RtpStream = request.getfixturevalue("rtp")
                return rtp
        raise AssertionError(request.param)
