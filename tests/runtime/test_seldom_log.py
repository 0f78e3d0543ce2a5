from __future__ import annotations

import logging

import pytest

from runtime.seldom_log import AGAIN_AFTER_S, SeldomLog

ERROR = OSError("away\n  File ...")


def test_the_same_warning_is_logged_once_a_minute_in_one_line(caplog: pytest.LogCaptureFixture) -> None:
    seldom = SeldomLog(logging.getLogger("test"))
    for now_s in (0.0, 0.25, AGAIN_AFTER_S - 1.0, AGAIN_AFTER_S, AGAIN_AFTER_S + 0.25):
        seldom.warn(now_s, "no controller", ERROR)
        seldom.warn(now_s, "no lease", ERROR)
    assert caplog.messages == ["no controller: away", "no lease: away"] * 2
