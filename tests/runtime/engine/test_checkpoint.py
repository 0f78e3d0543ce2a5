from __future__ import annotations

from dataclasses import replace
from math import inf

import pytest

from runtime.engine.checkpoint import not_committed, restore, take_records, unsaved_history
from runtime.engine.engine import Engine
from runtime.engine.policies import EnginePolicy
from runtime.engine.session import NO_LINEAGE, Session
from runtime.records import HistoryRow, RecordError, decode_record
from tests.runtime.engine.bench import KEY, Bench
from tests.runtime.engine.offline import assert_close
from tests.runtime.toy_model import ToyModel


@pytest.fixture
def settled() -> Bench:
    """Three segments of two streams, settled and committed; nothing else."""
    bench = Bench()
    bench.open("a")
    bench.open("t", "text")
    bench.send("a", 1.0)
    bench.send("t", 2.0)
    bench.send("a", 3.0)
    bench.rest()
    bench.commit()
    return bench


def test_a_session_comes_back_from_its_record_as_it_was(settled: Bench) -> None:
    before, after = settled.session(), settled.after_a_crash()
    session, slab = after.session(), after.engine.slab
    assert session.settled_version == session.live_version == 3
    assert session.lineage == before.lineage
    assert session.settled_event_time_s == 3.0
    assert session.timeline.watermark_s == before.timeline.watermark_s
    assert session.freshness_s == before.freshness_s == [3.0, -inf, 2.0]
    for name in ("contexts", "outputs", "shares", "gate"):
        assert_close(getattr(slab, name)[session.live_slot], getattr(settled.engine.slab, name)[before.live_slot], name)
    assert {name: (s.settled.upto, s.durable) for name, s in session.streams.items()} == {"a": (2, 2), "t": (1, 1)}
    assert session.is_idle(after.now_s + 100)


def test_a_record_s_marks_make_a_retransmission_free(settled: Bench) -> None:
    after = settled.after_a_crash()
    assert after.send("a", 1.0, sequence=1).code == "duplicate"
    assert after.send("a", 3.0, sequence=2).code == "duplicate"
    assert after.send("a", 4.0, sequence=3).code == "accepted"


def test_segments_settled_out_of_sequence_are_not_taken_again_after_a_crash() -> None:
    bench = Bench()
    bench.send("a", 1.0, sequence=2)
    bench.rest()
    bench.commit()
    after = bench.after_a_crash()
    assert after.session().streams["a"].durable == 0
    assert after.send("a", 1.0, sequence=2).code == "duplicate"
    assert after.send("a", 14.5, sequence=1).code == "accepted"
    after.rest()
    after.commit()
    assert after.session().streams["a"].durable == 2


def test_nothing_is_durable_before_the_store_has_it() -> None:
    bench = Bench()
    bench.send("a", 1.0)
    bench.rest()
    records = bench.take()
    stream = bench.session().streams["a"]
    assert (stream.settled.upto, stream.durable) == (1, 0)
    bench.send("a", 2.0)
    bench.rest()
    bench.commit(records)
    assert (stream.settled.upto, stream.durable) == (2, 1), "durable is what the record held, not what came since"
    assert bench.engine.take_progress().streams == {KEY: {"a": None}}
    assert bench.session().dirty
    bench.commit()
    assert (stream.durable, bench.session().dirty) == (2, False)


def test_what_was_not_committed_keeps_its_history_and_its_marks_and_goes_first_next_time() -> None:
    bench = Bench()
    bench.send("a", 1.0)
    bench.rest()
    failed = bench.take()
    bench.send("a", 2.0)
    bench.send("b", 2.0, key=KEY._replace(session="2"))
    bench.rest()
    not_committed(bench.engine, failed)
    assert bench.session().streams["a"].durable == 0
    again = bench.take()
    assert [record.key for record in again] == [KEY, KEY._replace(session="2")]
    assert [row.version for row in again[0].history] == [1, 2]
    assert again[0].history[0] == failed[0].history[0]
    assert again[0].version == 2


