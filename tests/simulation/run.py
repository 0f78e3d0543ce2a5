"""One run of a scenario: the processes, the accidents, and what must hold during it and after it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from random import Random

from runtime import messages as m
from runtime.client.published import Receipt
from runtime.engine.order import FusionKey
from runtime.keys import SessionKey
from runtime.store.base import StoreUnavailable
from runtime.store.memory import MemoryDisk
from tests.runtime.engine.offline import Fused, OfflineModel, assert_close
from tests.runtime.toy_model import SIGNATURE, ToyModel
from tests.simulation.client_process import PublisherProcess, ReaderProcess
from tests.simulation.network import Network
from tests.simulation.scenario import NOTICED_AFTER_S, START_S, Fault, Planned, Scenario
from tests.simulation.virtual_time import VirtualTime
from tests.simulation.watched_store import WatchedStore
from tests.simulation.worker_process import WorkerProcess

REST_LIMIT_S = 180.0


@dataclass
class Report:
    """What a run has seen. Equal for equal scenarios."""

    steps: list[str] = field(default_factory=list, repr=False)
    durable: int = 0
    refused: int = 0
    late: int = 0
    dropped: int = 0
    resent: int = 0
    duplicates: int = 0
    slowed: int = 0
    evicted: int = 0
    rewinds: int = 0
    fenced: int = 0
    workers: int = 0
    lineages: dict[str, str] = field(default_factory=dict)
    took_s: float = 0.0


class Run:
    def __init__(self, scenario: Scenario) -> None:
        self.scenario = scenario
        self.report = Report()
        self.time = VirtualTime(START_S - 0.1)
        self.random = Random(scenario.seed)
        self.network = Network(self.time, self.random)
        self.store = WatchedStore(MemoryDisk(), self._key_of)
        self.address = "worker-0"
        self.worker: WorkerProcess | None = None
        self.publishers = [self._publisher(i) for i in range(len(scenario.plans))]
        self.former_publishers: list[PublisherProcess] = []
        self.readers = [self._reader(i) for i in range(self._needed_readers())]
        self.deleted_at_s: dict[SessionKey, float] = {}
        self._to_be_told: set[tuple[str, str, str]] = set()
        """publishers and streams whose session was deleted behind their backs"""
        self._faults: dict[int, list[Fault]] = {}
        for fault in scenario.faults:
            self._faults.setdefault(fault.at_step, []).append(fault)
        self._planned_at = Counter((one.key, one.event_time_s) for plan in scenario.plans for one in plan)

    def go(self) -> Report:
        """Run to the end and check everything; AssertionError says what does not hold."""
        self._start_worker()
        for publisher in self.publishers:
            publisher.start()
        for reader in self.readers:
            reader.start()
        came_to_rest = self.time.run(self._is_at_rest, self._rest_limit_s())
        assert came_to_rest, f"did not come to rest: {self._unrest()}"
        self._faults.clear()
        for reader in self.readers:
            reader.finish()
        asked = [pending for reader in self.readers for pending in reader.asked]
        answered = self.time.run(lambda: all(pending.is_done for pending in asked), 10.0)
        assert answered, "a question was never answered"
        self._take_tally()
        self._check()
        self.report.took_s = self.time.now_s - START_S
        return self.report

    def _rest_limit_s(self) -> float:
        """Ample: a buffer too small for what cannot settle yet empties only once per idle time-out."""
        return REST_LIMIT_S + sum(len(plan) for plan in self.scenario.plans) * self.scenario.order.idle_timeout_s / 8

    # ---- steps and accidents ----

    def step(self, kind: str) -> None:
        """Something has happened; an accident may follow."""
        self.report.steps.append(kind)
        if self.worker is not None and len(self.report.steps) % 16 == 0:
            self.worker.engine.slab.check_integrity()
        for fault in self._faults.pop(len(self.report.steps), ()):
            self._happen(fault)

    def _happen(self, fault: Fault) -> None:
        clients = [*self.publishers, *self.readers]
        connection = clients[fault.target % len(clients)].connection
        match fault.kind:
            case "worker killed" | "worker's machine lost" if self.worker is not None:
                self._take_tally()
                self.worker.kill(silently=fault.kind == "worker's machine lost")
                self._start_another(fault.duration_s, fault.moves)
            case "worker frozen" if self.worker is not None:
                self._freeze(self.worker, fault.duration_s)
            case "groups moved" if self.worker is not None:
                self._move(self.worker)
            case "connection reset" if connection is not None:
                connection.reset()
            case "connection in a black hole" if connection is not None:
                connection.fall_into_black_hole()
            case "store away":
                self.store.disk.away = "gone for a while"
                self.time.after(fault.duration_s, self._store_is_back)
            case "store loses answers":
                self.store.loses_answers = True
                self.time.after(fault.duration_s, self._store_is_back)
            case "publisher pauses":
                self.publishers[fault.target % len(self.publishers)].pause(fault.duration_s)
            case "publisher restarted":
                self._restart_publisher(fault.target % len(self.publishers), fault.duration_s)
            case "session deleted":
                self._delete(self.scenario.keys[fault.target % self.scenario.sessions])

    def _store_is_back(self) -> None:
        self.store.disk.away = ""
        self.store.loses_answers = False

    def _start_worker(self) -> None:
        name, scenario = f"incarnation-{self.report.workers}", self.scenario
        worker = WorkerProcess(name, scenario.engine, scenario.dispatch, self.store, self.time, self.random, self)
        try:
            worker.start()
        except StoreUnavailable:
            self.time.after(0.3, self._start_worker)
            return
        self.report.workers += 1
        self.worker = worker
        self.network.listen(self.address, worker)

    def _freeze(self, worker: WorkerProcess, duration_s: float) -> None:
        worker.freeze()
        self.time.after(duration_s, worker.thaw)
        if duration_s > NOTICED_AFTER_S:
            self._take_tally()
            self._start_another(NOTICED_AFTER_S, moves=True)

    def _move(self, worker: WorkerProcess) -> None:
        self._take_tally()
        self.worker = None
        self.address = f"worker-{self.report.workers}"
        self._start_worker()
        worker.disown()

    def _start_another(self, delay_s: float, moves: bool) -> None:
        self.worker = None

        def start() -> None:
            if moves:
                self.address = f"worker-{self.report.workers}"
            self._start_worker()

        self.time.after(delay_s, start)

    def _restart_publisher(self, i: int, delay_s: float) -> None:
        """Its process ends, with all it held; another one begins the source anew."""
        self.publishers[i].stop()
        self.former_publishers.append(self.publishers[i])
        self.publishers[i] = self._publisher(i)
        self.publishers[i].start(self.time.now_s + delay_s)

    def _delete(self, key: SessionKey) -> None:
        reader = next(reader for i, reader in enumerate(self.readers) if self._tenant_of_reader(i) == key.tenant)
        reader.delete(key.session)
        self.deleted_at_s[key] = self.time.now_s
        for publisher in self.publishers:
            durable = {one.stream for one, receipt in publisher.receipts if one.key == key and receipt.is_durable}
            goes_on = {one.stream for one in publisher.plan if one.key == key and one.at_s > self.time.now_s + 0.1}
            self._to_be_told |= {(publisher.name, key.session, stream) for stream in durable & goes_on}

    # ---- processes ----

    def _publisher(self, i: int) -> PublisherProcess:
        scenario, plan = self.scenario, self.scenario.plans[i]
        return PublisherProcess(
            f"publisher-{i}",
            plan[0].key.tenant,
            plan,
            scenario.ends,
            scenario.publisher,
            self._locate,
            self.network,
            self.time,
            self.random,
            self,
        )

    def _needed_readers(self) -> int:
        deletes = any(fault.kind == "session deleted" for fault in self.scenario.faults)
        return max(self.scenario.readers, self.scenario.tenants if deletes else 0)

    def _reader(self, i: int) -> ReaderProcess:
        tenant = self._tenant_of_reader(i)
        sessions = [key.session for key in self.scenario.keys if key.tenant == tenant]
        shared = self._locate, self.network, self.time, self.random, self
        return ReaderProcess(f"reader-{i}", tenant, sessions, *shared)

    def _tenant_of_reader(self, i: int) -> str:
        return f"t{i % self.scenario.tenants}"

    def _locate(self) -> str:
        return self.address

    def _take_tally(self) -> None:
        if self.worker is not None:
            tally = self.worker.engine.take_tally()
            self.report.duplicates += sum(tally.duplicates.values())
            self.report.slowed += sum(tally.slowed_by_reason.values())
            self.report.evicted += tally.evicted
            self.report.rewinds += tally.rewinds

    def _is_at_rest(self) -> bool:
        store_is_back = not self.store.disk.away and not self.store.loses_answers
        if self.worker is None or not store_is_back or not all(one.is_done for one in self.publishers):
            return False
        worker = self.worker.dispatcher
        return worker.saver.is_clean and not any(s.timeline.entries for s in worker.engine.sessions.values())

    def _unrest(self) -> str:
        lines = [f"{one.name}: {one.core.unfinished} unfinished, {one.core.stats}" for one in self.publishers]
        if self.worker is not None:
            for session in self.worker.engine.sessions.values():
                timeline = session.timeline
                lines.append(f"{session.key}: {len(timeline.entries)} entries, watermark {timeline.watermark_s}")
        return "\n".join(lines)

    # ---- what must hold all the time ----

    def worker_fenced(self) -> None:
        self.report.fenced += 1

    def worker_says(self, tenant: str, message: m.WorkerMessage) -> None:
        """Whatever a worker calls durable is in the store, even if the worker is a zombie; tenants stay apart."""
        match message:
            case m.Ack(streams):
                for ack in streams:
                    assert ack.durable <= ack.fused <= ack.taken or self.scenario.faults, f"{ack}"
                    self._check_durable(SessionKey(tenant, ack.session), ack.stream, ack.durable)
            case m.Opened():
                self._check_durable(SessionKey(tenant, message.session), message.stream, message.durable)
            case m.State(state=state) | m.Update(state=state):
                assert state["tenant"] == tenant, f"{tenant} was shown {state}"
                self._check_durable_version(SessionKey(tenant, state["session"]), state["durable_version"])
            case m.Updates(rows):
                for row in rows:
                    self._check_durable_version(SessionKey(tenant, row.session), row.durable_version)
            case _:
                pass

    def _check_durable_version(self, key: SessionKey, version: int) -> None:
        record = self.store.record(key)
        assert version <= (record.version if record else 0), f"{key}: {version} is not in the store"

    def _check_durable(self, key: SessionKey, stream: str, durable: int) -> None:
        record = self.store.record(key)
        marks = {row.stream: row.settled_upto for row in record.streams} if record else {}
        assert durable <= marks.get(stream, 0), f"{key}/{stream}: durable {durable}, the store has {marks}"

    # ---- what must hold in the end ----

    def _check(self) -> None:
        assert self.worker is not None
        self.worker.engine.slab.check_integrity()
        assert self.worker.engine.quotas.pending_bytes == 0
        for publisher in self.publishers:
            self._check_publisher(publisher)
        for key in self.scenario.keys:
            self._check_session(key)
        resets = {
            (one.name, event.session, event.stream)
            for one in self.publishers
            for event in one.events
            if event.code == "session_reset"
        }
        assert self._to_be_told <= resets, f"session_reset told to {resets}, not to {self._to_be_told}"
        assert self.deleted_at_s or not resets, f"session_reset told to {resets}"

    def _check_publisher(self, publisher: PublisherProcess) -> None:
        stats, receipts = publisher.core.stats, [receipt for _, receipt in publisher.receipts]
        assert len(receipts) == len(publisher.plan) == stats.published
        for receipt in receipts:
            fates = receipt.is_durable + receipt.is_dropped + receipt.is_refused
            assert fates == 1, f"{publisher.name}: a segment has {fates} fates"
            assert receipt.is_fused or not receipt.is_durable
        counts = {
            "durable": sum(receipt.is_durable for receipt in receipts),
            "refused": sum(receipt.is_refused for receipt in receipts),
            "dropped": sum(receipt.is_dropped for receipt in receipts),
            "late": sum(receipt.code == "late" for receipt in receipts),
        }
        for name, count in counts.items():
            assert getattr(stats, name) == count, f"{publisher.name}: {name} is {count}, counted {stats}"
            setattr(self.report, name, getattr(self.report, name) + count)
        self.report.resent += stats.resent
        assert stats.fused >= stats.durable
        for planned, receipt in publisher.receipts:
            self._check_refusal(planned, receipt)

    def _check_refusal(self, planned: Planned, receipt: Receipt) -> None:
        """Bad segments are refused, each told why; good ones only when they are late, and only after an outage."""
        allowed = {planned.code, "late"} if self.scenario.may_be_late else {planned.code}
        was_told_before = any(one.plan is plan for one in self.former_publishers for plan in [self._plan_of(planned)])
        if receipt.is_dropped or (planned.code and was_told_before):
            return
        assert receipt.code in allowed, f"{planned.key}/{planned.stream} {planned.event_time_s}: {receipt.code!r}"

    def _plan_of(self, planned: Planned) -> list[Planned]:
        return next(plan for plan in self.scenario.plans if planned in plan)

    def _check_session(self, key: SessionKey) -> None:
        record, times = self.store.record(key), self.store.settled_event_times(key)
        expected = self._expected(key, set(times))
        if record is None:
            assert not expected, f"{key}: there is nothing, {len(expected)} were durable"
            return
        offline = OfflineModel(ToyModel()).after(expected)
        expected_times = {fused.key.event_time_s for fused in expected}
        assert record.version == len(times) == offline.version, (
            f"{key}: version {record.version}, {len(times)} in the history, {offline.version} expected;\n"
            f"lost {sorted(expected_times - set(times))}\nadded {sorted(set(times) - expected_times)}"
        )
        assert record.lineage == offline.lineage, f"{key}: lineage differs"
        if offline.context_KD is not None:
            assert_close(record.context_KD, offline.context_KD, f"{key}: context")
            assert_close(record.outputs, offline.outputs, f"{key}: outputs")
            assert_close(record.shares, offline.shares, f"{key}: shares")
        self.report.lineages["/".join(key)] = record.lineage.hex()

    def _expected(self, key: SessionKey, settled: set[float]) -> list[Fused]:
        """What was acknowledged as durable. What its publisher gave up, or what was durable when its session was
        deleted, may be there or not."""
        must, may, never = set(), set(), set()
        planned_of = {}
        for planned, receipt in self._receipts(key):
            segment = planned.stream, receipt.sequence
            planned_of[segment] = planned
            if receipt.is_refused:
                never.add(segment)
            elif receipt.is_durable and planned.at_s >= self.deleted_at_s.get(key, 0.0):
                must.add(segment)
            else:
                may.add(segment)
        may |= {segment for segment in must if self._was_given_up(key, segment)}
        there = {segment for segment in must | may if planned_of[segment].event_time_s in settled}
        segments = (there | (must - may)) - never
        return sorted(
            (Fused(_fusion_key(planned_of[one], one[1]), planned_of[one].frames) for one in segments),
            key=lambda fused: fused.key,
        )

    def _was_given_up(self, key: SessionKey, segment: tuple[str, int]) -> bool:
        """By an earlier life of its publisher: the number counts as done, and is durable for the next life."""
        return any(
            receipt.is_dropped and (planned.stream, receipt.sequence) == segment
            for former in self.former_publishers
            for planned, receipt in former.receipts
            if planned.key == key
        )

    def _receipts(self, key: SessionKey) -> Iterator[tuple[Planned, Receipt]]:
        for publisher in (*self.former_publishers, *self.publishers):
            for planned, receipt in publisher.receipts:
                if planned.key == key and receipt.sequence:
                    yield planned, receipt

    def _key_of(self, key: SessionKey, event_time_s: float) -> FusionKey | None:
        """Which segment this is, if only one has this time."""
        if self._planned_at[key, event_time_s] != 1:
            return None
        for planned, receipt in self._receipts(key):
            if planned.event_time_s == event_time_s:
                return _fusion_key(planned, receipt.sequence)
        raise AssertionError(f"{key}: nobody published anything at {event_time_s}")


def _fusion_key(planned: Planned, sequence: int) -> FusionKey:
    return FusionKey(planned.event_time_s, SIGNATURE.rank(planned.modality), planned.stream, sequence)
