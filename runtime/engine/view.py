"""What anyone may see of a session: the same map in queries, updates, HTTP answers and the dashboard.

It is made for every update of a followed session, so what the model's signature says is worked out once.
"""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from grf_core.step import HeadSignature, ModelSignature
from runtime.engine.order import NO_SLOT
from runtime.engine.session import Session
from runtime.engine.slab import Slab
from runtime.records import HistoryRow, SessionRecord

StateMap = dict[str, Any]


class StateView:
    """Views of sessions, records and history of one model."""

    def __init__(self, signature: ModelSignature) -> None:
        self._signature = signature
        self._modalities = [modality.name for modality in signature.modalities]
        self._heads = [(head, _labels(head)) for head in signature.heads]
        self._outputs = signature.output_width

    def session(self, slab: Slab, session: Session, include_context: bool = False) -> StateMap:
        """Live and settled state of a resident session."""
        settled = self._slot(
            slab, session.settled_slot, session.settled_version, session.settled_event_time_s, include_context
        )
        shown = session.shown
        if shown is not None:
            live: StateMap | None = self._fused(shown.version, shown.event_time_s, shown.host_row.tolist())
            if live is not None and include_context:
                live["context"] = shown.context_KD.tolist()
        else:
            live = self._slot(slab, session.live_slot, session.live_version, session.live_event_time_s, include_context)
        return _state_map(
            session.key,
            self._signature,
            live,
            settled,
            lineage=session.lineage,
            watermark_s=session.timeline.watermark_s,
            freshness_s=dict(zip(self._modalities, session.freshness_s, strict=True)),
            pending=len(session.timeline.entries),
            durable_version=session.durable_version,
            reset_reason=session.reset_reason,
        )

    def record(self, record: SessionRecord, include_context: bool = False) -> StateMap:
        """State of a session that is not in memory: live and settled are the same."""
        fused = None
        if record.context_KD is not None and record.model_digest == self._signature.digest:
            numbers = _as_stored(*record.outputs, *record.shares, record.gate)
            fused = self._fused(record.version, record.event_time_s, numbers)
            if include_context:
                fused["context"] = record.context_KD.tolist()
        return _state_map(
            record.key,
            self._signature,
            fused,
            fused,
            lineage=record.lineage,
            watermark_s=record.watermark_s,
            freshness_s=record.freshness_s,
            pending=0,
            durable_version=record.version,
            reset_reason=record.reset_reason,
        )

    def history(self, row: HistoryRow) -> StateMap:
        """One settled version."""
        numbers = _as_stored(*row.outputs, *row.shares, row.gate)
        return {"modality": row.modality} | self._fused(row.version, row.event_time_s, numbers)

    def _slot(self, slab: Slab, slot: int, version: int, event_time_s: float, include_context: bool) -> StateMap | None:
        if slot == NO_SLOT:
            return None
        view = self._fused(version, event_time_s, slab.host[slot].tolist())
        if include_context:
            view["context"] = slab.contexts[slot].cpu().tolist()
        return view

    def _fused(self, version: int, event_time_s: float, numbers: list[float]) -> StateMap:
        """`numbers`: outputs, shares and gate, as in `Slab.host`."""
        return {
            "version": version,
            "event_time_s": event_time_s,
            "outputs": {head.name: _head_view(head, labels, numbers) for head, labels in self._heads},
            "shares": dict(zip(self._modalities, numbers[self._outputs : -1], strict=True)),
            "gate": numbers[-1],
        }


def signature_map(signature: ModelSignature) -> dict[str, Any]:
    """The model's signature as clients see it (Welcome, GET /v1/model)."""
    return {
        "name": signature.name,
        "digest": signature.digest,
        "context_shape": list(signature.context_shape),
        "modalities": [{"name": m.name, "width": m.width, "max_frames": m.max_frames} for m in signature.modalities],
        "heads": [
            {"name": h.name, "kind": h.kind, "start": h.start, "stop": h.stop, "labels": list(h.labels)}
            for h in signature.heads
        ],
    }


def _labels(head: HeadSignature) -> tuple[str, ...]:
    return head.labels or tuple(map(str, range(head.stop - head.start)))


def _as_stored(*numbers: float) -> list[float]:
    """As the slab would hold them: in single precision."""
    stored: list[float] = np.array(numbers, dtype=np.float32).tolist()
    return stored


def _head_view(head: HeadSignature, labels: tuple[str, ...], numbers: list[float]) -> StateMap:
    values = numbers[head.start : head.stop]
    if head.kind == "regression":
        return {"value": values[0]} if len(values) == 1 else {"values": values}
    confidence = max(values)
    label = labels[values.index(confidence)]
    return {"label": label, "confidence": confidence, "probabilities": dict(zip(labels, values, strict=True))}


def _state_map(
    key: tuple[str, str],
    signature: ModelSignature,
    live: StateMap | None,
    settled: StateMap | None,
    *,
    lineage: bytes,
    watermark_s: float,
    freshness_s: dict[str, float],
    pending: int,
    durable_version: int,
    reset_reason: str,
) -> StateMap:
    newest_s = max(freshness_s.values(), default=-inf)
    return {
        "tenant": key[0],
        "session": key[1],
        "model": signature.name,
        "version": live["version"] if live else 0,
        "live": live,
        "settled": settled,
        "durable_version": durable_version,
        "watermark_s": watermark_s if watermark_s > -inf else None,
        "pending": pending,
        "modalities": {
            name: {"event_time_s": seen_s, "behind_s": newest_s - seen_s}
            for name, seen_s in freshness_s.items()
            if seen_s > -inf
        },
        "lineage": lineage.hex(),
        "reset_reason": reset_reason,
    }
