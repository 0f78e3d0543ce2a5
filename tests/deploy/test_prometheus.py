"""Prometheus' files: the real promtool reads them, and each alert fires when it should and not before."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "deploy" / "prometheus"


def rules() -> list[dict[str, Any]]:
    (group,) = yaml.safe_load((FOLDER / "alerts.yml").read_text())["groups"]
    return list(group["rules"])


def test_the_alerts_are_read_and_name_only_metrics_of_the_guide() -> None:
    (read,) = yaml.safe_load((FOLDER / "prometheus.yml").read_text())["rule_files"]
    assert (FOLDER / read).exists()
    guide = "".join((ROOT / "docs" / page).read_text() for page in ("operations.md", "connectors.md"))
    named = {name for rule in rules() for name in re.findall(r"grf_\w+", rule["expr"])}
    assert {name for name in named if f"| `{name}` |" not in guide} == set()


def test_each_alert_is_seen_to_fire() -> None:
    cases = (Path(__file__).parent / "alerts.yaml").read_text()
    assert [rule["alert"] for rule in rules() if f'alertname="{rule["alert"]}"' not in cases] == []


def test_the_real_promtool_sees_them_fire_when_they_should(server_program: Callable[[str], str]) -> None:
    promtool = Path(server_program("prometheus")).with_name("promtool")
    for arguments in (
        ["check", "config", str(FOLDER / "prometheus.yml")],
        ["test", "rules", str(Path(__file__).parent / "alerts.yaml")],
    ):
        done = subprocess.run([promtool, *arguments], capture_output=True, text=True, timeout=60, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
