"""Samples through encoders into windows: what closes a window where an encoder gives nothing."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from connectors.base import Sample
from connectors.clock import ClockOptions
from connectors.encoders.base import Encoder, EncoderFactory, Frames
from connectors.encoding import Encoding
from connectors.pipeline import Pipeline
from connectors.routes import RouteOptions

ROUTE = {
    "match": "{name}/pictures",
    "session": "{name}",
    "stream": "face",
    "modality": "face",
    "encoder": {"kind": "image_sketch"},
    "window": {"seconds": 1.0},
}
NOBODY = 0.0


class Faces(EncoderFactory):
    """A frame for every sample that is not NOBODY, at its time."""

    def __init__(self, lag_s: float) -> None:
        self.lag_s = lag_s

    def encoder(self, *, stream: str) -> Encoder:
        return _Faces()


class _Faces(Encoder):
    async def encode(self, *, samples: Sequence[Sample]) -> Sequence[Frames]:
        seen = [sample for sample in samples if sample.value != NOBODY]
        times_s = [sample.event_time_s for sample in seen]
        return [Frames(np.array([[sample.value] for sample in seen], np.float32), np.array(times_s))] if seen else []


def closed_at(lag_s: float, samples: Sequence[Sample], **clock: Any) -> list[tuple[float, float]]:
    """The time of each segment and of the sample that completed it."""
    pipeline = Pipeline([RouteOptions.model_validate(ROUTE)], ClockOptions.model_validate(clock))
    encoding = Encoding(pipeline, {0: Faces(lag_s)})
    found: list[tuple[float, float]] = []

    async def main() -> None:
        for sample in samples:
            assert sample.event_time_s is not None
            for segment in await encoding.take([sample], wall_s=0.0):
                found.append((segment.event_time_s, sample.event_time_s))

    asyncio.run(main())
    return found


def pictures(*values: float) -> list[Sample]:
    """Two a second, from 10.0 on."""
    return [Sample("cam/pictures", value, 10.0 + number / 2) for number, value in enumerate(values)]


@pytest.mark.parametrize(
    ("lag_s", "closed_s"), [(0.0, 11.0), (0.5, 11.5), (1.0, 12.0), (math.inf, 13.0)], ids=lambda value: f"{value:g}"
)
def test_a_face_that_goes_away_closes_its_window_while_pictures_go_on(lag_s: float, closed_s: float) -> None:
    assert closed_at(lag_s, pictures(1, 2, NOBODY, NOBODY, NOBODY, NOBODY, 3)) == [(10.5, closed_s)]


def test_where_time_may_go_back_only_the_next_frame_closes_a_window() -> None:
    assert closed_at(0.0, pictures(1, 2, NOBODY, NOBODY, 3), on_backward="keep") == [(10.5, 12.0)]


def test_who_is_never_seen_makes_no_segment() -> None:
    assert closed_at(0.0, pictures(NOBODY, NOBODY, NOBODY, NOBODY)) == []


@pytest.mark.parametrize(("a_frame_each", "left_out"), [(True, 2), (False, 0)], ids=["pictures", "sound"])
def test_samples_without_a_frame_are_counted_where_each_should_have_one(a_frame_each: bool, left_out: int) -> None:
    pipeline = Pipeline([RouteOptions.model_validate(ROUTE)], ClockOptions())
    factory = Faces(0.0)
    factory.a_frame_each = a_frame_each
    asyncio.run(Encoding(pipeline, {0: factory}).take(pictures(3, NOBODY, NOBODY, 4), wall_s=0.0))
    assert pipeline.take_tally().frames_left_out == left_out


SET_BACK_S = [1000.0, 1000.5, *np.arange(900.0, 904.0, 0.5).tolist(), *np.arange(930.0, 934.0, 0.5).tolist()]


def segments_of(samples: Sequence[Sample], batches: Sequence[int], window: dict[str, Any], lag_s: float) -> Any:
    """Number, time and length of each, however many samples are taken at once."""
    route = ROUTE | {"match": "**", "session": "all", "window": window}
    encoding = Encoding(Pipeline([RouteOptions.model_validate(route)], ClockOptions()), {0: Faces(lag_s)})

    async def main() -> list[tuple[int, float, int]]:
        segments, start = [], 0
        for size in batches:
            segments += await encoding.take(samples[start : start + size], wall_s=0.0)
            start += size
        segments += await encoding.end()
        return [(segment.sequence, segment.event_time_s, len(segment.frames)) for segment in segments]

    return asyncio.run(main())


def test_a_source_whose_clock_was_set_back_has_its_pauses_still() -> None:
    samples = [Sample("cam/pictures", 1.0, time_s) for time_s in SET_BACK_S]
    segments = segments_of(samples, [len(samples)], {"frames": 64, "gap_s": 2.0}, math.inf)
    assert segments[-1] == (2, 933.5, 8)


@pytest.mark.parametrize(
    "window", [{"seconds": 1.0}, {"seconds": 1.0, "gap_s": 2.0}, {"frames": 4, "gap_s": 2.0}], ids=str
)
@pytest.mark.parametrize("lag_s", [0.0, 0.5])
def test_segments_do_not_depend_on_what_is_taken_at_once(window: dict[str, Any], lag_s: float) -> None:
    """Nor where nobody is seen as a clock is set back, or one of two cameras of a stream is behind the other."""
    set_back = [*SET_BACK_S[:2], 1003.0, *SET_BACK_S[2:]]
    samples = [Sample("a", NOBODY if time_s == 1003.0 else 1.0, time_s) for time_s in set_back]
    samples += [Sample("a", 1.0, 940.0), Sample("a", NOBODY, 941.05), Sample("b", 1.0, 940.9), Sample("b", 1.0, 941.5)]
    one_by_one = segments_of(samples, [1] * len(samples), window, lag_s)
    for size in (2, 5, len(samples)):
        batches = [size] * -(-len(samples) // size)
        assert segments_of(samples, batches, window, lag_s) == one_by_one


@pytest.mark.parametrize("time_s", [1e15, -1.7e308])
def test_a_time_that_no_runtime_takes_is_left_out_and_told(time_s: float) -> None:
    route = {"match": "**", "session": "s", "stream": "x", "modality": "x", "window": {"resample_hz": 50.0}}
    pipeline = Pipeline([RouteOptions.model_validate(route)], ClockOptions())
    samples = [Sample("k", [1.0], at_s) for at_s in (10.0, time_s, 10.1)]
    assert [accepted.times_s[0] for accepted in pipeline.accept(samples, wall_s=0.0)] == [10.0, 10.1]
    tally = pipeline.take_tally()
    assert (tally.bad["time"], tally.last_bad) == (1, f"k: {time_s:g} is not a number of seconds below 1e+15")
