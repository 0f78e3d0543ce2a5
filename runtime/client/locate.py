"""From the one address a user knows to the endpoint of a worker.

tcp://host:port             a worker
http://host:port            a gateway: asked for its route table, again whenever a connection is lost; the next of its
                            workers is taken each time, for the one before may have died
"""

from __future__ import annotations

import http.client
import itertools
import json
import urllib.request
from collections.abc import Callable, Iterator
from functools import partial
from urllib.parse import urlsplit

from runtime.client.errors import ClientError

TIMEOUT_S = 2.0


class NotLocated(ClientError):
    """No worker can be named now; the runtime may be starting."""


Locate = Callable[[], str]
"""The ZeroMQ endpoint of a worker, asked for at every new connection; may block for a moment; raises NotLocated."""


def locator(address: str | Locate, token: str) -> Locate:
    """How to find a worker from what the user gave. Raises ValueError or TypeError for what is no address."""
    if callable(address):
        return address
    if not isinstance(address, str):  # such as what os.environ.get gives
        raise TypeError(f"address {address!r} is no text")
    if address.startswith(("http://", "https://")) and _has_host(address, needs_port=False):
        return partial(_ask_gateway, address.rstrip("/"), token, itertools.count())
    if address.startswith("ipc://") or (address.startswith("tcp://") and _has_host(address, needs_port=True)):
        return lambda: address
    raise ValueError(f"address {address!r}: expected tcp://host:port of a worker or http://host:port of a gateway")


def _has_host(address: str, *, needs_port: bool) -> bool:
    parts = urlsplit(address)
    return bool(parts.hostname) and (parts.port is not None or not needs_port)


def _ask_gateway(address: str, token: str, turns: Iterator[int]) -> str:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{address}/v1/route", headers=headers), timeout=TIMEOUT_S
        ) as response:
            routes = json.load(response)
        workers = routes["workers"]
        endpoint = workers[next(turns) % max(len(workers), 1)]["endpoint"]
    except (OSError, ValueError, LookupError, TypeError, http.client.HTTPException) as error:
        raise NotLocated(f"{address} names no worker: {error}") from None
    return str(endpoint)
