"""Takes in what agents say: refuses and counts what does not hold, and returns when the rest is committed."""

from __future__ import annotations

import msgspec
import structlog
from prometheus_client import Counter

from gemel.errors import Malformed, PeerError, Refused
from gemel.ports import Bus, BusMessage, Clock, Sample, TwinStore
from gemel.twin import agent, backfill
from gemel.twin.backfill import Backfill
from gemel.twin.state import from_json
from gemel.wire import topics
from gemel.wire.reasons import Reason

_AVAILABILITY = {agent.ONLINE: "online", agent.OFFLINE: "offline"}
AT_WORK = 500  # twins whose commit is awaited at a time; the bus's receive maximum may allow fewer
_log = structlog.get_logger("gemel.registry")


class Keeper:
    """Subscribes to every twin and agent of the plant. The broker hears of a message when it is on disk."""

    def __init__(self, store: TwinStore, clock: Clock, messages: Counter) -> None:
        self._store, self._clock, self._messages = store, clock, messages

    async def subscribe(self, bus: Bus) -> None:
        """Begin to listen."""
        await bus.subscribe(topics.ALL_TWINS, self.hear_twin, concurrency=AT_WORK)
        await bus.subscribe(topics.ALL_BACKFILL, self.hear_backfill)
        await bus.subscribe(topics.ALL_AVAILABILITY, self.hear_agent)
        await bus.subscribe(topics.ALL_AGENT_STATUS, self.hear_agent)

    async def hear_twin(self, message: BusMessage) -> None:
        """One twin document. Raises StoreUnavailable, never for what the document says."""
        try:
            twin = from_json(message.payload)
            if message.topic != topics.twin_state(twin.site, twin.asset):
                raise Refused(Reason.FOREIGN, f"the document is that of {twin.site}/{twin.asset}")
            stored = await self._store.put(twin, self._clock.now_ms())
        except PeerError as error:
            self._refuse(message, error)
        else:
            self._messages.labels("stored" if stored else "repeated", "ok").inc()

    async def hear_backfill(self, message: BusMessage) -> None:
        """What an agent could not say in time: its readings are history, and the twin that stands stays as it is.

        Raises StoreUnavailable, never for what the document says.
        """
        try:
            told = backfill.from_json(message.payload)
            if message.topic != topics.twin_backfill(told.site, told.asset):
                raise Refused(Reason.FOREIGN, f"the document is that of {told.site}/{told.asset}")
            if await self._store.twin(told.site, told.asset) is None:  # nothing stands: the newest is all we know
                await self._store.put(told.revisions[-1].twin, self._clock.now_ms())
            await self._store.put_samples(told.site, told.asset, _readings(told))
        except PeerError as error:
            self._refuse(message, error)
        else:
            self._messages.labels("stored", "ok").inc()

    async def hear_agent(self, message: BusMessage) -> None:
        """`availability` or `status` of an agent. Raises StoreUnavailable, never for what the message says."""
        *_, site, _, name, leaf = message.topic.split("/")
        now_ms = self._clock.now_ms()
        try:
            if leaf == "availability":
                if (availability := _AVAILABILITY.get(message.payload)) is None:
                    raise Malformed("availability", "neither online nor offline")
                await self._store.put_agent(site, name, availability=availability, received_ms=now_ms)
            else:
                status = agent.status_from_json(message.payload)
                if (status.site, status.name) != (site, name):
                    raise Refused(Reason.FOREIGN, f"the status is that of {status.site}/{status.name}")
                document = msgspec.json.encode(status, order="sorted")  # as checked: nothing unknown is kept
                await self._store.put_agent(site, name, status=document, received_ms=now_ms)
        except PeerError as error:
            self._refuse(message, error)
        else:
            self._messages.labels("stored", "ok").inc()

    def _refuse(self, message: BusMessage, error: PeerError) -> None:
        reason = error.reason if isinstance(error, Refused) else Reason.MALFORMED
        self._messages.labels("refused", str(reason)).inc()
        _log.warning("refused", topic=message.topic, error=str(error))


def _readings(told: Backfill) -> dict[str, list[Sample]]:
    """Each reading of the revisions once, by property."""
    found: dict[str, dict[int, Sample]] = {}
    for kept in told.revisions:
        for name, reading in kept.twin.properties.items():
            if reading.source_time_ms:  # a property that nothing was heard of has none
                sample = Sample(reading.source_time_ms, reading.value, reading.quality)
                found.setdefault(name, {})[reading.source_time_ms] = sample
    return {name: list(samples.values()) for name, samples in found.items()}
