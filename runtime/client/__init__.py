"""Clients of the runtime: publish segments, query and follow the fused state. Sync and asyncio over one core.

from runtime.client import Publisher, StateClient

with Publisher("http://127.0.0.1:8000") as publisher:
    publisher.publish("robot-7", "wrist", "imu", frames, event_time_s)
    publisher.flush()
"""

from runtime.client.async_clients import AsyncPublisher, AsyncStateClient
from runtime.client.errors import ClientClosed, ClientError, PublisherFull, Refused, RequestTimeout, StreamRefused
from runtime.client.published import Receipt
from runtime.client.publisher_account import PublisherEvent, PublisherPolicy
from runtime.client.sync_clients import Publisher, StateClient

__all__ = [
    "AsyncPublisher",
    "AsyncStateClient",
    "ClientClosed",
    "ClientError",
    "Publisher",
    "PublisherEvent",
    "PublisherFull",
    "PublisherPolicy",
    "Receipt",
    "Refused",
    "RequestTimeout",
    "StateClient",
    "StreamRefused",
]
