"""One tensor holds frames of one width: what differs goes into another group of the same message."""

from __future__ import annotations

import numpy as np
import pytest

from runtime import messages as m
from runtime.client.published import NO_FRAMES, stream_segments
from runtime.wire import decode, encode


@pytest.mark.parametrize("widths", [[2, 2, 2], [2, 3, 2], [2, 0, 2], [0, 0, 2], [5]])
def test_segments_of_any_widths_can_be_sent_together(widths: list[int]) -> None:
    frames = [np.ones((4, width), dtype=np.float32) if width else NO_FRAMES for width in widths]
    entries = [m.SegmentEntry(number, number / 10, item) for number, item in enumerate(frames, 1)]

    message = decode(encode(m.Segments(tuple(stream_segments("s", "wrist", 1, entries)))))

    assert isinstance(message, m.Segments)
    assert {(group.session, group.stream, group.oldest) for group in message.groups} == {("s", "wrist", 1)}
    received = [entry for group in message.groups for entry in group.entries]
    assert [entry.sequence for entry in received] == [entry.sequence for entry in entries]
    assert [entry.frames.size for entry in received] == [entry.frames.size for entry in entries]
