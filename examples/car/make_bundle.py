"""A bundle for the 14 streams of car.yaml, with random weights: the log has no labels to train on.

python examples/car/make_bundle.py car-bundle
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

from grf_core.bundle import Bundle, save_bundle
from grf_core.config import GRFConfig, HeadConfig, ModalityConfig
from grf_core.model import GRF
from grf_core.normalisation import Normalisation

WIDTHS = {
    "radar": 7,
    "speed": 1,
    "steering_angle": 1,
    "wheel_speed": 4,
    "accelerometer": 3,
    "gyro": 3,
    "gyro_bias": 3,
    "gyro_uncalibrated": 3,
    "magnetometer": 3,
    "magnetometer_uncalibrated": 3,
    "live_gnss_qcom": 6,
    "live_gnss_ublox": 6,
    "raw_gnss_qcom": 10,
    "raw_gnss_ublox": 10,
}
CARD = "# car\n\nRandom weights, for examples/car: shows streams and shares, knows nothing.\n"


def make(path: Path) -> None:
    modalities = tuple(ModalityConfig(name, width, 64) for name, width in WIDTHS.items())
    config = GRFConfig(modalities, (HeadConfig("nothing", "regression", 1),), d_model=32, n_heads=4, d_ffn=64)
    torch.manual_seed(0)
    save_bundle(path, Bundle.of("car", GRF(config), Normalisation.identity(config), {}), CARD)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python examples/car/make_bundle.py FOLDER")
    make(Path(sys.argv[1]))
