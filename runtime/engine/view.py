"""What anyone may see of a session: the same map in queries, updates, HTTP answers and the dashboard."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from grf_core.step import HeadSignature, ModelSignature
from runtime.engine.engine import Engine
from runtime.engine.order import NO_SLOT
from runtime.engine.session import Session
from runtime.messages import Float32Array
from runtime.records import HistoryRow, SessionRecord

StateMap = dict[str, Any]


def session_view(engine: Engine, session: Session, include_context: bool = False) -> StateMap:
    """Live and settled state of a resident session."""
    live = _live(engine, session, include_context)
    settled = _slot_view(
        engine, session.settled_slot, session.settled_version, session.settled_event_time_s, include_context
    )
    return _state_map(
        session.key,
        engine.signature,
        live,
        settled,
        lineage=session.lineage,
        watermark_s=session.timeline.watermark_s,
        freshness_s=dict(zip((m.name for m in engine.signature.modalities), session.freshness_s, strict=True)),
        pending=len(session.timeline.entries),
        durable_version=session.durable_version,
        reset_reason=session.reset_reason,
    )


def record_view(signature: ModelSignature, record: SessionRecord, include_context: bool = False) -> StateMap:
    """State of a session that is not in memory: live and settled are the same."""
    fused = None
    if record.context_KD is not None and record.model_digest == signature.digest:
        fused = _fused(
            signature,
            record.version,
            record.event_time_s,
            np.array(record.outputs, dtype=np.float32),
            np.array(record.shares, dtype=np.float32),
            record.gate,
        )
        if include_context:
            fused["context"] = record.context_KD.tolist()
    return _state_map(
        record.key,
        signature,
        fused,
        fused,
        lineage=record.lineage,
        watermark_s=record.watermark_s,
        freshness_s=record.freshness_s,
        pending=0,
        durable_version=record.version,
        reset_reason=record.reset_reason,
    )


def history_view(signature: ModelSignature, row: HistoryRow) -> StateMap:
    """One settled version."""
    outputs, shares = np.array(row.outputs, dtype=np.float32), np.array(row.shares, dtype=np.float32)
    return {"modality": row.modality} | _fused(signature, row.version, row.event_time_s, outputs, shares, row.gate)


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


def _live(engine: Engine, session: Session, include_context: bool) -> StateMap | None:
    shown = session.shown
    if shown is None:
        return _slot_view(engine, session.live_slot, session.live_version, session.live_event_time_s, include_context)
    view = _fused(engine.signature, shown.version, shown.event_time_s, shown.outputs, shown.shares, shown.gate)
    if include_context:
        view["context"] = shown.context_KD.tolist()
    return view


def _slot_view(engine: Engine, slot: int, version: int, event_time_s: float, include_context: bool) -> StateMap | None:
    if slot == NO_SLOT:
        return None
    slab = engine.slab
    view = _fused(
        engine.signature, version, event_time_s, slab.outputs[slot], slab.shares[slot], float(slab.gate[slot])
    )
    if include_context:
        view["context"] = slab.contexts[slot].cpu().tolist()
    return view


def _fused(
    signature: ModelSignature,
    version: int,
    event_time_s: float,
    outputs: Float32Array,
    shares: Float32Array,
    gate: float,
) -> StateMap:
    return {
        "version": version,
        "event_time_s": event_time_s,
        "outputs": {head.name: _head_view(head, outputs) for head in signature.heads},
        "shares": {modality.name: float(share) for modality, share in zip(signature.modalities, shares, strict=True)},
        "gate": gate,
    }


def _head_view(head: HeadSignature, outputs: Float32Array) -> StateMap:
    values = outputs[head.start : head.stop].tolist()
    if head.kind == "regression":
        return {"value": values[0]} if len(values) == 1 else {"values": values}
    labels = head.labels or tuple(map(str, range(len(values))))
    best = max(range(len(values)), key=values.__getitem__)
    probabilities = dict(zip(labels, values, strict=True))
    return {"label": labels[best], "confidence": values[best], "probabilities": probabilities}


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
