"""What an address may be."""

from __future__ import annotations

import pytest

from runtime.client import StateClient
from runtime.client.locate import locator


@pytest.mark.parametrize(
    "address",
    ["", "h:1", "tcp://h", "tcp://:1", "http://", "ftp://h:1", "tcp://h:99999", "http://h:99999", " http://h:1"],
)
def test_an_address_that_leads_nowhere_is_refused_at_once(address: str) -> None:
    with pytest.raises(ValueError, match=r"expected tcp://host:port|out of range"):
        StateClient(address)


@pytest.mark.parametrize("address", [None, 8000])
def test_an_address_that_is_no_text_is_refused_at_once(address: object) -> None:
    with pytest.raises(TypeError, match="is no text"):
        StateClient(address)  # type: ignore[arg-type]  # as who checks no types may


@pytest.mark.parametrize("address", ["tcp://h:1", "tcp://[::1]:5570", "ipc:///tmp/worker"])
def test_the_address_of_a_worker_is_its_endpoint(address: str) -> None:
    assert locator(address, "")() == address
