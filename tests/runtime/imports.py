"""What a process loads that imports a module."""

from __future__ import annotations

import subprocess
import sys


def loaded_by(module: str) -> list[str]:
    program = f"import sys, {module}; print('\\n'.join(sys.modules))"
    return subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
