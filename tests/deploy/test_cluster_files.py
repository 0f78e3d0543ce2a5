"""Files for clusters: each opens with its one command, is what its reader expects, and names only what exists."""

from __future__ import annotations

import json
import shlex
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import jsonschema
import kubernetes_validate
import pytest
import ray
import yaml
from ray.serve.schema import ServeDeploySchema

from runtime.settings import load_settings

DEPLOY = Path(__file__).parents[2] / "deploy"
FILES = sorted(DEPLOY.rglob("*.yaml"))
KUBERNETES = "1.31"
CORE_KINDS = ("Secret", "Service", "StatefulSet")


def documents(name: str) -> list[Any]:
    return list(yaml.safe_load_all((DEPLOY / name).read_text()))


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_every_file_opens_with_its_one_command(path: Path) -> None:
    first = path.read_text().splitlines()[0]
    assert first.startswith("# ")
    assert str(path.relative_to(DEPLOY.parent)) in first


def serve_configs() -> list[dict[str, Any]]:
    (service,) = (one for one in documents("kuberay/grf.yaml") if one["kind"] == "RayService")
    return [documents("serve.yaml")[0], yaml.safe_load(service["spec"]["serveConfigV2"])]


@pytest.mark.parametrize("config", serve_configs(), ids=["serve.yaml", "kuberay"])
def test_what_serve_is_given_fits_its_schema_and_our_settings(config: dict[str, Any]) -> None:
    ServeDeploySchema.model_validate(config)
    (application,) = config["applications"]
    module, _, name = application["import_path"].partition(":")
    assert callable(getattr(import_module(module), name))
    settings = load_settings([f"{name}={value}" for name, value in application["args"].items()], environment={})
    assert settings.cluster.standbys == 1


def test_the_ray_cluster_fits_rays_own_schema() -> None:
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(documents("ray/cluster.yaml")[0], schema)


def test_the_command_on_the_ray_cluster_names_the_store_and_a_bundle_that_every_machine_has() -> None:
    cluster = documents("ray/cluster.yaml")[0]
    first = (DEPLOY / "ray/cluster.yaml").read_text().splitlines()[0]
    words = shlex.split(shlex.split(first.partition(" && ")[2])[-1])
    environment = dict(word.split("=", 1) for word in words[: words.index("grf")])
    flags = [word for before, word in pairwise(words) if before == "--set"]
    settings = load_settings(flags, environment=environment)
    (start,) = (one for one in cluster["head_start_ray_commands"] if "ray start" in one)
    assert f"GRF_RUNTIME_STORE={settings.runtime.store} " in start
    ((there, here),) = cluster["file_mounts"].items()
    bundle = Path(settings.runtime.bundle)
    assert (DEPLOY.parent / here / bundle.relative_to(there) / "config.json").exists()
    assert bundle.is_absolute()


@pytest.mark.parametrize("kind", CORE_KINDS)
def test_the_core_kinds_fit_the_schemas_of_kubernetes(kind: str) -> None:
    (document,) = (one for one in documents("kuberay/grf.yaml") if one["kind"] == kind)
    kubernetes_validate.validate(document, KUBERNETES, strict=True)


def test_no_second_cluster_is_begun_on_the_same_redis_for_an_upgrade() -> None:
    (service,) = (one for one in documents("kuberay/grf.yaml") if one["kind"] == "RayService")
    assert service["spec"]["upgradeStrategy"] == {"type": "None"}, "a text, for KubeRay"


def test_the_pods_of_the_ray_service_fit_the_schema_of_pods() -> None:
    (service,) = (one for one in documents("kuberay/grf.yaml") if one["kind"] == "RayService")
    cluster = service["spec"]["rayClusterConfig"]
    assert cluster["rayVersion"] == ray.__version__
    for group in (cluster["headGroupSpec"], *cluster["workerGroupSpecs"]):
        assert group["template"]["spec"]["enableServiceLinks"] is False, "a Service may be called like a setting"
        pod = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": group["template"]["spec"]}
        kubernetes_validate.validate(pod, KUBERNETES, strict=True)
