from __future__ import annotations

import math

import numpy as np
import numpy.typing as npt
import pytest

from grf_core.data.log_mel import BANDS, HOP, LOWEST_LOG, SAMPLE_RATE_HZ, WINDOW, frames_in, log_mel, mel_filters


def tone(frequency_hz: float, samples: int = 1600, amplitude: int = 8000) -> npt.NDArray[np.int16]:
    return (amplitude * np.sin(2 * np.pi * frequency_hz * np.arange(samples) / SAMPLE_RATE_HZ)).astype(np.int16)


def slow_log_mel(sound: npt.NDArray[np.int16]) -> npt.NDArray[np.float64]:
    """The same, sum by sum: no stride, no transform of numpy's, no matrix."""
    lowest, highest = (2595 * math.log10(1 + f / 700) for f in (60, 7600))
    edges_hz = 700 * (10 ** (np.linspace(lowest, highest, 42) / 2595) - 1)
    edges = [math.floor(513 * edge / 16_000) for edge in edges_hz]
    frames = []
    for start in range(0, len(sound) - WINDOW + 1, HOP):
        window = [sound[start + n] / 32768 * (0.5 - 0.5 * math.cos(2 * math.pi * n / 399)) for n in range(WINDOW)]
        turns = np.exp(-2j * np.pi * np.outer(np.arange(257), np.arange(WINDOW)) / 512)
        power = np.abs(turns @ np.array(window)) ** 2
        frame = []
        for left, centre, right in zip(edges, edges[1:], edges[2:], strict=False):
            total = 0.0
            for bin_ in range(left + 1, right):
                weight = (bin_ - left) / (centre - left) if bin_ <= centre else (right - bin_) / (right - centre)
                total += weight * power[bin_]
            frame.append(max(math.log(total) if total > 0 else -math.inf, -16.0))
        frames.append(frame)
    return np.array(frames)


def test_the_frames_are_those_of_the_slow_obvious_way() -> None:
    sound = np.random.default_rng(0).integers(-20_000, 20_000, 1200).astype(np.int16)
    np.testing.assert_allclose(log_mel(sound), slow_log_mel(sound), atol=1e-4)


# Written down once, when the features equalled the stored ones.
@pytest.mark.parametrize(
    ("frequency_hz", "band", "loudest", "next_band"),
    [(120.0, 1, 6.5199, 4.6223), (440.0, 6, 6.7486, 5.1175), (3000.0, 26, 6.8822, 5.1051)],
)
def test_a_tone_is_what_it_was_when_models_were_trained_on_it(
    frequency_hz: float, band: int, loudest: float, next_band: float
) -> None:
    frame = log_mel(tone(frequency_hz))[3]
    assert int(frame.argmax()) == band
    assert frame[[band, band + 1]].tolist() == pytest.approx([loudest, next_band], abs=2e-3)


def test_frames_are_whole_windows_every_10_ms() -> None:
    assert [frames_in(samples) for samples in (0, 399, 400, 559, 560, 47_648)] == [0, 0, 1, 1, 2, 296]
    sound = tone(300.0, 720)
    assert log_mel(sound).shape == (3, BANDS)
    np.testing.assert_array_equal(log_mel(sound)[2], log_mel(sound[2 * HOP :])[0])
    assert log_mel(sound[:100]).shape == (0, BANDS)


def test_silence_is_the_floor_and_finite() -> None:
    assert (log_mel(np.zeros(800, np.int16)) == LOWEST_LOG).all()


def test_every_band_hears_something() -> None:
    filters = mel_filters()
    assert filters.shape == (40, 257)
    assert np.isfinite(filters).all()
    assert (filters.sum(axis=1) >= 1).all()
    assert (filters.max(axis=1) == 1).all()
