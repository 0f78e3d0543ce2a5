"""The gateway is a client of the workers: it knows nothing of the engine, and does not load torch."""

from __future__ import annotations

import subprocess
import sys

FORBIDDEN = ("torch", "grf_core", "runtime.engine", "runtime.dispatch", "runtime.store", "runtime.worker")


def test_a_gateway_process_loads_neither_the_engine_nor_torch() -> None:
    program = "import sys, runtime.gateway.deployment; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    assert "runtime.gateway.app" in loaded
    assert [name for name in loaded if name.startswith(FORBIDDEN)] == []


def test_it_asks_the_controller_by_the_name_that_the_runtime_gives_it() -> None:
    from runtime import ray_actors
    from runtime.gateway import deployment

    assert (deployment.CONTROLLER, deployment.NAMESPACE) == (ray_actors.CONTROLLER, ray_actors.NAMESPACE)
