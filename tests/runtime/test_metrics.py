from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Callable
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, Histogram, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from connectors.metrics import ConnectMetrics
from runtime.engine.tally import Tally
from runtime.gateway.metrics import GatewayMetrics
from runtime.metrics import SECONDS, BulkHistogram, ControllerMetrics, WorkerMetrics, process_registry


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
    received, rejected = defaultdict(int, imu=3), defaultdict(int, late=2)
    tally = Tally(received=received, rejected_by_reason=rejected, gaps=1, batch_sizes=[2, 3])
    metrics.flush(tally, [0.001], Counter(late=2))
    metrics.flush(tally, [0.001], Counter())
    assert registry.get_sample_value("grf_segments_received_total", {"modality": "imu"}) == 6
    assert registry.get_sample_value("grf_segments_rejected_total", {"reason": "late"}) == 4
    assert registry.get_sample_value("grf_refusals_total", {"code": "late"}) == 2
    assert registry.get_sample_value("grf_sequence_gaps_total") == 2
    assert registry.get_sample_value("grf_batch_segments_count") == 4
    assert registry.get_sample_value("grf_step_seconds_sum") == pytest.approx(0.002)


@pytest.mark.parametrize("kind", [WorkerMetrics, ControllerMetrics, GatewayMetrics])
def test_every_metric_is_in_the_operations_guide(kind: Callable[[CollectorRegistry], object]) -> None:
    guide = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    kind(registry := CollectorRegistry())
    families = [family for family in registry.collect() if family.name.startswith("grf_")]
    assert families
    names = [f"{family.name}_total" if family.type == "counter" else family.name for family in families]
    assert not [name for name in names if f"| `{name}` |" not in guide]


def worker_registry(registry: CollectorRegistry) -> None:
    received, rejected = defaultdict(int, imu=3), defaultdict(int, late=2)
    tally = Tally(received=received, rejected_by_reason=rejected, batch_sizes=[2], latencies_s=[0.2])
    WorkerMetrics(registry).flush(tally, [0.001], Counter(late=2))


def controller_registry(registry: CollectorRegistry) -> None:
    metrics = ControllerMetrics(registry)
    metrics.workers.labels("serving").set(1)
    metrics.takeovers.labels("first").inc()
    metrics.pause_s.observe_all([0.1])


def gateway_registry(registry: CollectorRegistry) -> None:
    metrics = GatewayMetrics(registry)
    metrics.requests.labels("/v1/model", "2xx").inc()
    metrics.request_s.labels("/v1/model").observe(0.1)
    metrics.refused_segments("late", 1)


def connector_registry(registry: CollectorRegistry) -> None:
    ConnectMetrics(registry, ["wrist"]).restarts.labels("wrist", "broken").inc()


@pytest.mark.parametrize("fill", [worker_registry, controller_registry, gateway_registry, connector_registry])
def test_what_a_registry_says_is_valid_openmetrics(fill: Callable[[CollectorRegistry], None]) -> None:
    registry = CollectorRegistry()
    fill(registry)
    families = list(text_string_to_metric_families(openmetrics.generate_latest(registry).decode()))
    assert {family.name for family in families} == {family.name for family in registry.collect()}


def test_every_name_is_ours_and_no_label_names_a_session() -> None:
    registry = CollectorRegistry()
    WorkerMetrics(registry).flush(Tally(fused=defaultdict(int, imu=1)), [], Counter())
    for family in registry.collect():
        assert family.name.startswith("grf_")
        assert family.documentation
        assert all(set(sample.labels) <= {"modality", "reason", "code", "le"} for sample in family.samples)
    assert b"grf_sessions_resident" in generate_latest(registry)


def test_a_worker_and_a_controller_tell_of_their_processes() -> None:
    assert (process_registry().get_sample_value("process_resident_memory_bytes") or 0) > 0
