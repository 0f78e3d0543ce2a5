"""Which sequence numbers of a stream have been seen: exact, and small while they come nearly in order."""

from __future__ import annotations

from collections.abc import Collection, Iterable

_NONE: frozenset[int] = frozenset()


class SequenceSet:
    """All of 1..upto, and a few above it. Sequence numbers start at 1."""

    __slots__ = ("_above", "highest", "upto")

    def __init__(self, upto: int = 0, above: Iterable[int] = ()) -> None:
        self.upto = upto
        self._above: set[int] | None = {sequence for sequence in above if sequence > upto} or None
        """None rather than empty: each stream of each session has three of these, and an empty set has 216 bytes"""
        self.highest = max(self.above, default=upto)
        self._absorb()

    @property
    def above(self) -> Collection[int]:
        """The numbers seen of which one below is missing."""
        return self._above or _NONE

    def __contains__(self, sequence: int) -> bool:
        return sequence <= self.upto or (self._above is not None and sequence in self._above)

    def add(self, sequence: int) -> None:
        if sequence > self.highest:
            self.highest = sequence
        if sequence == self.upto + 1:
            self.upto = sequence
            self._absorb()
        elif sequence > self.upto:
            if self._above is None:
                self._above = set()
            self._above.add(sequence)

    def skip_below(self, oldest: int) -> int:
        """Count all below `oldest` as seen, for nobody will send it any more; return how many were missing."""
        if oldest - 1 <= self.upto:
            return 0
        passed = {sequence for sequence in self.above if sequence < oldest}
        missing = oldest - 1 - self.upto - len(passed)
        if self._above is not None:
            self._above -= passed
        self.upto = oldest - 1
        self.highest = max(self.highest, self.upto)
        self._absorb()
        return missing

    def copy(self) -> SequenceSet:
        return SequenceSet(self.upto, self.above)

    def _absorb(self) -> None:
        """Numbers that nothing below is missing of any more."""
        above = self._above
        if above is None:
            return
        while self.upto + 1 in above:
            self.upto += 1
            above.remove(self.upto)
        if not above:
            self._above = None
