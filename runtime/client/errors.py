"""What can go wrong at a client.

ClientError
 ├── Refused           the runtime said no: `code` and text as in docs/protocol.md
 │    └── StreamRefused  the stream cannot be published to: unknown modality, bad id, taken by another client
 ├── RequestTimeout    no answer in time; the runtime may be restarting
 ├── PublisherFull     the buffer is full and stayed so for the time allowed
 └── ClientClosed      the client was closed
"""

from __future__ import annotations


class ClientError(Exception):
    """Base of all errors of the clients."""


class Refused(ClientError):
    def __init__(self, code: str, text: str) -> None:
        super().__init__(f"{code}: {text}")
        self.code = code
        self.text = text

    def __reduce__(self) -> tuple[type[Refused], tuple[str, str]]:
        """It may be raised in another process."""
        return type(self), (self.code, self.text)


class StreamRefused(Refused):
    """Publishing to this stream was refused for good."""


class RequestTimeout(ClientError):
    """No answer in time."""


class PublisherFull(ClientError):
    """What is not durable yet fills the buffer, and did so until the time-out."""


class ClientClosed(ClientError):
    """The client was closed."""
