from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import pytest

from connectors.base import Sample
from connectors.encoders.hosted import HostedEncoder, HostedFactory
from connectors.encoders.processes import Processes
from connectors.errors import BadSample, MissingExtra, SourceBroken, SourceUnavailable
from tests.connectors.encoders.workshops import Broken, Counting, Dying, Missing, Together

WITHIN_S = 30.0


def run(main: Coroutine[Any, Any, None]) -> None:
    async def within_limit() -> None:
        async with asyncio.timeout(WITHIN_S):
            await main

    asyncio.run(within_limit())


async def told(encoder: HostedEncoder, *values: object) -> list[float]:
    return numbers(await encoder.encode(samples=[Sample("s", value, 0.0) for value in values]))


def numbers(answers: Sequence[object]) -> list[float]:
    """What these workshops give in place of frames."""
    found = [answer for answer in answers if isinstance(answer, float | int)]
    assert len(found) == len(answers)
    return found


async def until_busy(processes: Processes) -> None:
    """Until one of them has been given what waited for it."""
    while not any(one.busy and not one.busy.done() and not one.waiting for one in processes._processes):
        await asyncio.sleep(0)


def test_streams_have_memories_of_their_own_and_end_one_by_one() -> None:
    async def main() -> None:
        async with HostedFactory(Counting, processes=1) as factory:
            a, b = factory.encoder(stream="a"), factory.encoder(stream="b")
            assert await told(a, 1, 2) == [3]
            assert await told(b, 10) == [10]
            assert await told(a, 4) == [7]
            assert numbers(await a.end()) == [-7]
            assert await told(b, 1) == [11]
            assert await told(a, 5) == [5]  # its end was the end of it

    run(main())


def test_an_encoder_made_anew_for_a_stream_begins_at_its_beginning_or_its_snapshot() -> None:
    async def main() -> None:
        async with HostedFactory(Counting, processes=1) as factory:
            first = factory.encoder(stream="a")
            await told(first, 1, 2)
            assert await told(factory.encoder(stream="a"), 4) == [4]
            restored = factory.encoder(stream="a")
            restored.restore(state=first.snapshot())
            assert await told(restored, 4) == [7]

    run(main())


def test_bad_samples_and_defects_are_told_to_their_stream_alone() -> None:
    async def main() -> None:
        async with HostedFactory(Counting, processes=1) as factory:
            good, bad, defect = (factory.encoder(stream=name) for name in ("good", "bad", "defect"))
            answers = await asyncio.gather(
                told(good, 1), told(bad, "bad"), told(defect, "defect"), return_exceptions=True
            )
            assert answers[0] == [1]
            assert isinstance(answers[1], BadSample)
            assert answers[1].reason == "shape"
            assert isinstance(answers[2], SourceBroken)
            assert "one by nothing" in str(answers[2])
            assert await told(good, 2) == [3]

    run(main())


def test_what_comes_while_the_process_is_busy_goes_over_together() -> None:
    async def main() -> None:
        async with HostedFactory(Together, processes=1) as factory:
            encoders = [factory.encoder(stream=str(number)) for number in range(5)]
            first = asyncio.create_task(told(encoders[0], "slow"))
            await until_busy(factory._processes)
            others = await asyncio.gather(*(told(encoder, 1) for encoder in encoders[1:]))
            assert await first == [0, 1]
            assert others == [[1, 4]] * 4

    run(main())


def test_the_event_loop_goes_on_while_a_process_works() -> None:
    async def main() -> None:
        async with HostedFactory(Counting, processes=1) as factory:
            work = asyncio.create_task(told(factory.encoder(stream="a"), "slow", "slow"))
            longest_s, before_s = 0.0, time.monotonic()
            while not work.done():
                await asyncio.sleep(0.001)
                longest_s, before_s = max(longest_s, time.monotonic() - before_s), time.monotonic()
            assert longest_s < 0.2

    run(main())


