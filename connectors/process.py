"""One `grf connect` as a process: its log, its signals, its folder. Needs no model and no Ray."""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
from pathlib import Path

from connectors.config import ConnectOptions
from connectors.outcome import Outcome, exit_code
from connectors.snapshots import StateFolder
from connectors.supervisor import Supervisor


def find_beside(file: Path) -> None:
    """Sources and encoders of a user's own are found beside the file that names them."""
    sys.path.insert(0, str(file.resolve().parent))


def run_until_stopped(options: ConnectOptions) -> int:
    """Until all sources have ended, or SIGINT, SIGTERM or SIGHUP; then a line for each. The exit code of the command.

    Raises ConnectorError, OSError.
    """
    logging.basicConfig(format="%(asctime)s %(levelname)s %(message)s", level=logging.INFO)
    for noisy in ("httpx", "nats", "mqtt", "mcap", "rosbags", "runtime.client"):  # the supervisor tells of its clients
        logging.getLogger(noisy).setLevel(logging.ERROR)
    with StateFolder(Path(options.state_dir)) as folder:
        outcomes = asyncio.run(_run(options, folder))
    for source, outcome in outcomes.items():
        print(f"{source}: {outcome}")
    return exit_code(outcomes.values())


async def _run(options: ConnectOptions, folder: StateFolder) -> dict[str, Outcome]:
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    hang_up = () if signal.getsignal(signal.SIGHUP) == signal.SIG_IGN else (signal.SIGHUP,)  # ignored below nohup
    for number in (signal.SIGINT, signal.SIGTERM, *hang_up):
        loop.add_signal_handler(number, stop.set)
    supervisor = Supervisor(options, folder)
    await supervisor.run(stop)
    return supervisor.outcomes
