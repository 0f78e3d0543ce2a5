"""What does a durable write cost in Redis, and in SQLite beside it?

The same records (1.5 KB, one history row each) saved again and again, in writes of 1, 100 and 1,000 sessions. Redis
with `appendfsync` always, everysec, and with one replica waited for; SQLite as we run it, synced at every commit.

    python -m benchmarks.redis_store [--quick] [--keep]

The last line is one JSON object: milliseconds per write, p50, by store and size. `--keep` writes it to results/.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.harness.machine import conclude
from runtime.store.base import Store
from runtime.store.redis_store import RedisStore
from runtime.store.sqlite import SqliteStore
from tests.runtime.store.samples import key, owned, record
from tests.servers import RedisServer

SIZES = (1, 100, 1000)


def measure(store: Store, times: int) -> dict[str, float]:
    keys = [key(f"s{number}") for number in range(max(SIZES))]
    epochs = owned(store, *keys)
    answer = {}
    for size in SIZES:
        took = []
        for version in range(1, times + 1):
            records = [record(each, version) for each in keys[:size]]
            began_s = time.perf_counter()
            store.save(epochs, records)
            took.append(time.perf_counter() - began_s)
        answer[str(size)] = round(1000 * median(took), 3)
    store.close()
    return answer


def wait_for_replicas(store: RedisStore) -> RedisStore:
    while store.address.options.replicas and not _is_online(store._server.client.info("replication")):
        time.sleep(0.05)
    return store


def _is_online(replication: dict[str, Any]) -> bool:
    return bool(replication["connected_slaves"]) and replication["slave0"]["state"] == "online"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--keep", action="store_true")
    arguments = parser.parse_args()
    times = 10 if arguments.quick else 60
    results = {}
    with tempfile.TemporaryDirectory() as folder:
        results["sqlite"] = measure(SqliteStore(Path(folder) / "grf.db"), times)
        print("sqlite", results["sqlite"], flush=True)
        for name, sync in (("always", "always"), ("everysec", "everysec"), ("everysec, 1 replica", "everysec")):
            directory = Path(folder) / name
            directory.mkdir()
            servers = [RedisServer(directory, sync=sync)]
            servers[0].start()
            address = servers[0].address
            if "replica" in name:
                (directory / "replica").mkdir()
                options = ["--replicaof", "127.0.0.1", str(servers[0].port), "--repl-diskless-sync-delay", "0"]
                servers.append(RedisServer(directory / "replica", *options, sync=sync))
                servers[1].start()
                address += "?replicas=1"
            try:
                results[f"redis {name}"] = measure(wait_for_replicas(RedisStore(address)), times)
            finally:
                for server in servers:
                    server.kill()
            print(name, results[f"redis {name}"], flush=True)
    conclude("redis_store", {"write_ms_p50": results}, keep=arguments.keep)


if __name__ == "__main__":
    main()
