"""A runtime as a user has it: `grf up` in one process, everything else from outside."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import numpy as np
import pytest

from grf_core.bundle import load_bundle
from runtime.client import Publisher, Refused, StateClient
from runtime.digest import TOLERANCE, difference
from tests.cluster.load import expected
from tests.cluster.recorded import STREAMS
from tests.cluster.running import ROOT, RunningRuntime, grf, wait_until
from tests.grf_core.kernels import kernels
from tests.servers import free_port

pytestmark = pytest.mark.cluster
RANKED = [(stream, rank) for stream, _, rank in STREAMS]


def test_a_replayed_recording_settles_as_the_offline_model_says(
    runtime: RunningRuntime, motion_recording: Path
) -> None:
    done = grf("replay", str(motion_recording), "--speed", "max", "--address", runtime.address)
    assert done.returncode == 0, done.stderr
    assert "durable 80, refused 0 (late 0)" in done.stdout
    model = load_bundle(ROOT / "bundles" / "motion").step_model("cpu")
    for session in ("recorded-a", "recorded-b"):
        right = expected(model, session, RANKED, 20)
        state = json.loads(grf("query", session, "--context", "--address", runtime.address).stdout)
        assert (state["settled"]["version"], state["lineage"]) == (right.version, right.lineage)
        assert difference(np.array(state["settled"]["context"], np.float32), right.context_KD) < TOLERANCE
    again = grf("replay", str(motion_recording), "--speed", "max", "--address", runtime.address)
    assert again.returncode == 0, again.stderr
    assert json.loads(grf("query", "recorded-a", "--address", runtime.address).stdout)["version"] == 40


def test_state_changes_are_seen_by_query_watch_and_server_sent_events(runtime: RunningRuntime) -> None:
    watch = subprocess.Popen(
        [sys.executable, "-m", "runtime.cli.run", "watch", "watched", "--lines", "--address", runtime.address],
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    assert watch.stdout is not None
    try:
        with (
            Publisher(runtime.address) as publisher,
            httpx.stream("GET", f"{runtime.address}/v1/sessions/watched/events", timeout=30.0) as events,
        ):
            seen: list[int] = []
            versions = (json.loads(line[5:])["version"] for line in events.iter_lines() if line.startswith("data:"))
            for number in range(1, 40):
                receipt = publisher.publish("watched", "left", "accelerometer", np.ones((2, 3)), number / 10)
                publisher.wait(receipt, until="fused", timeout_s=20.0)
                seen.append(next(versions))
            assert seen == sorted(seen)
            assert seen[-1] > seen[0]
            state = httpx.get(f"{runtime.address}/v1/sessions/watched", params={"after": 39, "wait_ms": 5000}).json()
            assert state["version"] >= 39
            line = json.loads(watch.stdout.readline())
            assert line["session"] == "watched"
    finally:
        watch.terminate()
        watch.wait(20)
        watch.stdout.close()


def test_the_metrics_answer_with_true_and_changing_values(runtime: RunningRuntime) -> None:
    def received() -> float:
        metrics = httpx.get(runtime.serving()["metrics_url"]).text
        lines = [line for line in metrics.splitlines() if line.startswith("grf_segments_received_total{")]
        return sum(float(line.rpartition(" ")[2]) for line in lines)

    before = received()
    with Publisher(runtime.address) as publisher:
        for number in range(1, 6):
            publisher.publish("measured", "left", "accelerometer", np.ones((2, 3)), number / 10)
        publisher.end("measured", "left")
        publisher.flush(20.0)
    wait_until(lambda: received() == before + 5, 10.0, "five segments more are counted")


def test_the_real_prometheus_finds_and_scrapes_every_process(
    runtime: RunningRuntime, server_program: Callable[[str], str], tmp_path: Path
) -> None:
    shutil.copy(ROOT / "deploy" / "prometheus" / "alerts.yml", tmp_path)
    config = (ROOT / "deploy" / "prometheus" / "prometheus.yml").read_text()
    connect_port = free_port()
    config = config.replace("http://127.0.0.1:8000", runtime.address).replace("5s", "1s")
    config = config.replace("127.0.0.1:9464", f"127.0.0.1:{connect_port}")
    (tmp_path / "prometheus.yml").write_text(config)
    port = free_port()
    prometheus = subprocess.Popen(
        [
            server_program("prometheus"),
            f"--config.file={tmp_path / 'prometheus.yml'}",
            f"--storage.tsdb.path={tmp_path / 'data'}",
            f"--web.listen-address=127.0.0.1:{port}",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    file = tmp_path / "connect.yaml"
    options = {"runtime": {"address": runtime.address}, "state_dir": str(tmp_path), "http": {"port": connect_port}}
    route = {"session": "posted", "stream": "all", "modality": "accelerometer"}
    file.write_text(
        json.dumps({**options, "sources": {"it": {"from": {"kind": "http", "port": 0}, "routes": [route]}}})
    )
    connector = subprocess.Popen([sys.executable, "-m", "connectors", str(file)], cwd=ROOT, stderr=subprocess.DEVNULL)
    try:

        def up() -> set[str]:
            answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params={"query": "up == 1"})
            answer.raise_for_status()  # while it starts it says 503, in plain text
            metrics = [result["metric"] for result in answer.json()["data"]["result"]]
            return {metric.get("component", metric["job"]) for metric in metrics}

        every_process = {"worker", "controller", "gateway", "grf-connect"}
        wait_until(lambda: up() == every_process, 60.0, "all processes are scraped")
        query = {"query": "sum(grf_key_groups_owned)"}
        answer = httpx.get(f"http://127.0.0.1:{port}/api/v1/query", params=query).json()
        assert answer["data"]["result"][0]["value"][1] == "1024"
    finally:
        connector.terminate()
        connector.wait(20)
        prometheus.terminate()
        prometheus.wait(20)


def test_what_is_recorded_live_replays_to_the_same_digest(runtime: RunningRuntime, tmp_path: Path) -> None:
    file = tmp_path / "live.grfrec"
    command = [sys.executable, "-m", "runtime.cli.run", "record", str(file), "--address", runtime.address]
    recorder = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd=ROOT)
    assert recorder.stderr is not None
    assert "recording" in recorder.stderr.readline()
    with Publisher(runtime.address) as publisher, StateClient(runtime.address) as client:
        for number in range(1, 31):
            for stream, modality in (("left", "accelerometer"), ("right", "gyroscope")):
                frames = np.full((3, 3), number, np.float32)
                publisher.publish("taped", stream, modality, frames, number / 10 + (0.2 if number % 3 else 0.0))
        for stream in ("left", "right"):
            publisher.end("taped", stream)
        publisher.flush(30.0)
        before = client.state("taped")
        recorder.terminate()
        out, _ = recorder.communicate(timeout=30)
        assert "recorded 60, missed 0" in out
        assert client.delete("taped")
        done = grf("replay", str(file), "--speed", "max", "--address", runtime.address)
        assert done.returncode == 0, done.stderr
        after = client.state("taped")
    assert (after["lineage"], after["settled"]["version"]) == (before["lineage"], 60)


def test_commands_say_what_is_wrong_in_one_line_and_with_their_exit_code(runtime: RunningRuntime) -> None:
    missing = grf("query", "nobody", "--address", runtime.address)
    assert (missing.returncode, missing.stderr.strip()) == (1, "grf: not_found: no session 'nobody'")
    alone = grf("status", "--address", f"http://127.0.0.1:{free_port()}")
    assert alone.returncode == 3
    second = grf("up", *runtime.set_flags(), "--set", f"runtime.http_port={free_port()}")
    assert second.returncode == 1
    assert "is in use by process" in second.stderr
    wrong = grf("up", "--set", "order.lateness=1")
    assert wrong.returncode == 2
    assert "no such setting" in wrong.stderr


def test_status_names_the_worker(runtime: RunningRuntime) -> None:
    answer = json.loads(grf("status", "--json", "--address", runtime.address).stdout)
    assert [(worker["role"], worker["groups"]) for worker in answer["workers"]] == [("serving", 1024)]
    assert "serving" in grf("status", "--address", runtime.address).stdout


def test_a_worker_keeps_its_objects_in_huge_pages(runtime: RunningRuntime) -> None:
    kernels()
    (worker,) = runtime.pids_of("WorkerActor")
    areas = Path(f"/proc/{worker}/smaps").read_text().splitlines()
    flags = [line.split() for line in areas if line.startswith("VmFlags:")]
    assert any("hg" in of_area for of_area in flags), "huge pages were asked for"


def test_two_tenants_do_not_see_each_other(runtime: RunningRuntime) -> None:
    with Publisher(runtime.address, tenant="acme") as publisher:
        publisher.publish("secret", "left", "accelerometer", np.ones((2, 3)), 1.0)
        publisher.end("secret", "left")
        publisher.flush(20.0)
    with StateClient(runtime.address, tenant="acme") as client:
        assert client.sessions()[0] == ["secret"]
    with StateClient(runtime.address, tenant="rival") as client:
        assert client.sessions()[0] == []
        with pytest.raises(Refused, match="not_found"):
            client.state("secret")
