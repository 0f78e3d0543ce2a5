from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from grf_core.bundle import Bundle
from grf_core.config import ModalityConfig
from grf_core.data.sessions import Cutting, LabelledSession, StreamFrames
from grf_core.model import GRF
from grf_core.normalisation import Normalisation
from grf_core.training.evaluation import evaluate
from grf_core.training.objective import Criterion
from grf_core.training.recipe import Condition, Objective
from grf_core.training.run import TrainingRun
from grf_core.training.whole_sample import evaluate_whole, pad_sessions
from tests.grf_core.models import small_config
from tests.grf_core.training.tiny import TINY, WHOLE, tiny_dataset

CONFIG = small_config()
SESSIONS = tiny_dataset().train


def stream(modality: str, frames: int, start_s: float = 0.0, name: str = "a", value: float = 0.0) -> StreamFrames:
    width = {"text": 5, "audio": 3, "imu": 1}[modality]
    times_s = start_s + np.arange(float(frames))
    values = (value + np.arange(frames, dtype=np.float32))[:, None].repeat(width, axis=1)
    return StreamFrames(name, modality, values, times_s)


def session(*streams: StreamFrames) -> LabelledSession:
    return LabelledSession("s", {"mood": "low", "effort": 1.0}, streams)


def test_sessions_are_padded_with_zeros_and_an_absent_modality_has_length_0() -> None:
    batch = pad_sessions([session(stream("text", 2), stream("imu", 3)), session(stream("text", 4))], CONFIG, "window")
    assert {name: length_B.tolist() for name, length_B in batch.lengths.items()} == {
        "text": [2, 4],
        "audio": [0, 0],
        "imu": [3, 0],
    }
    assert batch.inputs["text"][:, :, 0].tolist() == [[0, 1, 0, 0], [0, 1, 2, 3]]
    assert batch.inputs["audio"].shape == (2, 1, 3)


def test_streams_of_one_modality_become_one_by_time() -> None:
    both = session(stream("imu", 2, 0.0, "a"), stream("imu", 2, 0.5, "b", value=10))
    assert pad_sessions([both], CONFIG, "window").inputs["imu"][0, :, 0].tolist() == [0, 10, 1, 11]


def test_too_many_frames_are_thinned_out_evenly_from_the_first_to_the_last() -> None:
    """audio takes 9 frames"""
    batch = pad_sessions([session(stream("audio", 17))], CONFIG, "subsample")
    assert batch.inputs["audio"][0, :, 0].tolist() == list(range(0, 17, 2))
    assert batch.lengths["audio"].tolist() == [9]


def test_or_the_middle_of_them_is_heard_and_any_window_in_training() -> None:
    long = [session(stream("audio", 15))]
    assert pad_sessions(long, CONFIG, "window").inputs["audio"][0, :, 0].tolist() == list(range(3, 12))
    rng = np.random.default_rng(0)
    starts = {int(pad_sessions(long, CONFIG, "window", rng=rng).inputs["audio"][0, 0, 0]) for _ in range(60)}
    assert starts == set(range(7))


def trained_loss(weight: float) -> tuple[float, dict[str, Tensor]]:
    recipe = replace(WHOLE, objective=Objective(auxiliary_weight=weight))
    run = TrainingRun(recipe, SESSIONS)
    loss = run.regime.backward(run.model.eval(), range(8), np.random.default_rng(0))
    return loss, {name: p.grad for name, p in run.model.named_parameters() if p.grad is not None}


def test_the_auxiliary_heads_add_their_weighted_loss_on_the_first_fused_state() -> None:
    plain, _ = trained_loss(0.0)
    weighted, gradients = trained_loss(0.4)
    run = TrainingRun(WHOLE, SESSIONS)
    batch = pad_sessions(run.data.training[:8], WHOLE.config, "subsample")
    output = run.model.eval()(batch.inputs, batch.lengths)
    sides = torch.tensor([WHOLE.config.heads[0].labels.index(str(s.labels["side"])) for s in run.data.training[:8]])
    scale = run.normalisation.heads["size"]
    sizes = torch.tensor([(float(str(s.labels["size"])) - scale.mean[0]) / scale.std[0] for s in run.data.training[:8]])
    targets = {"side": sides.float(), "size": sizes}
    criterion = Criterion(WHOLE.config, Objective())
    assert plain == pytest.approx(criterion.total(output.outputs, targets).mean().item(), rel=1e-5)
    auxiliary = criterion.total(output.auxiliary, targets).mean().item()
    assert weighted == pytest.approx(plain + 0.4 * auxiliary, rel=1e-5)
    assert gradients["auxiliary_heads.0.0.weight"].abs().sum() > 0


def test_one_segment_of_each_modality_is_what_the_stream_of_them_gives() -> None:
    """The paper's setting is a special case of a stream: with all of a modality in one segment, they agree."""
    run = TrainingRun(TINY, SESSIONS)
    bundle_model = run.model.eval()
    assert isinstance(bundle_model, GRF)
    bundle = Bundle.of("tiny", bundle_model, run.normalisation, {})
    test = tiny_dataset().test
    streamed = evaluate(bundle, test, Condition("whole", Cutting(100.0, 100.0)))
    whole = evaluate_whole(bundle_model, run.normalisation, TINY.config, test)
    assert {name: value for name, value in streamed.items() if name != "segments"} == pytest.approx(whole, rel=1e-4)


def test_a_condition_silences_modalities_and_leaves_out_who_has_nothing_left() -> None:
    model, identity = GRF(TINY.config), Normalisation.identity(TINY.config)
    left_only = [replace(s, streams=s.streams[:1]) for s in SESSIONS[:3]]
    calm = Cutting(1.0, 1.0)
    assert evaluate_whole(model, identity, TINY.config, left_only, Condition("all", calm))["n"] == 3
    silent = Condition("silent", calm, silent=("left",), repeats=2)
    assert evaluate_whole(model, identity, TINY.config, left_only, silent)["n"] == 0
    assert evaluate_whole(model, identity, TINY.config, SESSIONS[:3], silent)["n"] == 6


def test_evaluation_does_not_depend_on_how_sessions_are_batched() -> None:
    model = GRF(replace(TINY.config, modalities=(*TINY.config.modalities, ModalityConfig("never", 1, 4))))
    identity = Normalisation.identity(model.config)
    uneven = [
        replace(s, streams=tuple(replace(x, frames=x.frames[: 1 + k % 7]) for x in s.streams))
        for k, s in enumerate(SESSIONS)
    ]
    together = evaluate_whole(model, identity, model.config, uneven, batch_sessions=64)
    assert evaluate_whole(model, identity, model.config, uneven, batch_sessions=3) == pytest.approx(together, rel=1e-5)
