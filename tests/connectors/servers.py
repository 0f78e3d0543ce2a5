"""Real brokers in processes of their own, to be killed."""

from __future__ import annotations

import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Self

from tests.servers import free_port

READY_WITHIN_S = 15.0


class Server:
    """Keeps its port and its folder when it is started again."""

    def __init__(self, folder: Path, port: int = 0) -> None:
        self.port = port or free_port()
        self.folder = folder
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed by __exit__
        self._process: subprocess.Popen[bytes] | None = None

    def command(self) -> Sequence[str]:
        raise NotImplementedError

    def start(self) -> None:
        self._process = subprocess.Popen(self.command(), stdout=self._log, stderr=self._log)
        ends_s = time.monotonic() + READY_WITHIN_S
        while time.monotonic() < ends_s:
            assert self._process.poll() is None, self.said()
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
            except OSError:
                time.sleep(0.02)
            else:
                return
        raise AssertionError(f"not ready within {READY_WITHIN_S} s: {self.said()}")

    def said(self) -> str:
        self._log.seek(0)
        return self._log.read().decode(errors="replace")[-2000:]

    def stop(self, number: int = signal.SIGTERM) -> None:
        if self._process is not None:
            self._process.send_signal(number)
            self._process.wait(READY_WITHIN_S)
            self._process = None

    def kill(self) -> None:
        self.stop(signal.SIGKILL)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.kill()
        self._log.close()


class Mosquitto(Server):
    def __init__(self, program: str, folder: Path, port: int = 0, *, persistent: bool = True) -> None:
        super().__init__(folder, port)
        self._program = program
        self._persistent = persistent

    def command(self) -> Sequence[str]:
        config = self.folder / "mosquitto.conf"
        config.write_text(
            f"listener {self.port} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\n"
            "max_queued_messages 0\nuser root\n"
        )
        if self._persistent:  # saved at every change, so that one that is killed knows its sessions
            with config.open("a") as file:
                file.write(f"persistence true\npersistence_location {self.folder}/\n")
                file.write("autosave_interval 1\nautosave_on_changes true\n")
        return [self._program, "-c", str(config)]


class Nats(Server):
    def __init__(self, program: str, folder: Path, port: int = 0) -> None:
        super().__init__(folder, port)
        self._program = program

    def command(self) -> Sequence[str]:
        return [self._program, "-js", "-a", "127.0.0.1", "-p", str(self.port), "-sd", str(self.folder)]
