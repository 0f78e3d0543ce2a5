"""How each source did: the line that the command tells of it at its end, and the exit code of all of them.

What was refused or dropped is lost, and scripts see nothing but the exit code (docs/operations.md has all of them).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from connectors.tally import Totals

NOT_AS_IT_SHOULD_BE = 4
KINDS = {"stream": "stream refused before"}
"""of the metrics' labels, those that say too little by themselves"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """Of one source."""

    health: str
    totals: Totals

    @property
    def is_as_it_should_be(self) -> bool:
        return self.health != "broken" and not self._is_something_lost and not self._came_to_nothing

    @property
    def _is_something_lost(self) -> bool:
        return bool(self.totals.refused or self.totals.dropped)

    @property
    def _came_to_nothing(self) -> bool:
        """Some samples may be bad, or of no interest; where nothing came of any, the file is wrong."""
        totals = self.totals
        return not totals.segments and bool(totals.unrouted or totals.bad or totals.frames_left_out)

    def __str__(self) -> str:
        totals = self.totals
        parts = [
            f"published {totals.segments}",
            f"refused {totals.refused.total()}{_by_kind(totals.refused)}",
            f"dropped {totals.dropped.total()}{_by_kind(totals.dropped)}",
        ]
        if totals.bad:
            parts.append(f"samples left out {totals.bad.total()}{_by_kind(totals.bad)}")
        if totals.frames_left_out:
            parts.append(f"frames left out {totals.frames_left_out}")
        if totals.duplicates:
            parts.append(f"samples that came again {totals.duplicates}")
        if totals.unrouted:
            parts.append(f"samples that match no route {totals.unrouted}")
        return f"{self.health}; {', '.join(parts)}"


def exit_code(outcomes: Iterable[Outcome]) -> int:
    return 0 if all(outcome.is_as_it_should_be for outcome in outcomes) else NOT_AS_IT_SHOULD_BE


def _by_kind(counts: Counter[str]) -> str:
    """The kinds, with how many of each where they are several."""
    named = {KINDS.get(kind, kind): count for kind, count in sorted(counts.items())}
    if len(named) < 2:
        return "".join(f" ({kind})" for kind in named)
    return f" ({', '.join(f'{kind} {count}' for kind, count in named.items())})"
