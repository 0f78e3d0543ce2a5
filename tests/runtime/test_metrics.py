from __future__ import annotations

from collections import Counter

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest

from runtime.engine.tally import Tally
from runtime.metrics import SECONDS, BulkHistogram, WorkerMetrics


def test_a_bulk_histogram_counts_as_prometheus_own_does() -> None:
    values = [0.0001, 0.0002, 0.00021, 0.3, 4.9, 5.0, 5.1, 1e9]
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    BulkHistogram("h_seconds", "text", SECONDS, ours).observe_all(values)
    histogram = Histogram("h_seconds", "text", buckets=SECONDS, registry=theirs)
    for value in values:
        histogram.observe(value)
    for bound in [*SECONDS, float("inf")]:
        label = {"le": "+Inf" if bound == float("inf") else f"{bound:g}"}
        reference = {"le": "+Inf" if bound == float("inf") else str(float(bound))}
        assert ours.get_sample_value("h_seconds_bucket", label) == theirs.get_sample_value(
            "h_seconds_bucket", reference
        )
    assert ours.get_sample_value("h_seconds_sum") == pytest.approx(sum(values))
    assert ours.get_sample_value("h_seconds_count") == len(values)


def test_a_tally_is_added_up() -> None:
    registry = CollectorRegistry()
    metrics = WorkerMetrics(registry)
    tally = Tally(received=Counter(imu=3), rejected_by_reason=Counter(late=2), gaps=1, batch_sizes=[2, 3])
    metrics.flush(tally, [0.001], Counter(late=2))
    metrics.flush(tally, [0.001], Counter())
    assert registry.get_sample_value("grf_segments_received_total", {"modality": "imu"}) == 6
    assert registry.get_sample_value("grf_segments_rejected_total", {"reason": "late"}) == 4
    assert registry.get_sample_value("grf_refusals_total", {"code": "late"}) == 2
    assert registry.get_sample_value("grf_sequence_gaps_total") == 2
    assert registry.get_sample_value("grf_batch_segments_count") == 4
    assert registry.get_sample_value("grf_step_seconds_sum") == pytest.approx(0.002)


def test_every_name_is_ours_and_no_label_names_a_session() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry).flush(Tally(fused=Counter(imu=1)), [], Counter())
    for family in registry.collect():
        assert family.name.startswith("grf_")
        assert family.documentation
        assert all(set(sample.labels) <= {"modality", "reason", "code", "le"} for sample in family.samples)
    assert b"grf_sessions_resident" in generate_latest(registry)
