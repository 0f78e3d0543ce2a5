"""docs/protocol.md: nothing of the protocol is missing from it, and a client written from it alone works."""

from __future__ import annotations

import dataclasses
import json
import re
import typing
from collections.abc import Iterator, Sequence
from math import inf
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
import pytest

from runtime import keys, unsent, wire, wire_tensors, worker_loop
from runtime import messages as m
from runtime.dispatch import dispatcher, peers, publishing, questions
from runtime.dispatch.policy import DispatchPolicy
from runtime.engine import admission
from runtime.engine.policies import EnginePolicy, OrderPolicy
from runtime.nack_codes import FinalCode, NoticeCode, RetryCode
from tests.runtime.worker_harness import RunningWorker
from tests.wire_client import Connection, Publisher, Rows, read_tensor, segments, tensor

DOCUMENT = (Path(__file__).parents[2] / "docs/protocol.md").read_text()
MESSAGES = typing.get_args(m.Message)
TYPES = {
    int: "int",
    float: "float",
    str: "text",
    bool: "bool",
    dict[str, Any]: "map",
    list[str]: "[text]",
    list[dict[str, Any]]: "[map]",
    m.Float32Array: "int",
    tuple[m.StreamSegments, ...]: "[group]",
    tuple[m.StreamAck, ...]: "[stream]",
    tuple[m.SegmentEntry, ...]: "[entry]",
    tuple[m.UpdateRow, ...]: "[row]",
    Sequence[float]: "[float]",
    bytes: "bytes",
}
LIMITS = {
    **{
        name: value
        for module in (wire, keys)
        for name, value in vars(module).items()
        if re.fullmatch("[A-Z][A-Z_]+", name) and isinstance(value, int | float)
    },
    **{name: getattr(admission, name) for name in ("MAX_SEQUENCES_AHEAD", "MAX_REFUSALS_KEPT")},
    **{name: getattr(dispatcher, name) for name in ("MAX_PEERS", "PEER_TIMEOUT_S")},
    **{name: getattr(peers, name) for name in ("MAX_CREDIT", "MAX_SUBSCRIPTIONS", "MAX_WAITING_SESSIONS")},
    **{name: getattr(questions, name) for name in ("MAX_WAIT_MS", "MAX_WAITING", "MAX_AT_STORE")},
    **{name: getattr(questions, name) for name in ("MAX_PAGE", "MAX_HISTORY")},
    "MAX_STREAMS": publishing.MAX_STREAMS,
    "SEND_QUEUE_MESSAGES": worker_loop.SEND_QUEUE_MESSAGES,
    **{name: getattr(unsent, name) for name in ("CONNECTION_BYTES", "ALL_BYTES")},
}
QUICK = EnginePolicy(OrderPolicy(idle_timeout_s=0.02))
"""a quiet stream settles at once; for tests of one stream, which cannot come too late"""
PATIENT = EnginePolicy(OrderPolicy(idle_timeout_s=1.0))


# ---- reading the document ---------------------------------------------------------------------------------


def section(title: str) -> str:
    found = re.search(rf"^(#+) {re.escape(title)}\n(.*?)(?=^#+ |\Z)", DOCUMENT, flags=re.M | re.S)
    assert found, f"docs/protocol.md has no section {title}"
    return found[2]


def tables(text: str) -> dict[str, list[dict[str, str]]]:
    """The tables of a text by the title of their first column; each row is a map from title to cell."""
    found: dict[str, list[dict[str, str]]] = {}
    for block in re.findall(r"(?:^\|.*\|\n)+", text, flags=re.M):
        lines = [[cell.strip() for cell in line.strip("|").split(" | ")] for line in block.splitlines()]
        titles = [title.strip(" |") for title in lines[0]]
        found[titles[0]] = [dict(zip(titles, [cell.strip(" |") for cell in cells], strict=True)) for cells in lines[2:]]
    return found


def default_text(field: dataclasses.Field[Any]) -> str:
    if field.default is dataclasses.MISSING:
        return "required"
    if field.default in (inf, -inf):
        return f"`{field.default}`"
    return f"`{json.dumps(field.default)}`"


