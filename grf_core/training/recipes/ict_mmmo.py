"""`ict-mmmo`: whether a film review is positive, from words, voice and face; the paper's own setting, whole samples.

Most of the training reviews have no text, and all of the test reviews do: modalities are missing from the start.
"""

from __future__ import annotations

from grf_core.config import GRFConfig, HeadConfig, ModalityConfig
from grf_core.data.ict_mmmo import (
    CLASS_HEAD,
    CLASSES,
    MAX_FRAMES,
    MODALITIES,
    REGRESSION_HEAD,
    ict_mmmo_dataset,
    read_ict_mmmo,
)
from grf_core.data.sessions import Cutting
from grf_core.training.recipe import Augmentation, Condition, Objective, Recipe, Schedule

WHOLE = Cutting(100.0, 100.0)
"""Longer than any review, whose steps are a second each."""


def _alone(modality: str) -> Condition:
    return Condition(f"{modality} alone", WHOLE, silent=tuple(other for other in MODALITIES if other != modality))


ICT_MMMO = Recipe(
    name="ict-mmmo",
    config=GRFConfig(
        modalities=tuple(ModalityConfig(name, width, MAX_FRAMES[name]) for name, width in MODALITIES.items()),
        heads=(
            HeadConfig(CLASS_HEAD, "classification", len(CLASSES), CLASSES),
            HeadConfig(REGRESSION_HEAD, "regression", 1),
        ),
        d_model=64,
        n_layers=1,
        n_heads=4,
        d_ffn=128,
        dropout=0.3,
    ),
    regime="whole",
    schedule=Schedule(epochs=60, batch_sessions=16, learning_rate=5e-4, patience=20, weight_decay=5e-2),
    objective=Objective(class_weights={CLASS_HEAD: "balanced"}, head_weights={REGRESSION_HEAD: 0.5}),
    cutting=WHOLE,
    augmentation=Augmentation(drop_stream=0.1, noise=0.1),
    load=ict_mmmo_dataset,
    read=read_ict_mmmo,
    conditions=(Condition("whole reviews", WHOLE), *map(_alone, MODALITIES)),
    limits="""340 reviews of films in English, most of them by enthusiasts, cut or filled to 20 steps of unknown length.
Only 40 of the training reviews have text, and 80 test reviews are few: one review more or less is 1.25 %. Ratings from
1 to 5 were given by annotators to what was said; nothing is known of what the speakers felt.""",
)
