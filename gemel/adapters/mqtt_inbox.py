"""What came in and waits for its handler: bounded, in order, acknowledged after the effect."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from gemel.errors import BusRefused
from gemel.ports import BusMessage, Handler

QOS0_WAITING = 1000  # telemetry that may wait for one handler; beyond that the oldest goes


@dataclass(slots=True, eq=False)
class Delivery:
    """One message from the broker, shared by the subscriptions that it matches."""

    message: BusMessage
    link: object  # the connection that it came on; only there can it be acknowledged
    acknowledge: Callable[[], None] | None  # None for QoS 0
    handlers: int = 0  # that have not returned yet

    def handled(self) -> None:
        """One handler has returned; after the last one the broker hears of it."""
        self.handlers -= 1
        if self.handlers == 0 and self.acknowledge is not None:
            self.acknowledge()


class Inbox:
    """The messages of one subscription, and the loop that hands them to its handler.

    QoS 1 is bounded by the receive maximum, because what waits here is not acknowledged; QoS 0 by QOS0_WAITING.
    """

    def __init__(self, topic_filter: str, qos: int) -> None:
        self.topic_filter, self.qos = topic_filter, qos
        self.link: object | None = None  # the connection on which this subscription was last made
        self.refusal: BusRefused | None = None
        self.dropped = 0
        self._waiting: deque[Delivery] = deque()
        self._unreliable = 0
        self._arrived = asyncio.Event()
        self._closed = False

    def put(self, delivery: Delivery) -> bool:
        """Queue a message. False if the oldest QoS 0 message had to go for it."""
        delivery.handlers += 1
        self._waiting.append(delivery)
        self._arrived.set()
        if delivery.acknowledge is not None:
            return True
        self._unreliable += 1
        if self._unreliable <= QOS0_WAITING:
            return True
        oldest = next(waiting for waiting in self._waiting if waiting.acknowledge is None)
        self._waiting.remove(oldest)
        self._unreliable -= 1
        return False

    def forget_all_but(self, link: object) -> None:
        """Drop QoS 1 messages of older connections: the broker kept the session and sends them again."""
        self._waiting = deque(
            waiting for waiting in self._waiting if waiting.acknowledge is None or waiting.link is link
        )

    def close(self) -> None:
        """Hand nothing more over. The handler may be the caller, so it is left to finish."""
        self._closed = True
        self._arrived.set()

    async def run(self, handler: Handler, concurrency: int = 1) -> None:
        """Hand over at most `concurrency` messages at a time, in order, until closed. Raises as the handler."""
        free = asyncio.Semaphore(concurrency)

        async def hand_over(delivery: Delivery) -> None:
            try:
                await handler(delivery.message)
            finally:
                free.release()
            delivery.handled()

        async with asyncio.TaskGroup() as running:
            while not self._closed:
                if not self._waiting:
                    self._arrived.clear()
                    await self._arrived.wait()
                    continue
                await free.acquire()
                if self._closed or not self._waiting:  # closed or forgotten meanwhile
                    free.release()
                    continue
                running.create_task(hand_over(self._next()))
        while self._waiting:
            self._next().handled()

    def _next(self) -> Delivery:
        delivery = self._waiting.popleft()
        self._unreliable -= delivery.acknowledge is None
        return delivery
