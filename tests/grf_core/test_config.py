from __future__ import annotations

import json
from typing import Any

import pytest

from grf_core.config import ConfigError, GRFConfig, HeadConfig, ModalityConfig
from tests.grf_core.models import HEADS, MODALITIES, small_config


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("modalities", {"modalities": ()}),
        ("modalities", {"modalities": (MODALITIES[0], MODALITIES[0])}),
        ("modalities", {"modalities": list(MODALITIES)}),
        ("heads", {"heads": ()}),
        ("heads", {"heads": (HEADS[0], HEADS[0])}),
        ("d_model", {"d_model": 15, "n_heads": 1}),
        ("d_model", {"d_model": 0}),
        ("d_model", {"d_model": 1 << 20}),
        ("d_model", {"d_model": 16.0}),
        ("n_heads", {"n_heads": 3}),
        ("n_layers", {"n_layers": 0}),
        ("n_layers", {"n_layers": True}),
        ("d_ffn", {"d_ffn": 0}),
        ("dropout", {"dropout": 1.0}),
        ("dropout", {"dropout": float("nan")}),
        ("context_slots", {"context_slots": 0}),
        ("carry", {"carry": "everything"}),
        ("carry", {"carry": ["context"]}),
        ("gate_bias", {"gate_bias": float("inf")}),
        ("ageing", {"ageing": 1}),
        ("shared_block", {"shared_block": "no"}),
        ("shared_block", {"shared_block": False, "modalities": MODALITIES[:1]}),
    ],
)
def test_what_cannot_work_is_refused_by_the_name_of_its_field(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        small_config(**change)
    assert refused.value.field == field
    assert field in str(refused.value)


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("name", ("", 3, 4)),
        ("name", ("line\nbreak", 3, 4)),
        ("name", ("x" * 200, 3, 4)),
        ("width", ("text", 0, 4)),
        ("max_frames", ("text", 3, 0)),
        ("max_frames", ("text", 3, 1 << 30)),
    ],
)
def test_a_modality_names_its_bad_field(field: str, arguments: tuple[str, int, int]) -> None:
    with pytest.raises(ConfigError) as refused:
        ModalityConfig(*arguments)
    assert refused.value.field == field


@pytest.mark.parametrize(
    ("field", "arguments"),
    [
        ("kind", ("mood", "ranking", 3)),
        ("outputs", ("mood", "classification", 1)),
        ("outputs", ("mood", "regression", 0)),
        ("labels", ("mood", "classification", 3, ("a", "b"))),
        ("labels", ("mood", "classification", 2, ("a", "a"))),
        ("labels[1]", ("mood", "classification", 2, ("a", 7))),
    ],
)
def test_a_head_names_its_bad_field(field: str, arguments: tuple[Any, ...]) -> None:
    with pytest.raises(ConfigError) as refused:
        HeadConfig(*arguments)
    assert refused.value.field == field


def test_a_config_survives_json() -> None:
    config = small_config(carry="context", gate_bias=-1.0, ageing=True, context_slots=2)
    assert GRFConfig.from_json(json.loads(json.dumps(config.to_json()))) == config


def test_fields_with_defaults_may_be_left_out_of_json() -> None:
    value = {
        "modalities": [{"name": "text", "width": 3, "max_frames": 4}],
        "heads": [{"name": "mood", "kind": "regression", "outputs": 1}],
    }
    assert GRFConfig.from_json(value).d_model == 64


@pytest.mark.parametrize(
    ("field", "change"),
    [
        ("d_modle", {"d_modle": 64}),
        ("modalities", {"modalities": "text"}),
        ("modalities[0].colour", {"modalities": [{"name": "t", "width": 3, "max_frames": 4, "colour": 1}]}),
        ("modalities[1].width", {"modalities": [{"name": "t", "width": 3, "max_frames": 4}, {"name": "u"}]}),
        ("heads[0].kind", {"heads": [{"name": "mood", "kind": "x", "outputs": 2}]}),
        ("heads[0].labels", {"heads": [{"name": "mood", "kind": "regression", "outputs": 1, "labels": "ab"}]}),
    ],
)
def test_json_that_does_not_fit_is_refused_by_the_path_of_its_field(field: str, change: dict[str, Any]) -> None:
    with pytest.raises(ConfigError) as refused:
        GRFConfig.from_json(small_config().to_json() | {"modalities": [], "heads": []} | valid_lists() | change)
    assert refused.value.field == field


def test_a_missing_field_is_named() -> None:
    with pytest.raises(ConfigError, match="heads: missing"):
        GRFConfig.from_json({"modalities": []})


@pytest.mark.parametrize("value", [None, [], "config", 3])
def test_json_that_is_no_object_is_refused(value: object) -> None:
    with pytest.raises(ConfigError):
        GRFConfig.from_json(value)


def valid_lists() -> dict[str, Any]:
    lists: dict[str, Any] = json.loads(json.dumps(small_config().to_json()))
    return {"modalities": lists["modalities"], "heads": lists["heads"]}
