"""Several raylets on this machine with the runtime on them: `python -m tests.cluster.raylets '{...}'`.

Deploys, prints one JSON line, then obeys lines on its standard input: `kill NUMBER` ends a raylet with all its
processes, `add` starts another one, an end of input ends everything.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from typing import Any

from tests.cluster.running import descendants, kill


def main() -> None:
    plan = json.loads(sys.argv[1])
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0", "RAY_DISABLE_IMPORT_WARNING": "1"}
    from ray.cluster_utils import Cluster

    from runtime import cluster_runtime
    from runtime.settings import load_settings

    folder = tempfile.mkdtemp(prefix="grf-ray-")
    node: dict[str, Any] = {"num_cpus": 2, "object_store_memory": 80 << 20, "include_dashboard": False}
    cluster = Cluster(initialize_head=True, head_node_args=node | {"temp_dir": folder})
    del node["include_dashboard"]
    nodes = [cluster.add_node(**node) for _ in range(plan["nodes"] - 1)]
    try:
        with cluster_runtime.connected(cluster.address):
            cluster_runtime.deploy(load_settings(plan["flags"]), lambda text: print(text, file=sys.stderr, flush=True))
        print(json.dumps({"ray": cluster.address, "nodes": [one.node_id for one in nodes]}), flush=True)
        for line in sys.stdin:
            match line.split():
                case ["kill", number]:
                    _kill(nodes[int(number)])
                    print("done", flush=True)
                case ["add"]:
                    nodes.append(cluster.add_node(**node))
                    print(nodes[-1].node_id, flush=True)
    finally:
        cluster.shutdown()
        shutil.rmtree(folder, ignore_errors=True)


def _kill(node: Any) -> None:
    """As a machine's power cut, but for its network: `kill -9` of the raylet and of all that it has started."""
    raylet = node.all_processes["raylet"][0].process.pid
    for pid in (raylet, *descendants(raylet)):  # it must not see the others end
        kill(pid)


if __name__ == "__main__":
    main()
