"""All settings: one frozen dataclass per layer, its fields the names, its values the defaults.

Precedence: flag over environment over file over default. A setting is named `layer.field` everywhere:

    grf up --set order.lateness_s=0.2           a flag
    GRF_ORDER_LATENESS_S=0.2                    the environment
    [order]                                     a TOML file, given by --config or GRF_CONFIG
    lateness_s = 0.2

An unknown or unreadable setting is an error that names it.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tomllib
import typing
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Literal

from runtime.dispatch.policy import DispatchPolicy
from runtime.engine.policies import BatchPolicy, EnginePolicy, OrderPolicy, QuotaPolicy
from runtime.gateway.policy import GatewayPolicy
from runtime.keys import InvalidId, check_tenant
from runtime.placement import ClusterPolicy
from runtime.store.redis_address import parse_redis

ENV_PREFIX = "GRF_"
MAX_THREADS = 1024
"""the system ends a process that asks for more than it has"""
MAX_CAPACITY = 1 << 26
"""rows: the worker's own account of so many takes gigabytes, whatever the model"""


class SettingError(ValueError):
    """A setting that is unknown or cannot be; the text names it."""


@dataclass(frozen=True, slots=True)
class RuntimeSettings:
    """Where the runtime listens, keeps its state, and what it runs."""

    host: str = "127.0.0.1"
    """everything listens here: gateway, worker, metrics"""
    http_port: int = 8000
    """of the gateway"""
    data_port: int = 5570
    """ZeroMQ port of the worker; those after it are of further workers on its machine: the next of 99 that is free"""
    state_dir: str = ".grf"
    """of this machine: the SQLite store, and the lock of the runtime that uses it"""
    store: str = "sqlite"
    """sqlite, or the address of a Redis that all workers reach (docs/operations.md)"""
    bundle: str = "bundles/motion"
    """the model: a folder, or `python:module:function` for one of your own"""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, ..."""
    threads: int = 1
    """CPU threads of the model"""
    history_length: int = 256
    """settled versions kept per session"""
    capacity: int = 65536
    """rows of the slab"""
    evict_after_s: float = 60.0
    """an idle session leaves memory after this; the store keeps it"""
    tokens_file: str = ""
    """JSON {token: tenant}; without it every client may name any tenant. Changes count within a second"""
    heartbeat_s: float = 0.25
    """between two signs of life of a worker"""
    lease_s: float = 2.0
    """a worker that has not been heard of for so long is replaced, and has stopped answering by itself"""
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    """of all processes"""

    def __post_init__(self) -> None:
        for name in ("host", "state_dir", "bundle"):  # as from a variable of the shell that is not set
            if not getattr(self, name):
                raise ValueError(f"{name} must not be empty")
        for name, least in (("http_port", 1), ("data_port", 0)):  # 0 takes a free one; the gateway's has to be known
            if not least <= getattr(self, name) < 65536:
                raise ValueError(f"{name} must be a port: {getattr(self, name)}")
        if self.store != "sqlite":
            try:
                parse_redis(self.store)
            except ValueError as error:
                raise ValueError(f"store: {error}") from None
        if not 1 <= self.threads <= MAX_THREADS:
            raise ValueError(f"threads must be 1 .. {MAX_THREADS}: {self.threads}")
        if self.history_length < 0:
            raise ValueError(f"history_length must not be negative: {self.history_length}")
        if not 2 <= self.capacity <= MAX_CAPACITY:
            raise ValueError(f"capacity must be 2 .. {MAX_CAPACITY} rows: {self.capacity}")
        if not self.evict_after_s >= 0:
            raise ValueError(f"evict_after_s must not be negative: {self.evict_after_s:g}")
        for name in ("heartbeat_s", "lease_s"):
            if not 0 < getattr(self, name) < inf:
                raise ValueError(f"{name} must be positive and finite: {getattr(self, name):g}")
        if self.lease_s < 3 * self.heartbeat_s:
            raise ValueError(f"lease_s ({self.lease_s:g}) must be at least 3 heartbeat_s ({self.heartbeat_s:g})")


@dataclass(frozen=True, slots=True)
class Settings:
    runtime: RuntimeSettings = field(default_factory=RuntimeSettings)
    order: OrderPolicy = field(default_factory=OrderPolicy)
    batch: BatchPolicy = field(default_factory=BatchPolicy)
    quota: QuotaPolicy = field(default_factory=QuotaPolicy)
    dispatch: DispatchPolicy = field(default_factory=DispatchPolicy)
    gateway: GatewayPolicy = field(default_factory=GatewayPolicy)
    cluster: ClusterPolicy = field(default_factory=ClusterPolicy)

    @property
    def engine_policy(self) -> EnginePolicy:
        return EnginePolicy(
            self.order,
            self.batch,
            self.quota,
            capacity=self.runtime.capacity,
            history_length=self.runtime.history_length,
            evict_after_s=self.runtime.evict_after_s,
        )

    def tokens(self) -> dict[str, str]:
        """The tenants by token. Raises SettingError for a file that cannot be read, or would let everyone in."""
        if not self.runtime.tokens_file:
            return {}
        try:
            tokens = json.loads(Path(self.runtime.tokens_file).read_text(), object_pairs_hook=_distinct_tokens)
        except (OSError, ValueError, RecursionError) as error:
            raise SettingError(f"runtime.tokens_file: {error}") from None
        if not isinstance(tokens, dict) or not all(isinstance(tenant, str) for tenant in tokens.values()):
            raise SettingError("runtime.tokens_file: expected a JSON object {token: tenant}")
        if not tokens:  # without any, every client is whom it says it is
            raise SettingError("runtime.tokens_file: there is no token in it; leave the setting out to let everyone in")
        if "" in tokens:
            raise SettingError(f"runtime.tokens_file: the token of {tokens['']!r} is empty: whoever sends none has it")
        for token, tenant in tokens.items():
            if not token.isprintable() or token != token.strip():
                what = f"the token of {tenant!r} has a control character, or a space at its end"
                raise SettingError(f"runtime.tokens_file: {what}: no HTTP header has such")
        try:
            for tenant in tokens.values():
                check_tenant(tenant)
        except InvalidId as error:
            raise SettingError(f"runtime.tokens_file: {error}") from None
        return tokens


def _distinct_tokens(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON lets a key stand twice, and the last one counts: whoever has the token would be another tenant."""
    tokens = dict(pairs)
    for token, tenant in pairs:
        if tokens[token] != tenant:
            raise ValueError(f"the token of {tenant!r} stands there again, for another tenant")
    return tokens