def test_a_session_that_was_not_committed_stays_in_memory_even_if_a_later_write_succeeded() -> None:
    bench = Bench(evict_after_s=5.0)
    bench.send("a", 1.0)
    bench.rest()
    first, _ = bench.take(), bench.send("a", 2.0)
    bench.rest()
    bench.commit()
    not_committed(bench.engine, first)
    bench.engine.take_progress()
    bench.wait(100.0)
    assert KEY in bench.engine.sessions
    bench.commit()
    bench.engine.take_progress()
    bench.wait(100.0)
    assert KEY not in bench.engine.sessions
    assert bench.take() == []


def test_records_of_sessions_that_are_gone_are_of_no_consequence() -> None:
    bench = Bench()
    bench.send("a", 1.0)
    bench.rest()
    records = bench.take()
    bench.engine.forget(KEY)
    not_committed(bench.engine, records)
    bench.commit(records)
    assert not bench.engine.dirty
    bench.store.clear()
    bench.send("a", 1.0, sequence=1)
    not_committed(bench.engine, records)
    assert bench.engine.sessions[KEY].dirty
    bench.take()


def test_a_checkpoint_takes_so_many_sessions_and_leaves_the_rest_for_the_next() -> None:
    bench = Bench()
    keys = [KEY._replace(session=str(i)) for i in range(5)]
    for key in keys:
        bench.send("a", 1.0, key=key)
    bench.rest()
    assert [record.key for record in take_records(bench.engine, "0", 3)] == keys[:3]
    assert [record.key for record in take_records(bench.engine, "0", 3)] == keys[3:]


def test_only_what_is_settled_is_saved() -> None:
    bench = Bench(lateness_s=10.0)
    bench.open("a")
    for event_time_s in (1.0, 5.0, 11.5, 12.0):
        bench.send("a", event_time_s)
    bench.drain()
    (record,) = bench.take()
    assert bench.session().live_version == 4
    assert (record.version, record.event_time_s, record.freshness_s) == (1, 1.0, {"audio": 1.0})
    assert [row.version for row in record.history] == [1]
    assert [(s.settled_upto, s.settled_above) for s in record.streams] == [(1, ())]


def test_segments_that_wait_for_their_step_behind_the_watermark_are_not_late_after_a_crash() -> None:
    bench = Bench(lateness_s=0.0)
    for event_time_s in (1.0, 2.0, 3.0, 4.0):
        bench.send("a", event_time_s)
    bench.engine.step(bench.now_s)
    bench.commit()
    assert bench.session().settled_version == 1
    after = bench.after_a_crash()
    assert [after.send("a", t, sequence=n).code for n, t in ((2, 2.0), (3, 3.0), (4, 4.0))] == ["accepted"] * 3


def test_a_stream_that_was_flowing_is_waited_for_in_the_restart_grace() -> None:
    bench = Bench(restart_grace_s=10.0)
    for stream in ("a", "b", "old"):
        bench.open(stream)
    bench.send("old", 1.0)
    bench.engine.end_stream(bench.session(), "old", bench.now_s)
    for event_time_s in (10.0, 20.0):
        bench.send("a", event_time_s)
        bench.send("b", event_time_s)
    bench.drain()
    bench.commit()
    after = bench.after_a_crash()
    after.send("a", 20.0, sequence=2)
    after.send("a", 30.0, sequence=3)
    after.wait(9.9)
    assert after.send("b", 20.0, sequence=2).code == "accepted"


def test_a_stream_that_was_opened_and_had_sent_nothing_is_waited_for_too() -> None:
    bench = Bench(restart_grace_s=10.0)
    bench.open("a")
    bench.send("a", 10.0)
    bench.drain()
    bench.open("b")
    bench.send("a", 10.5)
    bench.commit()
    after = bench.after_a_crash()
    after.send("a", 10.0, sequence=1)
    after.send("a", 30.0, sequence=3)
    after.wait(9.9)
    assert after.send("b", 10.0, sequence=1).code == "accepted"


def test_a_session_is_saved_as_soon_as_its_streams_are_open() -> None:
    bench = Bench()
    bench.open("a")
    bench.open("b")
    (record,) = bench.take()
    assert (record.version, record.context_KD, record.lineage) == (0, None, NO_LINEAGE)
    assert {stream.stream for stream in record.streams} == {"a", "b"}
    bench.commit([record])
    after = bench.after_a_crash()
    after.send("a", 50.0)
    after.wait(9.0)
    assert after.send("b", 1.0).code == "accepted"


