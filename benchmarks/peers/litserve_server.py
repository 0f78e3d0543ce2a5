"""LitServe: one API with a batched `predict`; requests are JSON, as its decoder expects them."""

import base64
import sys

import litserve

from benchmarks.peers.session_model import SessionModel

MAX_BATCH, BATCH_TIMEOUT_S = 64, 0.005


class Fusion(litserve.LitAPI):
    def setup(self, device: str) -> None:
        self._model = SessionModel()

    def decode_request(self, request: dict[str, str]) -> bytes:
        return base64.b64decode(request["request"])

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        return list(inputs)

    def predict(self, inputs: list[bytes]) -> list[bytes]:
        return self._model.answer(inputs)

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        return output

    def encode_response(self, output: bytes) -> dict[str, str]:
        return {"answer": base64.b64encode(output).decode()}


if __name__ == "__main__":
    server = litserve.LitServer(
        Fusion(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT_S),
        accelerator="cpu",
        workers_per_device=1,
        fast_queue=True,
        restart_workers=True,
    )
    server.run(
        host="127.0.0.1", port=int(sys.argv[1]), num_api_servers=1, generate_client_file=False, log_level="warning"
    )
