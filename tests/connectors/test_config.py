from __future__ import annotations

from pathlib import Path

import pytest

from connectors.config import load_config
from connectors.errors import ConfigError
from connectors.media_file import MediaFileOptions

GOOD = """\
runtime: {address: "tcp://127.0.0.1:5570", token: "${TOKEN:-none}"}
sources:
  ward:
    from:
      kind: mqtt
      host: ${BROKER}
      port: ${PORT:-1883}
      topics: [ward/+/vitals]
      client_id: ward
    routes:
      - match: ward/{bed}/vitals
        decode: {format: json, fields: [hr, spo2], time: t}
        session: bed-{bed}
        stream: monitor
        modality: vitals
"""


def written(folder: Path, text: str) -> Path:
    path = folder / "connect.yaml"
    path.write_text(text)
    return path


def test_a_file_with_its_environment(tmp_path: Path) -> None:
    options = load_config(written(tmp_path, GOOD), {"BROKER": "broker.local"})
    ward = options.sources["ward"].from_
    assert ward.kind == "mqtt"
    assert (ward.host, ward.port) == ("broker.local", 1883)
    assert options.runtime.token == "none"
    assert "none" not in repr(options.runtime)


@pytest.mark.parametrize(
    ("change", "to", "told"),
    [
        (
            "tcp://127.0.0.1:5570",
            "127.0.0.1:5570",
            ":1: runtime.address: address '127.0.0.1:5570': expected tcp://host",
        ),
        ("token:", "tenant: a/b, token:", ":1: runtime.tenant: tenant has a slash: 'a/b'"),
        ("port: ${PORT:-1883}", "prot: 1883", ":7: sources.ward.from.prot: no such option"),
        ("port: ${PORT:-1883}", "port: 99999", ":7: sources.ward.from.port: Input should be less"),
        ("kind: mqtt", "kind: amqp", ":5: sources.ward.from: Input tag 'amqp' found using 'kind' does not match any"),
        ("client_id: ward", "keepalive_s: 20", ":5: sources.ward.from: qos 1 needs a client_id"),
        ("session: bed-{bed}", "session: bed-{bad}", ":11: sources.ward.routes.0: session: {bad} is no part of match"),
        ("fields: [hr, spo2]", "feilds: [hr]", ":12: sources.ward.routes.0.decode.feilds: no such option"),
        ("stream: monitor", "streem: monitor", ":11: sources.ward.routes.0.stream: is missing"),
        ("      topics: [ward/+/vitals]\n", "", ":5: sources.ward.from.topics: is missing"),
        ("  ward:", "  'ward 7':", "sources"),
        ("${BROKER}", "${NOWHERE}", ":6: the environment has no NOWHERE"),
        ("sources:", "sources: [", "connect.yaml:4:"),
        ("      kind: mqtt", "      kind: mqtt\n      kind: nats", ":6: 'kind' is no key, or is here twice"),
        ("kind: mqtt", "kind: !!python/object:os.system x", "connect.yaml:5"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(tmp_path: Path, change: str, to: str, told: str) -> None:
    assert change in GOOD
    with pytest.raises(ConfigError) as error:
        load_config(written(tmp_path, GOOD.replace(change, to)), {"BROKER": "b"})
    assert told in str(error.value), error.value


def test_everything_wrong_is_told_at_once(tmp_path: Path) -> None:
    text = GOOD.replace("modality: vitals", "modalty: vitals").replace("client_id: ward", "client: ward")
    with pytest.raises(ConfigError) as error:
        load_config(written(tmp_path, text), {"BROKER": "b"})
    assert len(str(error.value).splitlines()) == 3, error.value


@pytest.mark.parametrize("text", ["", "just words", "[1, 2]", "sources: {}", "\x00", "a: &a [*a, *a]"])
def test_what_is_no_such_file_is_told(tmp_path: Path, text: str) -> None:
    with pytest.raises(ConfigError, match=r"connect\.yaml"):
        load_config(written(tmp_path, text))


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="nowhere"):
        load_config(tmp_path / "nowhere.yaml")


def test_keeping_steps_back_does_not_go_with_resampling(tmp_path: Path) -> None:
    text = GOOD + "        window: {resample_hz: 10}\n    clock: {on_backward: keep}\n"
    with pytest.raises(ConfigError, match="does not go with"):
        load_config(written(tmp_path, text), {"BROKER": "b"})


def media(folder: Path, options: str) -> Path:
    routes = "[{session: s, stream: t, modality: m}]"
    return written(
        folder, f"sources: {{talk: {{from: {{kind: media_file, path: a.mp4, {options}}}, routes: {routes}}}}}\n"
    )


@pytest.mark.parametrize(
    "start", ["2026-01-31T12:00:00Z", '"2026-01-31T12:00:00Z"', "2026-01-31 13:00:00+01:00", "1769860800"]
)
def test_a_time_may_be_written_with_or_without_quotes(tmp_path: Path, start: str) -> None:
    source = load_config(media(tmp_path, f"start: {start}")).sources["talk"].from_
    assert isinstance(source, MediaFileOptions)
    assert source.start == 1_769_860_800


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ("start: 2026-01-31T12:00:00", "names no zone"),
        ("start: 2026-01-31", "names no zone"),
        ("speed: 0", "greater than 0"),
        ("speed: -1", "greater than 0"),
        ("speed: .nan", "finite"),
    ],
)
def test_a_start_without_a_zone_and_a_speed_that_is_none_are_told(tmp_path: Path, options: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        load_config(media(tmp_path, options))
