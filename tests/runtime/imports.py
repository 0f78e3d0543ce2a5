"""What a process loads that imports a module."""

from __future__ import annotations

import subprocess
import sys


def loaded_by(module: str, call: str = "pass") -> list[str]:
    """Names of modules, loaded by a process that imports this one and then does `call`."""
    program = f"import sys, {module}; {call}; print('\\n'.join(sys.modules))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
