"""What the demo shows: a live table while it plays, a summary when it is over."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from runtime.demo.playlist import Play

COLOURS = ("cyan", "magenta", "yellow", "green", "blue", "red")
BAR_CELLS = 16

StateMap = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Figures:
    """Counted over all publishers, and over what the runtime says of every session."""

    sent: int
    fused: int
    settled: int
    durable: int
    refused: int
    lost: int
    double: int
    segments_per_s: float
    p50_ms: float
    p99_ms: float


def prediction(fused: StateMap | None) -> tuple[str, float]:
    """Label and confidence of the first classification head; ("-", 0) before there is one."""
    for output in (fused or {}).get("outputs", {}).values():
        if "label" in output:
            return str(output["label"]), float(output["confidence"])
    return "-", 0.0


def live_board(title: str, plays: Sequence[Play], states: Mapping[str, StateMap], figures: Figures) -> RenderableType:
    """The sessions that play now, and the figures so far."""
    table = Table(expand=True, pad_edge=False)
    for name in ("session", "true label", "live", "settled", "watermark", "share in the context", "version"):
        table.add_column(name, no_wrap=True)
    for play in plays:
        table.add_row(*_row(play, states.get(play.session)))
    return Panel(Group(table, _figures_line(figures)), title=title, border_style="dim")


def _row(play: Play, state: StateMap | None) -> list[RenderableType]:
    if state is None:
        return [play.session, play.label, "-", "-", "-", "", "0"]
    watermark_s = state["watermark_s"]
    return [
        play.session,
        play.label,
        _prediction_text(state["live"], play.label),
        _prediction_text(state["settled"], play.label),
        "-" if watermark_s is None else f"{watermark_s:6.2f} s",
        share_bar((state["live"] or {}).get("shares", {})),
        str(state["version"]),
    ]


def _prediction_text(fused: StateMap | None, truth: str) -> Text:
    label, confidence = prediction(fused)
    if label == "-":
        return Text("-", style="dim")
    return Text(f"{label} {confidence:4.0%}", style="green" if label == truth else "red")


def share_bar(shares: Mapping[str, float]) -> Text:
    """A stacked bar of the modalities' shares, with the name of each."""
    bar, legend = Text(), Text()
    ends, done = 0.0, 0
    for colour, (name, share) in zip(COLOURS, shares.items(), strict=False):
        ends += share
        cells = round(ends * BAR_CELLS) - done
        done += cells
        bar.append("█" * cells, style=colour)
        legend.append(f" {name[:5]} {share:3.0%}", style=colour)
    return bar + legend


def _figures_line(figures: Figures) -> Text:
    counts = "   ".join(f"{name} {getattr(figures, name):,}" for name in ("sent", "fused", "settled", "durable"))
    latency = f"latency p50 {figures.p50_ms:.1f} ms, p99 {figures.p99_ms:.1f} ms"
    return Text(f" {figures.segments_per_s:,.0f} segments/s   {latency}   {counts}", style="bold")


def summary(plays: Sequence[Play], states: Mapping[str, StateMap], figures: Figures, digest: str) -> RenderableType:
    """True label beside the final prediction of every session, and the figures."""
    table = Table(title="final settled predictions")
    for name in ("session", "true label", "prediction", "confidence", ""):
        table.add_column(name)
    right = 0
    for play in plays:
        label, confidence = prediction((states.get(play.session) or {}).get("settled"))
        is_right = label == play.label
        right += is_right
        mark = Text("right", style="green") if is_right else Text("wrong", style="red")
        table.add_row(play.session, play.label, label, f"{confidence:.0%}", mark)
    text = Text()
    for name in ("sent", "fused", "settled", "durable", "refused", "lost", "double"):
        text.append(f"{name} {getattr(figures, name)}   ")
    text.append(f"\nlatency publish to fused: p50 {figures.p50_ms:.1f} ms, p99 {figures.p99_ms:.1f} ms")
    share = right / len(plays) if plays else 0.0
    text.append(f"\nfinal predictions right: {right} of {len(plays)} ({share:.0%})")
    text.append(f"\ndigest of all settled states: {digest}")
    return Group(table, text)
