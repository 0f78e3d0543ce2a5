"""The tokens of a worker, read again whenever their file has changed: a token is taken back without a restart."""

from __future__ import annotations

import logging
import os

from runtime.security import Tokens
from runtime.settings import SettingError, Settings

log = logging.getLogger(__name__)

Stamp = tuple[int, int, int] | None
"""of a version of the file; None while there is none"""


class TokensFile:
    def __init__(self, settings: Settings) -> None:
        """Raises SettingError for a file without tokens that can count."""
        self._settings = settings
        self._stamp = self._look()
        self._tenant_by_token = settings.tokens()

    @property
    def tokens(self) -> Tokens:
        """Of the newest file that could be read."""
        return Tokens(self._tenant_by_token)

    def has_changed(self) -> bool:
        """Are there other `tokens` than at the last call? A file that cannot be read, or is half written, shuts nobody
        out: it is told, and changes nothing."""
        stamp = self._look()
        if stamp == self._stamp:
            return False
        self._stamp = stamp
        try:
            tenant_by_token = self._settings.tokens()
        except SettingError as error:
            log.error("%s; the tokens that were read before stay", error)
            return False
        before, self._tenant_by_token = self._tenant_by_token, tenant_by_token
        return tenant_by_token != before

    def _look(self) -> Stamp:
        """Kubernetes and editors put another file in its place; `echo >` writes into the one that is there."""
        try:
            stat = os.stat(self._settings.runtime.tokens_file)
        except OSError:
            return None
        return stat.st_ino, stat.st_mtime_ns, stat.st_size
