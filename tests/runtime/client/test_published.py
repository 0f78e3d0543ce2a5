from __future__ import annotations

import pytest

from runtime.client import Receipt


@pytest.mark.parametrize(
    ("became", "text"),
    [
        ({}, "<Receipt not numbered yet: on its way>"),
        ({"sequence": 4, "is_fused": True}, "<Receipt 4: fused>"),
        ({"sequence": 4, "is_fused": True, "is_durable": True}, "<Receipt 4: durable>"),
        ({"is_dropped": True}, "<Receipt not numbered yet: dropped>"),
        ({"sequence": 4, "code": "late", "text": "2 s"}, "<Receipt 4: refused, late: 2 s>"),
    ],
)
def test_a_receipt_that_is_printed_says_what_has_become_of_its_segment(became: dict[str, object], text: str) -> None:
    receipt = Receipt()
    for name, value in became.items():
        setattr(receipt, name, value)
    assert repr(receipt) == text
