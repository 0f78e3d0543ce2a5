"""All metrics of `grf connect`. Labels are few and bounded: sources as named in the file, reasons; never a stream."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import CollectorRegistry, Counter, Gauge

from connectors.tally import Tally, Totals

REASONS = frozenset(
    {"format", "field", "shape", "length", "not_finite", "time", "clock", "identity", "codec", "gap", "foreign"}
)


class ConnectMetrics:
    def __init__(self, registry: CollectorRegistry, sources: Sequence[str]) -> None:
        self.registry = registry
        self.totals = {source: Totals() for source in sources}
        """what the command tells of each source at its end"""

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"grf_connect_{name}", text, ["source", *labels], registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"grf_connect_{name}", text, ["source"], registry=registry)

        self._samples = counter("samples", "Samples taken from the source")
        self._segments = counter("segments", "Segments published")
        self._bad = counter("samples_bad", "Samples left out because they could not be used", "reason")
        self._duplicates = counter("samples_duplicate", "Samples handed over again by the source, and recognised")
        self._unrouted = counter("samples_unrouted", "Samples whose stream key matches no route")
        self._clock = counter(
            "clock_events", "What was wrong with time stamps: repeats, backward, ahead, jumps", "what"
        )
        self._frames_left_out = counter(
            "frames_left_out", "Frames in no segment: short windows, long hops, pictures without a face"
        )
        self._dropped = counter("dropped", "Given up because nobody took it in time: samples and segments", "what")
        self._refused = counter("segments_refused", "Segments that the runtime refused for good", "code")
        self.restarts = counter("restarts", "Times the source was opened again", "reason")
        self.forgotten = counter("streams_forgotten", "Streams that were silent longest, forgotten to make room")
        self.up = gauge("source_up", "1 while the source is read")
        self.runtime_up = gauge("runtime_up", "1 while the runtime answers")
        self.lag_s = gauge("lag_seconds", "Arrival less event time, of the newest sample")
        self.uncommitted = gauge("uncommitted_samples", "Taken, and not yet in a written snapshot's past")
        self.snapshot_s = gauge("snapshot_seconds", "Wall time at which the last snapshot was written")
        for source in sources:
            for always in (self._samples, self._segments, self._duplicates, self._unrouted, self.up):
                always.labels(source)

    def flush(self, source: str, tally: Tally) -> None:
        """Add what has happened since the last flush."""
        self.totals[source].add(tally)
        self._samples.labels(source).inc(tally.samples)
        self._segments.labels(source).inc(tally.segments)
        self._duplicates.labels(source).inc(tally.duplicates)
        self._unrouted.labels(source).inc(tally.unrouted)
        self._frames_left_out.labels(source).inc(tally.frames_left_out)
        for reason, count in tally.bad.items():
            self._bad.labels(source, reason if reason in REASONS else "other").inc(count)
        for what, count in tally.clock.items():
            self._clock.labels(source, what).inc(count)
        if tally.lag_s is not None:
            self.lag_s.labels(source).set(tally.lag_s)

    def dropped(self, source: str, what: str, count: int) -> None:
        if count:
            self.totals[source].dropped[what] += count
            self._dropped.labels(source, what).inc(count)

    def refused(self, source: str, code: str, count: int = 1) -> None:
        if count:
            self.totals[source].refused[code] += count
            self._refused.labels(source, code).inc(count)
