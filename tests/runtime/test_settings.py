from __future__ import annotations

import dataclasses
import pickle
from pathlib import Path

import pytest

from runtime.engine.policies import EnginePolicy
from runtime.settings import LAYERS, SettingError, Settings, load_settings


def test_without_anything_the_defaults_hold() -> None:
    assert load_settings(environment={}) == Settings()


def test_a_flag_beats_the_environment_which_beats_the_file_which_beats_the_default(tmp_path: Path) -> None:
    file = tmp_path / "grf.toml"
    file.write_text("[order]\nlateness_s = 1\nidle_timeout_s = 3.0\nmode = 'hold'\n")
    environment = {"GRF_ORDER_LATENESS_S": "2", "GRF_ORDER_IDLE_TIMEOUT_S": "4", "GRF_CONFIG": str(file)}
    order = load_settings(["order.lateness_s=5"], environment=environment).order
    assert (order.lateness_s, order.idle_timeout_s, order.mode, order.late) == (5.0, 4.0, "hold", "drop")


def test_lateness_by_modality_can_be_given_in_every_way(tmp_path: Path) -> None:
    file = tmp_path / "grf.toml"
    file.write_text("[order.lateness_by_modality_s]\ntext = 5\nimu = 0.05\n")
    expected = {"text": 5.0, "imu": 0.05}
    assert load_settings(config=str(file), environment={}).order.lateness_by_modality_s == expected
    flag = "order.lateness_by_modality_s=text=5,imu=0.05"
    assert load_settings([flag], environment={}).order.lateness_by_modality_s == expected
    variable = {"GRF_ORDER_LATENESS_BY_MODALITY_S": "text=5, imu=0.05"}
    assert load_settings(environment=variable).order.lateness_by_modality_s == expected


def test_origins_can_be_given_in_every_way(tmp_path: Path) -> None:
    file = tmp_path / "grf.toml"
    file.write_text("[gateway]\nallowed_origins = ['https://a.example', 'http://b:8080']\n")
    expected = ("https://a.example", "http://b:8080")
    assert load_settings(config=str(file), environment={}).gateway.allowed_origins == expected
    text = "https://a.example, http://b:8080"
    assert load_settings([f"gateway.allowed_origins={text}"], environment={}).gateway.allowed_origins == expected
    assert load_settings(environment={"GRF_GATEWAY_ALLOWED_ORIGINS": text}).gateway.allowed_origins == expected
    assert load_settings(["gateway.allowed_origins="], environment={}).gateway.allowed_origins == ()


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("order.lateness=1", "order.lateness: no such setting"),
        ("orders.lateness_s=1", "orders.lateness_s: no such setting"),
        ("order.lateness_s", "expected layer.field=value"),
        ("order.lateness_s=soon", "order.lateness_s: cannot read 'soon' as a number"),
        ("order.lateness_s=-1", "lateness_s must not be negative"),
        ("order.mode=backwards", "order.mode: 'backwards' is none of rewind, hold, arrival"),
        ("runtime.state_dir=", "state_dir must not be empty"),
        ("runtime.host=", "host must not be empty"),
        ("runtime.http_port=80000", "http_port must be a port"),
        ("runtime.http_port=0", "http_port must be a port"),
        ("runtime.lease_s=0.1", "lease_s"),
        ("order.lateness_by_modality_s=text", "order.lateness_by_modality_s: cannot read"),
        ("gateway.allowed_origins=dash.example", "allowed_origins: 'dash.example' is not scheme"),
        ("gateway.allowed_origins=https://dash.example/page", "allowed_origins: 'https://dash.example/page' is not"),
    ],
)
def test_a_setting_that_cannot_be_is_named(flag: str, told: str) -> None:
    with pytest.raises(SettingError, match=told.replace("(", r"\(")):
        load_settings([flag], environment={})


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("runtime.threads", "0 -1 1000000"),
        ("runtime.capacity", "0 1 -5 1000000000"),
        ("runtime.history_length", "-1"),
        ("runtime.evict_after_s", "-1 nan"),
        ("runtime.heartbeat_s", "0 -1 nan inf"),
        ("runtime.lease_s", "0 -1 nan inf"),
        ("dispatch.window_segments", "0 -1"),
        ("dispatch.window_bytes", "0"),
        ("dispatch.checkpoint_sessions", "0"),
        ("dispatch.checkpoint_interval_s", "-1 nan inf"),
        ("dispatch.store_retry_s", "0 -1 nan inf"),
        ("dispatch.turn_s", "0 nan"),
        ("cluster.num_cpus", "-1 nan inf"),
        ("cluster.num_gpus", "-0.5 nan inf"),
        ("cluster.imbalance", "1 nan"),
        ("cluster.settle_s", "-1 nan"),
        ("cluster.scale_up_pending_bytes", "-1"),
        ("cluster.scale_up_lag_s", "-1 nan"),
        ("cluster.scale_up_after_s", "-1 nan"),
        ("cluster.scale_down_after_s", "-1 nan"),
        ("order.lateness_s", "nan"),
        ("gateway.answer_timeout_s", "0 nan"),
    ],
)
def test_a_value_that_no_worker_could_run_with_is_refused_by_name(name: str, values: str) -> None:
    for value in values.split():
        with pytest.raises(SettingError, match=name.partition(".")[2]) as refused:
            load_settings([f"{name}={value}"], environment={})
        assert "\n" not in str(refused.value)


