"""The sessions of a custom recipe: which train, which test, which belong together."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from grf_core.config import GRFConfig
from grf_core.data.conversion import RecordedSessionSegments, labelled_session
from grf_core.data.recordings import Recordings, read_recordings
from grf_core.data.sessions import LabelledSession
from grf_core.training.checks import RecipeError, check_float
from grf_core.training.preparation import TrainingError, split_groups, split_validation
from grf_core.training.recipes.fields import mapping, text

DEFAULT_SHARE = 0.2
"""Of the sessions, held out as the test part."""
SEED = 0
"""The test part is the same for every seed of the training."""
Group = Callable[[LabelledSession], str]


@dataclass(frozen=True, slots=True)
class CustomSessions:
    recordings: Recordings
    labelled: list[LabelledSession]
    group_of: Group | None


def custom_sessions(data: Path, group_pattern: object) -> CustomSessions:
    recordings = read_recordings(data)
    labelled = [labelled_session(session) for session in recordings.sessions if session.segments and session.labels]
    if not labelled:
        how = "docs/training.md says how to add labels to a recording"
        raise RecipeError("data", f"{data} has no session with labels and segments; {how}")
    return CustomSessions(recordings, labelled, _group_of(group_pattern, labelled))


def typical_segment_s(sessions: Sequence[RecordedSessionSegments]) -> float:
    """The median time between two segments of a stream; 1 s where no stream has two."""
    gaps_s: list[float] = []
    for session in sessions:
        by_stream: dict[str, list[float]] = {}
        for segment in session.segments:
            by_stream.setdefault(segment.stream, []).append(segment.event_time_s)
        for times_s in by_stream.values():
            gaps_s += [gap_s for gap_s in np.diff(sorted(times_s)).tolist() if gap_s > 0]
    return float(np.median(gaps_s)) if gaps_s else 1.0


def split_test(
    options: object, sessions: CustomSessions, config: GRFConfig
) -> tuple[tuple[LabelledSession, ...], tuple[LabelledSession, ...]]:
    """(train, test)"""
    given = mapping("test", options, ("share", "sessions", "prefix"))
    if len(given) > 1:
        raise RecipeError("test", "one of share, sessions and prefix is expected")
    if "sessions" in given:
        held_out = _names(given["sessions"], sessions.labelled)
    elif "prefix" in given:
        prefix = text("test.prefix", given["prefix"])
        held_out = {session.session for session in sessions.labelled if session.session.startswith(prefix)}
        if not held_out:
            raise RecipeError("test.prefix", f"no session begins with {prefix!r}")
    else:
        held_out = _share(given.get("share", DEFAULT_SHARE), sessions, config)
    train = tuple(session for session in sessions.labelled if session.session not in held_out)
    test = tuple(session for session in sessions.labelled if session.session in held_out)
    if not train:
        raise RecipeError("test", "no session is left to train on")
    return train, test


def _names(given: object, sessions: Sequence[LabelledSession]) -> set[str]:
    if not isinstance(given, list) or not all(isinstance(name, str) for name in given):
        raise RecipeError("test.sessions", "a list of session names is expected")
    unknown = set(given) - {session.session for session in sessions}
    if unknown:
        raise RecipeError("test.sessions", f"no labelled session is called {sorted(unknown)[0]!r}")
    return set(given)


def _share(share: object, sessions: CustomSessions, config: GRFConfig) -> set[str]:
    check_float("test.share", share, 0.0, 0.9)
    assert isinstance(share, float | int)
    if share == 0:
        return set()
    rng = np.random.default_rng(SEED)
    try:
        if sessions.group_of is None:
            _, held_out = split_validation(sessions.labelled, config, share, rng)
        else:
            _, held_out = split_groups(sessions.labelled, sessions.group_of, share, rng)
    except TrainingError:
        told = f"{share} of these {len(sessions.labelled)} sessions leaves none to train on, or none to test on"
        raise RecipeError("test.share", told) from None
    return {session.session for session in held_out}


def _group_of(pattern: object, sessions: Sequence[LabelledSession]) -> Group | None:
    if pattern is None:
        return None
    try:
        compiled = re.compile(text("group_pattern", pattern))
    except re.error as error:
        raise RecipeError("group_pattern", f"not a regular expression: {error}") from None
    if compiled.groups != 1:
        raise RecipeError("group_pattern", "exactly one group in parentheses is expected")
    for session in sessions:
        if not compiled.search(session.session):
            raise RecipeError("group_pattern", f"does not fit session {session.session!r}")

    def group_of(session: LabelledSession) -> str:
        found = compiled.search(session.session)
        return found.group(1) or "" if found else ""

    return group_of
