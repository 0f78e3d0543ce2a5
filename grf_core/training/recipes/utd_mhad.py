"""`utd-mhad`: which of 27 actions somebody does, from a motion sensor and the skeleton a depth camera sees.

Validation is on a subject that has not trained the weights, as the test is.
"""

from __future__ import annotations

from grf_core.config import GRFConfig, HeadConfig, ModalityConfig
from grf_core.data.sessions import Cutting, LabelledSession
from grf_core.data.utd_mhad import ACTIONS, HEAD, MAX_FRAMES, MODALITIES, read_utd_mhad, utd_mhad_dataset
from grf_core.training.recipe import Augmentation, Condition, Recipe, Schedule

HEARD = ("inertial", "skeleton")
"""Depth, 320 wide, is in the data too."""
HALF_SECOND = Cutting(0.5, 0.5)


def subject_of(session: LabelledSession) -> str:
    """Sessions are named like a01-s1-t2."""
    return session.session.split("-")[1]


UTD_MHAD = Recipe(
    name="utd-mhad",
    config=GRFConfig(
        modalities=tuple(ModalityConfig(name, MODALITIES[name], MAX_FRAMES[name]) for name in HEARD),
        heads=(HeadConfig(HEAD, "classification", len(ACTIONS), ACTIONS),),
        d_model=64,
        n_layers=1,
        n_heads=4,
        d_ffn=128,
        dropout=0.2,
        carry="context",
        gate_bias=-1.0,
        auxiliary_heads=False,
    ),
    schedule=Schedule(epochs=120, batch_sessions=16, learning_rate=2e-3, patience=30, validation_share=0.25),
    cutting=Cutting(0.3, 1.5, vary=0.5),
    augmentation=Augmentation(
        arrival_jitter_s=0.2, drop_stream=0.1, drop_segment=0.1, crop=0.2, noise=0.1, scale=0.1, mix=0.1
    ),
    load=utd_mhad_dataset,
    read=read_utd_mhad,
    group_of=subject_of,
    conditions=(
        Condition("segments of 0.5 s", HALF_SECOND),
        Condition("order disturbed by 0.5 s", HALF_SECOND, Augmentation(arrival_jitter_s=0.5), repeats=3),
        Condition("half of the segments lost", HALF_SECOND, Augmentation(drop_segment=0.5), repeats=3),
        Condition("inertial alone", HALF_SECOND, silent=("skeleton",)),
        Condition("skeleton alone", HALF_SECOND, silent=("inertial",)),
        Condition("first 1.5 s", HALF_SECOND, until_s=1.5),
    ),
    limits="""Eight young subjects in one room before one camera, who were told which of 27 actions to do, once, from
beginning to end. There is no class for "something else". The sensor was worn on the wrist for the actions of the arm
and on the thigh for those of the leg, so where it is worn gives a part of the answer away.""",
)
