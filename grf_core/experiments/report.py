"""What an experiment leaves behind: a dated folder with `result.json`, `README.md` and the plots, all small."""

from __future__ import annotations

import json
import os
import platform
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from grf_core.experiments.plots.style import picture
from grf_core.experiments.results import COUNTS, Row, figure_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_FILE_BYTES = 300_000
FOLDER = Path("docs/experiments")


@dataclass(frozen=True, slots=True)
class Table:
    header: Sequence[str]
    cells: Sequence[Sequence[str]]
    title: str = ""

    def markdown(self) -> str:
        lines = [self.header, ["---"] * len(self.header), *self.cells]
        table = "\n".join(f"| {' | '.join(line)} |" for line in lines)
        return f"### {self.title}\n\n{table}" if self.title else table


@dataclass(frozen=True, slots=True)
class Plot:
    name: str
    """Of its files."""
    caption: str
    figure: Figure


@dataclass(frozen=True, slots=True)
class Findings:
    """What one experiment has found."""

    tables: Sequence[Table]
    answer: Sequence[str]
    """Sentences that follow from the figures; none where they decide nothing."""
    settings: Mapping[str, Any]
    rows: Sequence[Mapping[str, Any]]
    plots: Sequence[Plot] = ()
    values: Mapping[str, Any] = field(default_factory=dict)
    """Single numbers, at the top of `result.json`."""
    remarks: Sequence[str] = ()
    """What limits the answer."""


def hardware() -> dict[str, Any]:
    return {
        "cpu": _cpu_model(),
        "cores": os.cpu_count(),
        "torch": torch.__version__,
        "python": platform.python_version(),
    }


def folder_of(name: str, day: date, out: Path | None) -> Path:
    return out or FOLDER / f"{day.isoformat()}-{name}"


def write_report(folder: Path, name: str, question: str, command: str, day: date, findings: Findings) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    machine = hardware()
    result = {
        "experiment": name,
        "date": day.isoformat(),
        "question": question,
        "command": command,
        **findings.values,
        "answer": list(findings.answer),
        "remarks": list(findings.remarks),
        "settings": dict(findings.settings),
        "hardware": machine,
        "rows": list(findings.rows),
    }
    (folder / "result.json").write_text(json.dumps(result, indent=1, allow_nan=False) + "\n")
    shown = [(plot, _write_plot(folder, plot)) for plot in findings.plots]
    (folder / "README.md").write_text(_page(name, question, command, day, findings, machine, shown))


def json_rows(rows: Sequence[Row]) -> list[dict[str, Any]]:
    return [_rounded(asdict(row)) for row in rows]


def score_table(
    rows: Sequence[Row], metrics: Sequence[str] = (), conditions: bool | None = None, title: str = ""
) -> Table:
    """One line for each row; the metrics asked for, or all that any row has."""
    metrics = metrics or _all_metrics(rows)
    conditions = len({row.condition for row in rows}) > 1 if conditions is None else conditions
    header = ["arm", *(["condition"] if conditions else []), *metrics, "parameters", "seconds", "seeds"]
    cells = [
        [
            row.arm,
            *([row.condition] if conditions else []),
            *(figure_text(row, metric) for metric in metrics),
            f"{row.parameters:,}",
            f"{row.seconds:.0f}",
            f"{row.n}" if not row.failed_seeds else f"{row.n}, {len(row.failed_seeds)} failed",
        ]
        for row in rows
    ]
    return Table(header, cells, title)


def _all_metrics(rows: Sequence[Row]) -> list[str]:
    names = dict.fromkeys(name for row in rows for name in row.mean if name not in COUNTS)
    # With several heads the first one's metrics stand there twice.
    return [name for name in names if "/" in name] or list(names)


def _write_plot(folder: Path, plot: Plot) -> list[str]:
    """The files written: one that would be too large is left out."""
    written = []
    for suffix in ("png", "svg"):
        content = picture(plot.figure, suffix)
        if len(content) <= MAX_FILE_BYTES:
            (folder / f"{plot.name}.{suffix}").write_bytes(content)
            written.append(suffix)
    return written


def _page(
    name: str,
    question: str,
    command: str,
    day: date,
    findings: Findings,
    machine: Mapping[str, Any],
    shown: Sequence[tuple[Plot, list[str]]],
) -> str:
    parts = [f"# {name}, {day.isoformat()}", question]
    if findings.answer:
        parts.append("## Answer\n\n" + "\n".join(f"- {sentence}" for sentence in findings.answer))
    parts.append("## Figures")
    parts += [table.markdown() for table in findings.tables]
    parts.append("Mean ± standard deviation over the seeds. The epoch was chosen on the validation part.")
    for plot, suffixes in shown:
        if suffixes:
            parts.append(f"![{plot.caption}]({plot.name}.{suffixes[0]})\n\n{plot.caption}")
    if findings.remarks:
        parts.append("## What limits this\n\n" + "\n".join(f"- {remark}" for remark in findings.remarks))
    settings = "\n".join(f"- {key}: {_text(value)}" for key, value in findings.settings.items())
    parts.append(f"## Settings\n\n{settings}\n- {machine['cpu']}, {machine['cores']} cores, torch {machine['torch']}")
    parts.append(f"Made by `{command}`. All figures are in `result.json`.")
    return "\n\n".join(parts) + "\n"


def _text(value: Any) -> str:
    return json.dumps(value) if isinstance(value, dict | list | tuple) else str(value)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, Mapping):
        return {key: _rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(item) for item in value]
    return value


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()
