"""Every kind of source and of encoder that a file can name. A new transport or encoder adds its options here."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from connectors.custom import PythonEncoderOptions, PythonOptions
from connectors.encoders.image_sketch import ImageSketchOptions
from connectors.encoders.lips import LipsOptions
from connectors.encoders.log_mel import LogMelOptions
from connectors.encoders.voice_activity import VoiceActivityOptions
from connectors.encoders.words import WordsOptions
from connectors.files import FilesOptions
from connectors.http_push import HttpOptions
from connectors.jetstream import NatsOptions
from connectors.mcap_files import McapOptions
from connectors.media_file import MediaFileOptions
from connectors.media_stream import CameraOptions, MediaStreamOptions
from connectors.microphone import MicrophoneOptions
from connectors.mqtt import MqttOptions
from connectors.ros_bags import RosOptions
from connectors.websocket import WebSocketOptions

AnySource = Annotated[
    CameraOptions
    | FilesOptions
    | HttpOptions
    | McapOptions
    | MediaFileOptions
    | MediaStreamOptions
    | MicrophoneOptions
    | MqttOptions
    | NatsOptions
    | PythonOptions
    | RosOptions
    | WebSocketOptions,
    Field(discriminator="kind"),
]
AnyEncoder = Annotated[
    ImageSketchOptions | LipsOptions | LogMelOptions | PythonEncoderOptions | VoiceActivityOptions | WordsOptions,
    Field(discriminator="kind"),
]
