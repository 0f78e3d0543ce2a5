"""One stream as HTTP clients post it: segments by number, in any order, again and again, through any gateway.

Unlike a publisher's own buffer this one has no say over the numbers. It tells the worker the truth about them (the
`oldest` of the wire is what the poster says it is), lets the worker say what has become of a number that it may know,
and refuses a number that would leave a gap. A number that is missing anyway is waited for, not given up.

    held, not sent --> sent --> fused --> durable: forgotten
                           \\-> refused: held without frames until its number is accounted for
"""

from __future__ import annotations

from math import inf
from typing import Literal

from runtime import messages as m
from runtime.client.published import NO_FRAMES
from runtime.gateway.posted import Held, Posted

REFUSALS_KEPT = 1024
"""so many numbers back the worker is to remember what it refused: a post that is repeated gets the same answer"""
LEAVE_S, MOST_LEAVE_S = 3.0, 60.0
"""A stream that another publisher has taken, when it has all that is held here, is left to it for so long, and twice as
long each time: while two take a stream from each other it is never silent, and of a silent one all becomes durable."""


class RelayStream:
    def __init__(self, session: str, stream: str, modality: str, held: Held) -> None:
        self.session = session
        self.stream = stream
        self.modality = modality
        self.used_s = 0.0
        self.state: Literal["closed", "opening", "open"] = "closed"
        self.fused_upto = 0
        """the worker has every number up to this one"""
        self._taken_upto = 0
        """it has these too, where it fuses only what is settled"""
        self._held = held
        """by all streams of the caller together"""
        self._numbered: dict[int, Posted] = {}
        """not durable yet, refused ones included"""
        self._unnumbered: list[Posted] = []
        self._declared_oldest = 1
        self._told_oldest = 0
        """what the worker has last been told of `oldest`"""
        self._known_last = 0
        """highest number that the worker has, or was sent"""
        self._known_durable = 0
        self._known_born = 0
        self._was_deleted = False
        self._numbering = 0
        """as the worker calls the numbers that are given here; 0 if it has not said"""
        self._told_numbering = 0
        """when the stream was last to be opened"""
        self._was_taken = False
        """by another publisher, since what is held was numbered"""
        self._left_at_durable = 0
        self._times_left = 0
        """in a row, while no more of it became durable"""

    @property
    def is_empty(self) -> bool:
        return not (self._numbered or self._unnumbered)

    @property
    def has_unsent(self) -> bool:
        return bool(self._unnumbered) or not all(posted.is_sent for posted in self._numbered.values())

    @property
    def is_all_told(self) -> bool:
        """The worker has all that is held, and has said so since the stream was opened there: a worker that has crashed
        knows less. Only what is durable is still to be known."""
        return not self._unnumbered and all(
            self._is_there(posted)
            or (posted.code and posted.sequence <= self.fused_upto)
            or (posted.is_admitted and posted.sequence <= self._taken_upto)
            for posted in self._numbered.values()
        )

    def _is_there(self, posted: Posted) -> bool:
        """The worker has it, by what it has said since the stream was opened."""
        return posted.is_fused and posted.sequence <= self.fused_upto

    @property
    def oldest(self) -> int:
        """What lies below is durable, or given up by its poster."""
        return min(self._lowest_wanted, min(self._numbered, default=self._lowest_wanted))

    @property
    def _lowest_wanted(self) -> int:
        """`oldest` if nothing is held: no poster will send what lies below, nor ask again what became of it."""
        durable = 0 if self._was_deleted else self._known_durable
        return max(self._declared_oldest, durable + 1 - REFUSALS_KEPT)

    # ---- the posters' side ----

    def post(self, posted: Posted, oldest: int) -> Posted:
        """Take a segment; return it, or the one that was posted under its number before."""
        self._declared_oldest = max(self._declared_oldest, oldest)
        if posted.sequence in self._numbered:
            return self._numbered[posted.sequence]
        if not posted.is_given:
            self._unnumbered.append(posted)
        elif self.state == "open" and posted.sequence > self._known_last and not self._admit(posted, self._highest):
            return posted
        else:
            self._numbered[posted.sequence] = posted
            if not posted.is_admitted and self.state == "open":
                self.state = "closed"  # the worker may know this number: opened again, it says how it stands
        self._held.n_bytes += posted.n_bytes
        return posted

    def withdraw(self, posted: Posted) -> bool:
        """Take back a segment that was never sent; False if the worker may have it."""
        if posted.is_admitted and posted.sequence <= self._known_last:
            return False
        if posted in self._unnumbered or self._numbered.get(posted.sequence) is posted:
            self._let_go(posted)
            return True
        return False

    def give_up(self, code: str, text: str, posted_before_s: float = inf) -> list[Posted]:
        """Let go of what was posted before this and is not durable; return it, refused for this reason."""
        old = [posted for posted in self._all() if posted.posted_s < posted_before_s]
        given_up = [posted for posted in old if not posted.is_final]
        for posted in old:
            self._let_go(posted)
        for posted in given_up:
            posted.refuse(code, text)
            if not posted.is_given:
                self._declared_oldest = max(self._declared_oldest, posted.sequence + 1)
        if old:
            self.close()
        return given_up

    @property
    def _highest(self) -> int:
        return max(self._known_last, max(self._numbered, default=0))

    def _admit(self, posted: Posted, highest: int) -> bool:
        """May this number come after `highest`? Refuses it if that would leave a gap."""
        following = max(highest, self._declared_oldest - 1) + 1
        if posted.sequence > following:
            text = f"sequence {posted.sequence} of stream {self.stream!r}: the next one is {following}"
            posted.refuse("sequence_gap", text)
            return False
        posted.is_admitted = True
        return True

    # ---- sending ----

    def close(self) -> None:
        """The stream is not open on the worker, or not as ours: all is sent again once it is."""
        self.state = "closed"
        self.send_again_from(0)

    def send_again_from(self, sequence: int) -> None:
        for posted in self._numbered.values():
            if posted.sequence >= sequence:
                posted.is_sent = False
                self._held.in_flight.discard(posted)

    def disconnected(self) -> list[Posted]:
        """The connection is another, or the stream is not open on it: the worker may have lost what it had. Return what
        may have met its numbers, refused."""
        self.close()
        self.fused_upto = self._taken_upto = 0
        return self.maybe_lost()

    def maybe_lost(self) -> list[Posted]:
        """While another publisher has the stream nobody tells this gateway that the worker has lost what it had, or
        that the other has given its numbers anew. Return what may have met them, refused."""
        if not self._was_taken:
            return []
        self.fused_upto = self._taken_upto = 0
        return self._refuse_numbered_here("another publisher has had the stream")

    def open(self) -> m.Open:
        self.state = "opening"
        self._told_oldest = self.oldest
        self._told_numbering = self._numbering if self._numbered_here and not self._was_taken else 0
        known = self._known_durable, self._known_born, self._told_numbering
        return m.Open(self.session, self.stream, self.modality, self.oldest, *known)

    @property
    def _numbered_here(self) -> list[Posted]:
        """Under these numbers another publisher may have sent other segments."""
        return [posted for posted in self._numbered.values() if not (posted.is_given or posted.code)]

    def take(self, max_segments: int) -> list[Posted]:
        """The next segments to send, in order."""
        unsent = sorted(number for number, posted in self._numbered.items() if not posted.is_sent)
        batch = [self._numbered[number] for number in unsent[:max_segments]]
        for posted in self._unnumbered[: max_segments - len(batch)]:
            posted.sequence = self._highest + 1  # given at the last moment, so that none is left out
            posted.is_admitted = True
            self._numbered[posted.sequence] = posted
            batch.append(posted)
        self._unnumbered = [posted for posted in self._unnumbered if not posted.sequence]
        for posted in batch:
            posted.is_sent = True
            self._known_last = max(self._known_last, posted.sequence)
            if not posted.code:
                self._held.in_flight.add(posted)
        self._told_oldest = self.oldest
        return batch

    # ---- what the worker says ----

    def opened(self, durable: int, last: int, version: int, born: int, numbering: int) -> list[Posted]:
        """`born` tells whether the session was deleted since: durable numbers may not, if none was known here. Return
        what may have met its numbers, refused: they were given under another numbering."""
        is_another = self._was_deleted or born != (self._known_born or born)
        is_reset = is_another or durable < self._known_durable
        self._known_born, self._was_deleted = born, False
        is_renumbered = not is_reset and numbering != (self._numbering or numbering)
        lost = self._refuse_numbered_here("another publisher has had the stream", last) if is_renumbered else []
        self._numbering, self._was_taken = numbering, False
        self.state = "open"
        self._known_durable, self._known_last, self.fused_upto = durable, last, durable
        self._taken_upto = durable
        if is_reset:
            self._forget_former_life()
        for posted in self._numbered.values():
            posted.is_duplicate = posted.is_duplicate or (posted.sequence <= last and not posted.is_admitted)
            posted.is_admitted = posted.is_admitted or posted.sequence <= last
        self.acknowledge(durable, durable, version)
        self._admit_waiting("session_reset" if is_reset else "")
        return lost

    def deleted(self) -> None:
        """The worker has no such session any more. What had been fused went with it; what had not opens it anew, at 1:
        whoever begins again would else be told that what lies below the old numbers is there."""
        self.close()
        self._known_born, self._was_deleted, self._declared_oldest = 0, True, 1
        self._forget_former_life()

    def _forget_former_life(self) -> None:
        """The session was deleted, or an older one was restored: what it had fused is gone with it."""
        for posted in list(self._numbered.values()):
            posted.is_admitted = False
            if posted.code or posted.is_fused:
                self._let_go(posted)
                if not posted.code:
                    posted.refuse("session_reset", "the session was reset before this segment was durable")
            elif not posted.is_given:
                del self._numbered[posted.sequence]
                posted.sequence = 0
                self._unnumbered.append(posted)

    def _admit_waiting(self, code: str) -> None:
        highest = max([self._known_last, *(number for number, posted in self._numbered.items() if posted.is_admitted)])
        for number in sorted(self._numbered):
            posted = self._numbered[number]
            if posted.is_admitted or self._admit(posted, highest):
                highest = max(highest, number)
            else:
                posted.code = code or posted.code
                self._let_go(posted)

    def acknowledge(self, fused: int, durable: int, version: int, taken: int = 0) -> None:
        """The worker has every number up to `fused`, has committed those up to `durable`; up to `taken` they have left
        the window.

        What is not admitted waits for more: its number may have been refused.
        """
        self.fused_upto = max(self.fused_upto, fused)
        self._taken_upto = max(self._taken_upto, taken)
        self._known_last = max(self._known_last, fused)
        self._known_durable = max(self._known_durable, durable)
        self._held.in_flight -= {posted for posted in self._numbered.values() if posted.sequence <= taken}
        for posted in [p for p in self._numbered.values() if p.is_admitted and p.sequence <= fused]:
            self._held.in_flight.discard(posted)
            posted.is_sent = True
            if not posted.is_fused and not posted.code:
                posted.is_fused, posted.version = True, version
            if posted.sequence <= durable:
                self._let_go(posted)
                posted.is_durable = not posted.code

    def tell_gap(self) -> bool:
        """Let the worker know of numbers that were given up below some that were sent, for which it waits: it hears of
        them with the next segment. True if none would come, and so the lowest that is held is sent again."""
        known = max(self._told_oldest, self.fused_upto + 1)
        # First without a look at all that is held: it is asked for every post and acknowledgement.
        if self.state != "open" or self._lowest_wanted <= known or not self._numbered or self.oldest <= known:
            return False
        lowest = self._numbered[min(self._numbered)]
        was_sent, lowest.is_sent = lowest.is_sent, False
        return was_sent

    def refuse(self, nack: m.Nack) -> bool:
        """The worker has refused this number for good; True if that is news. The number stays until it is durable."""
        posted = self._numbered.get(nack.sequence)
        if posted is None or posted.code:
            return False
        posted.refuse(nack.code, nack.text)
        self._held.in_flight.discard(posted)
        self._held.n_bytes -= posted.frames.nbytes
        posted.n_bytes -= posted.frames.nbytes
        posted.frames = NO_FRAMES
        return True

    def remark(self, nack: m.Nack) -> None:
        """A remark on one number; one on the session concerns all that wait."""
        one = self._numbered.get(nack.sequence)
        for posted in self._all() if nack.code == "session_reset" else [one] if one else []:
            posted.notice = (nack.code, nack.text)

    def is_taken(self, nack: m.Nack) -> bool:
        """Does this `stream_taken` say that the stream is not ours? While it is being opened it may be late news."""
        is_answer = self._told_numbering > 0 and nack.sequence == self._told_oldest
        return self.state == "open" or (self.state == "opening" and is_answer)

    def taken_over(self, nack: m.Nack) -> list[Posted]:
        """Another publisher has opened the stream; return what may have met its numbers, refused."""
        lost = self._refuse_numbered_here(nack.text)
        self.close()
        self._was_taken = True
        return lost

    def _refuse_numbered_here(self, reason: str, upto: float = inf) -> list[Posted]:
        """But not what the worker has."""
        lost = [posted for posted in self._numbered_here if posted.sequence <= upto and not self._is_there(posted)]
        for posted in lost:
            self._let_go(posted)
            text = f"{reason}; whether this segment was fused is not known: give sequence numbers to post it again"
            posted.refuse("stream_taken", text)
        return lost

    def leave_for_s(self) -> float:
        """How long to leave the stream to whoever has taken it."""
        if self._left_at_durable != self._known_durable:
            self._left_at_durable, self._times_left = self._known_durable, 0
        self._times_left += 1
        return float(min(LEAVE_S * 2 ** (self._times_left - 1), MOST_LEAVE_S))

    # ---- accounts ----

    def _all(self) -> list[Posted]:
        return [*self._numbered.values(), *self._unnumbered]

    def _let_go(self, posted: Posted) -> None:
        self._held.in_flight.discard(posted)
        self._held.n_bytes -= posted.n_bytes
        if self._numbered.get(posted.sequence) is posted:
            del self._numbered[posted.sequence]
        else:
            self._unnumbered.remove(posted)