def documented_limit(name: str) -> float:
    [row] = [row for row in tables(section("Limits"))["name"] if row["name"] == f"`{name}`"]
    return float(row["value"].replace(",", ""))


def hex_blocks() -> list[bytes]:
    """The bytes of the worked example: what stands before two spaces and a remark."""
    blocks = re.findall(r"```hex\n(.*?)```", section("Worked example"), flags=re.S)
    pairs = r"(?:[0-9a-f]{2}(?: {1,2}|$))+"
    lines = [[re.match(pairs, line.strip()) for line in block.splitlines()] for block in blocks]
    return [bytes.fromhex("".join(match[0] for match in block if match)) for block in lines]


# ---- nothing is missing -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MESSAGES, ids=lambda kind: kind.tag)
def test_every_message_is_documented_with_its_fields_in_order(kind: type[Any]) -> None:
    hints = typing.get_type_hints(kind)
    described = tables(section(f"`{kind.tag}`")).get("field", [])
    assert [(row["field"], row["type"], row["default"]) for row in described] == [
        (f"`{field.name}`", TYPES[hints[field.name]], default_text(field)) for field in dataclasses.fields(kind)
    ]


@pytest.mark.parametrize(
    ("tag", "table", "kind"),
    [
        ("segments", "group", m.StreamSegments),
        ("segments", "entry", m.SegmentEntry),
        ("ack", "stream", m.StreamAck),
        ("updates", "row", m.UpdateRow),
    ],
)
def test_every_nested_array_is_documented(tag: str, table: str, kind: type[Any]) -> None:
    rows = [row for row in tables(section(f"`{tag}`"))[table] if row[table] != "`dtype`"]
    hints = typing.get_type_hints(kind)
    names = [name for name in kind._fields if name not in ("live", "settled")]  # lines of the tensor
    assert [(row[table], row["type"]) for row in rows] == [(f"`{name}`", TYPES[hints[name]]) for name in names]


def test_the_document_names_no_message_that_does_not_exist() -> None:
    titles = set(re.findall(r"^### `(\w+)`$", DOCUMENT, flags=re.M))
    assert titles == {kind.tag for kind in MESSAGES}


def test_each_message_stands_on_its_side() -> None:
    client, worker = DOCUMENT.split("## Messages of the client")[1].split("## Messages of the worker")
    for kind in MESSAGES:
        assert f"### `{kind.tag}`" in (client if kind in typing.get_args(m.ClientMessage) else worker)


def test_every_nack_code_is_documented_with_its_kind() -> None:
    kinds = {"final": FinalCode, "retry": RetryCode, "notice": NoticeCode}
    expected = [(f"`{code}`", kind) for kind, codes in kinds.items() for code in typing.get_args(codes)]
    assert [(row["code"], row["kind"]) for row in tables(section("Nack codes"))["code"]] == expected


def test_every_limit_is_documented_with_its_value() -> None:
    assert {row["name"].strip("`") for row in tables(section("Limits"))["name"]} == LIMITS.keys()
    for name, value in LIMITS.items():
        assert documented_limit(name) == value, name


def test_limits_named_in_the_text_have_their_value_beside_them() -> None:
    text = " ".join(DOCUMENT.split())
    for number, unit, name in re.findall(r"([\d,]{2,}|2\^62) ([^().|]*)\(`([A-Z_]+)`\)", text):
        value = 2**62 if number == "2^62" else int(number.replace(",", ""))
        assert value == LIMITS[name], f"{number} {unit}({name})"


def test_every_dtype_is_documented() -> None:
    assert [row["dtype"].strip("`") for row in tables(section("Tensor frames"))["dtype"]] == list(wire_tensors._DTYPES)


