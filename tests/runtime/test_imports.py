"""Who has no use for torch does not load it: two seconds and 200 MB each time."""

from __future__ import annotations

import pytest

from runtime.cli import MODULES
from tests.runtime.imports import loaded_by

USE_TORCH = {"experiment", "model"}


def test_a_controller_is_back_without_the_engine_and_torch() -> None:
    loaded = loaded_by("runtime.controller_actor")
    assert "runtime.worker_actor" in loaded
    assert [
        name for name in loaded if name.startswith(("torch", "runtime.worker_loop", "runtime.dispatch.dispatcher"))
    ] == []


def test_the_list_of_commands_loads_none_of_them() -> None:
    loaded = loaded_by("runtime.cli, click.testing", "click.testing.CliRunner().invoke(runtime.cli.grf, ['--help'])")
    assert not {f"runtime.cli.{module}" for module in MODULES} & set(loaded)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - USE_TORCH))
def test_a_command_that_runs_no_model_loads_no_torch(module: str) -> None:
    assert "torch" not in loaded_by(f"runtime.cli.{module}")
