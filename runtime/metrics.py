"""All metrics of workers and of the controller; a gateway's are in `gateway/metrics.py`, those of `grf connect` in
`connectors/metrics.py`. Nothing else makes one.

Labels are few and bounded: modality, reason, outcome; never a session, stream or tenant. The worker's loop adds up
locally (`Tally`) and flushes on a timer, so a scrape never waits for the loop nor the loop for a scrape.
"""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, ProcessCollector
from prometheus_client.core import HistogramMetricFamily
from prometheus_client.registry import Collector

from runtime.engine.tally import Tally

SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0)  # 0.2 ms .. 5 s
LAG_SECONDS = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # 10 ms .. 1 min
BATCH = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)  # segments


def process_registry() -> CollectorRegistry:
    """One that also tells of the process it is in: memory, processor time, open files."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    return registry


class BulkHistogram(Collector):
    """A histogram that takes many observations at once; `prometheus_client.Histogram` takes one at a time."""

    def __init__(self, name: str, text: str, bounds: Sequence[float], registry: CollectorRegistry) -> None:
        self._name, self._text = name, text
        self._bounds = np.asarray(bounds, dtype=np.float64)
        self._counts = np.zeros(len(bounds) + 1, dtype=np.int64)
        self._sum = 0.0
        self._lock = threading.Lock()
        registry.register(self)

    def observe_all(self, values: Sequence[float]) -> None:
        if not values:
            return
        array = np.asarray(values, dtype=np.float64)
        counts = np.bincount(np.searchsorted(self._bounds, array, side="left"), minlength=len(self._counts))
        with self._lock:
            self._counts += counts
            self._sum += float(array.sum())

    def collect(self) -> Iterable[HistogramMetricFamily]:
        with self._lock:
            cumulative, total = np.cumsum(self._counts).tolist(), self._sum
        names = [*(f"{bound:g}" for bound in self._bounds), "+Inf"]
        family = HistogramMetricFamily(self._name, self._text)
        family.add_metric([], buckets=list(zip(names, cumulative, strict=True)), sum_value=total)
        yield family


class WorkerMetrics:
    """What a worker tells Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"grf_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"grf_{name}", text, registry=registry)

        self._by_modality = {
            "received": counter("segments_received", "Segments that reached the engine", "modality"),
            "fused": counter("segments_fused", "Steps done, those done again after a rewind included", "modality"),
            "settled": counter("segments_settled", "Segments that became final", "modality"),
            "duplicates": counter("segments_duplicate", "Segments that were known already", "modality"),
            "late_dropped": counter("segments_late_dropped", "Segments behind the watermark, dropped", "modality"),
            "late_fused": counter("segments_late_fused", "Segments behind the watermark, fused at it", "modality"),
        }
        self._rejected = counter("segments_rejected", "Segments refused for good", "reason")
        self._slowed = counter("segments_slowed", "Segments told to come again later", "reason")
        self._refusals = counter("refusals", "Messages and segments answered by a Nack", "code")
        self._gaps = counter("sequence_gaps", "Sequence numbers given up by their publisher before they came")
        self._rewinds = counter("rewinds", "Segments that landed out of order inside the lateness")
        self._undone = counter("steps_undone", "Steps undone by rewinds")
        self._cuts = counter("horizon_cuts", "Times a session settled early at its limit of unsettled segments")
        self._evicted = counter("sessions_evicted", "Idle sessions that left memory")

        self._batch_size = BulkHistogram("grf_batch_segments", "Segments in one micro-batch", BATCH, registry)
        self._step_s = BulkHistogram("grf_step_seconds", "Time of one micro-batch in the model", SECONDS, registry)
        self._latency_s = BulkHistogram(
            "grf_latency_seconds", "From arrival at the worker to fused and told, of each step", SECONDS, registry
        )
        self._lag_s = BulkHistogram(
            "grf_watermark_lag_seconds", "Newest event time less watermark, at each settling", LAG_SECONDS, registry
        )

        self.sessions = gauge("sessions_resident", "Sessions in memory")
        self.ready = gauge("sessions_ready", "Sessions whose next segment waits for its step")
        self.pending_bytes = gauge("pending_bytes", "Bytes of segments that are not settled")
        self.slab_used = gauge("slab_rows_used", "Rows of the slab in use")
        self.slab_capacity = gauge("slab_rows", "Rows of the slab")
        self.connections = gauge("connections", "Clients connected")
        self.checkpoint_age_s = gauge("checkpoint_age_seconds", "Since the store last held all that was settled")
        self.store_up = gauge("store_up", "0 from a save that fails until one that does not")
        self.key_groups = gauge("key_groups_owned", "Key groups served by this worker")

    def flush(self, tally: Tally, step_seconds: Sequence[float], refused_by_code: Mapping[str, int]) -> None:
        """Add what has happened since the last flush."""
        for name, metric in self._by_modality.items():
            _add(metric, getattr(tally, name))
        _add(self._rejected, tally.rejected_by_reason)
        _add(self._slowed, tally.slowed_by_reason)
        _add(self._refusals, refused_by_code)
        self._gaps.inc(tally.gaps)
        self._rewinds.inc(tally.rewinds)
        self._undone.inc(tally.fused_again)
        self._cuts.inc(tally.horizon_cuts)
        self._evicted.inc(tally.evicted)
        self._batch_size.observe_all(tally.batch_sizes)
        self._step_s.observe_all(step_seconds)
        self._latency_s.observe_all(tally.latencies_s)
        self._lag_s.observe_all(tally.watermark_lags_s)


TAKEOVER_REASONS = ("first", "owner_gone", "moved")
"""why key groups got a new owner"""


class ControllerMetrics:
    """What the controller tells Prometheus."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.workers = Gauge("grf_workers", "Workers by role", ["role"], registry=registry)
        self.store_up = Gauge("grf_store_up", "1 while the store answers", registry=registry)
        self.store_up.set(1)
        self.takeovers = Counter("grf_takeovers", "Times key groups got a new owner", ["reason"], registry=registry)
        for reason in TAKEOVER_REASONS:  # what begins at 1 has no increase: the first death would alert nobody
            self.takeovers.labels(reason)
        self.heartbeats = Counter("grf_heartbeats", "Heartbeats received from workers", registry=registry)
        self.moved = Counter(
            "grf_groups_moved", "Key groups that a living worker gave up for another", registry=registry
        )
        self.scalings = Counter("grf_scalings", "Changes of the number of workers", ["direction"], registry=registry)
        self.wanted = Gauge("grf_workers_wanted", "Workers that are to serve", registry=registry)
        self.pause_s = BulkHistogram(
            "grf_move_seconds", "From asking a worker for a key group until another owns it", SECONDS, registry
        )


def _add(metric: Counter, counts: Mapping[str, int]) -> None:
    for label, count in counts.items():
        metric.labels(label).inc(count)
