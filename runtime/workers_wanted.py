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


class WorkersWanted:
    def __init__(self, store: Store, setting: int) -> None:
        """`setting`: `cluster.workers` of now. Raises StoreError while the store cannot be read."""
        self._store = store
        self._setting = setting
        self.number = self._read()

    def ask_for(self, number: int) -> None:
        """Raises StoreError; then the number stays what it was."""
        self._note(number)
        self.number = number

    def forget(self) -> None:
        """The setting counts for whoever reads this next."""
        try:
            self._note(self._setting)
        except StoreError as error:
            log.warning("cannot note how many workers are to serve: %s", error)

    def _read(self) -> int:
        setting, notes = self._setting, self._store.notes()
        number, noted = int(notes.get(NUMBER, setting)), int(notes.get(SETTING, setting))
        if noted != setting:
            text = "cluster.workers is %d now, it was %d: the %d that were asked for count no more"
            log.info(text, setting, noted, number)
            self.forget()
            return setting
        if number != setting:
            log.info("%d workers are to serve, as was asked for since cluster.workers is %d", number, setting)
        return number

    def _note(self, number: int) -> None:
        self._store.note(NUMBER, str(number))  # first: with the setting of now, what was noted before would count
        self._store.note(SETTING, str(self._setting))
