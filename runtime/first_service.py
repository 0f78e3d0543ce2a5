"""A start is over once a worker serves, or once it is known that none will."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from typing import Any

from runtime.state_dir import StartError

READY_WITHIN_S = 120.0
LOOK_EVERY_S = 0.1


def wait_for_service(routes: Callable[[], Mapping[str, Any]], on_progress: Callable[[str], None], log_is: str) -> None:
    """`routes` asks the controller, `log_is` says where the workers' log is. Raises StartError."""
    deadline_s, told = time.monotonic() + READY_WITHIN_S, dict[str, str]()
    while not (answer := routes())["workers"]:
        failed = answer.get("failed", {})  # a runtime that is there already may be older
        for name, reason in failed.items():
            if told.get(name) != reason:
                on_progress(f"{name} does not start: {reason}")
        told |= failed
        if failed and len(failed) >= answer["wanted"]:
            raise StartError(f"no worker starts: {next(iter(told.values()))}")
        if time.monotonic() > deadline_s:
            raise StartError(f"no worker was ready within {READY_WITHIN_S:g} s; {log_is}")
        time.sleep(LOOK_EVERY_S)
