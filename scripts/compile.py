"""Compiles the path of a segment with mypyc, in place: `make compiled`. Needs a C compiler and Python's headers.

Beside `runtime/engine/order.py` then lies `order.cpython-….so`, which is imported in its stead; `make source` removes
all of them. What is compiled believes its annotations: a value of another type is a TypeError.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from mypyc.build import mypycify
from setuptools import setup

from runtime.compiled import compiled_modules

ROOT = Path(__file__).parents[1]
SOURCES = (
    *("runtime/keys.py", "runtime/records.py", "runtime/history.py"),
    *("runtime/wire_tensors.py", "runtime/wire_values.py", "runtime/multipart.py"),
    *("runtime/client/publisher_core.py", "runtime/client/send_queue.py", "runtime/client/stream_buffer.py"),
    *("runtime/engine/*.py", "runtime/dispatch/*.py"),
)
LEFT_OUT = {"__init__.py", "policies.py", "policy.py"}
"""what settings consist of: they read annotations, of which a compiled class keeps the plain ones, and are pickled"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--optimise", default="2", choices=("0", "1", "2", "3"), help="the C compiler's -O")
    level = parser.parse_args().optimise
    os.chdir(ROOT)
    found = sorted(path for pattern in SOURCES for path in ROOT.glob(pattern) if path.name not in LEFT_OUT)
    modules = mypycify(
        ["--config-file", "scripts/mypyc.ini", *(str(path.relative_to(ROOT)) for path in found)],
        opt_level=level,
        debug_level="0",
        group_name="runtime.native",  # the library that the modules share: found wherever the package is
    )
    setup(name="runtime", packages=[], ext_modules=modules, script_args=["--quiet", "build_ext", "--inplace"])
    for path in compiled_modules(ROOT / "runtime"):  # one that had not changed was copied as old as it was
        path.touch()


if __name__ == "__main__":
    main()
