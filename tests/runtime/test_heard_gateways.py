from __future__ import annotations

from runtime.heard_gateways import FORGET_AFTER_S, HeardGateways


def test_gateways_are_listed_while_they_are_heard() -> None:
    gateways = HeardGateways()
    for url in ("http://b:2/metrics", "http://a:1/metrics", "http://b:2/metrics"):
        gateways.hear(url, 10.0)
    assert gateways.metrics_urls(11.0) == ["http://a:1/metrics", "http://b:2/metrics"]
    gateways.hear("http://a:1/metrics", 10.0 + FORGET_AFTER_S / 2)
    assert gateways.metrics_urls(10.0 + FORGET_AFTER_S) == ["http://a:1/metrics"]
    assert gateways.metrics_urls(10.0 + 2 * FORGET_AFTER_S) == []
