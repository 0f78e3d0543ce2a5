"""`mosi`: sentiment of an utterance of CMU-MOSI from text, audio and vision, as in the paper: text first, L1 loss.

The files of features in use have different widths and lengths, aligned to words or not, so both come from the file.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from grf_core.config import GRFConfig, HeadConfig, ModalityConfig
from grf_core.data.mosi import HEAD, MODALITIES, MosiDataError, mosi_dataset, read_mosi
from grf_core.data.sessions import Cutting, Dataset, LabelledSession
from grf_core.training.recipe import Augmentation, Condition, Recipe, Schedule

WHOLE = Cutting(1000.0, 1000.0)
"""Longer than any utterance, whose steps of text are a second each."""
UNALIGNED_WIDTHS = {"text": 300, "audio": 5, "vision": 20}
UNALIGNED_FRAMES = {"text": 50, "audio": 375, "vision": 500}


def load_mosi(path: Path | None) -> Dataset:
    if path is None:
        raise MosiDataError("the features of CMU-MOSI come with no package: give their pickle as --data")
    return mosi_dataset(path)


def read_all_mosi(path: Path) -> list[LabelledSession]:
    parts = read_mosi(path)
    return [*parts.train, *parts.valid, *parts.test]


def fit_mosi(config: GRFConfig, dataset: Dataset) -> GRFConfig:
    """The config with the widths and the longest utterance of the file."""
    widths: dict[str, int] = {}
    longest: dict[str, int] = {}
    for session in (*dataset.train, *dataset.test):
        for stream in session.streams:
            widths[stream.modality] = stream.frames.shape[1]
            longest[stream.modality] = max(longest.get(stream.modality, 1), len(stream.frames))
    return replace(
        config, modalities=tuple(ModalityConfig(m.name, widths[m.name], longest[m.name]) for m in config.modalities)
    )


def is_valid_part(session: LabelledSession) -> bool:
    return session.session.startswith("valid/")


def _alone(modality: str) -> Condition:
    return Condition(f"{modality} alone", WHOLE, silent=tuple(other for other in MODALITIES if other != modality))


MOSI = Recipe(
    name="mosi",
    config=GRFConfig(
        modalities=tuple(ModalityConfig(name, UNALIGNED_WIDTHS[name], UNALIGNED_FRAMES[name]) for name in MODALITIES),
        heads=(HeadConfig(HEAD, "regression", 1),),
        d_model=64,
        n_layers=2,
        n_heads=4,
        d_ffn=256,
        dropout=0.2,
    ),
    regime="whole",
    schedule=Schedule(epochs=100, batch_sessions=32, learning_rate=1e-3, warmup_epochs=5, patience=20),
    cutting=WHOLE,
    augmentation=Augmentation(),
    load=load_mosi,
    read=read_all_mosi,
    validates=is_valid_part,
    fit_config=fit_mosi,
    conditions=(Condition("whole utterances", WHOLE), *map(_alone, MODALITIES)),
    limits="""2,199 utterances from 93 videos of reviews in English, by 89 speakers. Sentiment from -3 to 3 is the mean
of five annotators' opinions on what was said; nothing is known of what the speakers felt.""",
)
