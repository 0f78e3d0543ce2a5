"""How each peer is started, killed and scaled, and which client speaks to it. Every one listens on loopback only."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.harness.processes import ROOT
from tests.cluster.running import command_line, descendants
from tests.servers import free_port

ENVIRONMENTS = Path(__file__).parent / ".envs"
TRITON_IDLE_S = 5.0
"""after so long without a request Triton gives a sequence's slot away (its default is 1 s)"""
TRITON_MODEL = """
import os, sys
sys.path[:0] = os.environ["PYTHONPATH"].split(":")  # the backend's interpreter does not read it
from benchmarks.peers.triton_model import TritonPythonModel
"""
TRITON_CONFIG = """
name: "fusion"
backend: "python"
max_batch_size: 64
sequence_batching {{
  max_sequence_idle_microseconds: {idle_us}
  direct {{ max_queue_delay_microseconds: 2000 minimum_slot_utilization: 0.9 }}
  control_input [
    {{ name: "START" control [ {{ kind: CONTROL_SEQUENCE_START fp32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "READY" control [ {{ kind: CONTROL_SEQUENCE_READY fp32_false_true: [ 0, 1 ] }} ] }},
    {{ name: "CORRID" control [ {{ kind: CONTROL_SEQUENCE_CORRID data_type: TYPE_UINT64 }} ] }}
  ]
}}
input [ {{ name: "SEGMENT" data_type: TYPE_UINT8 dims: [ -1 ] }} ]
output [ {{ name: "ANSWER" data_type: TYPE_UINT8 dims: [ -1 ] }} ]
instance_group [ {{ kind: KIND_CPU count: 1 }} ]
"""


@dataclass
class Server:
    """A running peer: its processes, and how to reach it."""

    process: subprocess.Popen[str]
    client: str
    """the client's module"""
    plan: dict[str, Any]
    client_python: str = sys.executable
    model_title: str = ""
    """what the command line of the process with the model has in it; empty: the process itself"""
    scale: Callable[[], None] | None = None
    again: Callable[[], Server] | None = field(default=None, repr=False)
    """starts it again over what it has kept, for one that does not come back by itself"""

    def model_pids(self) -> list[int]:
        if not self.model_title:
            return [self.process.pid]
        return [pid for pid in descendants(self.process.pid) if self.model_title in command_line(pid)]

    def kill_model(self) -> None:
        """SIGKILL to the process that holds the contexts."""
        for pid in self.model_pids():
            os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        for sign in (signal.SIGTERM, signal.SIGKILL):
            for pid in descendants(self.process.pid):
                try:
                    os.kill(pid, sign)
                except ProcessLookupError:
                    continue
            try:
                self.process.wait(10)
            except subprocess.TimeoutExpired:
                continue
        for pipe in (self.process.stdin, self.process.stdout):
            if pipe is not None:
                pipe.close()


def python_of(peer: str) -> str:
    return str(ENVIRONMENTS / peer / "bin" / "python")


def is_installed(peer: str) -> bool:
    return peer == "ray-serve" or (ENVIRONMENTS / peer / ".installed").exists()


def version_of(peer: str) -> str:
    package = {"triton": "nvidia-pytriton", "ray-serve": "ray"}.get(peer, peer)
    python = sys.executable if peer == "ray-serve" else python_of(peer)
    code = f"from importlib.metadata import version; print(version({package!r}))"
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=True, timeout=30).stdout.strip()
    return f"tritonserver 2.51 ({package} {found})" if peer == "triton" else f"{package} {found}"


def start(command: list[str], block: str, form: str, log: Path, **environment: str) -> subprocess.Popen[str]:
    inherited = os.environ | {"PEER_BLOCK": block, "PEER_FORM": form, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=log.open("a"),
        text=True,
        cwd=ROOT,
        env=inherited | environment,
        start_new_session=True,
    )