LAYERS: dict[str, type[Any]] = {
    "runtime": RuntimeSettings,
    "order": OrderPolicy,
    "batch": BatchPolicy,
    "quota": QuotaPolicy,
    "dispatch": DispatchPolicy,
    "gateway": GatewayPolicy,
    "cluster": ClusterPolicy,
}


def differing(one: Settings, other: Settings) -> list[str]:
    """Names of the settings in which the two differ."""
    return [
        f"{layer}.{item.name}"
        for layer, kind in LAYERS.items()
        for item in dataclasses.fields(kind)
        if getattr(getattr(one, layer), item.name) != getattr(getattr(other, layer), item.name)
    ]


def load_settings(
    flags: Iterable[str] = (), config: str | None = None, environment: Mapping[str, str] = os.environ
) -> Settings:
    """Settings from `layer.field=value` flags, the environment and a TOML file. Raises SettingError."""
    values: dict[str, dict[str, Any]] = {layer: {} for layer in LAYERS}
    path = config or environment.get(f"{ENV_PREFIX}CONFIG")
    if path:
        _read_file(path, values)
    _read_environment(environment, values)
    for flag in flags:
        name, equals, text = flag.partition("=")
        if not equals:
            raise SettingError(f"{flag!r}: expected layer.field=value")
        layer, setting = _resolve(name.strip())
        values[layer][setting] = _parse(name, _hints(layer)[setting], text.strip())
    return Settings(**{layer: _build(layer, values[layer]) for layer in LAYERS})


