"""Three machines with networks of their own: namespaces of the kernel, joined by links of which each way can be cut.

    head       HEAD, with the store at STORE       the namespace of the caller, which is one of its own (`run_alone`)
    worker     WORKER
    publishers PUBLISHERS

What is cut goes into the void, as on a real network: nobody is told.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

HEAD, STORE, WORKER, PUBLISHERS = "10.231.0.1", "10.231.1.1", "10.231.0.2", "10.231.3.2"
ALONE = "GRF_ALONE"


def run_alone(module: str, *arguments: str) -> str:
    """Run a module in a namespace of its own, where this user may do what root may; its last line."""
    command = ["unshare", "--map-root-user", "--net", sys.executable, "-m", module, *arguments]
    line = ""
    with subprocess.Popen(command, env={**os.environ, ALONE: "1"}, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        for line in process.stdout:
            print(line, end="", flush=True)
    assert process.returncode == 0, f"{module} ended with {process.returncode}"
    return line


def is_alone() -> bool:
    return os.environ.get(ALONE) == "1"


class Networks:
    def __init__(self) -> None:
        self._holders = {name: subprocess.Popen(["unshare", "--net", "sleep", "infinity"]) for name in ("w", "p")}
        for name in self._holders:
            self._wait_for_namespace(name)
        _ip("link set lo up")
        _ip(f"link add head-w type veth peer name w netns {self._holders['w'].pid}")
        _ip(f"link add head-p type veth peer name p netns {self._holders['p'].pid}")
        for link, address in (("head-w", f"{HEAD}/24"), ("head-w", f"{STORE}/32"), ("head-p", "10.231.3.1/24")):
            _ip(f"addr add {address} dev {link}")
            _ip(f"link set {link} up")
        Path("/proc/sys/net/ipv4/ip_forward").write_text("1")
        for name, address, gateway in (("w", WORKER, HEAD), ("p", PUBLISHERS, "10.231.3.1")):
            through = self.through(name)
            _ip("link set lo up", through)
            _ip(f"addr add {address}/24 dev {name}", through)
            _ip(f"link set {name} up", through)
            _ip(f"route add default via {gateway}", through)
        _ip("link add void type veth peer name void-end", self.through("w"))
        for link in ("void arp off", "void up", "void-end up"):
            _ip(f"link set {link}", self.through("w"))

    def _wait_for_namespace(self, name: str) -> None:
        ours = os.readlink("/proc/self/ns/net")
        while os.readlink(f"/proc/{self._holders[name].pid}/ns/net") == ours:
            assert self._holders[name].poll() is None, "no namespace can be made"

    def through(self, name: str) -> tuple[str, ...]:
        """What a command begins with to run on that machine: `w` or `p`."""
        return ("nsenter", "--target", str(self._holders[name].pid), "--net")

    def cut(self, address: str) -> None:
        """Nothing of the worker's machine reaches this address any more."""
        _ip(f"route add {address}/32 dev void", self.through("w"))

    def heal(self, address: str) -> None:
        _ip(f"route del {address}/32 dev void", self.through("w"))

    def close(self) -> None:
        for holder in self._holders.values():
            holder.kill()
            holder.wait()


def _ip(arguments: str, through: tuple[str, ...] = ()) -> None:
    subprocess.run([*through, "ip", *arguments.split()], check=True)
