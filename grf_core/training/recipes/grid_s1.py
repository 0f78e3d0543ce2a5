"""`grid-s1`: what a talker says, from lips and sound: digit, colour, command and letter of a sentence of six words."""

from __future__ import annotations

from grf_core.config import GRFConfig, HeadConfig, ModalityConfig
from grf_core.data.grid_s1 import HEADS, MAX_FRAMES, MODALITIES, grid_s1_dataset, read_grid_s1
from grf_core.data.sessions import Cutting
from grf_core.training.recipe import Augmentation, Condition, Recipe, Schedule

HALF_SECOND = Cutting(0.5, 0.5)

GRID_S1 = Recipe(
    name="grid-s1",
    config=GRFConfig(
        modalities=tuple(ModalityConfig(name, width, MAX_FRAMES[name]) for name, width in MODALITIES.items()),
        heads=tuple(
            HeadConfig(name, "classification", len(words), tuple(words.values())) for name, words in HEADS.items()
        ),
        d_model=64,
        n_layers=1,
        n_heads=4,
        d_ffn=128,
        dropout=0.2,
        carry="context",
        gate_bias=-1.0,
        auxiliary_heads=False,
    ),
    schedule=Schedule(epochs=100, batch_sessions=16, learning_rate=1e-3, patience=25),
    cutting=Cutting(0.3, 1.0, vary=0.3),
    augmentation=Augmentation(drop_stream=0.2, drop_segment=0.02, noise=0.2, scale=0.1),
    load=grid_s1_dataset,
    read=read_grid_s1,
    conditions=(
        Condition("segments of 0.5 s", HALF_SECOND),
        Condition("whole seconds", Cutting(1.0, 1.0)),
        Condition("lips alone", HALF_SECOND, silent=("audio",)),
        Condition("audio alone", HALF_SECOND, silent=("lips",)),
        Condition("with noise of one deviation", HALF_SECOND, Augmentation(noise=1.0)),
    ),
    limits="""One talker, one studio, sentences of six words in a fixed order, each place with a few words to choose
from. The model knows where in a sentence a word stands and nothing of speech otherwise; another voice or another camera
is another world. Training and test sentences are of the same talker on the same days.""",
)
