"""Foreign exceptions never leave a connector: the table of each transport knows every one its library can raise."""

from __future__ import annotations

import inspect
import re
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from connectors import jetstream, mcap_files, mqtt, ros_bags, tables
from connectors.base import SourceOptions
from connectors.contract import run
from connectors.errors import (
    NETWORK,
    BadSample,
    ConnectorError,
    MissingExtra,
    SourceUnavailable,
    Translation,
    need,
    translate,
    translated,
)
from connectors.files import FilesOptions
from connectors.jetstream import NatsOptions
from connectors.mcap_files import McapOptions
from connectors.mqtt import MqttOptions
from connectors.ros_bags import RosOptions
from connectors.websocket import WebSocketOptions

ROOT = Path(__file__).parents[2]


def exceptions_of(package: str, *modules: str) -> Iterator[type[Exception]]:
    """Every exception class that these modules of a library define."""
    for name in modules:
        module: ModuleType = need(name, "test")
        for _, kind in inspect.getmembers(module, inspect.isclass):
            if issubclass(kind, Exception) and kind.__module__.partition(".")[0] == package:
                yield kind


TABLES: list[tuple[str, Translation, list[type[Exception]]]] = [
    ("mqtt", mqtt.errors_table(), [*exceptions_of("aiomqtt", "aiomqtt", "aiomqtt.exceptions")]),
    ("nats", jetstream.errors_table(), [*exceptions_of("nats", "nats.errors", "nats.js.errors")]),
    ("mcap", mcap_files.errors_table(), [*exceptions_of("mcap", "mcap.exceptions", "mcap.data_stream")]),
    (
        "ros",
        ros_bags.errors_table(),
        [*exceptions_of("rosbags", "rosbags.highlevel", "rosbags.rosbag1", "rosbags.rosbag2", "rosbags.typesys")],
    ),
    ("parquet", tables.parquet_errors(), [*exceptions_of("pyarrow", "pyarrow", "pyarrow.lib")]),
]
PROGRAMS_MISTAKES = {"WriterError", "MqttReentrantError"}
"""raised for a wrong use of the library, which is a defect of ours: it must be seen as one"""


@pytest.mark.parametrize(("name", "table", "foreign"), TABLES, ids=[name for name, _, _ in TABLES])
def test_every_exception_of_the_library_is_in_the_table(
    name: str, table: Translation, foreign: list[type[Exception]]
) -> None:
    assert foreign, "the library has no exceptions where they are looked for"
    unknown = {
        kind.__qualname__
        for kind in foreign
        if kind.__name__ not in PROGRAMS_MISTAKES and not any(base in table for base in kind.__mro__)
    }
    assert unknown == set()
    for system in (ConnectionRefusedError, FileNotFoundError, TimeoutError):
        assert any(base in table for base in system.__mro__)


def test_the_nearest_class_counts_and_a_defect_stays_one() -> None:
    table: Translation = {**NETWORK, ValueError: BadSample}
    assert isinstance(translate(ConnectionResetError("reset"), table), SourceUnavailable)
    assert isinstance(translate(UnicodeDecodeError("utf-8", b"", 0, 1, "bad"), table), BadSample)
    assert translate(ZeroDivisionError(), table) is None
    with pytest.raises(ZeroDivisionError), translated(table, "here"):
        raise ZeroDivisionError
    with pytest.raises(SourceUnavailable, match="here: reset") as told, translated(table, "here"):
        raise ConnectionResetError("reset")
    assert isinstance(told.value.__cause__, ConnectionResetError)


@pytest.mark.parametrize(
    ("module", "options"),
    [
        ("aiomqtt", MqttOptions(host="h", topics=("t",), client_id="c")),
        ("nats", NatsOptions(stream="S")),
        ("mcap", McapOptions(path="x.mcap")),
        ("rosbags", RosOptions(path="bag")),
        ("websockets", WebSocketOptions(port=0)),
        ("pyarrow", FilesOptions.model_validate({"tables": [{"path": "x.parquet"}]})),
    ],
)
def test_a_missing_package_is_told_with_its_extra(
    module: str, options: SourceOptions, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in [loaded for loaded in sys.modules if loaded == module or loaded.startswith(f"{module}.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, module, None)
    source = options.build()
    with pytest.raises(MissingExtra, match=r"pip install 'grf-runtime\[\w+\]'") as told:
        run(source.open(position=None))
    assert told.value.extra == (options.extra or "parquet")
    run(source.close())


def test_every_extra_that_is_named_is_one_of_the_project() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = set[str]()
    for file in (ROOT / "connectors").rglob("*.py"):
        named.update(re.findall(r'need\(\s*"[\w.]+",\s*"(\w+)"', file.read_text()))
    assert named >= {"mqtt", "media", "vosk"}
    assert named <= set(project["project"]["optional-dependencies"])


def test_our_errors_are_one_tree() -> None:
    assert all(issubclass(kind, ConnectorError) for kind in (SourceUnavailable, BadSample, MissingExtra))