@pytest.mark.parametrize("flag", ["runtime.capacity=2", "runtime.history_length=0", "runtime.evict_after_s=inf"])
def test_values_at_the_edge_are_taken(flag: str) -> None:
    load_settings([flag], environment={})


def test_an_unknown_variable_of_a_layer_is_an_error_and_others_are_not_ours() -> None:
    with pytest.raises(SettingError, match="GRF_ORDER_LATENES_S"):
        load_settings(environment={"GRF_ORDER_LATENES_S": "1"})
    assert load_settings(environment={"GRF_ADDRESS": "http://elsewhere:8000"}) == Settings()


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("order = 3", "'order' is not a section"),
        ("[order]\nspeed = 1", "order.speed: no such setting"),
        ("[order]\nlateness_s = '1'", "order.lateness_s: '1' is not a number"),
        ("[order\n", "grf.toml"),
        ("[gateway]\nallowed_origins = 'https://a'", "gateway.allowed_origins: 'https://a' is not a list of texts"),
    ],
)
def test_a_file_that_cannot_be_read_is_told(tmp_path: Path, text: str, told: str) -> None:
    file = tmp_path / "grf.toml"
    file.write_text(text)
    with pytest.raises(SettingError, match=told):
        load_settings(config=str(file), environment={})


def test_a_file_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"nowhere\.toml"):
        load_settings(config=str(tmp_path / "nowhere.toml"), environment={})


def test_tokens_are_read_and_a_bad_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "tokens.json"
    file.write_text('{"s3cret": "acme"}')
    assert load_settings([f"runtime.tokens_file={file}"], environment={}).tokens() == {"s3cret": "acme"}
    file.write_text("[]")
    with pytest.raises(SettingError, match="tokens_file"):
        load_settings([f"runtime.tokens_file={file}"], environment={}).tokens()


@pytest.mark.parametrize(
    ("content", "text"),
    [
        ("{}", "there is no token in it"),
        ('{"": "acme"}', "the token of 'acme' is empty"),
        ('{"s3cret": "acme/north"}', "tenant has a slash"),
        ('{"s3cret": ""}', "tenant is empty"),
        ('{"s3cret": "acme", "s3cret": "rival"}', "the token of 'acme' stands there again, for another tenant"),
        (r'{"\ud800": "acme"}', "the token of 'acme' has a control character"),
        (r'{"s3cret\n": "acme"}', "the token of 'acme' has a control character, or a space at its end"),
        ("[" * 100_000, "maximum recursion depth exceeded"),
    ],
)
def test_a_tokens_file_that_lets_everyone_in_or_names_no_tenant_is_refused(
    tmp_path: Path, content: str, text: str
) -> None:
    file = tmp_path / "tokens.json"
    file.write_text(content)
    with pytest.raises(SettingError, match=f"tokens_file: {text}"):
        load_settings([f"runtime.tokens_file={file}"], environment={}).tokens()


def test_every_setting_is_in_the_operations_guide() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "operations.md").read_text()
    missing = [
        f"{layer}.{item.name}"
        for layer, kind in LAYERS.items()
        for item in dataclasses.fields(kind)
        if f"`{layer}.{item.name}`" not in guide
    ]
    assert not missing


def test_the_engine_is_given_all_that_is_set_of_it_and_has_the_same_defaults() -> None:
    flags = ["runtime.capacity=8", "runtime.history_length=7", "runtime.evict_after_s=3"]
    flags += ["order.mode=hold", "batch.max_segments=5", "quota.max_sessions=9"]
    given, default = load_settings(flags, environment={}).engine_policy, EnginePolicy()
    assert Settings().engine_policy == default
    names = [item.name for item in dataclasses.fields(EnginePolicy)]
    assert not [name for name in names if getattr(given, name) == getattr(default, name)]


def test_settings_go_to_other_processes_as_they_are() -> None:
    settings = load_settings(["order.lateness_by_modality_s=text=1.5", "batch.max_segments=8"], environment={})
    assert pickle.loads(pickle.dumps(settings)) == settings
