from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from grf_core.data.sessions import Cutting
from grf_core.experiments.tracing import trace_streams, trace_whole
from grf_core.experiments.trained import Trained
from grf_core.experiments.variants import Variant, VariantFactory
from grf_core.model import GRF
from grf_core.training.recipe import Condition, Recipe
from grf_core.training.run import ModelFactory, TrainingRun
from tests.grf_core.training.tiny import TINY, WHOLE, tiny_dataset

CUT = Condition("cut", Cutting(0.5, 0.5))


def trained(recipe: Recipe, model_factory: ModelFactory = GRF) -> Trained:
    short = replace(recipe, schedule=replace(recipe.schedule, epochs=1))
    run = TrainingRun(short, tiny_dataset().train, model_factory=model_factory)
    list(run.epochs())
    test = tiny_dataset().test
    uneven = (replace(test[0], streams=test[0].streams[1:]), *test[1:5])  # the first has no `left`
    return Trained.of(run, uneven)


@pytest.mark.parametrize("recipe", [TINY, WHOLE], ids=["streams", "whole"])
def test_shares_sum_to_1_wherever_there_is_a_context(recipe: Recipe) -> None:
    model = trained(recipe)
    trace = trace_whole(model) if recipe is WHOLE else trace_streams(model, CUT)
    sums_NS = trace.shares_NSM.sum(axis=2)
    known_NS = ~np.isnan(trace.gates_NS)
    assert sums_NS[known_NS] == pytest.approx(np.ones(known_NS.sum()))
    assert trace.gates_NS[1:, 0].tolist() == [1.0] * 4
    assert ((trace.gates_NS[known_NS] >= 0) & (trace.gates_NS[known_NS] <= 1)).all()


def test_a_modality_that_a_whole_sample_lacks_is_no_step() -> None:
    trace = trace_whole(trained(WHOLE))
    assert np.isnan(trace.gates_NS[0, 0])
    assert trace.gates_NS[0, 1] == 1.0
    assert trace.shares_NSM[0, 1].tolist() == [0.0, 1.0]
    assert not np.isnan(trace.gates_NS[1:]).any()


def test_a_stream_is_traced_to_the_context_that_answers() -> None:
    model = trained(TINY)
    trace = trace_streams(model, CUT)
    lengths = (~np.isnan(trace.gates_NS)).sum(axis=1)
    assert lengths.tolist() == [4, 8, 8, 8, 8]
    assert trace.times_NS[1, -1] == pytest.approx(1.75)
    final_ND = trace.contexts_NSD[np.arange(5), lengths - 1]
    assert isinstance(model.model, GRF)
    told = model.model.read_heads(torch.from_numpy(final_ND).float()[:, None])["side"]
    accuracy = np.mean(told.argmax(dim=1).numpy() == [["down", "up"].index(str(s.labels["side"])) for s in model.test])
    assert model.scores(CUT)["accuracy"] == pytest.approx(accuracy)


def test_whole_samples_are_answered_in_the_order_of_the_test_part() -> None:
    model = trained(WHOLE)
    told, true = model.answers()
    assert told["side"].shape == (5, 2)
    accuracy = float(np.mean(told["side"].argmax(axis=1) == true["side"]))
    assert model.scores(CUT)["accuracy"] == pytest.approx(accuracy)
    assert [["down", "up"][int(side)] for side in true["side"]] == [s.labels["side"] for s in model.test]


def test_a_variant_that_no_bundle_holds_streams_all_the_same() -> None:
    plain, linear = trained(TINY), trained(TINY, model_factory=VariantFactory(Variant(fusion="linear")))
    assert linear.scores(CUT).keys() == plain.scores(CUT).keys()
    assert not np.allclose(trace_streams(linear, CUT).contexts_NSD[1], trace_streams(plain, CUT).contexts_NSD[1])