# ---- records that do not fit ----


def fresh_session(bench: Bench) -> tuple[Engine, Session]:
    engine = Engine(bench.model, EnginePolicy())
    session = engine.create(KEY, 0.0)
    assert isinstance(session, Session)
    return engine, session


def test_a_context_of_another_model_is_not_continued_and_its_segments_are_not_fused_again(settled: Bench) -> None:
    after = settled.after_a_crash(model=ToyModel("toy-2"))
    session = after.session()
    assert session.reset_reason == "the model was replaced"
    assert session.live_slot == -1
    assert after.send("a", 3.0, sequence=2).code == "duplicate"
    assert after.send("a", 4.0, sequence=3).code == "accepted"
    after.rest()
    assert session.settled_version == 4
    assert after.engine.slab.shares[session.settled_slot].tolist() == [1, 0, 0]
    after.commit()
    assert decode_record(KEY, after.store[KEY]).model_digest == "toy-2"
    assert after.after_a_crash(model=ToyModel("toy-2")).session().settled_version == 4


@pytest.mark.parametrize("outputs", [(), (0.0,) * 4])
def test_outputs_that_do_not_fit_the_model_are_refused(settled: Bench, outputs: tuple[float, ...]) -> None:
    record = decode_record(KEY, settled.store[KEY])
    engine, session = fresh_session(settled)
    with pytest.raises(RecordError, match="outputs or shares do not fit the model"):
        restore(engine, session, replace(record, outputs=outputs), "1", 0.0)
    engine.forget(KEY)
    assert engine.slab.available == engine.slab.capacity


def test_a_context_of_another_shape_is_refused(settled: Bench) -> None:
    record = decode_record(KEY, settled.store[KEY])
    assert record.context_KD is not None
    engine, session = fresh_session(settled)
    with pytest.raises(RecordError, match=r"context \(2, 2\), the model has \(1, 4\)"):
        restore(engine, session, replace(record, context_KD=record.context_KD.reshape(2, 2)), "1", 0.0)


def test_modalities_the_model_does_not_know_are_passed_over(settled: Bench) -> None:
    record = decode_record(KEY, settled.store[KEY])
    strange = record.streams[0]._replace(stream="s", modality="smell")
    engine, session = fresh_session(settled)
    changed = replace(record, streams=(*record.streams, strange), freshness_s={"smell": 9.0, "audio": 3.0})
    restore(engine, session, changed, "1", 0.0)
    assert set(session.streams) == {"a", "t"}
    assert session.freshness_s == [3.0, -inf, -inf]


# ---- history ----


def test_the_history_tells_every_settled_version_once() -> None:
    bench = Bench(lateness_s=0.0)
    told: list[HistoryRow] = []
    for event_time_s in (1.0, 2.0, 3.0, 4.0):
        bench.send("a", event_time_s)
        bench.drain()
        unsaved = unsaved_history(bench.engine, bench.session())
        records = bench.take()
        for record in records:
            assert list(record.history) == unsaved
            told += record.history
        bench.commit(records)
    bench.rest()
    for record in bench.take():
        told += record.history
    assert [(row.version, row.event_time_s, row.modality) for row in told] == [
        (n, float(n), "audio") for n in (1, 2, 3, 4)
    ]
    assert unsaved_history(bench.engine, bench.session()) == []


@pytest.mark.parametrize(("length", "kept"), [(3, [5, 6, 7]), (0, [])])
def test_of_the_history_that_waits_for_a_store_the_newest_is_kept_without_a_gap(length: int, kept: list[int]) -> None:
    bench = Bench(lateness_s=0.0, history_length=length)
    for event_time_s in (1.0, 2.0):
        bench.send("a", event_time_s)
    bench.rest()
    failed = bench.take()
    for event_time_s in (13.0, 14.0, 15.0, 16.0, 17.0):
        bench.send("a", event_time_s)
        bench.drain()
    bench.rest()
    not_committed(bench.engine, failed)
    assert bench.session().settled_version == 7
    assert [row.version for row in unsaved_history(bench.engine, bench.session())] == kept
