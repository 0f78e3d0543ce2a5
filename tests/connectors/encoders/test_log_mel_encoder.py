from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

import numpy as np
import pytest

from connectors.base import Sample
from connectors.encoders.base import Encoder, Frames
from connectors.encoders.log_mel import LogMelOptions
from connectors.errors import BadSample
from connectors.media import Sound, Undecodable
from grf_core.data.log_mel import log_mel
from tests.connectors.samples import times_of

SOUND = np.random.default_rng(0).integers(-9000, 9000, 16_000).astype(np.int16)


def blocks(sound: Sound, lengths: Sequence[int], start_s: float = 10.0) -> list[Sample]:
    samples, at = [], 0
    for length in lengths:
        samples.append(Sample("sound", sound[at : at + length], start_s + at / 16_000))
        at += length
    assert at == len(sound)
    return samples


def encoded(encoder: Encoder, samples: Sequence[Sample]) -> Frames:
    async def main() -> list[Frames]:
        return [*await encoder.encode(samples=samples), *await encoder.end()]

    frames = asyncio.run(main())
    if not frames:
        return Frames(np.zeros((0, 0), np.float32), np.zeros(0))
    return Frames(np.concatenate([f.values for f in frames]), np.concatenate([f.times_s for f in frames]))


def encoder_of(**options: int) -> Encoder:
    return LogMelOptions(**options).build().encoder(stream="s")


@pytest.mark.parametrize("lengths", [[16_000], [1600] * 10, [7] * 2285 + [5], [399, 1, 160, 15_440]])
def test_however_the_sound_is_cut_the_frames_are_the_same(lengths: list[int]) -> None:
    frames = encoded(encoder_of(), blocks(SOUND, lengths))
    np.testing.assert_allclose(frames.values, log_mel(SOUND), atol=1e-5)
    np.testing.assert_allclose(frames.times_s, 10.0 + np.arange(len(frames.values)) * 0.01 + 0.025, atol=1e-9)


def test_stacked_frames_stand_side_by_side_at_the_time_of_the_last() -> None:
    frames = encoded(encoder_of(stack=4), blocks(SOUND, [1600] * 10))
    alone = log_mel(SOUND)
    np.testing.assert_allclose(frames.values, alone[: len(alone) // 4 * 4].reshape(-1, 160), atol=1e-5)
    np.testing.assert_allclose(frames.times_s[:2], [10.055, 10.095], atol=1e-9)


def test_no_window_has_sound_from_both_sides_of_a_gap() -> None:
    before, after = blocks(SOUND[:8000], [8000]), blocks(SOUND[8000:], [8000], start_s=12.0)
    frames = encoded(encoder_of(), before + after)
    expected = np.concatenate([log_mel(SOUND[:8000]), log_mel(SOUND[8000:])])
    np.testing.assert_allclose(frames.values, expected, atol=1e-5)
    assert np.diff(frames.times_s).max() == pytest.approx(12.025 - 10.495, abs=0.011)
    assert (np.diff(frames.times_s) > 0).all()


def test_a_clock_that_trembles_makes_no_gap_and_times_that_grow() -> None:
    steady = blocks(SOUND, [1600] * 10)
    samples = [
        sample._replace(event_time_s=time_s + tremble)
        for sample, time_s, tremble in zip(steady, times_of(steady), [0, 0.02, -0.03] * 3 + [0], strict=True)
    ]
    frames = encoded(encoder_of(), samples)
    assert len(frames.values) >= len(log_mel(SOUND)) - 20
    assert (np.diff(frames.times_s) > 0).all()


@pytest.mark.parametrize("cut", [1, 4, 9])
def test_a_restored_encoder_goes_on_as_if_nothing_had_been(cut: int) -> None:
    samples = blocks(SOUND, [1600] * 10)
    whole = encoded(encoder_of(stack=4), samples)
    first, second = encoder_of(stack=4), encoder_of(stack=4)
    begun = encoded(first, samples[:cut])
    second.restore(state=json.loads(json.dumps(first.snapshot())))
    rest = encoded(second, samples[cut:])
    np.testing.assert_array_equal(np.concatenate([begun.values, rest.values]), whole.values)
    np.testing.assert_array_equal(np.concatenate([begun.times_s, rest.times_s]), whole.times_s)


@pytest.mark.parametrize(
    ("value", "time_s", "reason"),
    [
        (np.zeros(100, np.float32), 1.0, "shape"),
        (np.zeros((10, 2), np.int16), 1.0, "shape"),
        (b"RIFF", 1.0, "shape"),
        (Undecodable("no such codec"), 1.0, "codec"),
        (np.zeros(100, np.int16), None, "time"),
    ],
)
def test_what_is_no_sound_is_refused_before_anything_changes(value: object, time_s: float | None, reason: str) -> None:
    encoder = encoder_of()
    good = blocks(SOUND, [16_000])[0]
    with pytest.raises(BadSample) as told:
        asyncio.run(encoder.encode(samples=[good, Sample("sound", value, time_s)]))
    assert told.value.reason == reason
    np.testing.assert_allclose(encoded(encoder, [good]).values, log_mel(SOUND), atol=1e-5)
