"""What is compiled of this package; everything else about it stands in pyproject.toml.

The step of a model, wherever there is a C++ compiler: docs/decisions/kernels.md. With GRF_COMPILED=1 the path of a
segment as well, here or into a wheel: docs/decisions/compiled.md.
"""

import os
import platform
import sys
from pathlib import Path

from setuptools import Extension, setup

ROOT = Path(__file__).parent
sys.path.insert(0, str(ROOT))


def step_of_a_model() -> list[Extension]:
    """Optional: without a compiler, or with another processor, torch computes the step."""
    from grf_core.kernels.library import (
        BUILT_FOR,
        FLAGS,
        FOLDER,
        INSTRUCTION_SETS,
        SOURCES,
        library_name,
        sources_digest,
    )

    folder = FOLDER.relative_to(ROOT)
    return [
        Extension(
            f"grf_core.kernels.{library_name(instruction_set)}",
            [str(folder / source) for source in SOURCES],
            depends=[str(path.relative_to(ROOT)) for path in FOLDER.glob("*.h")],
            define_macros=[("GRF_SOURCES", f'"{sources_digest()}"')],
            extra_compile_args=[*FLAGS, *INSTRUCTION_SETS[instruction_set]],
            language="c++",
            optional=True,
        )
        for instruction_set in BUILT_FOR.get(platform.machine(), ())
    ]


def path_of_a_segment() -> list[Extension]:
    from mypyc.build import mypycify

    from runtime.compiled import sources

    files = [path.relative_to(ROOT).as_posix() for path in sources()]
    return mypycify(
        ["--config-file", "scripts/mypyc.ini", *files],
        opt_level=os.environ.get("GRF_COMPILED_OPTIMISED", "2"),
        debug_level="0",
        group_name="runtime.native",  # the library that the modules share: found wherever the package is
    )


setup(ext_modules=[*step_of_a_model(), *(path_of_a_segment() if os.environ.get("GRF_COMPILED") == "1" else [])])
