"""Readings become the twin: applied in order of source time, published coalesced, gathered into windows."""

from __future__ import annotations

from asyncio import Event, TaskGroup

import structlog
from msgspec.structs import replace

from edge_agent.examples import Examples
from edge_agent.inference import Inference
from edge_agent.metrics import AgentMetrics
from edge_agent.model_in_use import ModelInUse
from edge_agent.sensors import Decoded, Decoder, Fault, SensorMap
from gemel.errors import BusUnavailable
from gemel.ports import Bus, BusMessage, Clock, Records
from gemel.twin.state import (
    Applied,
    Diagnosis,
    RunningModel,
    Twin,
    apply_reading,
    blank,
    diagnose,
    distrust,
    from_json,
    install,
    mark_stale,
    to_json,
)
from gemel.twin.window import Collected, Windower
from gemel.wire import topics

AGEING_S = 1.0  # how often properties are looked at for staleness, and the link for its return
RESERVED = 1000  # versions that may be published between two saves; a restart goes on above them
_KIND = "twin"
_REFUSED = {Applied.DUPLICATE: Fault.DUPLICATE, Applied.TOO_OLD: Fault.TOO_OLD}
_log = structlog.get_logger("gemel.agent.twin")


class LiveTwin:
    """The twin of one machine: changed in memory, published at most `rate_hz` times a second, its version durable.

    Begin with `await LiveTwin.load(...)`. A version that was published is never used again, not even after a crash.
    """

    def __init__(self, twin: Twin, *, bus: Bus, clock: Clock, records: Records, rate_hz: float) -> None:
        self._twin = twin
        self._bus, self._clock, self._records, self._interval_s = bus, clock, records, 1 / rate_hz
        self._saved_version = -RESERVED
        self._changed = Event()
        self._waiting_since_s: float | None = None  # when the oldest unpublished reading came in

    @classmethod
    async def load(
        cls, site: str, asset: str, *, bus: Bus, clock: Clock, records: Records, rate_hz: float
    ) -> LiveTwin:
        """The twin as it was saved last, its version beyond any that was published; or a blank one."""
        saved = await records.get(_KIND, f"{site}/{asset}")
        twin = blank(site, asset)
        if saved is not None:
            last = from_json(saved)
            twin = replace(last, version=last.version + RESERVED)
        return cls(twin, bus=bus, clock=clock, records=records, rate_hz=rate_hz)

    @property
    def now(self) -> Twin:
        """The twin as it stands."""
        return self._twin

    def become(self, twin: Twin, *, since_s: float | None = None) -> None:
        """Replace it; `since_s` is the monotonic time at which the cause came in."""
        if twin is self._twin:
            return
        self._twin = twin
        if self._waiting_since_s is None:
            self._waiting_since_s = since_s
        self._changed.set()

    def diagnosed(self, model: RunningModel, health: dict[str, Diagnosis]) -> None:
        """Put what the model says into the twin."""
        self.become(diagnose(self._twin, model, health))

    def publish_again(self) -> None:
        """Publish it as it is, for a broker that may have forgotten it. A blank one says nothing."""
        if self._twin.version > 0:
            self._changed.set()

    async def run(self, metrics: AgentMetrics) -> None:
        """Publish for ever."""
        topic = topics.twin_state(self._twin.site, self._twin.asset)
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                twin, since_s, self._waiting_since_s = self._twin, self._waiting_since_s, None
                if twin.version >= self._saved_version + RESERVED:
                    await self._save(twin)
                try:
                    await self._bus.publish(topic, to_json(twin), retain=True, content_type="application/json")
                except BusUnavailable:
                    self._waiting_since_s = since_s
                    self._changed.set()
                    continue
                if since_s is not None:
                    metrics.sensor_to_twin(self._clock.monotonic_s() - since_s)
                metrics.twin_version(twin.version)
                await self._clock.sleep(self._interval_s)
        finally:
            await self._save(self._twin)

    async def _save(self, twin: Twin) -> None:
        await self._records.put(_KIND, f"{twin.site}/{twin.asset}", to_json(twin))
        self._saved_version = twin.version


class Twinning:
    """Hears the sensors. A labelled window is on disk before the message that completed it is acknowledged.

    The window that is filling is in memory only: a crash costs its readings.
    """

    def __init__(
        self,
        *,
        mapping: SensorMap,
        decoder: Decoder,
        twin: LiveTwin,
        windower: Windower,
        examples: Examples,
        inference: Inference,
        model_in_use: ModelInUse,
        bus: Bus,
        clock: Clock,
        metrics: AgentMetrics,
    ) -> None:
        self._mapping, self._decoder, self._twin, self._windower = mapping, decoder, twin, windower
        self._examples, self._inference, self._model_in_use = examples, inference, model_in_use
        self._bus, self._clock, self._metrics = bus, clock, metrics

    async def run(self) -> None:
        """Subscribe, and keep twin, windows and examples for ever."""
        async with TaskGroup() as tasks:
            tasks.create_task(self._twin.run(self._metrics), name="publish twin")
            tasks.create_task(self._age(), name="age twin")
            tasks.create_task(self._follow_model(), name="follow model")
            for topic_filter in self._mapping.filters:
                await self._bus.subscribe(topic_filter, self.hear, qos=self._mapping.qos)
            _log.info("hearing sensors", topics=self._mapping.filters, linked=self._bus.connected)

    async def hear(self, message: BusMessage) -> None:
        """One message from a sensor or an inspection. What does not hold is counted; raises StoreUnavailable."""
        since_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
        decoded = self._decoder.decode(message.topic, message.payload, now_ms)
        if decoded.fault is not None:
            self._metrics.refused(decoded.fault)
            _log.debug("refused", topic=message.topic, fault=decoded.fault)
        twin = distrust(self._twin.now, decoded.suspects, now_ms)
        twin, values = self._apply(twin, decoded)
        self._twin.become(twin, since_s=since_s)
        if values:
            await self._collect(self._windower.add(decoded.readings[0].property.source_time_ms, values))
        if decoded.inspection is not None:
            await self._collect(self._windower.inspect(decoded.inspection.time_ms, decoded.inspection.labels))

    def _apply(self, twin: Twin, decoded: Decoded) -> tuple[Twin, dict[str, float]]:
        """The twin after the readings, and those that may enter a window: late ones too, bad ones not."""
        values: dict[str, float] = {}
        for reading in decoded.readings:
            twin, applied = apply_reading(twin, reading.name, reading.property)
            fault = reading.fault or _REFUSED.get(applied)
            if fault is None:
                self._metrics.accepted()
            else:
                self._metrics.refused(fault)
            if reading.fault is None and reading.property.value is not None and applied is not Applied.DUPLICATE:
                values[reading.name] = reading.property.value
        return twin, values

    async def _collect(self, collected: Collected) -> None:
        await self._examples.add(collected.examples)
        self._metrics.windows(collected)
        for window in collected.windows:
            self._inference.look_at(window)
        for example in collected.examples:
            self._inference.learn_outcome(example)

    async def _follow_model(self) -> None:
        seen = self._model_in_use.current()
        self._twin.become(install(self._twin.now, seen.running if seen else None))
        while True:
            seen = await self._model_in_use.other_than(seen)
            self._twin.become(install(self._twin.now, seen.running))

    async def _age(self) -> None:
        linked = False
        while True:
            self._twin.become(mark_stale(self._twin.now, self._mapping.stale_after_ms, self._clock.now_ms()))
            if self._bus.connected and not linked:
                self._twin.publish_again()
            linked = self._bus.connected
            await self._clock.sleep(AGEING_S)
