"""How do the servers that a user might pick instead do with the same block and the same clients?

64 sessions, each with one segment under way: the next goes out when the answer is there. Two blocks (light: d_model 64,
1 layer, 8 frames; paper: 4 layers, 20 frames). Peers run the readable form of GRF, as their users would; `folded` gives
them our form of it. Each peer is set up as its documentation advises (`servers.py` and the `*_server.py` say how), with
one process for the model and one thread for torch, like our worker. What only ours does meanwhile: order, exactly-once,
durable state in SQLite, updates to a subscriber.

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
import tempfile
import time
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

Row = dict[str, Any]


def ours(block: Block, seconds: float) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        bundle = save_block(block, Path(folder))
        with (
            WorkerProcess(Path(folder) / "state", bundle) as worker,
            ClientProcess("benchmarks.peers.grf_client", {"endpoint": worker.endpoint, "block": block.name}) as client,
        ):
            client.closed(seconds / 3, SESSIONS)
            before = worker.metrics()
            told = client.closed(seconds, SESSIONS)
            after = worker.metrics()
    segments, batches = (after[name] - before[name] for name in ("grf_batch_segments_sum", "grf_batch_segments_count"))
    return {"peer": "grf", "block": block.name, "form": "folded"} | told | {"batch": round(segments / batches, 1)}


def theirs(peer: str, block: Block, form: str, seconds: float) -> Row:
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
                client.closed(seconds / 3, SESSIONS)
                before = client.stats()
                told = client.closed(seconds, SESSIONS)
                after = client.stats()
        finally:
            server.close()
    batch = (after["segments"] - before["segments"]) / (after["steps"] - before["steps"])
    return {"peer": peer, "block": block.name, "form": form} | told | {"batch": round(batch, 1)}


def say(row: Row) -> Row:
    print(json.dumps(row), flush=True)
    return row


def measure(peers: list[str], seconds: float, blocks: list[Block]) -> list[Row]:
    """Ours beside each of the others, so that what else the machine does weighs on both."""
    rows = []
    for block in blocks:
        own = [say(ours(block, seconds))]
        for peer in peers:
            for form in ("readable", "folded"):
                rows.append(theirs(peer, block, form, seconds))
                rows[-1]["version"] = version_of(peer)
                rows[-1]["ours_segments_per_s"] = own[-1]["segments_per_s"]
                rows[-1]["ours_vs_this"] = round(own[-1]["segments_per_s"] / rows[-1]["segments_per_s"], 2)
                say(rows[-1])
        rows += own
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
    blocks, seconds = ([LIGHT], 1.0) if arguments.quick else (list(BLOCKS.values()), 4.0)
    table = measure(peers, seconds, blocks) if arguments.part != "loss" else []
    loss = [row for peer in ("grf", *peers) for row in lose(peer)] if arguments.part != "throughput" else []
    if arguments.keep:
        table, loss = merged(table, loss)
    conclude("peers", summary(table) | {"table": table, "loss": loss}, keep=arguments.keep)


if __name__ == "__main__":
    main()
