"""Nodes that were drained, noted in the store: the next controller would else start workers where they are about to go.

A worker that was told to leave says so itself, in each of its beats.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Collection

from runtime.store.base import Store, StoreError

NOTE = "drained_nodes"

log = logging.getLogger(__name__)


def read_drained_nodes(store: Store) -> frozenset[str]:
    """Raises StoreError."""
    return frozenset(json.loads(store.notes().get(NOTE, "[]")))


def note_drained_nodes(store: Store, nodes: Collection[str]) -> None:
    try:
        store.note(NOTE, json.dumps(sorted(nodes)))
    except StoreError as error:
        log.warning("cannot note which nodes are drained, a controller that restarts will not know: %s", error)