def test_defaults_of_the_order_are_those_of_the_code() -> None:
    text = " ".join(section("Event time and the watermark").split())
    policy = OrderPolicy()
    for said in (
        f"less the lateness ({policy.lateness_s:g} s)",
        f"silent for {policy.idle_timeout_s:g} seconds",
        f"is waited for {policy.restart_grace_s:g} seconds",
        f"Nothing settles in the first {policy.idle_timeout_s:g} seconds",
        f"at most {policy.max_unsettled_segments:,} unsettled segments, or {policy.max_unsettled_bytes >> 20} MiB",
        f"more than {policy.max_future_s:g} s ahead",
        f"more than {policy.max_jump_s:,.0f} s ahead",
    ):
        assert said in text


def test_the_worked_example_is_what_the_code_sends() -> None:
    header, frames, ack = hex_blocks()
    first = m.SegmentEntry(7, 1.5, np.array([[1, -2], [0.5, 4]], np.float32))
    second = m.SegmentEntry(8, 1.75, np.array([[0, 1]], np.float32))
    sent = m.Segments((m.StreamSegments("s1", "wrist", 7, (first, second)),))
    assert [bytes(frame) for frame in wire.encode(sent)] == [header, frames]
    assert wire.encode(m.Ack((m.StreamAck("s1", "wrist", 8, 6, 8, 8),))) == [ack]
    assert segments("s1", "wrist", 7, [(7, 1.5, [[1, -2], [0.5, 4]]), (8, 1.75, [[0, 1]])]) == [header, frames]


# ---- a client written from it -----------------------------------------------------------------------------


def frames_of(number: int, width: int) -> Rows:
    return [[(number * 7 + row * 3 + column) % 11 / 4 - 1 for column in range(width)] for row in range(1 + number % 4)]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[RunningWorker]:
    with RunningWorker(tmp_path, engine=QUICK) as running:
        yield running


@pytest.fixture
def connection(worker: RunningWorker) -> Iterator[Connection]:
    with Connection(worker.endpoint) as connection:
        assert connection.hello("reader").tag == "welcome"
        yield connection


def publish(worker: RunningWorker, session: str, *, wrist: bool = False, disturb: bool = False) -> Publisher:
    """40 segments of each stream; disturbed, the worker crashes once and is stopped once on the way."""
    publisher = Publisher(worker.endpoint, f"publisher of {session}")
    try:
        for number in range(1, 41):
            publisher.publish(session, "mic", "audio", frames_of(number, 3), 0.1 * number)
            if wrist:
                publisher.publish(session, "wrist", "imu", frames_of(number, 2), 0.1 * number + 0.05)
            if disturb and number == 15:  # some are durable
                publisher.run_until(lambda: publisher.streams[session, "mic"].durable > 3, 20)
                worker.crash()
                worker.start()
            if disturb and number == 30:  # some are fused
                publisher.run_until(lambda: publisher.streams[session, "wrist"].fused > 20)
                worker.stop()
                worker.start()
        for _, stream in publisher.streams:
            publisher.end(session, stream)
        publisher.flush()
    finally:
        publisher.close()
    return publisher


def leaves(tree: Any, path: str = "") -> dict[str, Any]:
    """The values of a nested map by their paths."""
    if not isinstance(tree, dict):
        return {path: tree}
    return {at: value for key, branch in tree.items() for at, value in leaves(branch, f"{path}/{key}").items()}


def test_a_client_of_the_document_publishes_and_reads(worker: RunningWorker, connection: Connection) -> None:
    publisher = publish(worker, "s")
    assert (publisher.connections, publisher.sent, publisher.notices) == (1, 40, [])
    state = connection.ask("query", "s", publisher.streams["s", "mic"].version, 5000, True)
    assert not state["timed_out"]
    assert state["state"]["version"] == state["state"]["durable_version"] == 40
    history = connection.ask("history", "s", 1.0, 2.0)["rows"]
    assert [row["event_time_s"] for row in history] == sorted(row["event_time_s"] for row in history)
    assert connection.ask("list")["sessions"] == ["s"]
    assert connection.ask("delete", "s")["existed"] is True
    assert connection.ask("query", "s")["code"] == "not_found"
    assert connection.ask("delete", "s")["existed"] is False


