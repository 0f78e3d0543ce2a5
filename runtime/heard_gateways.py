"""Where the gateways tell their metrics. They stand behind one address, so each says for itself where to find it."""

from __future__ import annotations

import threading

FORGET_AFTER_S = 20.0
"""of silence; an idle gateway asks for the routes every 5 s"""


class HeardGateways:
    """Safe to use from several threads."""

    def __init__(self) -> None:
        self._heard_s: dict[str, float] = {}
        """when each was last heard, by the URL of its metrics"""
        self._lock = threading.Lock()

    def hear(self, metrics_url: str, now_s: float) -> None:
        with self._lock:
            self._heard_s[metrics_url] = now_s

    def metrics_urls(self, now_s: float) -> list[str]:
        """Of those that are there, sorted."""
        with self._lock:
            self._heard_s = {url: heard_s for url, heard_s in self._heard_s.items() if heard_s > now_s - FORGET_AFTER_S}
            return sorted(self._heard_s)
