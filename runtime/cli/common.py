"""What the commands share: options, the expected failures, stopping on a signal."""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import unicodedata
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, TypeVar

import click

from runtime.state_dir import who_runs

if TYPE_CHECKING:
    from runtime.settings import Settings

FAILED = 1
NO_RUNTIME = 3
NOT_AS_IT_SHOULD_BE = 4
EXPECTED = {
    "builtins": "OSError",
    "connectors.errors": "ConnectorError",
    "grf_core.bundle": "BundleError",
    "grf_core.data.motion": "MotionDataError",
    "grf_core.recording": "RecordingError",
    "runtime.client.errors": "ClientError",
    "runtime.keys": "InvalidId",
    "runtime.records": "RecordError",
    "runtime.settings": "SettingError",
    "runtime.state_dir": "StartError",
    "runtime.store.archive": "ArchiveError",
    "runtime.store.base": "StoreError",
}
"""failures that are told in one line, by the modules that define them; anything else is a defect with its traceback"""

Command = TypeVar("Command", bound=Callable[..., Any])


def failure_text(error: Exception) -> str | None:
    """What to tell of an expected failure; None for a defect."""
    return shown(str(error)) if is_expected(error, EXPECTED) else None


def shown(text: str) -> str:
    """Text of others as a terminal may have it: from an archive or a bundle, a control character would do what it says
    there. Escaped as in JSON, which it may be."""
    return "".join(
        json.dumps(char)[1:-1] if char != "\n" and unicodedata.category(char) in ("Cc", "Cs") else char for char in text
    )


def is_expected(error: Exception, expected: Mapping[str, str]) -> bool:
    """Nothing is imported for it: what a module that is not loaded defines was not raised."""
    loaded = {module: name for module, name in expected.items() if module in sys.modules}
    return any(isinstance(error, getattr(sys.modules[module], name)) for module, name in loaded.items())


def settings_options(command: Command, **attributes: Any) -> Command:
    """--config and --set, as in runtime/settings.py."""
    config = click.option("--config", type=click.Path(dir_okay=False), help="TOML file with settings.", **attributes)
    flags = click.option(
        "--set", "flags", multiple=True, metavar="LAYER.FIELD=VALUE", help="One setting; repeatable.", **attributes
    )
    return config(flags(command))


def ray_option(command: Command) -> Command:
    """--address of a Ray cluster that runs already."""
    text = "Of a Ray cluster that runs already: auto, host:port or ray://host:port."
    return click.option("--address", "ray_address", default="", envvar="GRF_RAY_ADDRESS", help=text)(command)


def read_settings(config: str | None, flags: tuple[str, ...]) -> Settings:
    from runtime.settings import SettingError, load_settings  # of all that has settings: not for `grf status`

    try:
        return load_settings(flags, config)
    except SettingError as error:
        raise click.UsageError(str(error)) from None


def _address(context: click.Context, option: click.Parameter, value: str) -> str:
    from runtime.client.locate import locator  # of all that speaks to a runtime: not for `grf --help`

    with _bad_parameter():
        locator(value, "")
    return value


def _tenant(context: click.Context, option: click.Parameter, value: str) -> str:
    from runtime.keys import check_tenant

    with _bad_parameter():
        return check_tenant(value)


@contextmanager
def _bad_parameter() -> Iterator[None]:
    try:
        yield
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def client_options(command: Command) -> Command:
    """--address, --tenant and --token of a running runtime; --config and --set tell where it was started."""
    address = click.option(
        "--address",
        default=_address_here,
        show_default="of the runtime started here, or port 8000 of this machine",
        envvar="GRF_ADDRESS",
        show_envvar=True,
        help="Of the gateway.",
        callback=_address,
    )
    tenant = click.option(
        "--tenant", default="default", show_default=True, envvar="GRF_TENANT", show_envvar=True, callback=_tenant
    )
    token = click.option(
        "--token", default="", envvar="GRF_TOKEN", show_envvar=True, help="If the runtime asks for one."
    )
    return address(tenant(token(settings_options(command, is_eager=True, expose_value=False, callback=_keep))))


def _keep(context: click.Context, option: click.Parameter, value: Any) -> None:
    context.meta[f"{__name__}.{option.name}"] = value


def _address_here() -> str:
    """Without the settings where none are named: they are slow to read for a command that asks one question."""
    meta = click.get_current_context().meta
    config, flags = meta[f"{__name__}.config"], meta[f"{__name__}.flags"]
    if config or flags or os.environ.get("GRF_CONFIG"):
        settings = read_settings(config, flags).runtime
        state_dir, port = settings.state_dir, str(settings.http_port)
    else:
        state_dir = os.environ.get("GRF_RUNTIME_STATE_DIR", ".grf")
        port = os.environ.get("GRF_RUNTIME_HTTP_PORT", "8000")
    running = who_runs(Path(state_dir))
    return running.address if running else f"http://127.0.0.1:{port}"


@contextmanager
def stop_on_signal() -> Iterator[threading.Event]:
    """An event that SIGINT, SIGTERM and SIGHUP set; a second one of the first two interrupts as usual. Below `nohup`
    SIGHUP stays ignored."""
    stopped = threading.Event()
    terminals = [number for number in (1, 2) if os.isatty(number)]

    def stop(number: int, frame: FrameType | None) -> None:
        if stopped.is_set():
            raise KeyboardInterrupt
        stopped.set()

    def hang_up(number: int, frame: FrameType | None) -> None:
        """Kernel and shell may both tell."""
        _leave(terminals)
        stopped.set()

    handlers = {signal.SIGINT: stop, signal.SIGTERM: stop}
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        handlers[signal.SIGHUP] = hang_up
    previous = {number: signal.signal(number, handler) for number, handler in handlers.items()}
    try:
        yield stopped
    finally:
        for number, before in previous.items():
            signal.signal(number, before)


def _leave(terminals: Iterable[int]) -> None:
    """Write nowhere where a terminal has closed: a line that fails would end the command before anything is saved."""
    with open(os.devnull, "wb") as nowhere:
        for number in terminals:
            if not os.isatty(number):
                os.dup2(nowhere.fileno(), number)