def test_a_client_of_the_document_is_exactly_once_over_crash_and_restart(tmp_path: Path) -> None:
    with RunningWorker(tmp_path, engine=PATIENT) as worker:
        calm = publish(worker, "calm", wrist=True)
        disturbed = publish(worker, "disturbed", wrist=True, disturb=True)
        assert disturbed.connections >= 3
        assert disturbed.sent > calm.sent, "something was sent again"
        assert [one.refused for one in disturbed.streams.values()] == [{}, {}]
        with Connection(worker.endpoint) as reader:
            reader.hello("reader")
            states = [reader.ask("query", session)["state"] for session in ("calm", "disturbed")]
    for key in ("version", "durable_version", "lineage", "pending", "reset_reason"):
        assert states[0][key] == states[1][key], key
    assert leaves(states[0]["settled"]) == pytest.approx(leaves(states[1]["settled"]), abs=1e-5)


def test_the_state_has_the_keys_of_the_document(worker: RunningWorker, connection: Connection) -> None:
    publish(worker, "s")
    state = connection.ask("query", "s", 0, 0, True)["state"]
    whole, fused = re.split(r"^A fused state:$", section("State"), flags=re.M)
    assert list(state) == [row["key"].strip("`") for row in tables(whole)["key"]]
    keys_of_fused = [row["key"].strip("`") for row in tables(fused)["key"]]
    assert list(state["live"]) == list(state["settled"]) == keys_of_fused
    assert list(connection.ask("history", "s")["rows"][0]) == ["modality", *keys_of_fused[:-1]]
    assert state["modalities"]["audio"].keys() == {"event_time_s", "behind_s"}
    assert state["live"]["outputs"]["mood"].keys() == {"label", "confidence", "probabilities"}
    assert state["live"]["outputs"]["speed"].keys() == {"value"}
    signature = connection.seen[0]["signature"]
    assert signature.keys() == {"name", "digest", "context_shape", "modalities", "heads"}
    assert signature["modalities"][0].keys() == {"name", "width", "max_frames"}
    assert signature["heads"][0].keys() == {"name", "kind", "labels", "start", "stop"}


def test_updates_cost_credit_and_tell_what_was_missed(worker: RunningWorker, connection: Connection) -> None:
    with Connection(worker.endpoint) as publisher:
        publisher.hello("publisher")
        publisher.open("s", "mic", "audio")
        connection.send("subscribe", "s", 2)
        connection.sync()
        for number in range(1, 8):
            publisher.send_frames(*segments("s", "mic", 1, [(number, float(number), frames_of(1, 3))]))
            publisher.acknowledged("s", "mic", fused=number)
        publisher.send("end", "s", "mic", 7)
        publisher.acknowledged("s", "mic", durable=7)
    connection.sync()
    updates = [message for message in connection.seen if message.tag == "update"]
    assert len(updates) == 2
    assert [update["missed"] for update in updates] == [0, 0]
    connection.send("credit", 10)
    newest = connection.receive_tag("update")
    assert newest["state"]["settled"]["version"] == 7
    assert newest["missed"] >= 4
    assert newest["state"].keys() == connection.ask("query", "s")["state"].keys()


def test_updates_in_rows_say_what_updates_say(worker: RunningWorker, connection: Connection) -> None:
    connection.send("subscribe", "s", 2, True)
    connection.sync()
    with Connection(worker.endpoint) as publisher:
        publisher.hello("publisher")
        publisher.open("s", "mic", "audio")
        publisher.send_frames(*segments("s", "mic", 1, [(1, 1.0, frames_of(1, 3))]))
        publisher.acknowledged("s", "mic", fused=1)
    updates = connection.receive_tag("updates")
    names = [row["row"].strip("`") for row in tables(section("`updates`"))["row"]]
    [row] = [dict(zip(names, row, strict=True)) for row in updates["rows"]]
    live, _ = read_tensor(updates.tensors[0], 2)
    state = connection.ask("query", "s")["state"]
    assert (row["session"], row["version"], row["freshness_s"][0]) == ("s", 1, state["live"]["event_time_s"])
    signature = connection.seen[0]["signature"]
    mood = signature["heads"][0]
    probabilities = dict(zip(mood["labels"], live[mood["start"] : mood["stop"]], strict=True))
    assert probabilities == state["live"]["outputs"]["mood"]["probabilities"]
    shares = live[-1 - len(signature["modalities"]) : -1]
    assert (shares, live[-1]) == (list(state["live"]["shares"].values()), state["live"]["gate"])