def _build(layer: str, values: dict[str, Any]) -> Any:
    try:
        return LAYERS[layer](**values)
    except (ValueError, TypeError) as error:
        raise SettingError(f"{layer}: {error}") from None


def _read_file(path: str, values: dict[str, dict[str, Any]]) -> None:
    try:
        content = tomllib.loads(Path(path).read_text())
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise SettingError(f"{path}: {error}") from None
    for layer, fields in content.items():
        if not isinstance(fields, dict):
            raise SettingError(f"{path}: {layer!r} is not a section; the sections are {', '.join(LAYERS)}")
        for name, value in fields.items():
            _, setting = _resolve(f"{layer}.{name}")
            values[layer][setting] = _check(f"{layer}.{name}", _hints(layer)[setting], value)


def _read_environment(environment: Mapping[str, str], values: dict[str, dict[str, Any]]) -> None:
    known = {f"{ENV_PREFIX}{layer}_{name}".upper(): (layer, name) for layer in LAYERS for name in _hints(layer)}
    for variable, text in environment.items():
        if variable in known:
            layer, name = known[variable]
            values[layer][name] = _parse(variable, _hints(layer)[name], text)
        elif variable.startswith(tuple(f"{ENV_PREFIX}{layer.upper()}_" for layer in LAYERS)):
            raise SettingError(f"{variable}: no such setting")


def _resolve(name: str) -> tuple[str, str]:
    layer, _, setting = name.partition(".")
    if layer not in LAYERS:
        raise SettingError(f"{name}: no such setting; the layers are {', '.join(LAYERS)}")
    if setting not in _hints(layer):
        raise SettingError(f"{name}: no such setting; {layer} has {', '.join(_hints(layer))}")
    return layer, setting


def _hints(layer: str) -> dict[str, Any]:
    hints = typing.get_type_hints(LAYERS[layer])
    return {item.name: hints[item.name] for item in dataclasses.fields(LAYERS[layer])}


def _parse(name: str, hint: Any, text: str) -> Any:
    """A value from the text of a flag or of the environment."""
    try:
        if _is_table(hint):
            pairs = (pair.partition("=") for pair in text.split(",") if pair)
            return {key.strip(): float(value) for key, _, value in pairs}
        if _is_list(hint):
            return tuple(item.strip() for item in text.split(",") if item.strip())
        if hint in (int, float):
            return hint(text)
        if hint is bool:
            return {"true": True, "false": False, "1": True, "0": False}[text.lower()]
    except (ValueError, KeyError):
        raise SettingError(f"{name}: cannot read {text!r} as {_expected(hint)}") from None
    return _check(name, hint, text)


def _check(name: str, hint: Any, value: Any) -> Any:
    """A value of the right type, as a TOML file gives it."""
    if typing.get_origin(hint) is Literal:
        if value not in typing.get_args(hint):
            raise SettingError(f"{name}: {value!r} is none of {', '.join(typing.get_args(hint))}")
        return value
    if _is_table(hint):
        if not isinstance(value, dict) or not all(type(item) in (int, float) for item in value.values()):
            raise SettingError(f"{name}: {value!r} is not {_expected(hint)}")
        return {key: float(item) for key, item in value.items()}
    if _is_list(hint):
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise SettingError(f"{name}: {value!r} is not {_expected(hint)}")
        return tuple(value)
    if hint is float and type(value) is int:
        return float(value)
    if type(value) is not hint:
        raise SettingError(f"{name}: {value!r} is not {_expected(hint)}")
    return value


def _is_table(hint: Any) -> bool:
    return typing.get_origin(hint) is Mapping


def _is_list(hint: Any) -> bool:
    return typing.get_origin(hint) is tuple


def _expected(hint: Any) -> str:
    if _is_list(hint):
        return "a list of texts"
    texts: dict[Any, str] = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}
    return texts.get(hint, "name=number,...")
