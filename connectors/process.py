"""One `grf connect` as a process: its log, its signals, its folder. Needs no model and no Ray."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

from connectors.config import ConnectOptions
from connectors.snapshots import StateFolder
from connectors.supervisor import Supervisor


def find_beside(file: Path) -> None:
    """Sources and encoders of a user's own are found beside the file that names them."""
    sys.path.insert(0, str(file.resolve().parent))


def run_until_stopped(options: ConnectOptions) -> dict[str, str]:
    """Until all sources have ended, or SIGINT or SIGTERM. The health of each source. Raises ConnectorError, OSError."""
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    for noisy in ("httpx", "nats", "mqtt", "mcap", "rosbags"):
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with StateFolder(Path(options.state_dir)) as folder:
        return asyncio.run(_run(options, folder))


async def _run(options: ConnectOptions, folder: StateFolder) -> dict[str, str]:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    return await Supervisor(options, folder).run(stop)
