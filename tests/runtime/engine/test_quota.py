from __future__ import annotations

from typing import Any

import pytest

from runtime.engine.policies import QuotaPolicy
from runtime.engine.quota import Quotas, Refusal


def allowed(quotas: Quotas, tenant: str, now_s: float, n_bytes: int = 10) -> bool:
    return quotas.refuses_segment(tenant, n_bytes, now_s) is None


def test_a_second_s_worth_may_come_at_once_and_no_more() -> None:
    quotas = Quotas(QuotaPolicy(max_segments_per_s=5))
    assert [allowed(quotas, "t", 100.0) for _ in range(7)] == [True] * 5 + [False] * 2


def test_the_rate_holds_over_time_however_often_a_tenant_asks() -> None:
    quotas = Quotas(QuotaPolicy(max_segments_per_s=5))
    taken = sum(allowed(quotas, "t", 100.0 + i / 100) for i in range(1000))
    assert taken == pytest.approx(5 + 10 * 5, abs=1)


def test_a_rest_earns_a_second_s_worth_at_most() -> None:
    quotas = Quotas(QuotaPolicy(max_segments_per_s=3))
    assert [allowed(quotas, "t", 1.0) for _ in range(4)] == [True, True, True, False]
    assert [allowed(quotas, "t", 500.0) for _ in range(4)] == [True, True, True, False]


def test_the_answer_says_when_to_try_again() -> None:
    quotas = Quotas(QuotaPolicy(max_segments_per_s=4))
    refusal = None
    while refusal is None:
        refusal = quotas.refuses_segment("t", 10, 100.0)
    assert refusal.reason == "tenant_rate"
    assert 0 < refusal.retry_after_ms <= 251
    assert not allowed(quotas, "t", 100.2)
    assert allowed(quotas, "t", 100.0 + refusal.retry_after_ms / 1000)


def test_a_rate_below_one_a_second_is_kept_too() -> None:
    quotas = Quotas(QuotaPolicy(max_segments_per_s=0.1))
    assert [allowed(quotas, "t", t) for t in (0.0, 5.0, 9.0, 10.1, 15.0, 19.0, 20.3)] == [
        True,
        False,
        False,
        True,
        False,
        False,
        True,
    ]


def test_one_tenant_s_rate_is_not_another_s() -> None:
    quotas = Quotas(QuotaPolicy(max_segments_per_s=1))
    assert [allowed(quotas, tenant, 0.0) for tenant in "aab"] == [True, False, True]


def test_a_refusal_for_bytes_takes_no_token() -> None:
    quotas = Quotas(QuotaPolicy(max_segments_per_s=1, max_pending_bytes=100))
    quotas.pending("t", 95)
    assert not allowed(quotas, "t", 0.0)
    quotas.pending("t", -95)
    assert allowed(quotas, "t", 0.0)


def test_pending_bytes_are_bounded_per_tenant_and_per_worker() -> None:
    quotas = Quotas(QuotaPolicy(max_pending_bytes=100, worker_pending_bytes=150))
    quotas.pending("a", 90)
    assert reason(quotas.refuses_segment("a", 11, 0.0)) == "tenant_bytes"
    assert reason(quotas.refuses_segment("a", 10, 0.0)) == ""
    quotas.pending("b", 50)
    assert reason(quotas.refuses_segment("b", 11, 0.0)) == "worker_bytes"
    quotas.pending("a", -90)
    assert reason(quotas.refuses_segment("b", 11, 0.0)) == ""
    assert quotas.pending_bytes == 50


def test_sessions_in_memory_are_bounded_per_tenant() -> None:
    quotas = Quotas(QuotaPolicy(max_sessions=2))
    for _ in range(2):
        assert quotas.refuses_session("a") is None
        quotas.session_added("a")
    assert reason(quotas.refuses_session("a")) == "tenant_sessions"
    assert quotas.refuses_session("b") is None
    quotas.session_removed("a")
    assert quotas.refuses_session("a") is None


def test_a_tenant_that_has_left_leaves_nothing_behind() -> None:
    quotas = Quotas(QuotaPolicy())
    for i in range(1000):
        tenant = f"tenant-{i}"
        quotas.refuses_session(tenant)
        quotas.session_added(tenant)
        quotas.refuses_segment(tenant, 10, 0.0)
        quotas.pending(tenant, 10)
        quotas.pending(tenant, -10)
        quotas.session_removed(tenant)
    assert not quotas._tenants


def test_leaving_does_not_refill_a_tenant_s_rate() -> None:
    quotas = Quotas(QuotaPolicy(max_segments_per_s=1))
    quotas.session_added("t")
    assert allowed(quotas, "t", 0.0)
    quotas.session_removed("t")
    quotas.session_added("t")
    assert not allowed(quotas, "t", 0.0)


@pytest.mark.parametrize("name", ["max_sessions", "max_pending_bytes", "max_segments_per_s", "worker_pending_bytes"])
@pytest.mark.parametrize("value", [0, -1, float("nan")])
def test_a_limit_that_admits_nothing_is_refused(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=f"{name} must be positive"):
        QuotaPolicy(**{name: value})


def reason(refusal: Refusal | None) -> str:
    return refusal.reason if refusal else ""
