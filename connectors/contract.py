"""The suite that every source passes; run it over your own.

    class TestMyBelt(SourceContract):
        @pytest.fixture
        def harness(self): return BeltHarness()

A harness knows how to make sources over one and the same material, and how to bring new samples into it. It needs
pytest, and so is imported by tests only.
"""

from __future__ import annotations

import asyncio
import json
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from typing import Any, TypeVar

import pytest

from connectors.base import MAX_BATCH, Position, Sample, Source
from connectors.errors import ConnectorError

T = TypeVar("T")
WITHIN_S = 20.0
CANCELLATIONS = 100
CANCELLED_WITHIN_S = 2.0
N = 30
"""samples that a test works with"""


class Harness(ABC):
    """One material: a topic, a file, a port."""

    ends: bool = True
    """the iteration ends by itself once all was delivered, as a file's does"""

    @abstractmethod
    def make(self) -> Source:
        """A new source object over the same material, as another process would make."""

    @abstractmethod
    async def produce(self, first: int, count: int, source: Source) -> None:
        """Bring samples number first, first + 1, ... into the material. `source` is open, if it has to be for that."""

    @abstractmethod
    def number(self, sample: Sample) -> int:
        """Which number this sample was produced with."""

    def unavailable(self) -> Source | None:
        """A source whose other side is not there; None if there is no such thing."""
        return None


def run(main: Coroutine[Any, Any, T]) -> T:
    async def within_limit() -> T:
        async with asyncio.timeout(WITHIN_S):
            return await main

    return asyncio.run(within_limit())


async def take(source: Source, count: int) -> list[Sample]:
    """The next `count` samples, and those that came in the same batch."""
    taken: list[Sample] = []
    batches = aiter(source)
    while len(taken) < count:
        batch = await anext(batches, None)
        if batch is None:
            break
        assert 0 < len(batch) <= MAX_BATCH
        taken += batch
    await batches.aclose()
    return taken


async def take_rest(harness: Harness, source: Source, known: Sequence[Sample], last: int = N - 1) -> list[int]:
    """Numbers up to the last one; of a source that does not seek, without those that are known by their identity."""
    identities = set() if source.seeks or source.delivery == "live" else {sample.identity for sample in known}
    rest: list[int] = []
    batches = aiter(source)
    while last not in rest:
        batch = await anext(batches, None)
        if batch is None:
            break
        rest += [harness.number(sample) for sample in batch if sample.identity not in identities]
    await batches.aclose()
    return rest


