"""The broker, as a service sees it: messages in, messages out, a last will."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from typing import Protocol

import msgspec


class BusMessage(msgspec.Struct, frozen=True):
    """One message as it came in."""

    topic: str
    payload: bytes
    retained: bool = False
    properties: Mapping[str, str] = {}  # MQTT 5 user properties
    response_topic: str | None = None  # where the sender wants its answer; as untrusted as the payload
    correlation: bytes | None = None  # what the answer must carry, so that the sender knows its question


Handler = Callable[[BusMessage], Awaitable[None]]


class Will(msgspec.Struct, frozen=True):
    """What the broker says for us when we vanish."""

    topic: str
    payload: bytes
    retain: bool = True
    delay_s: int = 5


class Bus(Protocol):
    """An MQTT 5 connection that reconnects by itself. Open it with `async with`.

    A handler runs one message at a time, unless its subscription asks for more; a QoS 1 message is acknowledged to
    the broker when its handler has returned, and not when it raised. An exception from a handler ends the bus's
    TaskGroup: hostile input is the handler's to refuse. Messages may come twice (QoS 1): handlers are idempotent.
    """

    async def publish(
        self,
        topic: str,
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        expiry_s: int | None = None,
        content_type: str | None = None,
        properties: Mapping[str, str] | None = None,
        response_topic: str | None = None,
        correlation: bytes | None = None,
    ) -> None:
        """Returns when the broker has acknowledged (QoS 1). While the link is down it waits for it.

        Raises BusRefused for a reason code ≥ 0x80, BusUnavailable after the adapter's publish deadline.
        """
        ...

    async def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1, concurrency: int = 1) -> None:
        """Hand every matching message to `handler`, now and after each reconnect. Raises BusRefused.

        At most `concurrency` run at a time, begun in the order of arrival: for handlers that wait for a commit which
        they share. Acknowledgements keep the order of arrival whatever the order in which handlers end.
        """
        ...

    async def unsubscribe(self, topic_filter: str) -> None:
        """End a subscription."""
        ...

    @property
    def connected(self) -> bool:
        """Whether the link is up right now."""
        ...
