"""From resident sessions to records and back. Only settled state is ever saved, with the sequence marks beside it."""

from __future__ import annotations

from collections.abc import Container
from itertools import islice
from math import inf

import numpy as np

from grf_core.step import NO_SLOT, ModelSignature
from runtime.engine.engine import Engine
from runtime.engine.sequences import SequenceSet
from runtime.engine.session import MODEL_REPLACED, Session, StreamState
from runtime.history import SettledRun
from runtime.keys import SessionKey
from runtime.messages import Float32Array
from runtime.named_tuples import tuple_of
from runtime.records import HistoryRow, SessionRecord, StreamRecord, check_fits


def take_records(
    engine: Engine, incarnation: str, limit: int, rows: float = inf, upto: Container[SessionKey] = ()
) -> list[SessionRecord]:
    """Records of up to `limit` dirty sessions, as they are now, with about as many `rows` of history, but at least one
    session's; none from the first of `upto` on. They count as saved once `committed` is called."""
    keys = _longest_dirty(engine, limit, rows, upto)
    sessions = [engine.sessions[key] for key in keys]
    slots = [session.settled_slot for session in sessions if session.settled_slot != NO_SLOT]
    contexts = engine.slab.context_rows(slots) if slots else ()
    settled = dict(zip(slots, zip(contexts, engine.slab.host[slots].tolist(), strict=True), strict=True))
    for key in keys:
        del engine.dirty[key]
    names = [modality.name for modality in engine.signature.modalities]
    return [
        _record(engine.signature, names, session, settled.get(session.settled_slot), incarnation)
        for session in sessions
    ]


def _longest_dirty(engine: Engine, limit: int, rows: float, upto: Container[SessionKey]) -> list[SessionKey]:
    keys: list[SessionKey] = []
    taken = 0
    for key in islice(engine.dirty, limit):
        if key in upto:
            break
        keys.append(key)
        taken += 1 + len(engine.sessions[key].history)
        if taken >= rows:
            break
    return keys


def _record(
    signature: ModelSignature,
    names: list[str],
    session: Session,
    settled: tuple[Float32Array, list[float]] | None,
    incarnation: str,
) -> SessionRecord:
    """`settled`: the context, and the host's row of it."""
    context_KD, row = settled or (None, [])
    outputs = signature.output_width
    history, session.history = session.history, []
    return SessionRecord(
        key=session.key,
        model_digest=signature.digest,
        incarnation=incarnation,
        version=session.settled_version,
        event_time_s=session.settled_event_time_s,
        watermark_s=session.timeline.settled_watermark_s,
        lineage=session.lineage,
        context_KD=context_KD,
        outputs=tuple(row[:outputs]),
        shares=tuple(row[outputs:-1]),
        gate=row[-1] if row else 0.0,
        freshness_s={name: seen for name, seen in zip(names, session.settled_freshness_s, strict=True) if seen > -inf},
        streams=tuple(_stream_record(session, name, state, names) for name, state in session.streams.items()),
        reset_reason=session.reset_reason,
        born=session.born,
        history=SettledRun(history, names),
    )


def _stream_record(session: Session, name: str, state: StreamState, names: list[str]) -> StreamRecord:
    settled, above = state.settled, tuple(sorted(state.settled.above))
    newest_s = min(session.timeline.clocks[name].newest_s, session.timeline.settled_watermark_s)
    if state.stored == "no":
        state.stored = "on its way"
    refused = tuple(state.refused.items())
    marks = name, names[state.rank], settled.upto, above, newest_s, refused, state.numbering, state.owner or ""
    return tuple_of(StreamRecord, marks)


def unsaved_history(engine: Engine, session: Session) -> list[HistoryRow]:
    """Settled versions that no record holds yet, oldest first."""
    return list(SettledRun(session.history, [modality.name for modality in engine.signature.modalities]))


def committed(engine: Engine, records: list[SessionRecord]) -> None:
    """The store holds these records: what they settle is durable."""
    for record in records:
        session = engine.sessions.get(record.key)
        if session is None:
            continue
        session.dirty = record.key in engine.dirty
        session.durable_version = record.version
        for stream in record.streams:
            state = session.streams.get(stream.stream)
            if state is not None and state.stored == "on its way":
                state.stored = "yes"
            if state is not None and state.durable < stream.settled_upto:
                state.durable = stream.settled_upto
                engine.acknowledge(session, stream.stream)


def not_committed(engine: Engine, records: list[SessionRecord]) -> None:
    """The store did not take these records: their sessions wait for the next checkpoint."""
    for record in records:
        session = engine.sessions.get(record.key)
        if session is None:
            continue
        assert isinstance(record.history, SettledRun), "records as `take_records` made them"
        session.history[:0] = record.history.steps
        session.shorten_history(engine.policy.history_length)  # or there might be a gap between these and the others
        for stream in session.streams.values():
            if stream.stored == "on its way":
                stream.stored = "no"
        session.dirty = True
        engine.dirty[record.key] = None
        engine.dirty.move_to_end(record.key, last=False)


def restore(engine: Engine, session: Session, record: SessionRecord, incarnation: str, now_s: float) -> None:
    """Fill a session that was just made resident.

    Raises RecordError for a record that contradicts the model of the same digest. One saved with another model
    keeps its sequence marks, so that nothing is fused twice, and starts a new context; `reset_reason` says so.
    """
    _restore_streams(engine, session, record, incarnation, now_s)
    session.timeline.watermark_s = record.watermark_s
    session.timeline.newest_s = max(record.watermark_s, record.event_time_s)
    session.settled_event_time_s = record.event_time_s
    session.settled_version = session.durable_version = record.version
    session.lineage = record.lineage
    session.reset_reason = record.reset_reason
    session.born = record.born
    if record.model_digest != engine.signature.digest:
        session.reset_reason = MODEL_REPLACED
        return
    for rank, modality in enumerate(engine.signature.modalities):
        seen_s = record.freshness_s.get(modality.name, -inf)
        session.freshness_s[rank] = session.settled_freshness_s[rank] = seen_s
    check_fits(record, engine.signature)
    if record.context_KD is not None:
        _restore_context(engine, session, record, record.context_KD)


def _restore_streams(engine: Engine, session: Session, record: SessionRecord, incarnation: str, now_s: float) -> None:
    known = {modality.name: rank for rank, modality in enumerate(engine.signature.modalities)}
    order = engine.policy.order
    flowing_since_s = record.watermark_s - order.idle_timeout_s
    for stream in record.streams:
        if stream.modality not in known:
            continue
        settled = SequenceSet(stream.settled_upto, stream.settled_above)
        state = StreamState(known[stream.modality], settled, stream.settled_upto, stream.refused)
        session.streams[stream.stream] = state
        state.stored = "yes"
        state.numbering = stream.numbering
        was_here = record.incarnation == incarnation
        if was_here:
            state.owner = stream.owner or None
        was_cut_off = not was_here and stream.newest_s >= flowing_since_s
        wait_until_s = now_s + order.restart_grace_s if was_cut_off else -inf
        session.timeline.open_stream(stream.stream, stream.modality, wait_until_s, stream.newest_s)
        state.newest_s = stream.newest_s


def _restore_context(engine: Engine, session: Session, record: SessionRecord, context_KD: Float32Array) -> None:
    slab = engine.slab
    slot = slab.allocate()
    outputs, shares = np.array(record.outputs, dtype=np.float32), np.array(record.shares, dtype=np.float32)
    slab.write(slot, context_KD, outputs, shares, record.gate)
    session.settled_slot = slot