def test_a_process_that_is_killed_is_started_again_and_every_stream_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        processes = Processes(Counting, count=1)
        await processes.open()
        a, b = HostedEncoder(processes, "a"), HostedEncoder(processes, "b")
        await told(a, 1)
        await told(b, 10)
        for _ in range(3):
            (pid,) = processes.process_ids
            os.kill(pid, signal.SIGKILL)
            total = (await told(a, 1))[0]
        assert total == 4
        assert await told(b, 1) == [11]
        await processes.close()

    run(main())
    assert caplog.messages == ["the process of an encoder (Counting) died; it is started again"] * 3


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_what_the_terminal_tells_all_processes_is_for_the_parent(
    number: signal.Signals, caplog: pytest.LogCaptureFixture
) -> None:
    async def main() -> None:
        async with HostedFactory(Counting, processes=1) as factory:
            encoder = factory.encoder(stream="a")
            assert await told(encoder, 1) == [1]
            for pid in factory._processes.process_ids:
                os.kill(pid, number)
            assert await told(encoder, 2) == [3]

    run(main())
    assert caplog.messages == []


def test_a_sample_that_kills_the_process_is_bad_and_the_streams_beside_it_lose_nothing() -> None:
    async def main() -> None:
        async with HostedFactory(Counting, processes=1) as factory:
            encoders = [factory.encoder(stream=str(number)) for number in range(4)]
            await asyncio.gather(*(told(encoder, 1) for encoder in encoders))
            slow = asyncio.create_task(told(encoders[0], "slow"))
            await until_busy(factory._processes)
            answers = await asyncio.gather(
                told(encoders[1], 2), told(encoders[2], 2, "die"), told(encoders[3], 2), return_exceptions=True
            )
            assert await slow == [1]
            assert answers[0] == answers[2] == [3]
            assert isinstance(answers[1], BadSample)
            assert await told(encoders[2], 2) == [3]  # without it

    run(main())


@pytest.mark.parametrize(
    ("make", "error", "text"),
    [
        (Missing, MissingExtra, r"grf-runtime\[media\]"),
        (Broken, SourceBroken, "no such weights"),
        (Dying, SourceBroken, "does not start"),
    ],
)
def test_a_model_that_cannot_be_loaded_is_told_by_open(make: Callable[[], Any], error: type, text: str) -> None:
    async def main() -> None:
        factory = HostedFactory(make, processes=1)
        with pytest.raises(error, match=text):
            await factory.open()
        await factory.close()

    run(main())


def test_closing_leaves_no_process_behind_and_may_be_done_twice() -> None:
    async def main() -> None:
        processes = Processes(Counting, count=2)
        await processes.open()
        pids = processes.process_ids
        assert len(pids) == 2
        waiting = asyncio.create_task(HostedEncoder(processes, "a").encode(samples=[Sample("s", "slow", 0.0)]))
        await until_busy(processes)
        await processes.close()
        await processes.close()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        for pid in pids:
            with pytest.raises(ProcessLookupError):
                os.kill(pid, 0)
        with pytest.raises(SourceUnavailable, match="not open"):
            await HostedEncoder(processes, "a").encode(samples=[])

    run(main())


def test_processes_leave_with_a_parent_that_is_killed(tmp_path: Any) -> None:
    import subprocess
    import sys

    script = tmp_path / "parent.py"
    script.write_text(
        "import asyncio, sys, time\n"
        "from connectors.encoders.processes import Processes\n"
        "from tests.connectors.encoders.workshops import Counting\n"
        "async def main():\n"
        "    processes = Processes(Counting, count=1)\n"
        "    await processes.open()\n"
        "    print(processes.process_ids[0], flush=True)\n"
        "    time.sleep(60)\n"
        "if __name__ == '__main__':\n"
        "    asyncio.run(main())\n"
    )
    parent = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,  # Python's own tracker of semaphores complains of those that were never released
        text=True,
        env=os.environ | {"PYTHONPATH": os.getcwd()},
    )
    assert parent.stdout is not None
    pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    ends_s = time.monotonic() + 10
    while _is_alive(pid):
        assert time.monotonic() < ends_s, "the encoder's process outlives its parent"
        time.sleep(0.02)
    parent.stdout.close()


def _is_alive(pid: int) -> bool:
    try:
        with open(f"/proc/{pid}/stat") as stat:
            return stat.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False
