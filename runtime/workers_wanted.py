"""How many workers are to serve: the setting, until somebody, or the load, asks for another number.

That number is noted in the store beside the setting of that moment, for the controllers to come. It counts as long as
the setting stays what it was: it survives every crash, and whoever starts the runtime with another setting is heard.
"""

from __future__ import annotations

import logging

from runtime.store.base import Store, StoreError

NUMBER = "workers"
SETTING = "workers_setting"

log = logging.getLogger(__name__)


def read_wanted(store: Store, setting: int) -> int:
    """Raises StoreError while the store cannot be read."""
    notes = store.notes()
    number, noted = int(notes.get(NUMBER, setting)), int(notes.get(SETTING, setting))
    if noted != setting:
        text = "cluster.workers is %d now, it was %d: the %d that were asked for count no more"
        log.info(text, setting, noted, number)
        forget_wanted(store, setting)
        return setting
    if number != setting:
        log.info("%d workers are to serve, as was asked for since cluster.workers is %d", number, setting)
    return number


def note_wanted(store: Store, number: int, setting: int) -> None:
    """Raises StoreError."""
    store.note(SETTING, str(setting))
    store.note(NUMBER, str(number))


def forget_wanted(store: Store, setting: int) -> None:
    """The setting counts from now on."""
    try:
        note_wanted(store, setting, setting)
    except StoreError as error:
        log.warning("cannot note how many workers are to serve: %s", error)
