"""What the engine knows of a session, as others see it: as a map (`runtime.state_maps`), or as a row of `Updates`."""

from __future__ import annotations

from math import inf
from typing import Any

import numpy as np

from grf_core.step import NO_SLOT, ModelSignature
from runtime.engine.session import MODEL_REPLACED, NO_LINEAGE, Session
from runtime.engine.slab import Slab
from runtime.messages import Float32Array, UpdateRow
from runtime.named_tuples import tuple_of
from runtime.records import HistoryRow, SessionRecord, check_fits
from runtime.state_maps import StateMap, StateMaps


class StateView:
    """Views of sessions, records and history of one model."""

    def __init__(self, signature: ModelSignature) -> None:
        self._signature = signature
        self._modalities = [modality.name for modality in signature.modalities]
        self._outputs = signature.output_width
        self._maps = StateMaps(signature_map(signature))
        self._nothing: Float32Array = np.zeros(signature.output_width + len(self._modalities) + 1, np.float32)

    def row(self, slab: Slab, session: Session, correction: bool) -> UpdateRow:
        """Live and settled state of a resident session. Its numbers are the slab's own: good until the next step."""
        timeline, shown, live_slot, settled_slot = (
            session.timeline,
            session.shown,
            session.live_slot,
            session.settled_slot,
        )
        if shown is not None:
            version, event_time_s, live = shown.version, shown.event_time_s, shown.host_row
        elif live_slot != NO_SLOT:
            version, event_time_s, live = session.live_version, session.live_event_time_s, slab.host[live_slot]
        else:
            version, event_time_s, live = 0, -inf, self._nothing
        is_settled = settled_slot != NO_SLOT
        values = (  # in the order of the fields of UpdateRow
            session.key.session,
            correction,
            0,
            version,
            event_time_s,
            session.settled_version if is_settled else 0,
            session.settled_event_time_s,
            session.durable_version,
            timeline.watermark_s,
            len(timeline.entries),
            tuple(session.freshness_s),
            session.lineage,
            session.reset_reason,
            live,
            slab.host[settled_slot] if is_settled else self._nothing,
        )
        return tuple_of(UpdateRow, values)

    def deleted(self, session: str) -> UpdateRow:
        """Of a session that is not there any more."""
        never_seen, nothing = (-inf,) * len(self._modalities), self._nothing
        return UpdateRow(
            session,
            correction=False,
            missed=0,
            version=0,
            event_time_s=-inf,
            settled_version=0,
            settled_event_time_s=-inf,
            durable_version=0,
            watermark_s=-inf,
            pending=0,
            freshness_s=never_seen,
            lineage=NO_LINEAGE,
            reset_reason="",
            live=nothing,
            settled=nothing,
        )

    def of_row(self, tenant: str, row: UpdateRow) -> StateMap:
        return self._maps.of_row(tenant, row)

    def session(self, slab: Slab, session: Session, include_context: bool = False) -> StateMap:
        """Live and settled state of a resident session."""
        state = self.of_row(session.key.tenant, self.row(slab, session, correction=False))
        if include_context:
            shown = session.shown
            if state["live"] is not None:
                context_KD = slab.contexts[session.live_slot] if shown is None else shown.context_KD
                state["live"]["context"] = context_KD.tolist()
            if state["settled"] is not None:
                state["settled"]["context"] = slab.contexts[session.settled_slot].tolist()
        return state

    def record(self, record: SessionRecord, include_context: bool = False) -> StateMap:
        """State of a session that is not in memory: live and settled are the same. What another model has fused is told
        as it will be once the session is in memory again. Raises RecordError for what contradicts the model."""
        fused, ours = None, record.model_digest == self._signature.digest
        if record.context_KD is not None and ours:
            check_fits(record, self._signature)
            numbers = _as_stored(*record.outputs, *record.shares, record.gate)
            fused = self._maps.fused(record.version, record.event_time_s, numbers)
            if include_context:
                fused["context"] = record.context_KD.tolist()
        return self._maps.state(
            *record.key,
            fused,
            fused,
            lineage=record.lineage,
            watermark_s=record.watermark_s,
            freshness_s=[record.freshness_s.get(name, -inf) if ours else -inf for name in self._modalities],
            pending=0,
            durable_version=record.version,
            reset_reason=record.reset_reason if ours else MODEL_REPLACED,
        )

    def fits(self, row: HistoryRow) -> bool:
        """False for a version that another model has settled, with other modalities or heads: this one cannot name its
        numbers."""
        is_as_wide = len(row.outputs) == self._outputs and len(row.shares) == len(self._modalities)
        return is_as_wide and row.modality in self._modalities

    def history(self, row: HistoryRow) -> StateMap:
        """One settled version, of those that `fits`."""
        numbers = _as_stored(*row.outputs, *row.shares, row.gate)
        return {"modality": row.modality} | self._maps.fused(row.version, row.event_time_s, numbers)


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


def _as_stored(*numbers: float) -> list[float]:
    """As the slab would hold them: in single precision."""
    stored: list[float] = np.array(numbers, dtype=np.float32).tolist()
    return stored
