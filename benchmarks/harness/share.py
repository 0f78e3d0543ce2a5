"""One of several workers that share a store and the key groups, each in a process of its own; no controller, no Ray."""

from __future__ import annotations

import threading
from pathlib import Path

from benchmarks.harness.processes import Process, plan_of_this_process, say, wait_for_go
from benchmarks.harness.worker import START_WITHIN_S, WorkerProcess
from runtime.keys import KEY_GROUPS
from runtime.orders import Orders
from runtime.placement import Beat
from runtime.routes import Table
from runtime.settings import load_settings
from runtime.warm_up import quieten_interpreter, warm_up
from runtime.worker import Worker, load_model, open_store


class ShareProcess(WorkerProcess):
    """Worker `number` of those that listen on `ports`; it serves every len(ports)-th key group."""

    def __init__(self, folder: Path, bundle: str, ports: list[int], number: int) -> None:
        settings = [f"runtime.data_port={ports[number]}", f"runtime.state_dir={folder}", f"runtime.bundle={bundle}"]
        Process.__init__(self, "benchmarks.harness.share", {"settings": settings, "ports": ports, "number": number})
        started = self.hear(START_WITHIN_S)
        self.endpoint = started["endpoint"]
        self.metrics_url = started["metrics_url"]
        self.threads = {int(native): name for native, name in started["threads"].items()}


def main() -> None:
    plan = plan_of_this_process()
    settings, ports, number = load_settings(plan["settings"]), plan["ports"], plan["number"]
    Path(settings.runtime.state_dir).mkdir(parents=True, exist_ok=True)
    model = load_model(settings)
    warm_up(model)
    mine = range(number, KEY_GROUPS, len(ports))
    epochs = open_store(settings).claim(f"share-{number}/1", dict.fromkeys(mine, 0))
    shares = {f"tcp://127.0.0.1:{port}": tuple(range(i, KEY_GROUPS, len(ports))) for i, port in enumerate(ports)}
    orders = Orders(epochs, (), Table(KEY_GROUPS, shares), "1")
    beats: list[Beat] = []
    heard = threading.Event()

    def send_beat(beat: Beat) -> Orders:
        beats[:] = [beat]
        heard.set()
        return orders

    worker = Worker(f"share-{number}", settings, model, send_beat, on_death=lambda: None)
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
