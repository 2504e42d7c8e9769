"""Readings become the twin: applied in order of source time, published coalesced, gathered into windows."""

from __future__ import annotations

import asyncio
from asyncio import Event, TaskGroup
from collections.abc import Callable, Mapping, Sequence

import structlog
from msgspec.structs import replace

from edge_agent.inferring.inference import Inference
from edge_agent.learning.examples import Examples
from edge_agent.learning.model_in_use import ModelInUse
from edge_agent.metrics import AgentMetrics
from edge_agent.sensing.decoding import Decoded
from edge_agent.sensing.intake import Intake
from edge_agent.sensing.mapping import PropertyMap
from edge_agent.twinning.alerting import AlertDesk, Call
from edge_agent.twinning.outbox import Outbox
from edge_agent.twinning.trail import Trail
from gemel.errors import BusRefused, BusUnavailable
from gemel.ports import Bus, Clock, Records
from gemel.twin import delta
from gemel.twin.alerts import AlertRule
from gemel.twin.backfill import Kept
from gemel.twin.delta import between
from gemel.twin.schema import schema_text
from gemel.twin.state import (
    Diagnosis,
    Drift,
    RunningModel,
    Twin,
    adrift,
    blank,
    diagnose,
    doubt_health,
    from_json,
    install,
    to_json,
)
from gemel.twin.window import Collected, Windower
from gemel.wire import topics

AGEING_S = 1.0  # how often properties are looked at for staleness and held readings, and the link for its return
RESERVED = 1000  # versions that may be published between two saves; a restart goes on above them
PATIENCE_S = 2.0  # for the broker to acknowledge; then the revision is history, and the newest is tried
_KIND = "twin"
_log = structlog.get_logger("gemel.agent.twin")


async def kept_assets(records: Records, site: str) -> list[str]:
    """The assets of a site whose twins were saved."""
    keys = [key.partition("/") for key, _ in await records.items(_KIND)]
    return [asset for of_site, _, asset in keys if of_site == site]


class LiveTwin:
    """The twin of one machine: changed in memory, published at most `rate_hz` times a second, its version durable.

    Begin with `await LiveTwin.load(...)`. A version that was published is never used again, not even after a power
    cut. What goes out is in `latest` before, so that the twin does not go back to older values, even after kill -9.
    Each time the whole document goes out, retained, then what changed since the one before, then what was alerted.
    """

    def __init__(
        self,
        twin: Twin,
        alerts: AlertDesk,
        outbox: Outbox | None = None,
        *,
        bus: Bus,
        clock: Clock,
        records: Records,
        latest: Records,
        metrics: AgentMetrics,
        rate_hz: float,
    ) -> None:
        self._twin, self._alerts, self._outbox = twin, alerts, outbox
        self._bus, self._clock, self._metrics = bus, clock, metrics
        self._records, self._latest = records, latest
        self._interval_s = 1 / rate_hz
        self._trail = Trail(self._interval_s)
        self._saved_version = -RESERVED
        self._published: Twin | None = None
        self._schema_told = False
        self._changed = Event()
        self._next = Event()  # the next change; each change has its own
        self._waiting_since_s: float | None = None  # when the oldest unpublished reading came in
        self._changed_since_s: float | None = None  # when the oldest change came that `run` has not taken up
        self.become(twin)

    @classmethod
    async def load(
        cls,
        site: str,
        asset: str,
        rules: Sequence[AlertRule] = (),
        outbox: Outbox | None = None,
        call: Call | None = None,
        *,
        bus: Bus,
        clock: Clock,
        records: Records,
        latest: Records,
        metrics: AgentMetrics,
        rate_hz: float,
    ) -> LiveTwin:
        """The twin as it was last, its version beyond any that was published; or a blank one.

        `call` hears of its alerts. `records` survive a power cut, `latest` need not: it is written with every
        revision.
        """
        documents = [await store.get(_KIND, f"{site}/{asset}") for store in (records, latest)]
        known = [from_json(document) for document in documents if document is not None]
        if outbox is not None and (unsent := await outbox.newest(asset)) is not None:
            known.append(unsent)
        twin = blank(site, asset)
        if known:
            last = max(known, key=lambda one: one.version)
            twin = replace(last, version=last.version + RESERVED)
        alerts = await AlertDesk.load(
            site, asset, rules, call, bus=bus, clock=clock, records=records, metrics=metrics
        )
        return cls(
            twin,
            alerts,
            outbox,
            bus=bus,
            clock=clock,
            records=records,
            latest=latest,
            metrics=metrics,
            rate_hz=rate_hz,
        )

    @property
    def now(self) -> Twin:
        """The twin as it stands."""
        return self._twin

    def become(self, twin: Twin, *, since_s: float | None = None) -> None:
        """Replace it; `since_s` is the monotonic time at which the cause came in. Alerts are looked at each time."""
        twin, events = self._alerts.look(twin)
        if twin is self._twin:
            return
        self._twin = twin
        self._trail.add(Kept(self._clock.now_ms(), twin, events), self._clock.monotonic_s())
        if self._waiting_since_s is None:
            self._waiting_since_s = since_s
        self._call()
        self._next.set()
        self._next = Event()

    async def until(self, holds: Callable[[Twin], bool]) -> None:
        """Returns once the twin, now or after a change, `holds`."""
        while not holds(self._twin):
            await self._next.wait()

    def drifted(self, drift: Mapping[str, Drift]) -> None:
        """Put into the twin what is no longer as the model has learnt it."""
        self.become(adrift(self._twin, drift))

    def diagnosed(self, model: RunningModel, health: dict[str, Diagnosis]) -> None:
        """Put what the model says into the twin."""
        self.become(diagnose(self._twin, model, health))

    def publish_again(self) -> None:
        """Publish it as it is, for a broker that may have forgotten it. A blank one says nothing."""
        self._schema_told = False
        if self._twin.version > 0:
            self._call()

    @property
    def held_up_s(self) -> float:
        """For how long a change has waited beyond the rate, neither published nor kept; 0.0 without one."""
        if self._changed_since_s is None:
            return 0.0
        return max(0.0, self._clock.monotonic_s() - self._changed_since_s - self._interval_s)

    def _call(self) -> None:
        """`run` has something to do."""
        if self._changed_since_s is None:
            self._changed_since_s = self._clock.monotonic_s()
        self._changed.set()

    async def run(self) -> None:
        """Publish for ever."""
        try:
            while True:
                await self._changed.wait()
                self._changed.clear()
                self._changed_since_s = None
                twin, since_s, self._waiting_since_s = self._twin, self._waiting_since_s, None
                if twin.version >= self._saved_version + RESERVED:
                    await self._save(twin)
                await self._alerts.keep()
                if not self._bus.connected:
                    await self._keep_unsent()
                    await self._clock.sleep(self._interval_s)
                    continue
                document = to_json(twin)
                await self._latest.put(_KIND, f"{twin.site}/{twin.asset}", document)
                try:
                    async with asyncio.timeout(PATIENCE_S):  # a link may be dead and not know it
                        await self._say(topics.twin_state, document, retain=True)
                    self._trail.published(twin.version)
                    if since_s is not None:
                        self._metrics.sensor_to_twin(self._clock.monotonic_s() - since_s)
                        since_s = None
                    self._metrics.twin_version(twin.version)
                    await self._say_what_changed(twin)
                    await self._alerts.say()
                    await self._tell_schema()
                except (BusUnavailable, TimeoutError):
                    self._waiting_since_s = self._waiting_since_s if since_s is None else since_s
                    self._call()
                    await self._keep_unsent()
                await self._clock.sleep(self._interval_s)
        finally:
            if not self._bus.connected:
                await self._keep_unsent()
            await self._save(self._twin)
            await self._alerts.keep()

    async def _keep_unsent(self) -> None:
        """It is told later, as history; what is published when the link is back is the newest alone."""
        unsent = self._trail.take()
        if self._outbox is not None and unsent:
            await self._outbox.keep(unsent)

    async def _say_what_changed(self, twin: Twin) -> None:
        """QoS 0: a reader sees by the versions that it missed one, and takes the whole."""
        before, self._published = self._published, twin
        if before is not None and twin.version > before.version:
            await self._say(topics.twin_delta, delta.to_json(between(before, twin)), qos=0)

    async def _tell_schema(self) -> None:
        if self._schema_told:
            return
        try:
            await self._say(topics.twin_schema, schema_text(), retain=True, content_type="application/schema+json")
        except BusRefused as error:  # a broker with rights from before there was a schema
            _log.warning("the broker refuses the schema", error=str(error))
        self._schema_told = True

    async def _say(
        self,
        topic: Callable[[str, str], str],
        payload: bytes,
        *,
        qos: int = 1,
        retain: bool = False,
        content_type: str = "application/json",
    ) -> None:
        where = topic(self._twin.site, self._twin.asset)
        await self._bus.publish(where, payload, qos=qos, retain=retain, content_type=content_type)

    async def _save(self, twin: Twin) -> None:
        await self._records.put(_KIND, f"{twin.site}/{twin.asset}", to_json(twin))
        self._saved_version = twin.version


