"""What every test can count on: fixed seeds, an order, and real servers or an honest skip."""

import os
import shutil
from collections.abc import Callable

import hypothesis
import pytest

# The same examples on every machine and in every run. `HYPOTHESIS_PROFILE=explore make test` looks for new ones.
hypothesis.settings.register_profile("ci", derandomize=True, deadline=None, database=None)
hypothesis.settings.register_profile("explore", max_examples=2_000, deadline=None, print_blob=True)
hypothesis.settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Plain tests first, then those that start Ray, then the slow ones: what is quick to fail fails first."""
    items.sort(key=lambda item: (bool(item.get_closest_marker("slow")), bool(item.get_closest_marker("cluster"))))


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    """Tests marked `anyio` are coroutines; they run on asyncio, which is what the clients are written for."""
    return "asyncio"


@pytest.fixture(scope="session")
def server_program() -> Callable[[str], str]:
    """Path of a real server's program, as in `server_program("prometheus")`.

    Without it the test is skipped on a laptop and fails in CI, where `make test` has installed it.
    """

    def find(name: str) -> str:
        path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
        if path is None and os.environ.get("CI") == "true":
            pytest.fail(f"{name} is not installed: scripts/install-system.sh should have done it")
        if path is None:
            pytest.skip(f"{name} is not installed: `make system` does it")
        return path

    return find
