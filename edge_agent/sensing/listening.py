"""Hears the plant: subscribes to what the mapping names, and hands what was said to the twins that it concerns."""

from __future__ import annotations

import asyncio

import structlog

from edge_agent.metrics import AgentMetrics
from edge_agent.sensing.decoding import Decoded, Message
from edge_agent.sensing.hearing import Hearing
from edge_agent.sensing.mapping import SensorMap
from edge_agent.sensing.values import Fault
from edge_agent.twinning.further_twins import FurtherTwins
from edge_agent.twinning.live import Twinning
from gemel.errors import BusRefused, BusUnavailable
from gemel.ports import Bus, BusMessage, Clock

_log = structlog.get_logger("gemel.agent.listening")


class Listening:
    """All subscriptions of one agent's mapping. `asset` is its own, which `twinning` keeps."""

    def __init__(
        self,
        asset: str,
        mapping: SensorMap,
        hearing: Hearing,
        twinning: Twinning,
        further: FurtherTwins,
        *,
        bus: Bus,
        clock: Clock,
        metrics: AgentMetrics,
    ) -> None:
        self._asset, self._mapping, self._hearing = asset, mapping, hearing
        self._twinning, self._further = twinning, further
        self._bus, self._clock, self._metrics = bus, clock, metrics
        self._seen: set[Fault] = set()

    async def subscribe(self) -> None:
        """Hear everything from now on."""
        for topic_filter in self._mapping.filters:
            await self._bus.subscribe(topic_filter, self.hear, qos=self._mapping.qos)
        _log.info("hearing sensors", topics=self._mapping.filters, linked=self._bus.connected)

    async def hear(self, message: BusMessage) -> None:
        """One message of the plant. What does not hold is counted; raises StoreUnavailable."""
        now_ms, monotonic_s = self._clock.now_ms(), self._clock.monotonic_s()
        for number, heard in enumerate(self._hearing.hear(message.topic, message.payload, now_ms, monotonic_s)):
            if number:
                await asyncio.sleep(0)  # a birth of thousands of metrics must not hold up everything else
            for decoded in heard.decoded:
                await self._take(decoded, message.topic, now_ms, monotonic_s)
            if heard.command is not None:
                await self._send(heard.command)

    async def _take(self, decoded: Decoded, topic: str, now_ms: int, monotonic_s: float) -> None:
        if decoded.fault is not None:
            self._metrics.reading(decoded.fault)
            self._say(decoded.fault, topic)
        for reading in decoded.readings:  # which the intake counts
            if reading.fault is not None:
                self._say(reading.fault, topic)
        if decoded.asset == self._asset:
            await self._twinning.take(decoded, now_ms, monotonic_s)
        else:
            await self._further.take(decoded, now_ms, monotonic_s)

    def _say(self, fault: Fault, topic: str) -> None:
        """The first of its kind is said aloud."""
        if fault in self._seen:
            _log.debug("refused", topic=topic, fault=fault)
        else:
            self._seen.add(fault)
            _log.warning("refused; more of this kind are only counted", topic=topic, fault=fault)

    async def _send(self, command: Message) -> None:
        if not self._bus.connected:
            return  # it will be asked for again
        _log.info("asks for a rebirth", topic=command.topic)
        try:
            await self._bus.publish(command.topic, command.payload, qos=0)
        except (BusRefused, BusUnavailable) as error:
            _log.warning("a rebirth cannot be asked for", topic=command.topic, error=str(error))
