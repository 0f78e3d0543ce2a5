"""Python's small objects in huge pages: nothing overlaps, nothing is kept, and Linux gives them."""

from __future__ import annotations

import ctypes
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.grf_core.kernels import kernels

ARENA_BYTES, PAGE_BYTES = 1 << 20, 2 << 20
HUGE_PAGES = Path("/sys/kernel/mm/transparent_hugepage")

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="Linux only")


def mapped(address: int) -> bool:
    """Is there memory at this address of this process?"""
    spans = (line.split()[0].split("-") for line in Path("/proc/self/maps").read_text().splitlines())
    return any(int(start, 16) <= address < int(stop, 16) for start, stop in spans)


@settings(max_examples=60)
@given(st.lists(st.integers(0, 30), max_size=80))
def test_arenas_keep_what_is_written_whatever_the_order_and_go_back_to_the_system(orders: list[int]) -> None:
    """An order lets go of one of the arenas there are, if it has that number, or asks for another."""
    library = kernels().library
    allocate, free = library.grf_arena, library.grf_arena_freed
    allocate.restype, allocate.argtypes = ctypes.c_void_p, (ctypes.c_void_p, ctypes.c_size_t)
    free.restype, free.argtypes = None, (ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
    held: dict[int, bytes] = {}

    def let_go(arena: int) -> None:
        for end in (arena, arena + ARENA_BYTES - 8):
            assert ctypes.string_at(end, 8) == held[arena]
        free(None, arena, ARENA_BYTES)
        del held[arena]

    seen = set()
    for number, order in enumerate(orders):
        if order < len(held):
            let_go(list(held)[order])
            continue
        arenas_of = Counter(one // PAGE_BYTES for one in held)
        arena = allocate(None, ARENA_BYTES)
        assert arena not in held
        assert arena % ARENA_BYTES == 0
        if 1 in arenas_of.values():
            assert arenas_of[arena // PAGE_BYTES] == 1, "what is left of a page is taken before another page is"
        held[arena] = number.to_bytes(8)
        for end in (arena, arena + ARENA_BYTES - 8):
            ctypes.memmove(end, held[arena], 8)
        seen.add(arena)
    for arena in list(held):
        let_go(arena)
    assert not any(mapped(arena) for arena in seen)


PROGRAM = """
import re
from pathlib import Path
from runtime.huge_pages import use_huge_pages

def kilobytes():
    areas = re.findall(r"Rss: +(\\d+) kB.*?VmFlags: ([^\\n]*)", Path("/proc/self/smaps").read_text(), re.DOTALL)
    print(sum(int(kb) for kb, flags in areas if "hg" in flags.split()), sum(int(kb) for kb, _ in areas))

before = [object() for _ in range(500_000)]  # in arenas of Python's own
assert use_huge_pages()
kilobytes()
values = [(number,) for number in range(1_000_000)]
kilobytes()
assert sum(number for (number,) in values) == 499_999_500_000
del values, before
kilobytes()
"""


def test_objects_lie_where_huge_pages_are_asked_for_and_their_memory_goes_back_to_the_system() -> None:
    kernels()
    if not HUGE_PAGES.exists():
        pytest.skip("this kernel has no huge pages to give")
    run = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=False)
    assert not run.returncode, run.stderr
    (huge_kb, all_kb), with_values, after = (list(map(int, line.split())) for line in run.stdout.splitlines())
    grown_kb = with_values[1] - all_kb
    assert grown_kb > 70_000
    assert with_values[0] - huge_kb > 0.8 * grown_kb, "but for the list itself, which is larger than an arena"
    assert after[1] - all_kb < 0.2 * grown_kb
