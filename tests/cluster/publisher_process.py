"""One publisher in a process of its own: `python -m tests.cluster.publisher_process '{...}'`.

Says when a worker has welcomed it, and waits for a line before it begins. Publishes one stream of many sessions at a
steady rate, waits until all is durable, prints its figures as one JSON line.
"""

from __future__ import annotations

import json
import sys
import time
from collections import Counter

from runtime.client import Publisher
from tests.cluster.load import make

CONNECTED_WITHIN_S = 60.0
RANKS = {"accelerometer": 0, "gyroscope": 1}


def main() -> None:
    plan = json.loads(sys.argv[1])
    every_s = 1.0 / plan["rate"]
    codes: Counter[str] = Counter()
    with Publisher(
        plan["address"], client=f"load-{plan['stream']}", on_event=lambda event: codes.update([event.code])
    ) as publisher:
        publisher.check(CONNECTED_WITHIN_S)
        print("ready", flush=True)
        sys.stdin.readline()
        started_s, sent = time.monotonic(), 0
        for sequence in range(1, int(plan["count"]) + 1):
            for session in plan["sessions"]:
                item = make(session, plan["stream"], RANKS[plan["modality"]], sequence)
                publisher.publish(
                    session, item.stream, plan["modality"], item.frames, item.event_time_s, sequence=item.sequence
                )
                sent += 1
                time.sleep(max(0.0, started_s + sent * every_s - time.monotonic()))
        for session in plan["sessions"]:
            publisher.end(session, plan["stream"])
        publisher.flush(plan.get("flush_s", 90.0))
        stats = publisher.stats
        figures = {name: getattr(stats, name) for name in ("published", "durable", "refused", "late", "reconnects")}
    print(json.dumps(figures | {"codes": codes}), flush=True)


if __name__ == "__main__":
    main()
