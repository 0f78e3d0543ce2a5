"""Every kind of source and of encoder that a file can name. A new transport or encoder adds its options here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from connectors.custom import PythonEncoderOptions, PythonOptions
from connectors.files import FilesOptions
from connectors.http_push import HttpOptions
from connectors.jetstream import NatsOptions
from connectors.mcap_files import McapOptions
from connectors.mqtt import MqttOptions
from connectors.ros_bags import RosOptions
from connectors.websocket import WebSocketOptions

AnySource = Annotated[
    FilesOptions
    | HttpOptions
    | McapOptions
    | MqttOptions
    | NatsOptions
    | PythonOptions
    | RosOptions
    | WebSocketOptions,
    Field(discriminator="kind"),
]
AnyEncoder = PythonEncoderOptions