def test_a_new_publisher_goes_on_after_the_last_sequence(worker: RunningWorker, connection: Connection) -> None:
    publish(worker, "s")
    opened = connection.open("s", "mic", "audio")
    assert (opened["durable"], opened["last_sequence"], opened["version"]) == (40, 40, 40)
    connection.send_frames(*segments("s", "mic", 41, [(41, 10.0, frames_of(1, 3))]))
    assert connection.acknowledged("s", "mic", durable=41).version == 41


def test_a_duplicate_changes_nothing_and_is_acknowledged(worker: RunningWorker, connection: Connection) -> None:
    connection.open("s", "mic", "audio")
    for rows in (frames_of(1, 3), frames_of(2, 3)):
        connection.send_frames(*segments("s", "mic", 1, [(1, 1.0, rows)]))
        assert connection.acknowledged("s", "mic", fused=1).version == 1
    assert connection.ask("query", "s")["state"]["version"] == 1


def test_oldest_closes_a_gap(worker: RunningWorker, connection: Connection) -> None:
    connection.open("s", "mic", "audio")
    connection.send_frames(*segments("s", "mic", 1, [(3, 1.0, frames_of(1, 3))]))
    assert connection.acknowledged("s", "mic").fused == 0
    connection.send_frames(*segments("s", "mic", 3, [(3, 1.0, frames_of(1, 3))]))
    assert connection.acknowledged("s", "mic", durable=3).fused == 3


def test_a_refused_number_is_accounted_for_without_frames(worker: RunningWorker, connection: Connection) -> None:
    connection.open("s", "mic", "audio")
    connection.send_frames(*segments("s", "mic", 1, [(1, 1.0, frames_of(1, 3)), (2, 1.1, []), (3, 1.2, [[0, 0, 0]])]))
    assert connection.acknowledged("s", "mic", durable=3).version == 2
    [nack] = [message for message in connection.seen if message.tag == "nack"]
    assert (nack["code"], nack["sequence"]) == ("bad_segment", 2)
    with Connection(worker.endpoint) as again:  # the refusal may have been lost, so it is told again
        again.hello("reader")
        again.open("s", "mic", "audio", base=1, known_durable=0)
        assert [(seen["code"], seen["sequence"]) for seen in again.seen if seen.tag == "nack"] == [("bad_segment", 2)]
    with Connection(worker.endpoint) as later:
        later.hello("reader")
        later.open("s", "mic", "audio", base=3, known_durable=3)
        assert not [seen for seen in later.seen if seen.tag == "nack"]


def test_half_precision_frames_are_fused_as_float32(worker: RunningWorker, connection: Connection) -> None:
    rows = [[0.5, -1.25, 2.0], [1.0, 0.0, -0.75]]
    for stream, dtype in (("a", "f32"), ("b", "f16"), ("c", "bf16")):
        connection.open(f"s-{dtype}", stream, "audio")
        header = ["segments", [[f"s-{dtype}", stream, 1, dtype, [[1, 1.0, 2]]]]]
        connection.send_frames(msgpack.packb([1, *header]), tensor(rows, dtype))
        connection.acknowledged(f"s-{dtype}", stream, fused=1)
    states = [connection.ask("query", f"s-{dtype}")["state"]["live"] for dtype in ("f32", "f16", "bf16")]
    assert states[0] == states[1] == states[2]


