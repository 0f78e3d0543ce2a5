"""Speech for tests, spoken by espeak-ng (Debian's package)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np

from connectors.base import Sample
from connectors.media import Sound
from connectors.media_file import MediaFileOptions

BLOCK = 1600
SILENCE: Sound = np.zeros(16_000, np.int16)


def spoken(espeak: str, text: str, folder: Path) -> Sound:
    """16 kHz."""
    path = folder / "spoken.wav"
    subprocess.run([espeak, "-v", "en-us", "-s", "130", "-w", str(path), text], check=True)
    samples = MediaFileOptions(path=str(path), pictures=False).build().samples(None)
    return np.concatenate([sample.value for sample in samples])


def blocks(*parts: Sound, start_s: float = 0.0) -> list[Sample]:
    sound = np.concatenate(parts)
    return [Sample("sound", sound[at : at + BLOCK], start_s + at / 16_000) for at in range(0, len(sound), BLOCK)]
