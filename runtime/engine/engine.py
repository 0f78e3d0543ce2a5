"""The engine: segments in, contexts forward. Plain objects driven by calls; every call is told the time.

    take -> timeline (fusion order) -> ready queue -> step (one micro-batch) -> settle -> checkpoint
    intake.py                          batcher.py     stepping.py               flow.py   checkpoint.py

The shell around it (the worker, a test, the simulator) decides when to call `step`, `tick` and `checkpoint`, and
reads what has happened from `take_progress`. A session must be resident (`create` or `restore`) before its
segments may come.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from math import inf

from grf_core.step import StepModel
from runtime.engine.batcher import ReadyQueue
from runtime.engine.flow import Flow
from runtime.engine.intake import Intake
from runtime.engine.outcomes import Progress, Verdict
from runtime.engine.policies import EnginePolicy
from runtime.engine.quota import Quotas, Refusal
from runtime.engine.residents import Residents
from runtime.engine.sequences import SequenceSet
from runtime.engine.session import Session, StreamState
from runtime.engine.slab import Slab
from runtime.engine.stepping import Stepping
from runtime.engine.tally import Tally
from runtime.keys import SessionKey
from runtime.messages import SegmentEntry

SILENT_PER_TICK = 64
EVICTED_PER_TICK = 256


class Engine:
    def __init__(self, model: StepModel, policy: EnginePolicy, quotas: Quotas | None = None) -> None:
        self.model = model
        self.policy = policy
        self.signature = model.signature
        unknown = policy.order.lateness_by_modality_s.keys() - {modality.name for modality in self.signature.modalities}
        if unknown:
            raise ValueError(f"lateness_by_modality_s names {', '.join(sorted(unknown))}: no modality of the model")
        order = policy.order
        self.slab = Slab(self.signature, policy.capacity, model.device)
        self.quotas = quotas or Quotas(policy.quota)
        self._flow = Flow(
            self.signature, self.slab, self.quotas, ReadyQueue(policy.batch), order, policy.history_length
        )
        self.residents = Residents(self.slab, self.quotas, order, len(self.signature.modalities), self._flow.is_untold)
        self._intake = Intake(self.signature, self.slab, self.quotas, self.residents, self._flow, order)
        self._stepping = Stepping(
            model, self.slab, self.quotas, self.residents, self._flow, self._intake, policy.batch.max_segments
        )

    @property
    def sessions(self) -> OrderedDict[SessionKey, Session]:
        """Resident sessions."""
        return self.residents.sessions

    @property
    def dirty(self) -> OrderedDict[SessionKey, None]:
        """Sessions with settled state that no checkpoint has taken yet, longest waiting first."""
        return self._flow.dirty

    @property
    def tally(self) -> Tally:
        return self._flow.tally

    # ---- residence ----

    def create(self, key: SessionKey, now_s: float) -> Session | Refusal:
        """Make a session resident; restore its record next, if it has one (`engine.checkpoint.restore`)."""
        session = self.residents.create(key, now_s)
        if isinstance(session, Refusal):
            self.tally.slowed_by_reason[session.reason] += 1
        return session

    def forget(self, key: SessionKey) -> None:
        """Drop a session and all that is unsettled of it from memory."""
        self.residents.remove(key)
        self._flow.forget(key)

    # ---- streams ----

    def open_stream(
        self, session: Session, stream: str, modality: str, base: int, owner: str, numbering: int, now_s: float
    ) -> str:
        """Open a stream for publishing from sequence number `base` on; return the connection that owned it before.

        Raises KeyError for a modality that the model does not know, ValueError when the stream has another one.
        """
        rank = self.signature.rank(modality)
        state = session.streams.get(stream)
        if state is None:
            state = session.streams[stream] = StreamState(
                rank, SequenceSet(base - 1), durable=0
            )  # nothing is committed
        elif state.rank != rank:
            raise ValueError(f"stream {stream!r} is of modality {self.signature.modalities[state.rank].name}")
        state.let_go(base)
        # After a crash it is waited for only if that was saved, and its publisher known only by a numbering that was.
        if numbering != state.numbering or not session.timeline.waits_for(stream, now_s):
            state.stored = "no"
        if owner != state.owner or state.stored == "no":
            self._flow.mark_dirty(session)
        previous = state.owner if state.owner not in (None, owner) else ""
        state.owner, state.numbering = owner, numbering
        session.timeline.open_stream(stream, modality, now_s + self.policy.order.idle_timeout_s)
        self.residents.touch(session, now_s)
        return previous or ""

    def gather(self, session: Session, now_s: float) -> None:
        """Let nothing settle in a new session for a while: publishers that have waited for this worker, and hold what
        they could not send, do not all connect at the same moment."""
        if session.settled_version == 0:
            session.timeline.gather_until_s = now_s + self.policy.order.idle_timeout_s

    def wait_for_opening(self, session: Session, stream: str, now_s: float) -> None:
        """Wait for a stream as from now: its publisher has not been told that it may begin."""
        session.timeline.wait_longer(stream, now_s + self.policy.order.idle_timeout_s)
        if session.streams[stream].stored != "yes":
            self.gather(session, now_s)

    def end_stream(self, session: Session, stream: str, now_s: float) -> None:
        session.timeline.end_stream(stream)
        session.timeline.advance_watermark(self._flow.read_upto_s(session, now_s))
        self._flow.go_on(session)
        self._flow.watch(session)

    def skip_below(self, session: Session, stream: str, oldest: int, now_s: float) -> None:
        """The publisher holds nothing below `oldest` any more: what never came is a gap, and is counted."""
        state = session.streams[stream]
        if state.refused:
            state.let_go(oldest)
        if oldest <= state.settled.upto + 1:
            return
        self.tally.gaps += state.skip_below(oldest)
        self._flow.pass_gaps(session, stream)
        self._flow.landed(session, stream, now_s)

    # ---- segments ----

    def take(
        self,
        session: Session,
        stream: str,
        segments: Sequence[SegmentEntry],
        now_s: float,
        wall_s: float,
        heard_s: float = inf,
    ) -> list[Verdict]:
        """Take segments of one stream into their session's timeline, or say why not; see `Intake.take`. `heard_s`: when
        they arrived, if that was before now."""
        return self._intake.take(session, stream, segments, now_s, wall_s, min(heard_s, now_s))

    def leave_unread(self, since_s: dict[str, float]) -> None:
        """Messages of these tenants wait to be taken since then: their streams are not known to have been silent after
        that."""
        self._flow.unread_since_s = since_s

    def tap(self, tapped: bool) -> None:
        """Whether somebody records what is accepted."""
        self._intake.tapped = tapped

    # ---- steps ----

    @property
    def ready_sessions(self) -> int:
        """Sessions whose next segment waits for its step."""
        return len(self._flow.ready)

    @property
    def has_work(self) -> bool:
        return self.ready_sessions > 0

    @property
    def is_stuck(self) -> bool:
        """All that is ready waits for rows of the slab: another step achieves nothing before something else happens."""
        return self._flow.is_stuck and self.has_work

    def step(self, now_s: float, at_most: int | None = None) -> int:
        """Fuse the next segment of every session in the next micro-batch, of `at_most` so many sessions; return how
        many were fused."""
        return self._stepping.step(now_s, at_most)

    def fused_by(self, now_s: float) -> None:
        """What was fused since this was last told is there by now: the engine does not know how long steps take."""
        self._stepping.fused_by(now_s)

    # ---- time ----

    def tick(self, now_s: float, fused: int = 0) -> None:
        """Settle sessions that have fallen silent; let go of sessions that have long been idle.

        Of each so many at a time: sessions that began together come up together, and the others must not wait for all
        of them. But no fewer than were `fused` since the last time: each of those may wait for its session's silence
        with a row of the slab.
        """
        silent_at = self._flow.silent_at
        for _ in range(SILENT_PER_TICK + fused):
            if silent_at.next_s > now_s:
                break
            at_s, key = silent_at.take_next()
            session = self.sessions.get(key)
            if session is not None and session.look_at_s == at_s:
                self._flow.look(session, now_s)
        self.residents.evict_inactive(now_s - self.policy.evict_after_s, now_s, EVICTED_PER_TICK)

    @property
    def silent_at_s(self) -> float:
        """When `tick` has a session to look at next."""
        return self._flow.silent_at.next_s

    # ---- what the shell reads ----

    def take_progress(self) -> Progress:
        """What has changed, but no acknowledgement of a session that is being fused again: its state does not show yet
        what has landed."""
        progress, self._flow.progress = self._flow.progress, Progress()
        for key in list(progress.streams):
            session = self.sessions.get(key)
            if session is not None and session.shown is not None:
                self._flow.progress.streams[key] = progress.streams.pop(key)
        return progress

    def take_tally(self) -> Tally:
        tally, self._flow.tally = self._flow.tally, Tally()
        tally.evicted, self.residents.evicted = self.residents.evicted, 0
        return tally

    def tell_deleted(self, key: SessionKey) -> None:
        """Somebody wished this session to be forgotten, and it is: those who follow it are told."""
        self._flow.progress.deleted.append(key)

    def acknowledge(self, session: Session, stream: str) -> None:
        """Tell the stream's publisher how far it is, at the next occasion."""
        self._flow.acknowledge(session, stream)
