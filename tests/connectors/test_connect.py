"""`grf connect` as a whole, over a real worker: supervision, health, metrics, dry run, exit codes."""

from __future__ import annotations

import asyncio
import json
import logging
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from click.testing import CliRunner

from connectors import supervisor as supervisor_module
from connectors.config import load_config
from connectors.errors import SnapshotError
from connectors.http_push import HttpSource
from connectors.outcome import NOT_AS_IT_SHOULD_BE
from connectors.snapshots import SnapshotFile, StateFolder
from connectors.supervisor import Supervisor
from connectors.testing import ScriptedSource
from runtime.cli import grf
from runtime.client import StateClient
from tests.connectors.materials import write_table
from tests.runtime.worker_harness import RunningWorker

ROOT = Path(__file__).parents[2]
ROUTE = {"session": "s-{key}", "stream": "rows", "modality": "imu", "decode": {"scale": 0.01}}


def written(folder: Path, sources: dict[str, Any], address: str = "tcp://127.0.0.1:9") -> Path:
    path = folder / "connect.yaml"
    options = {"runtime": {"address": address}, "state_dir": str(folder / "state"), "http": {"port": 0}}
    path.write_text(json.dumps({**options, "sources": sources}))
    return path


def files(path: Path, **more: Any) -> dict[str, Any]:
    source = {"kind": "files", "tables": [{"path": str(path)}], **more}
    return {"from": source, "routes": [ROUTE], "snapshot": {"idle_s": 0.1, "every_s": 0.2}}


def supervised(path: Path, job: Callable[[Supervisor, asyncio.Event], Awaitable[None]]) -> dict[str, str]:
    async def main() -> dict[str, str]:
        options = load_config(path)
        with StateFolder(Path(options.state_dir)) as folder:
            supervisor, stop = Supervisor(options, folder), asyncio.Event()
            running = asyncio.create_task(supervisor.run(stop))
            await job(supervisor, stop)
            return await asyncio.wait_for(running, 30.0)

    return asyncio.run(main())


async def nothing(supervisor: Supervisor, stop: asyncio.Event) -> None:
    pass


