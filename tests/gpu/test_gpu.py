"""What runs on a GPU, where there is one: the folded step, and the engine over a slab in the device's memory.

The truth is the readable model on the CPU, one segment after another.
"""

from __future__ import annotations

import gc
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from grf_core.folded import FoldedStepModel
from grf_core.graphed import GraphedStepModel
from runtime.engine.checkpoint import committed, restore, take_records
from runtime.engine.engine import Engine
from runtime.engine.order import FusionKey
from runtime.engine.policies import EnginePolicy, OrderPolicy
from runtime.engine.session import Session
from runtime.keys import SessionKey
from runtime.messages import SegmentEntry
from tests.grf_core.models import CHANGES, MODALITIES, random_frames
from tests.grf_core.test_folded import (
    assert_near,
    model_and_batch_of_lengths,
    promised,
    random_batch,
    random_model,
    readable_form,
)
from tests.grf_core.test_inference import NORMALISATION
from tests.runtime.engine.offline import Fused, OfflineModel, assert_close

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="torch sees no GPU")

GPU = torch.device("cuda")
STREAMS = {f"{modality.name}-{number}": modality.name for modality in MODALITIES for number in range(2)}
STEP_S = 0.1


FORMS: dict[str, type[FoldedStepModel | GraphedStepModel]] = {"launched": FoldedStepModel, "recorded": GraphedStepModel}


def on_gpu(form: str, seed: int, **changes: Any) -> FoldedStepModel | GraphedStepModel:
    return FORMS[form](random_model(seed, **changes), NORMALISATION, "small", "d1", GPU)


@settings(max_examples=60, deadline=None)
@given(
    form=st.sampled_from(sorted(FORMS)),
    seed=st.integers(0, 10**6),
    rows=st.sampled_from([1, 2, 9, 40, 150]),
    changes=CHANGES,
    fresh=st.sampled_from([0.0, 0.3, 1.0]),
    one_length=st.booleans(),
)
def test_a_step_is_the_readable_model_s_to_rounding(
    form: str, seed: int, rows: int, changes: dict[str, Any], fresh: float, one_length: bool
) -> None:
    batch = random_batch(random_model(seed, **changes), rows, seed, fresh, one_length)
    result = on_gpu(form, seed, **changes).step(replace(batch, contexts=batch.contexts.to(GPU)))
    assert result.contexts.device.type == "cuda"
    on_host = replace(result, contexts=result.contexts.cpu())
    expected = readable_form(random_model(seed, **changes)).step(batch)
    assert_near(on_host, expected, promised(expected))


@pytest.mark.parametrize("form", FORMS)
def test_long_segments_are_the_readable_model_s_to_rounding(form: str) -> None:
    model, batch = model_and_batch_of_lengths((600, 513, 257, 256, 255, 65, 64, 33, 17, 16, 15, 7, 2, 1))
    result = FORMS[form](model, NORMALISATION, "small", "d1", GPU).step(replace(batch, contexts=batch.contexts.to(GPU)))
    assert_near(replace(result, contexts=result.contexts.cpu()), readable_form(model).step(batch))


def test_a_model_that_is_garbage_by_then_does_not_spoil_the_recording_of_another() -> None:
    thresholds = gc.get_threshold()
    for seed in range(3):
        garbage: list[Any] = [on_gpu("recorded", seed)]
        garbage.append(garbage)  # a cycle: only the collector finds it
        del garbage
        gc.set_threshold(1)
        try:
            model, batch = model_and_batch_of_lengths((9, 5, 1))
            recorded = GraphedStepModel(model, NORMALISATION, "small", "d1", GPU)
        finally:
            gc.set_threshold(*thresholds)
        result = recorded.step(replace(batch, contexts=batch.contexts.to(GPU)))
        assert_near(replace(result, contexts=result.contexts.cpu()), readable_form(model).step(batch))


class Streams:
    """Sessions of six streams each over an engine, their segments in fusion order, and the clock."""

    def __init__(self, engine: Engine, seed: int, sessions: int) -> None:
        self.engine, self.rng, self.now_s = engine, np.random.default_rng(seed), 1000.0
        self.keys = [SessionKey("default", f"s{number}") for number in range(sessions)]
        self.fused: dict[SessionKey, list[Fused]] = {key: [] for key in self.keys}
        self.sent: dict[tuple[SessionKey, str], int] = {}

    def open(self, engine: Engine) -> None:
        self.engine = engine
        for key in self.keys:
            session = engine.sessions.get(key) or engine.create(key, self.now_s)
            assert isinstance(session, Session)
            for stream, modality in STREAMS.items():
                engine.open_stream(session, stream, modality, self.sent.get((key, stream), 0) + 1, "p", 1, self.now_s)

    def send(self, rounds: int) -> None:
        """Each stream in turn, up to 0.4 s of event time behind the newest: many land behind what is fused."""
        for _ in range(rounds):
            self.now_s += STEP_S
            for key in self.keys:
                session = self.engine.sessions[key]
                for stream, modality in STREAMS.items():
                    self._send_one(session, stream, modality)
            self.engine.step(self.now_s)

    def _send_one(self, session: Session, stream: str, modality: str) -> None:
        rank = self.engine.signature.rank(modality)
        sequence = self.sent[session.key, stream] = self.sent.get((session.key, stream), 0) + 1
        event_time_s = self.now_s - float(self.rng.integers(5)) * STEP_S * (sequence % 2)
        frames = random_frames(rank, self.rng)
        [verdict] = self.engine.take(
            session, stream, [SegmentEntry(sequence, event_time_s, frames)], self.now_s, self.now_s
        )
        if verdict.code == "accepted":
            self.fused[session.key].append(Fused(FusionKey(event_time_s, rank, stream, sequence), frames))

    def drain(self) -> None:
        while self.engine.has_work:
            self.engine.step(self.now_s)

    def settle(self) -> None:
        self.now_s += 3600
        for _ in self.keys:
            self.engine.tick(self.now_s)
            self.drain()


def assert_is_the_offline_state(streams: Streams, truth: OfflineModel, key: SessionKey) -> None:
    session, slab = streams.engine.sessions[key], streams.engine.slab
    expected = truth.after(sorted(streams.fused[key], key=lambda fused: fused.key))
    assert session.live_version == session.settled_version == expected.version
    assert session.lineage == expected.lineage
    assert_close(slab.contexts[session.settled_slot].cpu(), expected.context_KD, "context")
    assert_close(slab.outputs[session.settled_slot][:3], expected.outputs[:3], "probabilities")
    assert_close(slab.shares[session.settled_slot], expected.shares, "shares")


@pytest.mark.parametrize("form", FORMS)
def test_an_engine_ends_where_one_segment_after_another_does_and_so_does_one_restored_from_its_records(
    form: str,
) -> None:
    policy = EnginePolicy(order=OrderPolicy(lateness_s=1.0), capacity=4096)
    streams = Streams(Engine(on_gpu(form, 3), policy), seed=3, sessions=20)
    streams.open(streams.engine)
    streams.send(rounds=12)
    assert streams.engine.tally.rewinds
    streams.drain()
    streams.settle()
    records = take_records(streams.engine, "first", limit=100)
    committed(streams.engine, records)
    second = Engine(on_gpu(form, 3), policy)
    for record in records:
        session = second.create(record.key, streams.now_s)
        assert isinstance(session, Session)
        restore(second, session, record, "second", streams.now_s)
    streams.open(second)
    streams.send(rounds=6)
    streams.drain()
    streams.settle()
    for key in streams.keys:
        assert_is_the_offline_state(streams, OfflineModel(readable_form(random_model(3))), key)
    second.slab.check_integrity()
