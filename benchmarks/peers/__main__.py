"""How do the servers that a user might pick instead do with the same block and the same clients?

64 sessions, each with one segment under way: the next goes out when the answer is there. Two blocks (light: d_model 64,
1 layer, 8 frames; paper: 4 layers, 20 frames). Peers run the readable form of GRF, as their users would; `folded` gives
them our form of it, kernels included. Each peer is set up as its documentation advises (`servers.py` and the
`*_server.py` say how), with one process for the model and one thread for torch, like our worker. Requests of sessions
that are ready at one moment share a message of up to 8 where the protocol has such messages; ours has, the peers' have
not. What only ours does meanwhile: order, exactly-once, durable state in SQLite, updates to a subscriber. Ours and
theirs run in turns; the medians are kept.

    segments_per_s, p50_ms, p99_ms      as the clients see it
    batch                               segments in one step, in the mean
    client_us                           processor time of the clients per segment, on the same two processors
    loss                                benchmarks/peers/loss.py: lost and double segments when things go wrong

    vs_triton, vs_mosec, vs_ray_serve   light block: ours / theirs with the readable form, segments per second
    vs_best_paper                       paper's block: ours / the best of them with the readable form
    table, loss                         lists of rows

    benchmarks/peers/make-envs.sh                       once: environments for the peers (4 GB)
    python -m benchmarks.peers [--quick] [--keep] [--only PEER ...] [--part loss]

Peers without an environment are left out, and said so. The last line is one JSON object; `--keep` writes it to
results/, beside the rows of other peers measured the same day.
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from benchmarks.harness.blocks import BLOCKS, LIGHT, PAPER, Block
from benchmarks.harness.machine import RESULTS, conclude
from benchmarks.harness.models import save_block
from benchmarks.harness.worker import WorkerProcess
from benchmarks.peers.clients import ClientProcess
from benchmarks.peers.loss import losses
from benchmarks.peers.servers import PEERS, is_installed, version_of

SESSIONS = 64
READY_WITHIN_S = 90.0
WARM_UP_S = 1.0
TURNS = 3

Row = dict[str, Any]


class Side:
    """A server with its clients, ours or a peer's: `run` for a while, again and again; `row` is the middle of them."""

    def __init__(self, client: ClientProcess, count: Callable[[], tuple[float, float]], **named: str) -> None:
        """`count` gives the steps so far, and the segments in them."""
        self._client = client
        self._count = count
        self._named = named
        self._runs: list[Row] = []
        self._client.closed(WARM_UP_S, SESSIONS)
        self._before = count()

    def run(self, seconds: float) -> None:
        self._runs.append(self._client.closed(seconds, SESSIONS))

    @property
    def last_rate(self) -> float:
        return float(self._runs[-1]["segments_per_s"])

    def row(self) -> Row:
        steps, segments = (after - before for after, before in zip(self._count(), self._before, strict=True))
        middle = {name: statistics.median(run[name] for run in self._runs) for name in self._runs[0]}
        return self._named | middle | {"batch": round(segments / steps, 1)}


@contextmanager
def ours(block: Block) -> Iterator[Side]:
    with tempfile.TemporaryDirectory() as folder:
        bundle = save_block(block, Path(folder))
        with (
            WorkerProcess(Path(folder) / "state", bundle) as worker,
            ClientProcess("benchmarks.peers.grf_client", {"endpoint": worker.endpoint, "block": block.name}) as client,
        ):

            def count() -> tuple[float, float]:
                told = worker.metrics()
                return told["grf_batch_segments_count"], told["grf_batch_segments_sum"]

            yield Side(client, count, peer="grf", block=block.name, form="folded")


