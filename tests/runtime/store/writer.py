"""A process that saves until it is killed: `python -m tests.runtime.store.writer FILE` prints each version saved."""

from __future__ import annotations

import sys
from math import inf

from runtime.store.sqlite import SqliteStore
from tests.runtime.store.samples import key, owned, record

KEYS = [key(f"session-{number:02}") for number in range(40)]
HISTORY_LENGTH = 16


def main(path: str) -> None:
    store = SqliteStore(path, history_length=HISTORY_LENGTH)
    epochs = owned(store, *KEYS, owner="writer")
    version = max((row.version for row in store.history(KEYS[0], -inf, inf, 1)), default=0)
    while True:
        version += 1
        store.save(epochs, [record(each, version) for each in KEYS])
        print(version, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
