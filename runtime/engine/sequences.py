"""Which sequence numbers of a stream have been seen: exact, and small while they come nearly in order."""

from __future__ import annotations

from collections.abc import Iterable


class SequenceSet:
    """All of 1..upto, and a few above it. Sequence numbers start at 1."""

    __slots__ = ("above", "highest", "upto")

    def __init__(self, upto: int = 0, above: Iterable[int] = ()) -> None:
        self.upto = upto
        self.above = {sequence for sequence in above if sequence > upto}
        self.highest = max(self.above, default=upto)
        self._absorb()

    def __contains__(self, sequence: int) -> bool:
        return sequence <= self.upto or sequence in self.above

    def add(self, sequence: int) -> None:
        if sequence > self.highest:
            self.highest = sequence
        if sequence == self.upto + 1:
            self.upto = sequence
            if self.above:
                self._absorb()
        elif sequence > self.upto:
            self.above.add(sequence)

    def skip_below(self, oldest: int) -> int:
        """Count all below `oldest` as seen, for nobody will send it any more; return how many were missing."""
        if oldest - 1 <= self.upto:
            return 0
        passed = {sequence for sequence in self.above if sequence < oldest}
        missing = oldest - 1 - self.upto - len(passed)
        self.above -= passed
        self.upto = oldest - 1
        self.highest = max(self.highest, self.upto)
        self._absorb()
        return missing

    def copy(self) -> SequenceSet:
        return SequenceSet(self.upto, self.above)

    def _absorb(self) -> None:
        while self.above and self.upto + 1 in self.above:
            self.upto += 1
            self.above.remove(self.upto)
