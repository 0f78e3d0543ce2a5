"""With GRF_COMPILED=1 the path of a segment is compiled, here or into a wheel: docs/decisions/compiled.md.

Everything else about this package stands in pyproject.toml.
"""

import os
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent


def path_of_a_segment() -> list[Extension]:
    from mypyc.build import mypycify

    sys.path.insert(0, str(ROOT))
    from runtime.compiled import sources

    files = [path.relative_to(ROOT).as_posix() for path in sources()]
    return mypycify(
        ["--config-file", "scripts/mypyc.ini", *files],
        opt_level=os.environ.get("GRF_COMPILED_OPTIMISED", "2"),
        debug_level="0",
        group_name="runtime.native",  # the library that the modules share: found wherever the package is
    )


setup(ext_modules=path_of_a_segment() if os.environ.get("GRF_COMPILED") == "1" else [])
