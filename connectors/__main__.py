"""`python -m connectors FILE` is `grf connect FILE` where the rest of the runtime, Ray and torch, is not installed."""

import sys
from pathlib import Path

from connectors.config import load_config
from connectors.errors import ConnectorError
from connectors.process import find_beside, run_until_stopped

if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m connectors FILE")
    try:
        find_beside(Path(sys.argv[1]))
        sys.exit(run_until_stopped(load_config(Path(sys.argv[1]))))
    except (ConnectorError, OSError) as error:
        sys.exit(f"grf connect: {error}")
