"""Every benchmark runs, small: what it measures here is of no account, that it measures it is."""

from __future__ import annotations

import datetime
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.peers import __main__ as peers
from benchmarks.peers import loss
from tests.grf_core.kernels import kernels

ROOT = Path(__file__).parents[2]

pytestmark = pytest.mark.slow


def quick(module: str, *arguments: str, within_s: float = 110.0) -> dict[str, Any]:
    """The JSON object on the last line of `python -m benchmarks.MODULE --quick`."""
    command = [sys.executable, "-m", f"benchmarks.{module}", "--quick", *arguments]
    run = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=within_s, check=False)
    assert run.returncode == 0, run.stderr[-3000:]
    answer: dict[str, Any] = json.loads(run.stdout.splitlines()[-1])
    return answer


def test_fusion_core() -> None:
    kernels()  # it compares them
    answer = quick("fusion_core")
    assert answer["max_abs_error"] < 1e-5
    for key in ("speedup_b1_t50", "speedup_b256_t50", "useful_flops_vs_sgemm"):
        assert answer[key] > 0


def test_runtime_efficiency() -> None:
    answer = quick("runtime_efficiency")
    for key in ("vs_offline_model", "null_vs_echo", "worker_us_per_segment_beyond_model", "segments_per_s"):
        assert answer[key] > 0
    served = [row for row in answer["table"] if row["server"] in ("null", "paper")]
    assert all(row["updates"] > 0 for row in served), "the subscriber has followed"


def test_gpu() -> None:
    answer = quick("gpu")
    if torch.cuda.is_available():
        assert answer["max_abs_error"] < 1e-5
        assert answer["recorded_vs_launched_b64"] > 0
    else:
        assert answer == {"gpu": None, "reason": "torch sees no GPU"}


def test_latency() -> None:
    answer = quick("latency")
    assert answer["batch_ms_half_load"] > 0
    assert 0 < answer["p50_ms_half_load"] <= answer["p99_ms_half_load"]


def test_sessions() -> None:
    answer = quick("sessions")
    assert answer["throughput_100k_vs_1k"] > 0
    assert answer["throughput_10x_slots_vs_fit"] > 0
    fit, more = answer["table"][-2:]
    assert fit["evicted"] == 0
    assert more["evicted"] >= more["sessions"] - more["slots"], "each of the others had to leave for another"


def test_cluster_simulation() -> None:
    answer = quick("cluster_simulation")
    assert answer["failover"]["count"] > 0
    assert answer["moves"]["count"] > 0


def test_connectors(server_program: Callable[[str], str]) -> None:
    server_program("mosquitto")
    answer = quick("connectors", "--only", "mqtt", "mcap")
    for key in ("mqtt_msgs_per_s", "mqtt_ratio", "mcap_mb_per_s", "mcap_ratio"):
        assert answer[key] > 0


def test_peers_without_their_environments() -> None:
    """Our own row; those of the peers need 4 GB of other people's packages, and are measured by hand."""
    answer = quick("peers", "--only", "--part", "throughput")
    (row,) = answer["table"]
    assert (row["peer"], row["failed"]) == ("grf", 0)
    assert row["segments_per_s"] > 0
    assert 1 <= row["batch"] <= peers.SESSIONS
    assert answer["vs_triton"] is None, "not measured is not zero"


def test_ratios_to_peers_are_taken_from_their_readable_rows() -> None:
    def row(peer: str, block: str, form: str, ratio: float) -> dict[str, Any]:
        return {"peer": peer, "block": block, "form": form, "ours_vs_this": ratio}

    rows = [
        row("triton", "light", "readable", 4.0),
        row("triton", "light", "folded", 3.0),
        row("triton", "paper", "readable", 2.0),
        row("mosec", "light", "readable", 2.5),
        row("mosec", "paper", "readable", 1.5),
        row("mosec", "paper", "folded", 1.0),
    ]
    expected = {"vs_triton": 4.0, "vs_mosec": 2.5, "vs_ray_serve": None, "vs_best_paper": 1.5}
    assert peers.summary(rows) == expected


def test_rows_measured_earlier_the_same_day_stay_beside_those_of_other_peers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(peers, "RESULTS", tmp_path)
    first = [{"peer": "grf", "n": 1}, {"peer": "mosec", "n": 1}]
    assert peers.merged(first, []) == (first, [])
    (tmp_path / f"{datetime.date.today().isoformat()}-peers.json").write_text(json.dumps({"table": first, "loss": []}))
    second = [{"peer": "grf", "n": 2}, {"peer": "triton", "n": 2}]
    table, _ = peers.merged(second, [])
    assert table == [{"peer": "mosec", "n": 1}, *second]


def test_a_context_with_too_few_or_too_many_segments_is_counted_as_loss_or_doubling() -> None:
    counted = loss.row("some", "kill", [20, 13, 22])
    assert (counted["sent"], counted["lost"], counted["double"]) == (60, 7, 2)
