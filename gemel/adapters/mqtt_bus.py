"""The bus over MQTT 5: reconnects by itself, acknowledges after the effect (ports.Bus is the contract).

Some behaviour that the port leaves open:

- Opening does not wait for the broker, so a service starts offline. `subscribe` waits for the outcome of the first
  attempt to connect; where there is no link it registers the filter and makes the subscription with the link. If
  the broker refuses it then, that is logged and counted, and tried again with the next link.
- The session outlives the process, so messages may come before their subscription does. They wait, unacknowledged,
  for CLAIM_S after opening; after that, what no subscription claims is acknowledged and counted as unclaimed.
- One connection has one receive window, and MQTT wants acknowledgements in the order of arrival. So a handler that
  takes long holds up every subscription of its bus once the window is full, and one that waits for a message on
  another subscription may wait for ever: store, return, and do the long work in a task of your own.
- A broker without topic rights, or mosquitto 2 when reading is denied, grants subscriptions that then stay silent.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass
from random import SystemRandom
from types import TracebackType
from typing import Self

import structlog
from paho.mqtt.client import topic_matches_sub
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from gemel.adapters.bus_settings import BusSettings
from gemel.adapters.mqtt_inbox import Delivery, Inbox
from gemel.adapters.mqtt_link import Incoming, Link, mqtt_properties, subscription_id
from gemel.adapters.reconnect import Reconnect, classify
from gemel.errors import BusRefused, BusUnavailable
from gemel.ports import BusMessage, Handler, Will

__all__ = ["BusCounts", "BusSettings", "MqttBus"]

CLAIM_S = 30.0

_uniform = SystemRandom().random

_log = structlog.get_logger("gemel.bus")


@dataclass(slots=True)
class BusCounts:
    """What an operator wants to know of a bus; a scrape reads them."""

    reconnects: int = 0
    refused: int = 0  # connections and subscriptions that the broker refused
    publishes_failed: int = 0
    dropped: int = 0  # QoS 0 messages that a slow handler had no room for
    unclaimed: int = 0  # messages of the session that no subscription wanted


class MqttBus:
    """An MQTT 5 connection that reconnects by itself. `async with MqttBus(settings, will) as bus`.

    A handler's exception leaves the `async with` inside an ExceptionGroup.
    """

    def __init__(
        self, settings: BusSettings, will: Will | None = None, *, uniform: Callable[[], float] = _uniform
    ) -> None:
        """`uniform` draws the jitter from 0..1. Raises ConfigError for a url that is none."""
        _ = settings.address
        self.counts = BusCounts()
        self._settings, self._will, self._uniform = settings, will, uniform
        self._tls: ssl.SSLContext | None = None
        self._tasks = asyncio.TaskGroup()
        self._own_tasks: set[asyncio.Task[None]] = set()
        self._link: Link | None = None
        self._up = asyncio.Event()  # there is a link, and every subscription is made on it
        self._tried = asyncio.Event()  # the first attempt to connect has ended, either way
        self._inboxes: dict[str, Inbox] = {}
        self._ended_filters: set[str] = set()  # unsubscribed while there was no link
        self._unclaimed: list[tuple[Incoming, Delivery]] | None = []  # None once nobody may claim any more

    async def __aenter__(self) -> Self:
        self._tls = await asyncio.to_thread(self._settings.tls_context)
        await self._tasks.__aenter__()
        self._start(self._keep_linked(), "bus link")
        self._start(self._end_claims(), "bus claims")
        return self

    async def __aexit__(
        self, exc_type: type[BaseException] | None, exc: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for task in self._own_tasks:
            task.cancel()
        if exc_type is None or issubclass(exc_type, asyncio.CancelledError):
            await self._tasks.__aexit__(exc_type, exc, traceback)
        else:  # what the block itself raised goes on as it is, in no group
            await self._tasks.__aexit__(None, None, None)

    @property
    def connected(self) -> bool:
        """Whether the link is up right now."""
        return self._link is not None

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
        """As ports.Bus. A publish whose link breaks is sent again on the next one, so it may arrive twice."""
        told = mqtt_properties(
            PacketTypes.PUBLISH,
            MessageExpiryInterval=expiry_s,
            ContentType=content_type,
            UserProperty=list(properties.items()) if properties else None,
            ResponseTopic=response_topic,
            CorrelationData=correlation,
        )
        deadline_s = self._settings.publish_deadline_s
        try:
            async with asyncio.timeout(deadline_s):
                while not await self._published(topic, payload, qos=qos, retain=retain, properties=told):
                    pass
        except TimeoutError:
            self.counts.publishes_failed += 1
            raise BusUnavailable(f"publish to {topic!r} was not acknowledged within {deadline_s} s") from None
        except BusRefused:
            self.counts.publishes_failed += 1
            raise

    async def _published(self, topic: str, payload: bytes, *, qos: int, retain: bool, properties: Properties) -> bool:
        await self._up.wait()
        if self._link is None:
            return False
        try:
            await self._link.publish(topic, payload, qos=qos, retain=retain, properties=properties)
        except BusUnavailable:
            await asyncio.sleep(0.01)  # let the keeper of the link see that it is gone
            return False
        return True

    async def subscribe(self, topic_filter: str, handler: Handler, *, qos: int = 1, concurrency: int = 1) -> None:
        """As ports.Bus. Raises ValueError for a filter that is subscribed already."""
        if topic_filter in self._inboxes:
            raise ValueError(f"{topic_filter!r} is subscribed already")
        inbox = Inbox(topic_filter, qos)
        self._inboxes[topic_filter] = inbox
        self._ended_filters.discard(topic_filter)
        self._start(inbox.run(handler, concurrency), f"bus {topic_filter}")
        self._claim(inbox)
        await self._tried.wait()
        if self._link is not None:
            try:
                await self._make(self._link, inbox)
            except BusUnavailable:
                return  # made again with the next link
        if inbox.refusal is not None:
            self._inboxes.pop(topic_filter).close()
            raise inbox.refusal

    async def unsubscribe(self, topic_filter: str) -> None:
        """As ports.Bus; unknown filters are fine. A running handler finishes; what waits for it is dropped."""
        inbox = self._inboxes.pop(topic_filter, None)
        if inbox is None:
            return
        inbox.close()
        if self._link is None or not self._link.unsubscribe(topic_filter):
            self._ended_filters.add(topic_filter)  # ended with the next link

    # --- the link -----------------------------------------------------------------------------

    async def _keep_linked(self) -> None:
        now_s = asyncio.get_running_loop().time
        reconnect = Reconnect()
        while True:
            link, up_since_s = Link(self._settings, self._will, self._tls, self._receive), now_s()
            try:
                try:
                    await link.open()
                    await self._renew(link)
                    reconnect.up()
                    up_since_s = now_s()
                    _log.info("linked", broker=self._settings.url, session=link.session_present)
                    error = await link.wait_ended()
                finally:
                    self._link = None
                    self._up.clear()
                    await link.close()
            except (BusUnavailable, BusRefused) as failure:
                error = failure
            self._tried.set()
            self.counts.refused += isinstance(error, BusRefused)
            delay_s = reconnect.failed(classify(error), lasted_s=now_s() - up_since_s, uniform=self._uniform())
            _log.warning("not linked", broker=self._settings.url, error=str(error), retry_s=round(delay_s, 1))
            await asyncio.sleep(delay_s)
            reconnect.retry()
            self.counts.reconnects += 1

    async def _renew(self, link: Link) -> None:
        if link.session_present:
            for inbox in self._inboxes.values():
                inbox.forget_all_but(link)
            if self._unclaimed:
                self._unclaimed = [held for held in self._unclaimed if held[1].link is link]
            for topic_filter in self._ended_filters:
                link.unsubscribe(topic_filter)
        self._ended_filters.clear()
        while missing := [inbox for inbox in self._inboxes.values() if inbox.link is not link]:
            for inbox in missing:
                await self._make(link, inbox)
        self._link = link
        self._up.set()
        self._tried.set()

    async def _make(self, link: Link, inbox: Inbox) -> None:
        if inbox.link is link:
            return
        inbox.link, inbox.refusal = link, None
        try:
            await link.subscribe(inbox.topic_filter, inbox.qos)
        except BusRefused as refusal:
            inbox.refusal = refusal
            self.counts.refused += 1
            _log.error("subscription refused", filter=inbox.topic_filter, error=str(refusal))

    # --- what comes in ------------------------------------------------------------------------

    def _receive(self, link: Link, incoming: Incoming) -> None:
        mid = incoming.mid
        message = BusMessage(
            incoming.topic,
            incoming.payload,
            incoming.retained,
            incoming.properties,
            incoming.response_topic,
            incoming.correlation,
        )
        delivery = Delivery(message, link, None if mid is None else lambda: link.acknowledge(mid))
        inboxes = [inbox for inbox in self._inboxes.values() if _wants(inbox, incoming)]
        for inbox in inboxes:
            self.counts.dropped += not inbox.put(delivery)
        if inboxes:
            return
        if self._unclaimed is not None and delivery.acknowledge is not None:
            self._unclaimed.append((incoming, delivery))
        else:
            self._give_up(delivery)

    def _claim(self, inbox: Inbox) -> None:
        if self._unclaimed is None:
            return
        waiting, self._unclaimed = self._unclaimed, []
        for incoming, delivery in waiting:
            if _wants(inbox, incoming):
                inbox.put(delivery)
            else:
                self._unclaimed.append((incoming, delivery))

    async def _end_claims(self) -> None:
        await asyncio.sleep(CLAIM_S)
        waiting, self._unclaimed = self._unclaimed or [], None
        for _, delivery in waiting:
            self._give_up(delivery)

    def _give_up(self, delivery: Delivery) -> None:
        self.counts.unclaimed += 1
        _log.debug("unclaimed", topic=delivery.message.topic)
        if delivery.acknowledge is not None:
            delivery.acknowledge()

    def _start(self, coroutine: Coroutine[None, None, None], name: str) -> None:
        task = self._tasks.create_task(coroutine, name=name)
        self._own_tasks.add(task)
        task.add_done_callback(self._own_tasks.discard)


def _wants(inbox: Inbox, incoming: Incoming) -> bool:
    """By the broker's word where it gives it: for overlapping filters it sends one copy to each subscription."""
    if incoming.subscriptions:
        return subscription_id(inbox.topic_filter) in incoming.subscriptions
    return topic_matches_sub(inbox.topic_filter, incoming.topic)
