"""What a command that is stopped does with what the runtime has not made durable, in virtual time."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from connectors.base import Sample
from connectors.runner import STOP_WITHIN_S
from connectors.testing import CRASH, END, PAUSE, ScriptedSource
from runtime.client.published import Receipt
from tests.connectors.fake_runtime import FakeSink
from tests.connectors.test_runner import ROUTE, Bench, rows
from tests.connectors.virtual_loop import run_virtually

SILENCE = PAUSE(1000.0)
PAIRS = {**ROUTE, "window": {"frames": 2}}


class NoRuntime(FakeSink):
    """Takes segments, and none of them arrives anywhere."""

    def _land(self, *segment: Any) -> None:
        pass


class Full(NoRuntime):
    """The same with room for two."""

    async def publish(self, *segment: Any, **more: Any) -> Receipt:
        if len(self.receipts) == 2:
            await asyncio.Event().wait()
        return await super().publish(*segment, **more)


async def stopped_after(seconds: float, bench: Bench) -> None:
    """Seen to have ended as soon as it should."""
    running = asyncio.create_task(bench.runner.run())
    await asyncio.sleep(seconds)
    bench.runner.stop()
    await asyncio.wait_for(running, STOP_WITHIN_S + 0.1)
    assert bench.runner.health == "stopped"


@pytest.mark.parametrize(("sink", "lost"), [(FakeSink, 0), (NoRuntime, 3), (Full, 3)])
def test_what_a_live_source_gave_is_told_and_counted_where_it_is_lost(
    sink: type[FakeSink], lost: int, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        bench = Bench(ScriptedSource([*rows(5), SILENCE], delivery="live"), PAIRS)
        bench.sink.__class__ = sink
        await stopped_after(5.0, bench)
        assert bench.metric("dropped_total", what="segments") == lost
        assert bench.values == ({} if lost else {"a": 3}), "half a window is in no snapshot, so it is a segment"

    run_virtually(main())
    told = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert told == [f"it: {lost} segments given up: the runtime did not make them durable"] * bool(lost)


@pytest.mark.parametrize("sink", [NoRuntime, Full])
@pytest.mark.parametrize("then", [SILENCE, END])
def test_of_a_source_that_can_be_read_again_nothing_is_lost(
    sink: type[FakeSink], then: Any, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)

    async def main() -> None:
        source = ScriptedSource([*rows(5), then])
        bench = Bench(source, PAIRS)
        bench.sink.__class__ = sink
        await stopped_after(5.0, bench)
        assert bench.metric("dropped_total", what="segments") == 0
        assert (source.committed, bench.snapshots.saved) == ([], 0)

    run_virtually(main())
    assert [record for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert "segments are not durable yet; the next run publishes them again" in caplog.text


def test_what_the_senders_of_a_live_source_were_told_is_taken_still_is_when_it_is_stopped() -> None:
    class StoppedMeanwhile(ScriptedSource):
        bench: Bench

        async def __aiter__(self) -> AsyncGenerator[Sequence[Sample], None]:
            async for batch in super().__aiter__():
                self.bench.runner.stop()
                yield batch

    async def main() -> None:
        source = StoppedMeanwhile(rows(50), delivery="live", batch=5)
        source.bench = bench = Bench(source)
        await bench.runner.run()
        assert bench.values == {"a": 50}

    run_virtually(main())


def test_a_source_that_was_never_there_has_no_position_to_commit() -> None:
    async def main() -> None:
        source = ScriptedSource([CRASH] * 10)
        bench = Bench(source)
        await stopped_after(5.0, bench)
        assert (source.committed, bench.snapshots.saved) == ([], 0)

    run_virtually(main())