def test_a_deleted_session_is_told_as_a_reset(worker: RunningWorker, connection: Connection) -> None:
    publish(worker, "s")
    connection.ask("delete", "s")
    nack = connection.open("s", "mic", "audio", base=41, known_durable=40)
    assert (nack["code"], nack["session"], nack["stream"], nack["sequence"]) == ("session_reset", "s", "mic", 41)
    opened = connection.receive_tag("opened")
    assert opened["version"] == 0
    assert opened["last_sequence"] == 40
    again = connection.open("s", "mic", "audio", base=41, known_durable=opened["durable"])
    assert again.tag == "opened", "told once"


def test_another_client_takes_a_stream_and_a_reconnect_is_silent(worker: RunningWorker, connection: Connection) -> None:
    connection.open("s", "mic", "audio")
    with Connection(worker.endpoint) as same, Connection(worker.endpoint) as other:
        same.hello("reader")
        assert same.open("s", "mic", "audio").tag == "opened"
        connection.sync()
        assert not [message for message in connection.seen if message.tag == "nack"]
        other.hello("other")
        assert other.open("s", "mic", "audio").tag == "opened"
        assert same.receive_tag("nack")["code"] == "stream_taken"
        same.send_frames(*segments("s", "mic", 1, [(1, 1.0, frames_of(1, 3))]))
        assert same.receive_tag("nack")["code"] == "stream_taken"


def test_a_query_waits_for_its_version_or_its_time(worker: RunningWorker, connection: Connection) -> None:
    connection.open("s", "mic", "audio")
    late = connection.ask("query", "s", 1, 20)
    assert (late["timed_out"], late["state"]["version"]) == (True, 0)
    connection.send("query", 77, "s", 1, 5000)
    connection.send_frames(*segments("s", "mic", 1, [(1, 1.0, frames_of(1, 3))]))
    answer = connection.receive_tag("state")
    assert (answer["request"], answer["timed_out"], answer["state"]["version"]) == (77, False, 1)


def test_a_tap_gets_what_is_accepted(worker: RunningWorker, connection: Connection) -> None:
    connection.send("tap", 2)
    connection.sync()
    with Connection(worker.endpoint) as publisher:
        publisher.hello("publisher")
        publisher.open("s", "mic", "audio")
        for number in range(1, 4):
            publisher.send_frames(*segments("s", "mic", 1, [(number, float(number), frames_of(number, 3))]))
            publisher.acknowledged("s", "mic", fused=number)
        connection.sync()
        connection.send("tap", 1)
        connection.sync()
        publisher.send_frames(*segments("s", "mic", 1, [(4, 4.0, frames_of(4, 3))]))
        publisher.acknowledged("s", "mic", fused=4)
    connection.sync()
    tapped = [message for message in connection.seen if message.tag == "tapped"]
    assert [(one["sequence"], one["missed"]) for one in tapped] == [(1, 0), (2, 0), (4, 1)]
    assert read_tensor(tapped[1].tensors[0], tapped[1]["frames"]) == frames_of(2, 3)


def test_after_goodbye_the_connection_is_a_stranger(worker: RunningWorker, connection: Connection) -> None:
    connection.send("goodbye")
    connection.send("ping", 1)
    assert connection.receive()["code"] == "hello_first"
    assert connection.hello("reader").tag == "welcome"


def test_fields_that_a_worker_does_not_know_are_skipped(worker: RunningWorker, connection: Connection) -> None:
    connection.send("ping", 5, "a field of tomorrow")
    assert connection.receive()["nonce"] == 5


def test_welcome_tells_the_window(worker: RunningWorker, connection: Connection) -> None:
    policy, welcome = DispatchPolicy(), connection.seen[0]
    assert welcome["window_segments"] == policy.window_segments
    assert welcome["window_bytes"] == policy.window_bytes
    assert welcome["max_message_bytes"] == wire.MAX_MESSAGE_BYTES


def test_the_client_of_the_document_imports_nothing_of_the_runtime() -> None:
    source = (Path(__file__).parents[1] / "wire_client.py").read_text()
    imported = set(re.findall(r"^(?:from|import) (\w+)", source, flags=re.M))
    assert not imported & {"runtime", "grf_core", "tests", "connectors"}
