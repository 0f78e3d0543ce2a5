"""Messages that wait to be sent, and the count of refusals among them.

Updates in rows are put together: one message for a connection and turn, or a few.
"""

from __future__ import annotations

from collections import Counter

from runtime import messages as m
from runtime.dispatch.peers import Peer
from runtime.nack_codes import Code

ROWS_OF_MESSAGE = 512
"""updates in one message, at most"""


class Outbox:
    def __init__(self) -> None:
        self._messages: list[tuple[bytes, m.WorkerMessage]] = []
        self._rows: dict[bytes, list[m.UpdateRow]] = {}
        self._refused_by_code: Counter[str] = Counter()

    def send(self, identity: bytes, message: m.WorkerMessage) -> None:
        self._messages.append((identity, message))

    def update(self, identity: bytes, update: m.Update | m.UpdateRow) -> None:
        if isinstance(update, m.Update):
            self._messages.append((identity, update))
        else:
            self._rows.setdefault(identity, []).append(update)

    def refuse(self, identity: bytes, code: Code, text: str, retry_after_ms: int = 0) -> None:
        """Answer a message that is about no stream and no request."""
        self._nack(identity, m.Nack(code, text, retry_after_ms=retry_after_ms))

    def refuse_request(self, peer: Peer, request: int, code: Code, text: str, retry_after_ms: int = 0) -> None:
        self._nack(peer.identity, m.Nack(code, text, request=request, retry_after_ms=retry_after_ms))

    def refuse_segment(
        self, peer: Peer, session: str, stream: str, sequence: int, code: str, text: str, retry_after_ms: int = 0
    ) -> None:
        """Answer about one sequence number of a stream, or about all from it on where the code asks to send again."""
        self._nack(peer.identity, m.Nack(code, text, session, stream, sequence, 0, retry_after_ms))

    def take(self) -> list[tuple[bytes, m.WorkerMessage]]:
        """All that waits; before the next step, for the numbers of rows are the slab's own."""
        taken, self._messages = self._messages, []
        for identity, rows in self._rows.items():
            for start in range(0, len(rows), ROWS_OF_MESSAGE):
                taken.append((identity, m.Updates(tuple(rows[start : start + ROWS_OF_MESSAGE]))))
        self._rows.clear()
        return taken

    def take_refusals(self) -> Counter[str]:
        """How many messages and segments were answered by a Nack since this was last asked, by code."""
        taken, self._refused_by_code = self._refused_by_code, Counter()
        return taken

    def _nack(self, identity: bytes, nack: m.Nack) -> None:
        self._refused_by_code[nack.code] += 1
        self._messages.append((identity, nack))