class SourceContract:
    @pytest.fixture
    def harness(self) -> Harness:
        raise NotImplementedError("give a fixture `harness`")

    def test_every_sample_comes_once_and_in_order(self, harness: Harness) -> None:
        async def main() -> None:
            async with harness.make().opened() as source:
                await harness.produce(0, N, source)
                samples = await take(source, N)
                assert [harness.number(sample) for sample in samples] == list(range(N))
                if harness.ends:
                    assert await take(source, 1) == []

        run(main())

    def test_positions_are_json_and_only_replayable_sources_have_them(self, harness: Harness) -> None:
        async def main() -> None:
            async with harness.make().opened() as source:
                await harness.produce(0, N, source)
                positions = [sample.position for sample in await take(source, N)]
            if source.delivery == "live":
                assert positions == [None] * N
            else:
                assert json.loads(json.dumps(positions)) == positions
                assert all(position is not None for position in positions)
                assert len({json.dumps(position) for position in positions}) == N

        run(main())

    def test_times_are_numbers_or_nothing_and_arrival_is_wall_time(self, harness: Harness) -> None:
        async def main() -> None:
            async with harness.make().opened() as source:
                await harness.produce(0, 3, source)
                for sample in await take(source, 3):
                    assert sample.event_time_s is None or isinstance(sample.event_time_s, float)
                    assert sample.arrival_s is None or sample.arrival_s > 0
                    assert isinstance(sample.stream_key, str)
                    assert sample.stream_key

        run(main())

    @pytest.mark.parametrize("cut", [1, 7, N - 1])
    def test_opened_at_a_position_it_goes_on_after_it(self, harness: Harness, cut: int) -> None:
        async def main() -> None:
            first = harness.make()
            if first.delivery == "live":
                return
            position: Position = None
            async with first.opened() as source:
                await harness.produce(0, N, source)
                samples = await take(source, N)
                position = samples[cut - 1].position
                if not source.seeks:
                    await source.commit(position=position)
            async with harness.make().opened(position=json.loads(json.dumps(position))) as source:
                rest = await take_rest(harness, source, samples[:cut])
            assert rest == list(range(cut, N))

        run(main())

    def test_what_was_not_committed_comes_again_and_is_known_by_its_identity(self, harness: Harness) -> None:
        async def main() -> None:
            first = harness.make()
            if first.delivery == "live" or first.seeks:
                return
            async with first.opened() as source:
                await harness.produce(0, N, source)
                before = await take(source, N)
            async with harness.make().opened() as source:
                again = await take(source, N)
            assert [harness.number(sample) for sample in again] == list(range(N))
            assert [sample.identity for sample in again] == [sample.identity for sample in before]
            assert source.redelivers_at_most >= N

        run(main())

    def test_an_old_position_is_committed_without_harm(self, harness: Harness) -> None:
        async def main() -> None:
            source = harness.make()
            if source.delivery == "live":
                return
            async with source.opened():
                await harness.produce(0, N, source)
                samples = await take(source, N)
                await source.commit(position=samples[9].position)
            async with source.opened(position=samples[9].position):
                await source.commit(position=samples[4].position)
                await source.commit(position=samples[9].position)
                rest = await take_rest(harness, source, samples[:10])
            assert rest == list(range(10, N))

        run(main())

    def test_closing_twice_or_without_opening_does_nothing(self, harness: Harness) -> None:
        async def main() -> None:
            source = harness.make()
            await source.close()
            async with source.opened():
                await source.close()
            await source.close()

        run(main())

    def test_the_same_object_is_opened_again(self, harness: Harness) -> None:
        async def main() -> None:
            source = harness.make()
            async with source.opened():
                await harness.produce(0, 5, source)
                first = await take(source, 5)
                if source.delivery == "replayable" and not source.seeks:
                    await source.commit(position=first[-1].position)
            async with source.opened(position=first[-1].position):
                if not harness.ends:
                    await harness.produce(5, 5, source)
                    assert await take_rest(harness, source, first, last=9) == list(range(5, 10))

        run(main())

    def test_waiting_leaves_the_event_loop_free_and_can_be_cancelled(self, harness: Harness) -> None:
        async def main() -> None:
            if harness.ends:
                return
            async with harness.make().opened() as source:
                waiting = asyncio.create_task(take(source, 1))
                for _ in range(5):  # briefly: a live source may well call the other side silent after half a second
                    await asyncio.sleep(0.005)
                assert not waiting.done()
                waiting.cancel()
                with pytest.raises(asyncio.CancelledError):
                    await waiting

        run(main())

    def test_it_can_be_cancelled_at_any_moment(self, harness: Harness) -> None:
        """Even as an answer comes that is no sample: a lost cancellation would keep the command from ending."""

        async def main() -> None:
            if harness.ends:
                return
            async with harness.make().opened() as source:
                for turn in range(CANCELLATIONS):
                    waiting = asyncio.create_task(take(source, 1))
                    await asyncio.sleep(0.0005 * (turn % 8))
                    waiting.cancel()
                    await asyncio.wait((waiting,), timeout=CANCELLED_WITHIN_S)
                    assert waiting.done(), f"cancellation {turn} was lost"
                    with suppress(asyncio.CancelledError, ConnectorError):  # it may call the other side silent by now
                        await waiting

        run(main())

    def test_a_side_that_is_not_there_is_told_by_our_own_error(self, harness: Harness) -> None:
        async def main() -> None:
            source = harness.unavailable()
            if source is None:
                return
            with pytest.raises(ConnectorError) as told:
                async with source.opened():
                    await take(source, 1)
            assert str(told.value)

        run(main())
