"""What tests read of samples."""

from __future__ import annotations

from collections.abc import Sequence

from connectors.base import Sample


def times_of(samples: Sequence[Sample]) -> list[float]:
    """When they happened, each of them told by its source."""
    times = [sample.event_time_s for sample in samples if sample.event_time_s is not None]
    assert len(times) == len(samples)
    return times
