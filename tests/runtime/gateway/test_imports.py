"""The gateway is a client of the workers: it knows nothing of the engine, and does not load torch."""

from __future__ import annotations

from tests.runtime.imports import loaded_by

FORBIDDEN = ("torch", "grf_core", "runtime.engine", "runtime.dispatch", "runtime.store", "runtime.worker")


def test_a_gateway_process_loads_neither_the_engine_nor_torch() -> None:
    loaded = loaded_by("runtime.gateway.deployment")
    assert "runtime.gateway.app" in loaded
    assert [name for name in loaded if name.startswith(FORBIDDEN)] == []
