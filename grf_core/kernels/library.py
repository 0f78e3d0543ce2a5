"""The compiled step: what is built (`setup.py`), what of it this processor runs, and how it is called.

Built for each instruction set when the package is installed, where there is a C++ compiler. This module needs neither
torch nor numpy: `setup.py` reads it.
"""

from __future__ import annotations

import ctypes
import hashlib
from collections.abc import Callable
from ctypes import POINTER, c_double, c_float, c_int64, c_void_p, py_object
from dataclasses import dataclass
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from grf_core.step import RowStep

FOLDER = Path(__file__).parent
SOURCES = ("step.cc", "rows.cc", "arenas.cc")
FLAGS = ("-O3", "-std=c++17", "-fno-exceptions", "-fno-rtti", "-fno-math-errno", "-ffp-contract=off", "-w")
"""No warnings: GCC 12 has dozens for its own <immintrin.h>."""
INSTRUCTION_SETS = {
    "AVX512": ("-mavx512f", "-mavx512vl", "-mavx512dq", "-mavx512bw", "-mfma"),
    "AVX2": ("-mavx2", "-mfma"),
    "NEON": ("-DGRF_NEON",),  # which all 64-bit ARM processors have
}
"""With the compiler's flags for each."""
BUILT_FOR = {"x86_64": ("AVX512", "AVX2"), "aarch64": ("NEON",), "arm64": ("NEON",)}
"""By the machine's name, as Linux and macOS have it."""


class Affine(ctypes.Structure):
    _fields_ = (("weight", c_void_p), ("bias", c_void_p), ("depth", c_int64), ("width", c_int64))


class Norm(ctypes.Structure):
    _fields_ = (("weight", c_void_p), ("bias", c_void_p), ("width", c_int64), ("eps", c_float))


class SelfAttention(ctypes.Structure):
    _fields_ = (("shift", c_void_p), ("qkv", Affine), ("out", Affine), ("norm", Norm))


class FeedForward(ctypes.Structure):
    _fields_ = (("widen", Affine), ("narrow", Affine), ("norm", Norm))


class ContextLayer(ctypes.Structure):
    _fields_ = (
        *(("through", Affine), ("through_norm", Norm), ("attention", SelfAttention)),
        *(("seek", Affine), ("take", Affine), ("norm", Norm), ("feed", FeedForward)),
    )


class FrameLayer(ctypes.Structure):
    _fields_ = (
        *(("attention", SelfAttention), ("slots_query", Affine), ("slots_out", Affine)),
        *(("norm", Norm), ("feed", FeedForward)),
    )


class Entry(ctypes.Structure):
    _fields_ = (
        *(("mean", c_void_p), ("nearest", c_void_p), ("farthest", c_void_p), ("weight", Affine)),
        *(("table", c_void_p), ("width", c_int64), ("max_frames", c_int64)),
    )


class Head(ctypes.Structure):
    _fields_ = (("start", c_int64), ("stop", c_int64), ("classifies", c_int64))


class Model(ctypes.Structure):
    """`Model` of model.h."""

    _fields_ = (
        *(("d_model", c_int64), ("slots", c_int64), ("heads", c_int64), ("layers", c_int64)),
        *(("keeps_enriched", c_int64), ("n_entries", c_int64), ("n_outputs", c_int64)),
        *(("entries", POINTER(Entry)), ("start", c_void_p), ("ageing", c_void_p), ("spread", Affine)),
        *(("context_layers", POINTER(ContextLayer)), ("frame_layers", POINTER(FrameLayer))),
        *(("gate_enriched", Affine), ("gate_modality", Affine), ("gate_norm", Norm)),
        *(("head_hidden", Affine), ("head_values", Affine), ("outputs", POINTER(Head))),
    )


class Batch(ctypes.Structure):
    """`Batch` of model.h. `rows` are those that `Kernels.read_rows` fills in."""

    _fields_ = (
        *(("count", c_int64), ("rows", c_void_p)),
        *(("contexts", c_void_p), ("next_contexts", c_void_p), ("answers", c_void_p)),
        *(("n_contexts", c_int64), ("n_shares", c_int64), ("finite", c_void_p)),
    )


class Row(ctypes.Structure):
    """`Row` of model.h."""

    _fields_ = (
        *(("from", c_int64), ("to", c_int64), ("rank", c_int64), ("length", c_int64), ("n_values", c_int64)),
        *(("frames", c_void_p), ("elapsed_s", c_double)),
    )


@dataclass(frozen=True, slots=True)
class Kernels:
    """A loaded library."""

    instruction_set: str
    lanes: int
    """floats in a register, to whose multiples rows are padded"""
    panel: int
    """columns of a panel of packed weights"""
    library: ctypes.CDLL
    read_rows: Callable[[list[RowStep], int], None]
    """Fill in the Rows at this address, one for each step. ValueError for frames that are not float32 in one piece."""


class KernelsMissing(Exception):
    """There is no library that can be used, and why."""


def sources_digest(folder: Path = FOLDER) -> str:
    """Of all that is compiled. A library holds that of the sources it was made of."""
    digest = hashlib.blake2b(digest_size=8)
    for path in sorted([*folder.glob("*.h"), *folder.glob("*.cc")]):
        digest.update(path.name.encode() + path.read_bytes())
    return digest.hexdigest()


def library_name(instruction_set: str) -> str:
    return f"step_{instruction_set.lower()}"


def load(instruction_set: str, folder: Path = FOLDER) -> Kernels:
    """The library for processors that have this. KernelsMissing says why there is none."""
    if instruction_set not in INSTRUCTION_SETS:
        raise KernelsMissing(f"there are none for a processor with {instruction_set}")
    path = folder / (library_name(instruction_set) + EXTENSION_SUFFIXES[0])
    if not path.exists():
        raise KernelsMissing("they were not built: a C++ compiler was not there when the package was installed")
    library = ctypes.CDLL(str(path))
    library.grf_sources.restype = ctypes.c_char_p
    if library.grf_sources().decode() != sources_digest(folder):
        raise KernelsMissing("they were built from other sources: `make setup` builds them again")
    for function in (library.grf_lanes, library.grf_panel, library.grf_scratch_floats, library.grf_step):
        function.restype = c_int64
    library.grf_scratch_floats.argtypes = (POINTER(Model),)
    library.grf_step.argtypes = (POINTER(Model), POINTER(Batch), c_void_p)
    read_rows = ctypes.PyDLL(str(path)).grf_rows
    read_rows.restype, read_rows.argtypes = None, (py_object, c_void_p)
    return Kernels(instruction_set, library.grf_lanes(), library.grf_panel(), library, read_rows)
