"""A reproducible load on a runtime that is disturbed meanwhile, and what came of it: one row of the loss table."""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from grf_core.bundle import load_bundle
from runtime.client import StateClient
from tests.cluster.load import JITTER_S, expected
from tests.cluster.ray_machines import Running
from tests.cluster.recorded import STREAMS
from tests.cluster.running import ROOT, RunningRuntime, finish_publisher, start_publishers, wait_until
from tests.cluster.running_cluster import RunningCluster

SESSIONS = 8
SEGMENTS = 50
RATE = 200.0
PATIENCE_S = 300.0
"""until all is durable: of twenty workers that are killed each may take eight seconds to be there again"""
RANKED = [(stream, rank) for stream, _, rank in STREAMS]

Row = dict[str, Any]


class Disturbed:
    def __init__(self, runtime: RunningRuntime | RunningCluster | Running, through: Sequence[str] = ()) -> None:
        """`through` a command that runs the publishers on another machine."""
        self.runtime = runtime
        self.through = through
        self.rng = random.Random(0)
        self.model = load_bundle(ROOT / "bundles" / "motion").step_model("cpu")
        self.rows: list[Row] = []

    def under_load(self, event: str, disturb: Callable[[], None], segments: int = SEGMENTS) -> None:
        """Two publisher processes send to all sessions while `disturb` happens; then count."""
        sessions = [f"{event}-{number}" for number in range(SESSIONS)]
        load = {"count": segments, "rate": RATE, "flush_s": PATIENCE_S}
        publishers = start_publishers(self.runtime.address, sessions, through=self.through, **load)
        try:
            with StateClient(self.runtime.address) as client:
                wait_until(lambda: client.sessions(after=sessions[-2])[0], 60.0, f"{event}: the load has begun")
            disturb()
            refused = sum(finish_publisher(publisher, PATIENCE_S)["refused"] for publisher in publishers)
        finally:
            for publisher in publishers:
                publisher.kill()
                publisher.communicate()
        self.count(event, sessions, segments, refused)

    def count(
        self, event: str, sessions: Sequence[str], segments: int, refused: int = 0, jitter_s: float = JITTER_S
    ) -> None:
        row: Row = {"event": event, "sessions": len(sessions), "segments": 0, "refused": refused}
        row |= {"lost": 0, "double": 0, "forked": 0}
        with StateClient(self.runtime.address) as client:
            for session in sessions:
                state = client.state(session, timeout_s=30.0)
                right = expected(self.model, session, RANKED, segments, jitter_s)
                version = state["settled"]["version"] if state["settled"] else 0
                row["segments"] += right.version
                row["lost"] += max(right.version - version, 0)
                row["double"] += max(version - right.version, 0)
                row["forked"] += version == right.version and state["lineage"] != right.lineage
        self.rows.append(row)
        print(json.dumps(row), flush=True)
