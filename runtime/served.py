"""The runtime as an application that Ray Serve deploys: `serve deploy deploy/serve.yaml`, or a RayService of KubeRay.

The controller and the workers are detached actors beside it; deploying again leaves them as they are.
"""

from __future__ import annotations

from collections.abc import Mapping

from ray import serve

from runtime.controller_actor import start_controller
from runtime.gateway.deployment import gateway_application
from runtime.settings import load_settings


def application(args: Mapping[str, object]) -> serve.Application:
    """`args` are settings, `layer.field: value`; the environment counts as well. Raises SettingError."""
    settings = load_settings([f"{name}={value}" for name, value in args.items()])
    start_controller(settings, detached=True)
    return gateway_application(settings)
