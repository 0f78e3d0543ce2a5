"""What anyone may see of a session: the same map in queries, updates, HTTP answers and the dashboard.

The worker makes it for who asks, a client from the rows of `Updates`. It is made for every update of a followed
session, so what the model's signature says is worked out once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from math import inf
from typing import Any, NamedTuple

from runtime.messages import UpdateRow
from runtime.wire import DecodeError

StateMap = dict[str, Any]


class _Head(NamedTuple):
    name: str
    is_regression: bool
    start: int
    stop: int
    labels: tuple[str, ...]


class StateMaps:
    """Of the sessions of one model."""

    def __init__(self, signature: Mapping[str, Any]) -> None:
        """`signature` as in Welcome. Raises ValueError for what is none."""
        try:
            self._model = str(signature["name"])
            self._modalities = [str(modality["name"]) for modality in signature["modalities"]]
            self._heads = [_head(head) for head in signature["heads"]]
        except (KeyError, TypeError) as error:
            raise ValueError(f"no signature of a model: {error!r}") from None
        self._outputs = max((head.stop for head in self._heads), default=0)

    def state(
        self,
        tenant: str,
        session: str,
        live: StateMap | None,
        settled: StateMap | None,
        *,
        lineage: bytes,
        watermark_s: float,
        freshness_s: Iterable[float],
        pending: int,
        durable_version: int,
        reset_reason: str,
    ) -> StateMap:
        """`freshness_s`: the newest event of each modality, by rank; -inf where there is none."""
        seen_s = {name: at_s for name, at_s in zip(self._modalities, freshness_s, strict=True) if at_s > -inf}
        newest_s = max(seen_s.values(), default=-inf)
        return {
            "tenant": tenant,
            "session": session,
            "model": self._model,
            "version": live["version"] if live else 0,
            "live": live,
            "settled": settled,
            "durable_version": durable_version,
            "watermark_s": watermark_s if watermark_s > -inf else None,
            "pending": pending,
            "modalities": {name: {"event_time_s": at_s, "behind_s": newest_s - at_s} for name, at_s in seen_s.items()},
            "lineage": lineage.hex(),
            "reset_reason": reset_reason,
        }

    def fused(self, version: int, event_time_s: float, numbers: list[float]) -> StateMap:
        """A fused state. `numbers`: outputs, shares and gate, as in `Slab.host`."""
        return {
            "version": version,
            "event_time_s": event_time_s,
            "outputs": {head.name: _head_view(head, numbers) for head in self._heads},
            "shares": dict(zip(self._modalities, numbers[self._outputs : -1], strict=True)),
            "gate": numbers[-1],
        }

    def of_row(self, tenant: str, row: UpdateRow) -> StateMap:
        """Raises DecodeError for the row of another model."""
        if len(row.live) != self._outputs + len(self._modalities) + 1 or len(row.freshness_s) != len(self._modalities):
            raise DecodeError("malformed", f"updates: a row of {len(row.live)} numbers is no state of {self._model}")
        return self.state(
            tenant,
            row.session,
            self.fused(row.version, row.event_time_s, row.live.tolist()) if row.version else None,
            self.fused(row.settled_version, row.settled_event_time_s, row.settled.tolist())
            if row.settled_version
            else None,
            lineage=row.lineage,
            watermark_s=row.watermark_s,
            freshness_s=row.freshness_s,
            pending=row.pending,
            durable_version=row.durable_version,
            reset_reason=row.reset_reason,
        )


def _head(head: Mapping[str, Any]) -> _Head:
    start, stop = int(head["start"]), int(head["stop"])
    labels = tuple(head["labels"]) or tuple(map(str, range(stop - start)))
    return _Head(str(head["name"]), head["kind"] == "regression", start, stop, labels)


def _head_view(head: _Head, numbers: list[float]) -> StateMap:
    values = numbers[head.start : head.stop]
    if head.is_regression:
        return {"value": values[0]} if len(values) == 1 else {"values": values}
    confidence = max(values)
    label = head.labels[values.index(confidence)]
    return {"label": label, "confidence": confidence, "probabilities": dict(zip(head.labels, values, strict=True))}
