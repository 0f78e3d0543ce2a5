"""Sessions as the model meets them: cut into segments, some lost, in the order in which they are fused."""

from __future__ import annotations

import math
from collections.abc import Collection
from dataclasses import replace
from itertools import pairwise

import numpy as np

from grf_core.config import GRFConfig
from grf_core.data.sessions import (
    Cutting,
    Label,
    LabelledSession,
    Labels,
    LabelTrack,
    Segment,
    StreamFrames,
    cut_session,
    in_fusion_order,
)
from grf_core.normalisation import FARTHEST_STD, Normalisation, Statistics
from grf_core.step import Float32Array
from grf_core.training.recipe import CALM, Augmentation, Spoil


def normalised(session: LabelledSession, normalisation: Normalisation) -> LabelledSession:
    streams = (
        replace(stream, frames=_standardise(stream.frames, normalisation.modalities[stream.modality]))
        for stream in session.streams
    )
    return replace(session, streams=tuple(streams))


def play(
    session: LabelledSession,
    config: GRFConfig,
    cutting: Cutting,
    rng: np.random.Generator,
    augmentation: Augmentation = CALM,
) -> list[Segment]:
    """The session's segments in the order in which they are fused, at least one."""
    return play_labelled(session, config, cutting, rng, augmentation)[0]


def play_labelled(
    session: LabelledSession,
    config: GRFConfig,
    cutting: Cutting,
    rng: np.random.Generator,
    augmentation: Augmentation = CALM,
) -> tuple[list[Segment], Labels]:
    """As `play`, and the labels as they hold on the clock of these segments."""
    session = disturbed(session, augmentation, rng)
    max_frames = {modality.name: modality.max_frames for modality in config.modalities}
    segments = cut_session(session, cutting, max_frames, rng)
    kept = rng.random(len(segments)) >= augmentation.drop_segment
    kept[rng.integers(len(segments))] = True
    segments = [segment for segment, keep in zip(segments, kept, strict=True) if keep]
    ordered = in_fusion_order(segments, [modality.name for modality in config.modalities])
    lateness_s = augmentation.arrival_jitter_s * rng.standard_normal(len(ordered))
    arrival = np.argsort([s.event_time_s + late for s, late in zip(ordered, lateness_s, strict=True)], kind="stable")
    return [ordered[position] for position in arrival], session.labels


def heard_by(session: LabelledSession, config: GRFConfig) -> LabelledSession:
    """The session without the modalities that a model does not have; perhaps nothing is left."""
    known = {modality.name for modality in config.modalities}
    return replace(session, streams=tuple(stream for stream in session.streams if stream.modality in known))


def disturbed(session: LabelledSession, augmentation: Augmentation, rng: np.random.Generator) -> LabelledSession:
    """The session's streams as an augmentation leaves them, at least one; a label that changes keeps to their time."""
    kept = rng.random(len(session.streams)) >= augmentation.drop_stream
    kept[rng.integers(len(session.streams))] = True
    starts_s = min(stream.times_s[0] for stream in session.streams)
    ends_s = max(stream.times_s[-1] for stream in session.streams)
    from_s = starts_s + augmentation.crop * rng.random() * (ends_s - starts_s)
    factor = math.exp(augmentation.stretch * rng.standard_normal()) if augmentation.stretch else 1.0
    streams = (_from(stream, from_s) for stream, keep in zip(session.streams, kept, strict=True) if keep)
    streams = (_stretched(stream, starts_s, factor) for stream in streams)
    return replace(
        session,
        labels={head: _stretched_label(label, starts_s, factor) for head, label in session.labels.items()},
        streams=tuple(_disturbed(stream, augmentation, rng) for stream in streams),
    )


def spoiled(session: LabelledSession, spoil: Spoil, rng: np.random.Generator) -> LabelledSession:
    return replace(session, streams=tuple(spoil(stream, rng) for stream in session.streams))


def restricted(session: LabelledSession, silent: Collection[str], until_s: float) -> LabelledSession:
    """The session without some modalities, and its first seconds only; a stream keeps at least its first frame."""
    end_s = min(float(stream.times_s[0]) for stream in session.streams) + until_s
    streams = (_until(stream, end_s) for stream in session.streams if stream.modality not in silent)
    return replace(session, streams=tuple(streams))


def elapsed_s(segments: list[Segment]) -> list[float]:
    """Event seconds between each segment and the one fused before it; 0 where time runs backwards, and at first."""
    times = [segments[0].event_time_s, *(segment.event_time_s for segment in segments)]
    return [max(0.0, later - earlier) for earlier, later in pairwise(times)]


def _from(stream: StreamFrames, from_s: float) -> StreamFrames:
    """The stream from a time on, at least its last frame."""
    start = min(int(np.searchsorted(stream.times_s, from_s)), len(stream.times_s) - 1)
    return replace(stream, frames=stream.frames[start:], times_s=stream.times_s[start:])


def _until(stream: StreamFrames, end_s: float) -> StreamFrames:
    stop = max(int(np.searchsorted(stream.times_s, end_s)), 1)
    return replace(stream, frames=stream.frames[:stop], times_s=stream.times_s[:stop])


def _stretched(stream: StreamFrames, origin_s: float, factor: float) -> StreamFrames:
    """The same done slower, in `factor` times the time, by a sensor of the same rate: frames are interpolated."""
    if factor == 1.0:
        return stream
    times_s = origin_s + factor * (stream.times_s - origin_s)
    if len(stream.frames) < 2:
        return replace(stream, times_s=times_s)
    count = max(2, round(factor * len(times_s)))
    place = np.linspace(0.0, len(times_s) - 1.0, count)
    before = np.minimum(place.astype(np.int64), len(times_s) - 2)
    part = (place - before)[:, None].astype(np.float32)
    frames = stream.frames[before] * (1 - part) + stream.frames[before + 1] * part
    return replace(stream, frames=frames, times_s=np.interp(place, np.arange(len(times_s)), times_s))


def _stretched_label(label: Label | LabelTrack, origin_s: float, factor: float) -> Label | LabelTrack:
    if factor == 1.0 or not isinstance(label, LabelTrack):
        return label
    return replace(label, times_s=origin_s + factor * (label.times_s - origin_s))


def _disturbed(stream: StreamFrames, augmentation: Augmentation, rng: np.random.Generator) -> StreamFrames:
    if not (augmentation.noise or augmentation.shift or augmentation.scale or augmentation.mix):
        return stream
    width = stream.frames.shape[1]
    frames_TF = stream.frames * np.float32(1 + augmentation.scale * rng.standard_normal())
    if augmentation.mix:
        leak_FF = rng.standard_normal((width, width), np.float32)
        frames_TF += np.float32(augmentation.mix / math.sqrt(width)) * (stream.frames @ leak_FF)
    if augmentation.shift:
        frames_TF += np.float32(augmentation.shift) * rng.standard_normal(width, np.float32)
    if augmentation.noise:
        frames_TF += np.float32(augmentation.noise) * rng.standard_normal(frames_TF.shape, np.float32)
    return replace(stream, frames=frames_TF)


def _standardise(frames: Float32Array, statistics: Statistics) -> Float32Array:
    mean, std = np.asarray(statistics.mean, np.float32), np.asarray(statistics.std, np.float32)
    standardised: Float32Array = np.clip((frames - mean) / std, -FARTHEST_STD, FARTHEST_STD)
    return standardised
