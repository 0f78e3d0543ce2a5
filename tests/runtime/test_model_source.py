from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from grf_core.bundle import BundleError
from runtime.local_runtime import LocalRuntime
from runtime.model_source import ModelError, check_model, open_model
from runtime.settings import load_settings
from runtime.state_dir import StartError
from runtime.warm_up import warm_up
from runtime.worker import load_model
from tests.runtime.toy_model import ToyModel

ROOT = Path(__file__).parents[2]
OWN = """
from tests.runtime.toy_model import ToyModel

asked = []
number = 7

def toy(device):
    asked.append(device)
    return ToyModel()

def no_model(device):
    return object()
"""


@pytest.fixture
def own_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A module of the operator's own, on Python's path."""
    (tmp_path / "own_models_for_test.py").write_text(OWN)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "own_models_for_test", raising=False)
    return "own_models_for_test"


def test_a_worker_runs_a_model_of_the_operators_own(own_module: str) -> None:
    settings = load_settings([f"runtime.bundle=python:{own_module}:toy", "runtime.device=cpu"], environment={})
    check_model(settings.runtime.bundle)
    assert load_model(settings).signature == ToyModel().signature
    assert sys.modules[own_module].asked == ["cpu"]


def test_a_bundle_is_still_a_folder(tmp_path: Path) -> None:
    assert open_model(str(ROOT / "bundles" / "motion"), "cpu").signature.name == "motion"
    with pytest.raises(BundleError):
        check_model(str(tmp_path))


@pytest.mark.parametrize(
    ("reference", "told"),
    [
        ("python:own_models_for_test", "expected python:module:function"),
        ("python::toy", "expected python:module:function"),
        ("python:own_models_for_test:", "expected python:module:function"),
        ("python:there_is_no_such_module:toy", "must be installed or on PYTHONPATH"),
        ("python:own_models_for_test:other", "has no function other"),
        ("python:own_models_for_test:number", "has no function number"),
    ],
)
def test_what_names_no_function_is_refused_with_the_reason(own_module: str, reference: str, told: str) -> None:
    with pytest.raises(ModelError, match=re.escape(told)):
        check_model(reference)


@pytest.mark.parametrize(
    ("flag", "told"),
    [
        ("runtime.device=cuda:4096", "runtime.device: cuda:4096 is not here: torch sees"),
        ("runtime.device=toaster", "runtime.device: 'toaster' is none"),
        (
            "runtime.bundle=bundles/none",
            f"runtime.bundle: config.json: no such file in bundles/none (looked for from {ROOT})",
        ),
        (
            "order.lateness_by_modality_s=gyroscope=1,smell=1,accelerometer=1",
            "order.lateness_by_modality_s: bundles/motion has no modality smell; it has accelerometer, gyroscope",
        ),
    ],
)
def test_a_device_a_bundle_or_a_modality_that_is_not_there_is_told_before_anything_is_started(
    flag: str, told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(ROOT)
    settings = load_settings([flag, f"runtime.state_dir={tmp_path}", "runtime.http_port=8000"], environment={})
    with pytest.raises(StartError, match=re.escape(told)):
        LocalRuntime(settings)._check()


def test_what_the_function_returns_must_be_a_step_model(own_module: str) -> None:
    with pytest.raises(ModelError, match="object, which is no StepModel"):
        open_model(f"python:{own_module}:no_model", "cpu")


@pytest.mark.parametrize(
    ("device", "told"), [('"cpu"', "is 'cpu', no torch.device"), ("None", "is None, no torch.device")]
)
def test_a_model_whose_device_is_none_of_torch_is_refused_with_the_reason(
    own_module: str, device: str, told: str, tmp_path: Path
) -> None:
    with (tmp_path / f"{own_module}.py").open("a") as file:
        file.write(f"\ndef elsewhere(device):\n    model = ToyModel()\n    model.device = {device}\n    return model\n")
    with pytest.raises(ModelError, match=re.escape(told)):
        open_model(f"python:{own_module}:elsewhere", "cpu")


@pytest.mark.parametrize(
    ("code", "told"), [("x = y", "NameError: name 'y'"), ("def f(:", "SyntaxError: invalid syntax")]
)
def test_a_module_that_does_not_import_is_told_with_the_reason(
    own_module: str, code: str, told: str, tmp_path: Path
) -> None:
    (tmp_path / f"{own_module}.py").write_text(code)
    with pytest.raises(ModelError, match=re.escape(told)):
        check_model(f"python:{own_module}:toy")


def test_the_model_of_the_guide_runs_as_it_stands(own_module: str, tmp_path: Path) -> None:
    section = (ROOT / "docs" / "models.md").read_text().partition("## A model of your own")[2].partition("\n## ")[0]
    code = [line.removeprefix("    ") for line in section.splitlines() if not line or line.startswith("    ")]
    (tmp_path / f"{own_module}.py").write_text("\n".join(code))
    warm_up(open_model(f"python:{own_module}:wave", "cpu"))