class Twinning:
    """The agent's own asset. A labelled window is on disk before the message that completed it is acknowledged.

    The window that is filling is in memory only: a crash costs its readings.
    """

    def __init__(
        self,
        *,
        properties: Mapping[str, PropertyMap],
        twin: LiveTwin,
        windower: Windower,
        examples: Examples,
        inference: Inference,
        model_in_use: ModelInUse,
        bus: Bus,
        clock: Clock,
        metrics: AgentMetrics,
    ) -> None:
        self._twin, self._windower = twin, windower
        self._examples, self._inference, self._model_in_use = examples, inference, model_in_use
        self._bus, self._clock, self._metrics = bus, clock, metrics
        self._intake = Intake(properties, twin.now, clock.now_ms(), clock.monotonic_s(), metrics.reading)

    async def run(self) -> None:
        """Publish the twin, age it, and follow the model in use, for ever."""
        async with TaskGroup() as tasks:
            tasks.create_task(self._twin.run(), name="publish twin")
            tasks.create_task(self._age(), name="age twin")
            tasks.create_task(self._follow_model(), name="follow model")

    async def take(self, decoded: Decoded, now_ms: int, monotonic_s: float) -> None:
        """What a message says of this asset. Raises StoreUnavailable."""
        taken = self._intake.take(self._twin.now, decoded, now_ms, monotonic_s)
        self._twin.become(taken.twin, since_s=monotonic_s)
        if taken.clock_set_back:
            await self._collect(self._windower.begin_anew())
        for time_ms, values in sorted(taken.values.items()):
            await self._collect(self._windower.add(time_ms, values.by_name, values.uncertain))
        if decoded.inspection is not None:
            await self._collect(self._windower.inspect(decoded.inspection.time_ms, decoded.inspection.labels))

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
            aged = self._intake.tend(self._twin.now, self._clock.monotonic_s())
            self._twin.become(doubt_health(aged, self._windower.shape.inputs))
            if self._bus.connected and not linked:
                self._twin.publish_again()
            linked = self._bus.connected
            await self._clock.sleep(AGEING_S)