def test_one_source_that_fails_never_stops_the_others(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write_table(tmp_path / "good.csv", np.arange(20))
    (tmp_path / "bad.csv").write_text("a,b\n1,2\n")
    sources = {
        "good": files(tmp_path / "good.csv"),
        "bad": files(tmp_path / "bad.csv"),
        "defect": {"from": {"kind": "python", "class": f"{__name__}:Defect"}, "routes": [ROUTE]},
    }
    with RunningWorker(tmp_path) as worker, StateClient(worker.endpoint) as client:
        path = written(tmp_path, sources, worker.endpoint)
        assert supervised(path, nothing) == {"good": "ended", "bad": "broken", "defect": "broken"}
        assert client.state("s-good")["settled"]["version"] == 20
        assert "goes on where its last run was" not in caplog.text
        # Again: everything is known, nothing is counted twice.
        assert supervised(path, nothing)["good"] == "ended"
        assert client.state("s-good")["settled"]["version"] == 20
    assert "good: goes on where its last run was, and reads nothing again" in caplog.text
    assert "has no column 't'" in caplog.text
    assert "this connector has a defect" in caplog.text


def test_a_route_may_be_added_and_begins_where_the_last_run_was(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    table = tmp_path / "belt.csv"
    source = files(table)
    added = {**ROUTE, "session": "t-{key}"}
    with RunningWorker(tmp_path) as worker, StateClient(worker.endpoint) as client:
        write_table(table, np.arange(5))
        assert supervised(written(tmp_path, {"it": source}, worker.endpoint), nothing) == {"it": "ended"}
        write_table(table, np.arange(8))
        source["routes"] = [ROUTE, added]
        assert supervised(written(tmp_path, {"it": source}, worker.endpoint), nothing) == {"it": "ended"}
        assert [client.state(f"{name}-belt")["settled"]["version"] for name in "st"] == [8, 3]
        assert "routes were added since; they begin where the last run was" in caplog.text
        source["routes"] = [added, ROUTE]
        assert supervised(written(tmp_path, {"it": source}, worker.endpoint), nothing) == {"it": "broken"}


def test_health_and_metrics_are_served(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    write_table(tmp_path / "slow.csv", np.arange(2000))
    sources = {"slow": files(tmp_path / "slow.csv", speed=1), "gone": files(tmp_path / "nowhere.csv")}

    async def look(supervisor: Supervisor, stop: asyncio.Event) -> None:
        while [runner.health for runner in supervisor.runners.values()] != ["running", "broken"]:
            await asyncio.sleep(0.01)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{supervisor.http_port}") as client:
            health = await client.get("/health")
            metrics = (await client.get("/metrics")).text
        assert health.status_code == 503
        assert health.json()["sources"]["slow"]["health"] == "running"
        assert "nowhere.csv" in health.json()["sources"]["gone"]["reason"]
        assert 'grf_connect_source_up{source="slow"} 1.0' in metrics
        assert 'grf_connect_source_up{source="gone"} 0.0' in metrics
        stop.set()

    with RunningWorker(tmp_path) as worker:
        health = supervised(written(tmp_path, sources, worker.endpoint), look)
    assert health == {"slow": "stopped", "gone": "broken"}


def test_a_source_that_no_runtime_takes_is_not_healthy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(supervisor_module, "LOOK_EVERY_S", 0.01)
    monkeypatch.setattr(supervisor_module, "SILENT_FOR_S", 0.02)
    write_table(tmp_path / "slow.csv", np.arange(2000))

    async def look(supervisor: Supervisor, stop: asyncio.Event) -> None:
        while not supervisor.http_port:
            await asyncio.sleep(0.01)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{supervisor.http_port}") as client:
            while (health := await client.get("/health")).status_code == 200:
                await asyncio.sleep(0.01)
        assert "no runtime answers at tcp://127.0.0.1:9" in health.json()["sources"]["slow"]["reason"]
        stop.set()

    sources = {"slow": files(tmp_path / "slow.csv", speed=1)}
    assert supervised(written(tmp_path, sources, "tcp://127.0.0.1:9"), look) == {"slow": "stopped"}


@pytest.mark.parametrize("clock", [{}, {"kind": "device"}])
def test_all_that_is_posted_is_published_though_its_times_are_alike_or_it_has_none(
    tmp_path: Path, clock: dict[str, Any]
) -> None:
    # Each has its session: beside times of years ago those of now would be refused, if they landed second.
    route = {"match": "{it}", "session": "ward-{it}", "stream": "{it}", "modality": "imu"}
    pair = {"format": "json", "fields": ["a", "b"]}
    routes = [{**route, "match": "{it}/timed", "decode": {**pair, "time": "t"}}, {**route, "decode": pair}]
    source = {"from": {"kind": "http", "port": 0}, "routes": routes, "clock": clock}

    async def send(supervisor: Supervisor, stop: asyncio.Event) -> None:
        while "it" not in supervisor.runners or supervisor.runners["it"].health != "running":
            await asyncio.sleep(0.01)
        source = supervisor._sources["it"]
        assert isinstance(source, HttpSource)
        async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{source.port}") as client:
            for number in range(4):
                for path in ("/belt", "/bed/timed"):
                    await client.post(path, json={"a": number, "b": 0.0, "t": 1_700_000_000})
        stop.set()

    with RunningWorker(tmp_path) as worker:
        path = written(tmp_path, {"it": source}, worker.endpoint)
        assert supervised(path, send) == {"it": "stopped"}
        with StateClient(worker.endpoint) as client:
            assert [client.state(f"ward-{it}")["version"] for it in ("belt", "bed")] == [4, 4]


def test_a_second_connector_on_the_same_folder_is_refused(tmp_path: Path) -> None:
    with StateFolder(tmp_path), pytest.raises(SnapshotError, match="another grf connect"), StateFolder(tmp_path):
        pass
    with StateFolder(tmp_path):
        pass


def test_a_snapshot_is_there_whole_or_told(tmp_path: Path) -> None:
    kept = SnapshotFile(tmp_path / "a.snapshot", "routes-1")
    assert kept.load() is None
    asyncio.run(kept.save({"position": [1, {"x": b"\0"}]}))
    assert kept.load() == {"position": [1, {"x": b"\0"}]}
    # Numbers begin anew without the file, and the runtime remembers those of the old names: both have to change.
    with pytest.raises(SnapshotError, match=r"a\.snapshot: .* not those it was made with.*remove the file.*new names"):
        SnapshotFile(tmp_path / "a.snapshot", "routes-2").load()
    whole = (tmp_path / "a.snapshot").read_bytes()
    for bad in (b"", whole[:-1], whole[:9], b"x" + whole[1:], whole[:-1] + b"\x01"):
        (tmp_path / "a.snapshot").write_bytes(bad)
        with pytest.raises(SnapshotError, match="damaged"):
            kept.load()


def test_other_routes_are_told_rather_than_mixed_with_what_was_numbered(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", np.arange(20))
    with RunningWorker(tmp_path) as worker:
        path = written(tmp_path, {"it": files(tmp_path / "t.csv")}, worker.endpoint)
        assert supervised(path, nothing) == {"it": "ended"}
        changed = files(tmp_path / "t.csv")
        changed["routes"] = [{**ROUTE, "window": {"frames": 2}}]
        path = written(tmp_path, {"it": changed}, worker.endpoint)
        assert supervised(path, nothing) == {"it": "broken"}


def test_a_dry_run_shows_what_would_be_published_and_publishes_nothing(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", np.arange(20))
    sources = {"it": files(tmp_path / "t.csv"), "gone": files(tmp_path / "nowhere.csv")}
    answer = CliRunner().invoke(grf, ["connect", str(written(tmp_path, sources)), "--dry-run"])
    assert answer.exit_code == 1
    assert "s-t" in answer.output
    assert "1 x 2" in answer.output
    assert "no runtime answers at tcp://127.0.0.1:9" in answer.output
    assert "nowhere.csv: No such file" in " ".join(answer.output.split())
    assert not (tmp_path / "state").exists()


def test_a_dry_run_with_a_source_that_cannot_be_made_tells_that_and_nothing_else(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", np.arange(20))
    nowhere = {"from": {"kind": "python", "class": "nowhere:Thing"}, "routes": [ROUTE]}
    path = written(tmp_path, {"good": files(tmp_path / "t.csv"), "nowhere": nowhere})
    command = [sys.executable, "-m", "runtime.cli.run", "connect", str(path), "--dry-run"]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert (ran.returncode, ran.stderr) == (1, "grf: nowhere:Thing: No module named 'nowhere'\n")


def test_a_dry_run_says_what_the_model_that_answers_would_refuse(tmp_path: Path) -> None:
    write_table(tmp_path / "t.csv", np.arange(20))
    (tmp_path / "wide.csv").write_text("t,a,b,c\n1,1,2,3\n2,1,2,3\n")
    sources = {name: files(tmp_path / "t.csv") for name in ("good", "long", "longer", "smell")}
    sources["wide"] = files(tmp_path / "wide.csv")
    sources["long"]["routes"] = [{**ROUTE, "window": {"frames": 10}}]
    sources["longer"]["routes"] = [{**ROUTE, "window": {"frames": 500}, "match": "nothing"}]
    sources["smell"]["routes"] = [{**ROUTE, "modality": "smell"}]
    with RunningWorker(tmp_path) as worker:
        command = ["connect", str(written(tmp_path, sources, worker.endpoint)), "--dry-run"]
        answer = CliRunner().invoke(grf, command)
        del sources["long"], sources["longer"], sources["smell"], sources["wide"]
        written(tmp_path, sources, worker.endpoint)
        assert CliRunner().invoke(grf, command).exit_code == 0
    told = [line for line in answer.output.splitlines() if line.startswith("the model would refuse")]
    assert told == [
        "the model would refuse: segment has 10 frames, imu takes 1 to 8; seen in 2 segments, the first of s-t/rows",
        "the model would refuse: segment has 500 frames, imu takes 1 to 8",
        "the model would refuse: unknown modality 'smell'; the model has audio, imu, text; "
        "seen in 20 segments, the first of s-t/rows",
        "the model would refuse: frames have width 3, imu has 2; seen in 2 segments, the first of s-wide/rows",
    ]
    assert answer.exit_code == NOT_AS_IT_SHOULD_BE


def test_each_source_has_its_line_at_the_end_and_refused_segments_their_exit_code(tmp_path: Path) -> None:
    write_table(tmp_path / "good.csv", np.arange(20))
    write_table(tmp_path / "long.csv", np.arange(200))
    write_table(tmp_path / "smell.csv", np.arange(20))
    sources = {name: files(tmp_path / f"{name}.csv") for name in ("good", "long", "smell")}
    sources["long"]["routes"] = [{**ROUTE, "window": {"frames": 100}}]
    sources["smell"]["routes"] = [{**ROUTE, "modality": "smell"}]
    with RunningWorker(tmp_path) as worker:
        answer = CliRunner().invoke(grf, ["connect", str(written(tmp_path, sources, worker.endpoint))])
    assert "good: ended; published 20, refused 0, dropped 0" in answer.output
    assert "long: ended; published 2, refused 2 (bad_segment), dropped 0" in answer.output
    assert "smell: ended; published 20, refused 20 (" in answer.output
    assert answer.exit_code == NOT_AS_IT_SHOULD_BE


def test_a_wrong_file_is_told_with_its_line(tmp_path: Path) -> None:
    path = tmp_path / "connect.yaml"
    path.write_text("sources:\n  it:\n    from: {kind: files, tables: []}\n    routes: []\n")
    command = [sys.executable, "-m", "connectors", str(path)]
    ran = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60, check=False)
    assert ran.returncode == 1
    assert "connect.yaml:3: sources.it.from.tables" in ran.stderr
    assert "connect.yaml:4: sources.it.routes" in ran.stderr


class Defect(ScriptedSource):
    def __init__(self) -> None:
        super().__init__([])

    async def open(self, *, position: Any) -> None:
        raise ZeroDivisionError("this connector has a defect")
