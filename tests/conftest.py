"""What every test can count on: fixed seeds, an order, and real servers or an honest skip."""

import os
import signal
from collections.abc import Callable, Iterator

import hypothesis
import pytest

from tests.servers import find_program

# The same examples on every machine and in every run. `HYPOTHESIS_PROFILE=explore make test` looks for new ones.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("explore", max_examples=2_000, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Plain tests first, then those that start Ray, then the slow ones: what is quick to fail fails first. But a long
    one begins before all: at the end it would keep one processor busy, and the other idle."""

    def turn(item: pytest.Item) -> tuple[bool, bool, bool]:
        slow, cluster, long = (bool(item.get_closest_marker(name)) for name in ("slow", "cluster", "long"))
        return slow, cluster, not long

    items.sort(key=turn)


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests marked `anyio` are coroutines; they run on asyncio, which is what the clients are written for."""
    return "asyncio"


@pytest.fixture(scope="session")
def server_program() -> Callable[[str], str]:
    """Path of a real server's program, as in `server_program("prometheus")`.

    Without it the test is skipped on a laptop and fails in CI, where `make test` has installed it.
    """

    return find_program


@pytest.fixture
def hang_up_is_told() -> Iterator[None]:
    """SIGHUP does what it does by default, here and in processes started from here: tests may run below `nohup`."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)
