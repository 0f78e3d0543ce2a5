"""Bodies that are large and wrong cost little, and nobody without a token has one parsed."""

from __future__ import annotations

from typing import Any

import httpx
import pytest
from pydantic import ValidationError

from runtime.gateway.models import SegmentPost
from tests.runtime.gateway.posting import error_of, path_of

pytestmark = pytest.mark.anyio

MANY = 20_000
JSON = {"Content-Type": "application/json"}
RIGHT: dict[str, Any] = {"stream": "s", "modality": "imu", "event_time_s": 0, "frames": [[1, 2]]}


@pytest.mark.parametrize(
    "fields",
    [
        {"frames": [1] * MANY},
        {"frames": [["x"] * MANY]},
        {"frames": [["x"]] * MANY},
        {"frames": [[]] * MANY},
        {f"unknown-{number}": 0 for number in range(MANY)},
    ],
)
def test_many_faults_of_one_kind_are_one_error(fields: dict[str, Any]) -> None:
    with pytest.raises(ValidationError) as caught:
        SegmentPost.model_validate(RIGHT | fields)
    assert caught.value.error_count() == 1


async def test_an_error_names_a_few_faults_and_counts_the_others(http: httpx.AsyncClient, session: str) -> None:
    unknown = {f"{number}" * 1000: 0 for number in range(1, 9)}
    answer = await http.post(path_of(session, "/segments"), json=RIGHT | unknown)
    assert error_of(answer) == (422, "malformed")
    message = answer.json()["error"]["message"]
    assert message.endswith("; and 3 more")
    assert len(message) < 2000
