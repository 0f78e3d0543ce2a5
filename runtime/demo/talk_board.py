"""What `grf demo talk` shows: a row for each half second while it plays, a summary when it is over."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from grf_core.data.grid_s1 import GridS1DataError, labels_of
from runtime.demo.board import share_bar
from runtime.demo.staging import NEVER, Span
from runtime.demo.talk import HEADS, SEGMENT_S, Watched, answers_of, shares_of

ROWS = 16


def truth_of(session: str) -> Mapping[str, str]:
    """What was said, where a file of GRID tells it by its name; else nothing."""
    try:
        return labels_of(session.partition(".")[0])
    except GridS1DataError:
        return {}


def live_board(title: str, watched: Sequence[Watched], mute: Span, cover: Span) -> RenderableType:
    """The video that plays now."""
    if not watched:
        return Panel("loading the encoders", title=title, border_style="dim")
    now = watched[-1]
    truth = truth_of(now.session)
    table = Table(expand=True, pad_edge=False)
    for name in ("until", *HEADS, "share in the context", "missing"):
        table.add_column(name, no_wrap=True)
    for time_s, state in _by_half_second(now.states)[-ROWS:]:
        answers = [_answer(label, sure, truth.get(head)) for head, (label, sure) in answers_of(state["live"]).items()]
        table.add_row(f"{time_s:5.1f} s", *answers, share_bar(shares_of(state)), _missing(time_s, mute, cover))
    return Panel(Group(_head(now), table), title=title, border_style="dim")


def _by_half_second(states: Iterable[Mapping[str, Any]]) -> list[tuple[float, Mapping[str, Any]]]:
    """The last state of each half second, from the beginning of the first."""
    rows: dict[int, Mapping[str, Any]] = {}
    for state in states:
        if state["live"]:
            rows[math.floor(state["live"]["event_time_s"] / SEGMENT_S)] = state
    if not rows:
        return []
    first = min(rows)
    return [((number - first + 1) * SEGMENT_S, rows[number]) for number in sorted(rows)]


def _head(now: Watched) -> Text:
    said = now.utterance.text if now.utterance else ""
    line = Text(f" {now.session}   words: ", style="bold")
    line.append(said or "-", style="bold" if now.utterance and now.utterance.is_final else "dim")
    return line


def _answer(label: str, sure: float, truth: str | None) -> Text:
    if label == "-":
        return Text("-", style="dim")
    style = "" if truth is None else "green" if label == truth else "red"
    return Text(f"{label} {sure:4.0%}", style=style)


def _missing(until_s: float, mute: Span, cover: Span) -> Text:
    begin_s = until_s - SEGMENT_S
    names = [
        name
        for name, span in (("sound", mute), ("face", cover))
        if span != NEVER and span.begin_s < until_s and begin_s < span.end_s
    ]
    return Text(" ".join(names), style="yellow")


def summary(watched: Sequence[Watched]) -> RenderableType:
    table = Table(title="final settled state")
    for name in ("session", *HEADS, "share in the context"):
        table.add_column(name, no_wrap=True)
    for one in watched:
        truth = truth_of(one.session)
        fused = (one.final or {}).get("settled")
        answers = [_answer(label, sure, truth.get(head)) for head, (label, sure) in answers_of(fused).items()]
        table.add_row(one.session, *answers, share_bar((fused or {}).get("shares", {})))
    lines = [*map(_said, watched), *_right(watched), *_remarks(watched)]
    return Group(table, Text("\n".join(lines)))


def _said(one: Watched) -> str:
    segments = ", ".join(f"{one.segments[name]} of {name}" for name in ("lips", "audio"))
    words = f"the words: {one.utterance.text}" if one.utterance else "no words understood"
    return f"{one.session}: segments: {segments}; {words}"


def _right(watched: Sequence[Watched]) -> list[str]:
    known = [(truth_of(one.session), answers_of((one.final or {}).get("settled"))) for one in watched]
    known = [(truth, answers) for truth, answers in known if truth]
    if not known:
        return []
    counts = [f"{head} {sum(answers[head][0] == truth[head] for truth, answers in known)}" for head in HEADS]
    return [f"right, of {len(known)} whose name tells: {', '.join(counts)}"]


def _remarks(watched: Sequence[Watched]) -> list[str]:
    """What a person should know of the sources: nobody seen, nothing heard, a file cut short."""
    remarks = []
    for one in watched:
        if one.samples["pictures"] and not one.segments["lips"]:
            remarks.append(f"{one.session}: no face was found in {one.samples['pictures']} pictures")
        if one.bad:
            remarks.append(f"{one.session}: could not be decoded: {dict(one.bad)}")
        if one.reason:
            remarks.append(f"{one.session}: {one.health}: {one.reason}")
    return remarks
