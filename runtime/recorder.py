"""Writes what the runtime accepts into a recording, each segment once."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from grf_core.recording import RecordedSegment, RecordingHead, RecordingWriter
from runtime.engine.sequences import SequenceSet
from runtime.messages import Tapped

SLACK = 2048
"""how many numbers below the newest one of a stream are remembered one by one"""
MAX_STREAMS = 100_000
"""that are remembered, those that spoke last: what comes again after a crash was not durable, so it is young"""


class Recorder:
    """Appends tapped segments to a new `.grfrec` file; counts what the worker could not send."""

    def __init__(self, path: Path, signature: dict[str, Any], tenant: str) -> None:
        """`signature` as in Welcome. Raises FileExistsError."""
        head = RecordingHead(
            title=f"live segments for {signature['name']}",
            source="grf record",
            licence="",
            modalities={modality["name"]: modality["width"] for modality in signature["modalities"]},
        )
        self._writer = RecordingWriter(path, head)
        self._tenant = tenant
        self._seen: OrderedDict[tuple[str, str], SequenceSet] = OrderedDict()
        """by session and stream, longest silent first"""
        self.recorded = 0
        self.missed = 0

    def write(self, segments: Iterable[Tapped]) -> None:
        for segment in segments:
            self.missed += segment.missed
            if self._is_new(segment):
                self._writer.write(self._record(segment))
                self.recorded += 1
        self._writer.flush()

    def _is_new(self, segment: Tapped) -> bool:
        """False for a segment accepted again after a crash."""
        name = (segment.session, segment.stream)
        seen = self._seen.get(name)
        if seen is None:
            seen = self._seen[name] = SequenceSet(max(segment.sequence - SLACK, 0))
            if len(self._seen) > MAX_STREAMS:
                self._seen.popitem(last=False)
        self._seen.move_to_end(name)
        if segment.sequence in seen:
            return False
        seen.add(segment.sequence)
        if len(seen.above) > 2 * SLACK:
            seen.skip_below(seen.highest - SLACK)
        return True

    def _record(self, segment: Tapped) -> RecordedSegment:
        return RecordedSegment(
            segment.session,
            segment.stream,
            segment.modality,
            segment.sequence,
            segment.event_time_s,
            segment.frames,
            segment.arrival_s,
            self._tenant,
        )

    def close(self) -> None:
        self._writer.sync()
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()
