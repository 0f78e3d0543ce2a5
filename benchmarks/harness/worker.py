"""A whole worker in a process of its own: the one that Ray runs, without Ray around it.

Model, socket, engine, SQLite, metrics, beat; there is no controller. Ray never carries a segment, so it would add
nothing here but half a minute of starting and other processes on the same processors.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

from benchmarks.harness.processes import Process, plan_of_this_process, say, wait_for_go
from runtime.huge_pages import use_huge_pages
from runtime.keys import KEY_GROUPS
from runtime.orders import Orders
from runtime.placement import Beat
from runtime.routes import Table
from runtime.settings import load_settings
from runtime.store_source import open_store
from runtime.warm_up import quieten_interpreter, warm_up
from runtime.worker import FLUSH_METRICS_S, Worker, load_model

START_WITHIN_S = 60.0


class WorkerProcess(Process):
    """Started, and serving at `endpoint`: every key group, or of several workers on `ports` its share of them."""

    def __init__(self, folder: Path, bundle: str, *flags: str, ports: Sequence[int] = (0,), number: int = 0) -> None:
        where = [f"runtime.data_port={ports[number]}", f"runtime.state_dir={folder}", f"runtime.bundle={bundle}"]
        plan = {"settings": [*where, *flags], "ports": list(ports), "number": number}
        super().__init__("benchmarks.harness.worker", plan)
        started = self.hear(START_WITHIN_S)
        self.endpoint: str = started["endpoint"]
        self.metrics_url: str = started["metrics_url"]
        self.threads: dict[int, str] = {int(number): name for number, name in started["threads"].items()}

    def cpu_s_by_name(self) -> dict[str, float]:
        """Processor time by thread; those of the transport and of torch are `other`."""
        times: dict[str, float] = {}
        for number, seconds in self.cpu_s_by_thread().items():
            name = self.threads.get(number, "other")
            times[name] = times.get(name, 0.0) + seconds
        return times

    def metrics(self) -> dict[str, float]:
        """Its metrics by name, summed over their labels. They are flushed twice a second: this waits for that."""
        time.sleep(2 * FLUSH_METRICS_S)
        with urlopen(self.metrics_url, timeout=10.0) as answer:
            lines = answer.read().decode().splitlines()
        values: dict[str, float] = {}
        for sample, _, value in (line.rpartition(" ") for line in lines if not line.startswith("#")):
            name = sample.partition("{")[0]
            values[name] = values.get(name, 0.0) + float(value)
        return values


def main() -> None:
    plan = plan_of_this_process()
    settings, ports, number = load_settings(plan["settings"]), plan["ports"], plan["number"]
    Path(settings.runtime.state_dir).mkdir(parents=True, exist_ok=True)
    use_huge_pages()
    model = load_model(settings)
    warm_up(model)
    store = open_store(settings)
    owned = store.ownership()
    owner = f"bench-{number}/{os.getpid()}"
    shares = {f"tcp://127.0.0.1:{port}": tuple(range(i, KEY_GROUPS, len(ports))) for i, port in enumerate(ports)}
    table = Table(KEY_GROUPS, shares) if len(ports) > 1 else None
    mine = range(number, KEY_GROUPS, len(ports))
    epochs = store.claim(owner, {group: owned[group].epoch if group in owned else 0 for group in mine})
    beats: list[Beat] = []
    heard = threading.Event()

    def send_beat(beat: Beat) -> Orders:
        """Its key groups stay its own until another worker claims them: then the store has refused a write."""
        beats[:] = [beat]
        heard.set()
        if beat.fenced:
            kept = {group: held.epoch for group, held in store.ownership().items() if held.owner == owner}
            return Orders(kept)
        return Orders(epochs, table=table, table_stamp="1" if table else "")

    worker = Worker(f"bench-{number}", settings, model, send_beat, on_death=lambda: None)
    quieten_interpreter()
    worker.start()
    heard.wait(START_WITHIN_S)
    threads = {str(thread.native_id): thread.name for thread in threading.enumerate()}
    say({"endpoint": beats[0].endpoint, "metrics_url": beats[0].metrics_url, "threads": threads})
    while wait_for_go():
        pass
    worker.stop()


if __name__ == "__main__":
    main()
