"""The file of `grf connect`: YAML, checked by the models whose fields are also the documentation (docs/connectors.md).

`${NAME}` and `${NAME:-default}` in a text are replaced from the environment: passwords, tokens, places. What is wrong
is told with file and line.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from connectors.backoff import RestartOptions
from connectors.base import Options
from connectors.clock import ClockOptions
from connectors.delivery import SnapshotOptions
from connectors.errors import ConfigError
from connectors.kinds import AnySource
from connectors.known_streams import MAX_STREAMS
from connectors.routes import RouteOptions
from connectors.stream_keys import KeyOptions
from runtime.client.locate import locator
from runtime.keys import check_tenant

VARIABLE = re.compile(r"\$\{(\w+)(?::-([^}]*))?\}")
MAX_FILE_BYTES = 4 << 20
MAX_NODES = 100_000


class RuntimeOptions(Options):
    address: str = Field("http://127.0.0.1:8000", description="Gateway (http://host:port) or worker (tcp://host:port).")
    tenant: str = Field("default", description="Whose sessions these are.")
    token: str = Field("", description="If the runtime asks for one; better as ${GRF_TOKEN}.", repr=False)
    client: str = Field("connect", description="Name of this connector in the runtime's logs.")

    @field_validator("address")
    @classmethod
    def _is_of_a_known_kind(cls, address: str) -> str:
        locator(address, "")
        return address

    @field_validator("tenant")
    @classmethod
    def _is_a_tenant(cls, tenant: str) -> str:
        return check_tenant(tenant)


class MonitoringOptions(Options):
    host: str = Field("127.0.0.1", description="Where metrics and health are served.")
    port: int = Field(9464, ge=0, le=65_535, description="GET /metrics, GET /health. 0: any free one.")


class SourceEntry(Options):
    model_config = ConfigDict(populate_by_name=True)

    from_: AnySource = Field(alias="from", description="The transport and its options.")
    key: KeyOptions | None = Field(None, description="What of a payload tells whose it is, for routes to match.")
    routes: tuple[RouteOptions, ...] = Field(min_length=1, description="Which of its streams become what.")
    clock: ClockOptions = Field(ClockOptions(), description="How its time stamps become event times.")
    snapshot: SnapshotOptions = Field(SnapshotOptions(), description="Of a replayable source: how often.")
    restart: RestartOptions = Field(RestartOptions(), description="When it is unavailable.")
    when_full: Literal["block", "drop_oldest"] = Field(
        "block",
        description="Segments that the runtime does not take: wait for it, or give up the oldest and count it. "
        "A replayable source always waits.",
    )
    buffer_bytes: int = Field(64 << 20, ge=1, description="Of segments that are not durable yet.")

    max_streams: int = Field(
        MAX_STREAMS,
        ge=1,
        description="Remembered, with their windows and encoders. Before one more begins, the one that was silent "
        "longest is ended and forgotten; one that returns begins anew.",
    )

    @model_validator(mode="after")
    def _fits_together(self) -> Self:
        if self.clock.on_backward == "keep" and any(route.window.resample_hz for route in self.routes):
            raise ValueError("clock.on_backward: keep does not go with window.resample_hz: time must not go back there")
        return self


SourceName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$")]


class ConnectOptions(Options):
    runtime: RuntimeOptions = Field(RuntimeOptions(), description="Where segments go.")
    state_dir: str = Field(".grf/connect", description="Where snapshots are kept; of one grf connect at a time.")
    http: MonitoringOptions = Field(MonitoringOptions(), description="Metrics and health.")
    sources: dict[SourceName, SourceEntry] = Field(min_length=1, description="By a name that stays the same.")


def load_config(path: Path, environment: Mapping[str, str] = os.environ) -> ConnectOptions:
    """Raises ConfigError with file and line of everything that is wrong."""
    try:
        text = path.read_bytes()[: MAX_FILE_BYTES + 1]
        if len(text) > MAX_FILE_BYTES:
            raise ConfigError(f"{path}: larger than {MAX_FILE_BYTES} bytes")
        root = yaml.compose(text, Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"{path}: {error.strerror}") from None
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        raise ConfigError(f"{_place(path, mark)}: {getattr(error, 'problem', None) or error}") from None
    if root is None:
        raise ConfigError(f"{path}: is empty")
    try:
        content = _content(path, root, environment, [MAX_NODES])
    except RecursionError:
        raise ConfigError(f"{path}: nested too deeply") from None
    try:
        return ConnectOptions.model_validate(content)
    except ValidationError as error:
        errors = error.errors(include_url=False)
        # A list whose only item is wrong is also told to be too short.
        inner = [one for one in errors if not any(_is_inside(other["loc"], one["loc"]) for other in errors)]
        raise ConfigError("\n".join(_told(path, root, one) for one in inner)) from None


def _is_inside(loc: tuple[int | str, ...], outer: tuple[int | str, ...]) -> bool:
    return len(loc) > len(outer) and loc[: len(outer)] == outer


def _place(path: Path, mark: Any) -> str:
    return str(path) if mark is None else f"{path}:{mark.line + 1}"


def _content(path: Path, node: yaml.Node, environment: Mapping[str, str], budget: list[int]) -> Any:
    """What a node says, with the environment filled in. Keys are texts and are there once."""
    budget[0] -= 1
    if budget[0] < 0:  # aliases of aliases, or of themselves
        raise ConfigError(f"{_place(path, node.start_mark)}: says more than {MAX_NODES} things")
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key, value in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.value in found:
                raise ConfigError(f"{_place(path, key.start_mark)}: {key.value!r} is no key, or is here twice")
            found[key.value] = _content(path, value, environment, budget)
        return found
    if isinstance(node, yaml.SequenceNode):
        return [_content(path, item, environment, budget) for item in node.value]
    if isinstance(node, yaml.ScalarNode) and VARIABLE.search(node.value):
        filled = VARIABLE.sub(lambda variable: _variable(path, node, variable, environment), node.value)
        # Without quotes it may be a number: ${PORT:-1883}.
        return filled if node.style else yaml.safe_load(filled)
    try:
        return yaml.constructor.SafeConstructor().construct_object(node, deep=True)
    except yaml.YAMLError as error:
        raise ConfigError(f"{_place(path, node.start_mark)}: {getattr(error, 'problem', error)}") from None


def _variable(path: Path, node: yaml.Node, variable: re.Match[str], environment: Mapping[str, str]) -> str:
    value = environment.get(variable[1], variable[2])
    if value is None:
        raise ConfigError(f"{_place(path, node.start_mark)}: the environment has no {variable[1]}")
    return value


def _told(path: Path, root: yaml.Node, error: Any) -> str:
    """`file:line: sources.ward.from.port: what is wrong`. The line is that of the deepest part that is in the file."""
    node, names = root, []
    for number, step in enumerate(error["loc"], start=1):
        child = _child(node, step)
        if child is not None:
            node = child
            names.append(str(step))
        elif number == len(error["loc"]) and error["type"] in ("missing", "extra_forbidden"):
            names.append(str(step))
        # else the name of a branch of a union, which is not in the file
    what = error["msg"].removeprefix("Value error, ")
    if error["type"] == "extra_forbidden":
        what = "no such option"
    elif error["type"] == "missing":
        what = "is missing"
    return f"{_place(path, node.start_mark)}: {'.'.join(names) or 'the file'}: {what}"


def _child(node: yaml.Node, step: str | int) -> yaml.Node | None:
    if isinstance(node, yaml.MappingNode):
        return next((value for key, value in node.value if key.value == step), None)
    if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
        found: yaml.Node = node.value[step]
        return found
    return None