def mosec(block: str, form: str, folder: Path) -> Server:
    port = free_port()
    command = [python_of("mosec"), "-m", "benchmarks.peers.mosec_server", "--address", "127.0.0.1"]
    process = start([*command, "--port", str(port), "--log-level", "warning"], block, form, folder / "log")
    plan = {"host": "127.0.0.1", "port": port, "path": "/inference"}
    return Server(process, "benchmarks.peers.http_client", plan, model_title="multiprocessing.spawn")


def litserve(block: str, form: str, folder: Path) -> Server:
    port = free_port()
    command = [python_of("litserve"), "-m", "benchmarks.peers.litserve_server", str(port)]
    plan = {"host": "127.0.0.1", "port": port, "path": "/predict", "json": True}
    process = start(command, block, form, folder / "log")
    return Server(process, "benchmarks.peers.http_client", plan, model_title="multiprocessing.spawn")


def ray_serve(block: str, form: str, folder: Path) -> Server:
    port = free_port()
    command = [sys.executable, "-m", "benchmarks.peers.ray_serve_server", str(port), str(folder / "ray")]
    process = start(command, block, form, folder / "log")
    assert process.stdout is not None
    process.stdout.readline()

    def scale() -> None:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write("2\n")
        process.stdin.flush()
        process.stdout.readline()

    plan = {"host": "127.0.0.1", "port": port, "path": "/fuse"}
    return Server(process, "benchmarks.peers.http_client", plan, model_title="ServeReplica", scale=scale)


def triton(block: str, form: str, folder: Path) -> Server:
    packages = next((ENVIRONMENTS / "triton" / "lib").glob("python3*")) / "site-packages"
    home, model = packages / "pytriton" / "tritonserver", folder / "models" / "fusion"
    (model / "1").mkdir(parents=True, exist_ok=True)
    (model / "1" / "model.py").write_text(TRITON_MODEL)
    stub = home / "python_backend_stubs" / f"{sys.version_info.major}.{sys.version_info.minor}"
    backends = shutil.copytree(home / "backends", folder / "backends", dirs_exist_ok=True)
    shutil.copy(stub / "triton_python_backend_stub", backends / "python")
    (model / "config.pbtxt").write_text(TRITON_CONFIG.format(idle_us=round(TRITON_IDLE_S * 1e6)))
    port = free_port()
    command = [
        str(home / "bin" / "tritonserver"),
        "--model-repository",
        str(folder / "models"),
        "--backend-directory",
        str(backends),
        "--grpc-address",
        "127.0.0.1",
        "--grpc-port",
        str(port),
        "--allow-http=false",
        "--allow-metrics=false",
    ]
    libraries = f"{packages / 'nvidia_pytriton.libs'}:{os.environ.get('LD_LIBRARY_PATH', '')}"
    paths = f"{ROOT}:{packages}"
    process = start(command, block, form, folder / "log", LD_LIBRARY_PATH=libraries, PYTHONPATH=paths)
    plan = {"host": "127.0.0.1", "port": port}
    return Server(
        process, "benchmarks.peers.triton_client", plan, python_of("triton"), model_title="triton_python_backend_stub"
    )


def bytewax(block: str, form: str, folder: Path) -> Server:
    store = folder / "recovery"
    if not store.exists():
        store.mkdir()
        command = [python_of("bytewax"), "-m", "bytewax.recovery", str(store), "1"]
        subprocess.run(command, check=True, timeout=30, capture_output=True)
    port = free_port()
    command = [python_of("bytewax"), "-m", "bytewax.run", "benchmarks.peers.bytewax_flow", "-r", str(store)]
    process = start(
        [*command, "-s", "1", "-b", "0"], block, form, folder / "log", BYTEWAX_ENDPOINT=f"tcp://127.0.0.1:{port}"
    )
    plan = {"host": "127.0.0.1", "port": port}
    return Server(process, "benchmarks.peers.zmq_client", plan, again=lambda: bytewax(block, form, folder))


PEERS: dict[str, Callable[[str, str, Path], Server]] = {
    "triton": triton,
    "mosec": mosec,
    "ray-serve": ray_serve,
    "litserve": litserve,
    "bytewax": bytewax,
}
