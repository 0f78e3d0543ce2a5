"""mosec: one worker process that batches dynamically; the Rust front end holds the connections."""

from mosec import Server, Worker

from benchmarks.peers.session_model import SessionModel

MAX_BATCH, MAX_WAIT_MS = 64, 10


class Fusion(Worker):
    def __init__(self) -> None:
        super().__init__()
        self._model = SessionModel()

    def deserialize(self, data: bytes) -> bytes:
        return data

    def serialize(self, data: bytes) -> bytes:
        return data

    def forward(self, data: list[bytes]) -> list[bytes]:
        return self._model.answer(data)


if __name__ == "__main__":
    server = Server()
    server.append_worker(Fusion, num=1, max_batch_size=MAX_BATCH, max_wait_time=MAX_WAIT_MS)
    server.run()
