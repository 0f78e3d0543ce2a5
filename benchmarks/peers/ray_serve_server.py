"""Ray Serve: its consistent-hash router sends a session to one replica, where `serve.batch` gathers requests.

    python -m benchmarks.peers.ray_serve_server PORT TEMPORARY-FOLDER

A line on the standard input scales the deployment to so many replicas; the end of the input stops it.
"""

import asyncio
import json
import os
import sys

MAX_BATCH, BATCH_WAIT_S = 64, 0.005
ROUTER = "ray.serve.experimental.consistent_hash_router.ConsistentHashRouter"


def main() -> None:
    port, folder = int(sys.argv[1]), sys.argv[2]
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ.update(RAY_worker_niceness="0")
    import ray
    from ray import serve
    from ray.serve.config import RequestRouterConfig
    from starlette.requests import Request
    from starlette.responses import Response

    class Fusion:
        def __init__(self) -> None:
            from benchmarks.peers.session_model import SessionModel

            self._model = SessionModel()

        @serve.batch(max_batch_size=MAX_BATCH, batch_wait_timeout_s=BATCH_WAIT_S)
        async def step(self, requests: list[bytes]) -> list[bytes]:
            return self._model.answer(requests)

        async def __call__(self, request: Request) -> Response:
            return Response(await self.step(await request.body()))

    def run(replicas: int) -> None:
        deployment = serve.deployment(
            num_replicas=replicas,
            max_ongoing_requests=2 * MAX_BATCH,
            ray_actor_options={"num_cpus": 0},
            request_router_config=RequestRouterConfig(request_router_class=ROUTER),  # type: ignore[arg-type]  # a name, as it documents
        )(Fusion)
        serve.run(deployment.bind(), name="fusion", route_prefix="/fuse")
        print(json.dumps({"replicas": replicas}), flush=True)

    environment = {name: os.environ[name] for name in ("PEER_BLOCK", "PEER_FORM", "PYTHONPATH")}
    ray.init(
        address="local",
        include_dashboard=False,
        num_cpus=4,
        _temp_dir=folder,
        log_to_driver=False,
        runtime_env={"env_vars": environment},
    )
    serve.start(http_options={"host": "127.0.0.1", "port": port, "access_log": False})
    run(1)
    for line in sys.stdin:
        run(int(line))
    asyncio.set_event_loop(asyncio.new_event_loop())
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main()
