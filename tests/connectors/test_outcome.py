"""What the command says of each source at its end, and with what code it exits."""

from __future__ import annotations

import pytest

from connectors.outcome import NOT_AS_IT_SHOULD_BE, Outcome, exit_code
from connectors.tally import Tally, Totals
from runtime.cli import common


def totals(segments: int = 3, duplicates: int = 0, unrouted: int = 0, **counts: dict[str, int]) -> Totals:
    made = Totals()
    made.add(Tally(samples=10, segments=segments, duplicates=duplicates, unrouted=unrouted))
    for name, by_kind in counts.items():
        getattr(made, name).update(by_kind)
    return made


WELL = Outcome("ended", totals())


@pytest.mark.parametrize(
    ("outcome", "line"),
    [
        (WELL, "ended; published 3, refused 0, dropped 0"),
        (
            Outcome("stopped", totals(refused={"bad_segment": 3})),
            "stopped; published 3, refused 3 (bad_segment), dropped 0",
        ),
        (
            Outcome("ended", totals(refused={"late": 1, "stream": 2}, dropped={"samples": 4})),
            "ended; published 3, refused 3 (late 1, stream refused before 2), dropped 4 (samples)",
        ),
        (
            Outcome("ended", totals(bad={"format": 2, "time": 1})),
            "ended; published 3, refused 0, dropped 0, samples left out 3 (format 2, time 1)",
        ),
        (
            Outcome("stopped", totals(duplicates=2, unrouted=1)),
            "stopped; published 3, refused 0, dropped 0, samples that came again 2, samples that match no route 1",
        ),
    ],
)
def test_a_line_tells_what_became_of_a_source(outcome: Outcome, line: str) -> None:
    assert str(outcome) == line


@pytest.mark.parametrize(
    "outcome",
    [
        Outcome("broken", totals()),
        Outcome("ended", totals(refused={"late": 1})),
        Outcome("stopped", totals(dropped={"segments": 1})),
        Outcome("ended", totals(segments=0, bad={"format": 10})),
    ],
)
def test_what_is_broken_or_lost_or_came_to_nothing_is_not_as_it_should_be(outcome: Outcome) -> None:
    assert exit_code([WELL, outcome]) == NOT_AS_IT_SHOULD_BE == common.NOT_AS_IT_SHOULD_BE


def test_a_few_samples_that_cannot_be_used_are_no_failure() -> None:
    assert exit_code([WELL, Outcome("stopped", totals(bad={"format": 2})), Outcome("ended", Totals())]) == 0


def test_samples_that_match_no_route_are_a_failure_only_where_nothing_else_came() -> None:
    some, none = totals(), totals(segments=0)
    some.unrouted = none.unrouted = 10
    assert exit_code([Outcome("ended", some)]) == 0
    assert exit_code([Outcome("ended", none)]) == NOT_AS_IT_SHOULD_BE
    assert str(Outcome("ended", none)).endswith("samples that match no route 10")


def test_frames_in_no_segment_are_told_and_a_failure_only_where_all_were_left_out() -> None:
    some, none = totals(), totals(segments=0)
    some.frames_left_out = none.frames_left_out = 10
    assert str(Outcome("ended", some)) == "ended; published 3, refused 0, dropped 0, frames left out 10"
    assert exit_code([Outcome("ended", some)]) == 0
    assert exit_code([Outcome("ended", none)]) == NOT_AS_IT_SHOULD_BE