@contextmanager
def theirs(peer: str, block: Block, form: str) -> Iterator[Side]:
    with tempfile.TemporaryDirectory() as folder:
        server = PEERS[peer](block.name, form, Path(folder))
        try:
            plan = server.plan | {"block": block.name}
            with ClientProcess(server.client, plan, server.client_python) as client:
                until_s = time.monotonic() + READY_WITHIN_S
                while "error" in (answer := client.ask(1)):
                    if time.monotonic() > until_s:
                        raise RuntimeError(f"{peer} is not ready after {READY_WITHIN_S:g} s: {answer['error']}")
                    time.sleep(0.2)

                def count() -> tuple[float, float]:
                    told = client.stats()
                    return told["steps"], told["segments"]

                yield Side(client, count, peer=peer, block=block.name, form=form, version=version_of(peer))
        finally:
            server.close()


def say(row: Row) -> Row:
    print(json.dumps(row), flush=True)
    return row


def measure(peers: list[str], seconds: float, blocks: list[Block]) -> list[Row]:
    """Ours and theirs in turns, both running, one idle: what else the machine does weighs on both."""
    rows = []
    for block in blocks:
        with ours(block) as own:
            own.run(seconds)
            for peer in peers:
                for form in ("readable", "folded"):
                    with theirs(peer, block, form) as other:
                        beside: list[float] = []
                        for _ in range(TURNS):
                            own.run(seconds)
                            beside.append(own.last_rate)
                            other.run(seconds)
                        rows.append(other.row())
                    rows[-1]["ours_segments_per_s"] = statistics.median(beside)
                    rows[-1]["ours_vs_this"] = round(statistics.median(beside) / rows[-1]["segments_per_s"], 2)
                    say(rows[-1])
            rows.append(say(own.row()))
    return rows


def lose(peer: str) -> list[Row]:
    with tempfile.TemporaryDirectory() as folder:
        return [say(row) for row in losses(peer, Path(folder))]


def summary(rows: list[Row]) -> Row:
    def ratio(peer: str, block: str) -> float | None:
        found = [
            row["ours_vs_this"] for row in rows if (row["peer"], row["block"], row["form"]) == (peer, block, "readable")
        ]
        return found[0] if found else None

    paper = [found for peer in PEERS if (found := ratio(peer, PAPER.name)) is not None]
    return {
        "vs_triton": ratio("triton", LIGHT.name),
        "vs_mosec": ratio("mosec", LIGHT.name),
        "vs_ray_serve": ratio("ray-serve", LIGHT.name),
        "vs_best_paper": min(paper, default=None),
    }


def merged(table: list[Row], loss: list[Row]) -> tuple[list[Row], list[Row]]:
    """With what was kept today of the peers that were not measured now."""
    path = RESULTS / f"{datetime.date.today().isoformat()}-peers.json"
    if not path.exists():
        return table, loss
    kept = json.loads(path.read_text())

    def others(name: str, new: list[Row]) -> list[Row]:
        measured = {row["peer"] for row in new}
        return [row for row in kept[name] if row["peer"] not in measured] + new

    return others("table", table), others("loss", loss)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true")
    parser.add_argument("--only", nargs="*", choices=list(PEERS), help="these peers (and ours)")
    parser.add_argument("--part", choices=["throughput", "loss"], help="one of the two only")
    arguments = parser.parse_args()
    wanted = list(PEERS) if arguments.only is None else arguments.only
    peers = [peer for peer in wanted if is_installed(peer)]
    for missing in set(wanted) - set(peers):
        print(f"{missing}: no environment; benchmarks/peers/make-envs.sh {missing} makes it")
    blocks, seconds = ([LIGHT], 1.0) if arguments.quick else (list(BLOCKS.values()), 1.5)
    table = measure(peers, seconds, blocks) if arguments.part != "loss" else []
    loss = [row for peer in ("grf", *peers) for row in lose(peer)] if arguments.part != "throughput" else []
    if arguments.keep:
        table, loss = merged(table, loss)
    conclude("peers", summary(table) | {"table": table, "loss": loss}, keep=arguments.keep)


if __name__ == "__main__":
    main()
