"""May this segment enter? Pure checks; each answers with the reason, or with nothing."""

from __future__ import annotations

from math import isfinite

import numpy as np

from grf_core.step import ModalitySignature
from runtime.engine.order import Timeline
from runtime.engine.policies import OrderPolicy
from runtime.messages import Float32Array

MAX_SEQUENCES_AHEAD = 65536
"""how far a sequence number may be ahead of the first one missing: bounds the memory for numbers seen"""
MAX_REFUSALS_KEPT = 4096
"""of one stream, until its publisher lets go of their numbers"""


def frames_fault(frames: Float32Array, modality: ModalitySignature) -> str:
    """Why these frames [T, F] are no segment of the modality; "" if they are."""
    if not 0 < len(frames) <= modality.max_frames:
        return f"segment has {len(frames)} frames, {modality.name} takes 1 to {modality.max_frames}"
    if frames.shape[1] != modality.width:
        return f"frames have width {frames.shape[1]}, {modality.name} has {modality.width}"
    # Their squares sum up to a finite number only if all are finite: a third of the time. Large ones may overflow.
    if not isfinite(np.vdot(frames, frames)) and not np.isfinite(frames).all():
        return "frames have NaN or infinite values"
    return ""


def time_fault(event_time_s: float, timeline: Timeline, policy: OrderPolicy, idle_s: float, wall_s: float) -> str:
    """Why this event time cannot be believed; "" if it can."""
    ahead_s = event_time_s - wall_s
    if ahead_s > policy.max_future_s:
        most = f"order.max_future_s, {policy.max_future_s:g}"
        return f"event time is {ahead_s:.3f} s ahead of this worker's clock, more than {most}"
    if timeline.is_jump(event_time_s, idle_s):
        jump_s = event_time_s - timeline.newest_s
        most = f"order.max_jump_s, {policy.max_jump_s:g}"
        return f"event time is {jump_s:.3f} s ahead of its session's newest, more than {most}"
    return ""
