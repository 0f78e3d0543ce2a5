"""What the commands share: options, the expected failures, stopping on a signal."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, TypeVar

import click

from connectors.errors import ConnectorError
from grf_core.bundle import BundleError
from grf_core.data.motion import MotionDataError
from grf_core.recording import RecordingError
from runtime.client import ClientError
from runtime.local_runtime import StartError
from runtime.records import RecordError
from runtime.settings import SettingError, Settings, load_settings
from runtime.store.archive import ArchiveError
from runtime.store.base import StoreError

FAILED = 1
NO_RUNTIME = 3
NOT_AS_IT_SHOULD_BE = 4
EXPECTED = (
    ArchiveError, BundleError, ClientError, ConnectorError, MotionDataError, RecordError, RecordingError, SettingError,
    StartError, StoreError, OSError,
)  # fmt: skip
"""failures that are told in one line; anything else is a defect and shows its traceback"""

Command = TypeVar("Command", bound=Callable[..., Any])


def failure_text(error: Exception) -> str | None:
    """What to tell of an expected failure; None for a defect."""
    return str(error) if isinstance(error, EXPECTED) else None


def settings_options(command: Command) -> Command:
    """--config and --set, as in runtime/settings.py."""
    config = click.option("--config", type=click.Path(dir_okay=False), help="TOML file with settings.")
    flags = click.option("--set", "flags", multiple=True, metavar="LAYER.FIELD=VALUE", help="One setting; repeatable.")
    return config(flags(command))


def ray_option(command: Command) -> Command:
    """--address of a Ray cluster that runs already."""
    text = "Of a Ray cluster that runs already: auto, host:port or ray://host:port."
    return click.option("--address", "ray_address", default="", envvar="GRF_RAY_ADDRESS", help=text)(command)


def read_settings(config: str | None, flags: tuple[str, ...]) -> Settings:
    try:
        return load_settings(flags, config)
    except SettingError as error:
        raise click.UsageError(str(error)) from None


def client_options(command: Command) -> Command:
    """--address, --tenant and --token of a running runtime."""
    address = click.option(
        "--address", default="http://127.0.0.1:8000", show_default=True, envvar="GRF_ADDRESS", help="Of the gateway."
    )
    tenant = click.option("--tenant", default="default", show_default=True, envvar="GRF_TENANT")
    token = click.option("--token", default="", envvar="GRF_TOKEN", help="If the runtime asks for one.")
    return address(tenant(token(command)))


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal interrupts as usual."""
    stopped = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    previous = {number: signal.signal(number, stop) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stopped
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
