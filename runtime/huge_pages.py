"""Python's small objects in huge pages (`grf_core/kernels/arenas.cc`): docs/decisions/huge-pages.md."""

from __future__ import annotations

from ctypes import Structure, byref, c_void_p, cast, pythonapi

from grf_core.kernels.library import KernelsMissing
from grf_core.native import kernels_here


class ArenaAllocator(Structure):
    """`PyObjectArenaAllocator` of Python's C API."""

    _fields_ = (("context", c_void_p), ("allocate", c_void_p), ("free", c_void_p))


def use_huge_pages() -> bool:
    """Take memory for objects in huge pages from now on, as far as Linux gives any; False where there is no compiled
    code to do it."""
    try:
        library = kernels_here().library
        allocate, free = library.grf_arena, library.grf_arena_freed
    except (KernelsMissing, AttributeError):  # the latter on anything but Linux
        return False
    allocator = ArenaAllocator(None, cast(allocate, c_void_p), cast(free, c_void_p))
    pythonapi.PyObject_SetArenaAllocator(byref(allocator))  # copied
    return True
