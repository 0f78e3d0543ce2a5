"""All metrics of a gateway process. Labels are few and bounded: never a session, stream, tenant or token."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector

from runtime.gateway.errors import STATUS

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0, 60.0)  # 1 ms .. 1 min


class GatewayMetrics:
    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        ProcessCollector(registry=registry)

        def counter(name: str, text: str, *labels: str) -> Counter:
            return Counter(f"grf_gateway_{name}", text, labels, registry=registry)

        def gauge(name: str, text: str) -> Gauge:
            return Gauge(f"grf_gateway_{name}", text, registry=registry)

        self.requests = counter("requests", "Requests answered, by route and class of status", "route", "status")
        text = "From request to the end of its answer; event streams are left out"
        self.request_s = Histogram("grf_gateway_request_seconds", text, ["route"], buckets=SECONDS, registry=registry)
        self.event_streams = gauge("event_streams", "Event streams open, WebSockets too")
        self.callers = gauge("callers", "Pairs of tenant and token connected to a worker")
        self.held_bytes = gauge("held_bytes", "Posted segments that are not durable yet, in bytes")
        self._refused = counter("segments_refused", "Posted segments refused or given up, by reason", "reason")

    def refused_segments(self, reason: str, count: int) -> None:
        if count:
            self._refused.labels(reason if reason in STATUS or reason == "given_up" else "other").inc(count)
