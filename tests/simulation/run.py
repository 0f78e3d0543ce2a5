"""One run of a scenario: the processes, the accidents, and what must hold during and after it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from random import Random

import numpy as np

from runtime import messages as m
from runtime.client.stream_buffer import Receipt
from runtime.engine.order import FusionKey
from runtime.keys import SessionKey
from runtime.messages import Float32Array
from runtime.store.base import StoreUnavailable
from runtime.store.memory import MemoryDisk
from tests.runtime.engine.offline import Fused, OfflineModel, assert_close
from tests.runtime.toy_model import SIGNATURE, ToyModel
from tests.simulation.client_process import Planned, PublisherProcess, ReaderProcess
from tests.simulation.network import Network
from tests.simulation.scenario import NOTICED_AFTER_S, START_S, Fault, Scenario
from tests.simulation.virtual_time import VirtualTime
from tests.simulation.watched_store import WatchedStore
from tests.simulation.worker_process import WorkerProcess

REST_LIMIT_S = 180.0


@dataclass
class Report:
    """What a run has seen; compared where two runs must be equal."""

    steps: list[str] = field(default_factory=list)
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
        self._faults: dict[int, list[Fault]] = {}
        for fault in scenario.faults:
            self._faults.setdefault(fault.at_step, []).append(fault)
        self.store = WatchedStore(MemoryDisk(), self._key_of)
        self.address = "worker-0"
        self.worker: WorkerProcess | None = None
        self.zombies: list[WorkerProcess] = []
        self.publishers = [self._publisher(i, plan) for i, plan in enumerate(scenario.plans)]
        sessions = [f"s{i}" for i in range(scenario.sessions)]
        self.readers = [
            ReaderProcess(f"reader-{i}", sessions, self._locate, self.network, self.time, self.random, self)
            for i in range(scenario.readers)
        ]
        self._planned_at: dict[tuple[str, float], int] = Counter(
            (planned.session, planned.event_time_s) for plan in scenario.plans for planned in plan
        )

    def go(self) -> Report:
        """Run to the end and check everything; AssertionError says what does not hold."""
        self._start_worker()
        for client in (*self.publishers, *self.readers):
            client.start()
        came_to_rest = self.time.run(self._is_at_rest, REST_LIMIT_S + self.scenario.segments * self.scenario.every_s)
        assert came_to_rest, f"did not come to rest: {self._unrest()}"
        for reader in self.readers:
            reader.finish()
        asked = [pending for reader in self.readers for pending in reader.asked]
        answered = self.time.run(lambda: all(pending.is_done for pending in asked), 10.0)
        assert answered, "a question was never answered"
        self._take_tally()
        self._check()
        self.report.took_s = self.time.now_s - START_S
        return self.report

    # ---- steps and accidents ----

    def step(self, kind: str) -> None:
        self.report.steps.append(kind)
        self._check_memory()
        for fault in self._faults.pop(len(self.report.steps), ()):
            self._happen(fault)

    def _happen(self, fault: Fault) -> None:
        clients = [*self.publishers, *self.readers]
        client = clients[fault.target % len(clients)]
        match fault.kind:
            case "worker killed":
                self._replace_worker(fault, silently=False)
            case "worker's machine lost":
                self._replace_worker(fault, silently=True)
            case "worker frozen":
                self._freeze_worker(fault)
            case "connection reset" if client.connection is not None:
                client.connection.reset()
            case "connection in a black hole" if client.connection is not None:
                client.connection.fall_into_black_hole()
            case "store away":
                self.store.disk.away = "gone for a while"
                self.time.after(fault.duration_s, self._store_is_back)
            case "store loses answers":
                self.store.loses_answers = True
                self.time.after(fault.duration_s, self._store_is_back)
            case "publisher pauses":
                self.publishers[fault.target % len(self.publishers)].pause(fault.duration_s)

    def _store_is_back(self) -> None:
        self.store.disk.away = ""
        self.store.loses_answers = False

    def _start_worker(self) -> None:
        name = f"incarnation-{self.report.workers}"
        worker = WorkerProcess(
            name, self.scenario.engine, self.scenario.dispatch, self.store, self.time, self.random, self
        )
        try:
            worker.start()
        except StoreUnavailable:
            self.time.after(0.3, self._start_worker)
            return
        self.report.workers += 1
        self.worker = worker
        self.network.listen(self.address, worker)

    def _replace_worker(self, fault: Fault, silently: bool) -> None:
        if self.worker is None:
            return
        self._take_tally()
        self.worker.kill(silently)
        self._start_another(fault, fault.duration_s)

    def _freeze_worker(self, fault: Fault) -> None:
        worker = self.worker
        if worker is None:
            return
        worker.freeze()
        self.time.after(fault.duration_s, worker.thaw)
        if fault.duration_s > NOTICED_AFTER_S:
            self._take_tally()
            self.zombies.append(worker)
            self._start_another(fault, NOTICED_AFTER_S, moves=True)

    def _start_another(self, fault: Fault, delay_s: float, moves: bool = False) -> None:
        self.worker = None

        def start() -> None:
            if fault.moves or moves:
                self.address = f"worker-{self.report.workers}"
            self._start_worker()

        self.time.after(delay_s, start)

    # ---- processes ----

    def _locate(self) -> str:
        return self.address

    def _publisher(self, i: int, plan: list[Planned]) -> PublisherProcess:
        return PublisherProcess(
            f"publisher-{i}",
            plan,
            self.scenario.ends,
            self.scenario.publisher,
            self._locate,
            self.network,
            self.time,
            self.random,
            self,
        )

    def _take_tally(self) -> None:
        if self.worker is not None:
            tally = self.worker.engine.take_tally()
            self.report.duplicates += tally.duplicates.total()
            self.report.slowed += tally.slowed_by_reason.total()
            self.report.evicted += tally.evicted
            self.report.rewinds += tally.rewinds

    def _is_at_rest(self) -> bool:
        if self.worker is None or self._faults_pending() or not all(one.is_done for one in self.publishers):
            return False
        worker = self.worker.dispatcher
        return worker.saver.is_clean and not any(s.timeline.entries for s in worker.engine.sessions.values())

    def _faults_pending(self) -> bool:
        return bool(self.store.disk.away) or self.store.loses_answers

    def _unrest(self) -> str:
        lines = [f"{one.name}: {one.core.unfinished} unfinished, {one.core.stats}" for one in self.publishers]
        if self.worker is not None:
            for session in self.worker.engine.sessions.values():
                timeline = session.timeline
                lines.append(f"{session.key}: {len(timeline.entries)} entries, watermark {timeline.watermark_s}")
        return "\n".join(lines)

    # ---- what must hold all the time ----

    def worker_says(self, worker: WorkerProcess, message: m.WorkerMessage) -> None:
        """Whatever a worker calls durable is in the store, even if it is a zombie."""
        match message:
            case m.Ack(streams):
                for ack in streams:
                    self._check_durable(ack.session, ack.stream, ack.durable)
            case m.Opened():
                self._check_durable(message.session, message.stream, message.durable)
            case m.State(state=state) | m.Update(state=state):
                record = self.store.record(SessionKey(state["tenant"], state["session"]))
                assert state["durable_version"] <= (record.version if record else 0)
            case _:
                pass

    def _check_durable(self, session: str, stream: str, durable: int) -> None:
        record = self.store.record(SessionKey("default", session))
        marks = {row.stream: row.settled_upto for row in record.streams} if record else {}
        assert durable <= marks.get(stream, 0), f"{session}/{stream}: durable {durable}, the store has {marks}"

    def _check_memory(self) -> None:
        if self.worker is not None and len(self.report.steps) % 16 == 0:
            self.worker.engine.slab.check_integrity()

    # ---- what must hold in the end ----

    def _check(self) -> None:
        assert self.worker is not None
        self.worker.engine.slab.check_integrity()
        assert self.worker.engine.quotas.pending_bytes == 0
        for publisher in self.publishers:
            self._check_publisher(publisher)
        for i in range(self.scenario.sessions):
            self._check_session(f"s{i}")

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
        if is_finite(planned.frames):
            allowed = ("", "late") if self.scenario.may_be_late else ("",)
            assert receipt.code in allowed, f"{planned.session}/{planned.stream} {planned.event_time_s}: {receipt.code}"
        else:
            assert receipt.code == "bad_segment" or receipt.is_dropped, f"{planned}: not refused"

    def _check_session(self, session: str) -> None:
        key = SessionKey("default", session)
        record = self.store.record(key)
        expected = self._expected(session, self.store.settled_event_times(key))
        if record is None:
            assert not expected
            return
        offline = OfflineModel(ToyModel()).after(expected)
        times = self.store.settled_event_times(key)
        expected_times = [fused.key.event_time_s for fused in expected]
        assert record.version == len(times) == offline.version, (
            f"{session}: version {record.version}, {len(times)} in the history, {offline.version} expected;\n"
            f"lost {sorted(set(expected_times) - set(times))}\nadded {sorted(set(times) - set(expected_times))}"
        )
        assert record.lineage == offline.lineage, f"{session}: lineage differs"
        if offline.context_KD is not None:
            assert_close(record.context_KD, offline.context_KD, f"{session}: context")
            assert_close(record.outputs, offline.outputs, f"{session}: outputs")
            assert_close(record.shares, offline.shares, f"{session}: shares")
        self.report.lineages[session] = record.lineage.hex()

    def _expected(self, session: str, settled_times: list[float]) -> list[Fused]:
        """What was acknowledged as durable; and what its publisher had given up, if it was settled before."""
        settled = set(settled_times)
        fused = []
        for publisher in self.publishers:
            for planned, receipt in publisher.receipts:
                if planned.session != session:
                    continue
                if receipt.is_durable or (receipt.is_dropped and planned.event_time_s in settled):
                    fused.append(Fused(_fusion_key(planned, receipt.sequence), planned.frames))
        return sorted(fused, key=lambda one: one.key)

    def _key_of(self, session: str, event_time_s: float) -> FusionKey | None:
        """Which segment this is, if only one has this time."""
        if self._planned_at[session, event_time_s] != 1:
            return None
        for publisher in self.publishers:
            for planned, receipt in publisher.receipts:
                if planned.session == session and planned.event_time_s == event_time_s:
                    return _fusion_key(planned, receipt.sequence)
        raise AssertionError(f"{session}: nobody published anything at {event_time_s}")


def _fusion_key(planned: Planned, sequence: int) -> FusionKey:
    return FusionKey(planned.event_time_s, SIGNATURE.rank(planned.modality), planned.stream, sequence)


def is_finite(frames: Float32Array) -> bool:
    return bool(np.isfinite(frames).all())
