"""Takes in what agents say: refuses and counts what does not hold, and returns when the rest is committed."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import msgspec
import structlog
from prometheus_client import Counter

from gemel.errors import BusRefused, BusUnavailable, Malformed, PeerError, Refused
from gemel.ports import Bus, BusMessage, Clock, Sample, TwinStore
from gemel.twin import agent, backfill
from gemel.twin.alerts import AlertEvent
from gemel.twin.state import Twin, from_json
from gemel.wire import topics
from gemel.wire.messages import decode, encode
from gemel.wire.reasons import Reason

_AVAILABILITY = {agent.ONLINE: "online", agent.OFFLINE: "offline"}
AT_WORK = 1000  # twins whose commit is awaited at a time; the bus's receive maximum may allow fewer
_log = structlog.get_logger("gemel.registry")


class Keeper:
    """Subscribes to every twin and agent of the plant. The broker hears of a message when it is on disk."""

    def __init__(self, store: TwinStore, clock: Clock, messages: Counter) -> None:
        self._store, self._clock, self._messages = store, clock, messages
        self._said: set[str] = set()

    async def subscribe(self, bus: Bus) -> None:
        """Begin to listen."""
        await bus.subscribe(topics.ALL_TWINS, self.hear_twin, concurrency=AT_WORK)

        async def hear_backfill(message: BusMessage) -> None:
            refusal = await self.hear_backfill(message)
            await _answer_backfill(bus, message, refusal)

        await bus.subscribe(topics.ALL_BACKFILL, hear_backfill)
        await bus.subscribe(topics.ALL_TWIN_EVENTS, self.hear_event)
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

    async def hear_backfill(self, message: BusMessage) -> str:
        """Revisions from while an agent was offline: they, their readings and events are history. What stands stays.

        Returns when they are committed, with "", or why they are refused. Raises StoreUnavailable.
        """
        try:
            late = backfill.from_json(message.payload)
            if message.topic != topics.twin_backfill(late.site, late.asset):
                raise Refused(Reason.FOREIGN, f"the revisions are those of {late.site}/{late.asset}")
            newest = late.revisions[-1].twin
            if await self._store.twin(late.site, late.asset) is None:
                await self._store.put(newest, self._clock.now_ms())
            await self._store.put_late(late.site, late.asset, [(kept.at_ms, kept.twin) for kept in late.revisions])
            await self._store.put_samples(late.site, late.asset, _readings(kept.twin for kept in late.revisions))
            for event in (event for kept in late.revisions for event in kept.events):
                await self._store.put_event(late.site, late.asset, encode(event), self._clock.now_ms())
        except PeerError as error:
            self._refuse(message, error)
            return str(error)
        self._messages.labels("stored", "ok").inc()
        return ""

    async def hear_event(self, message: BusMessage) -> None:
        """An alert, raised or cleared. Raises StoreUnavailable, never for what the event says."""
        try:
            event = decode(AlertEvent, message.payload)
            if message.topic != topics.twin_event(event.site, event.asset):
                raise Refused(Reason.FOREIGN, f"the event is that of {event.site}/{event.asset}")
            stored = await self._store.put_event(event.site, event.asset, encode(event), self._clock.now_ms())
        except PeerError as error:
            self._refuse(message, error)
        else:
            self._messages.labels("stored" if stored else "repeated", "ok").inc()

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
        """Counted; the first of its kind is said aloud, lest a thousand strangers flood the log."""
        reason = str(error.reason if isinstance(error, Refused) else Reason.MALFORMED)
        self._messages.labels("refused", reason).inc()
        if reason in self._said:
            _log.debug("refused", topic=message.topic, error=str(error))
        else:
            self._said.add(reason)
            _log.warning("refused; more of this kind are only counted", topic=message.topic, error=str(error))


async def _answer_backfill(bus: Bus, message: BusMessage, refusal: str) -> None:
    """To whoever keeps the twin of the message's topic; without an answer it sends the backfill again."""
    *_, site, _, asset, _ = message.topic.split("/")
    answer = backfill.answer_to(message.payload, refusal)
    try:
        await bus.publish(topics.backfill_answer(site, asset), answer, content_type="application/json")
    except (BusRefused, BusUnavailable) as error:
        _log.warning("answer to a backfill dropped", site=site, asset=asset, error=str(error))


def _readings(twins: Iterable[Twin]) -> Mapping[str, Sequence[Sample]]:
    """Every reading in the documents, by property, once."""
    found: dict[str, dict[int, Sample]] = defaultdict(dict)
    for twin in twins:
        for name, reading in twin.properties.items():
            if reading.source_time_ms:
                sample = Sample(reading.source_time_ms, reading.value, reading.quality)
                found[name].setdefault(sample.time_ms, sample)
    return {name: [*samples.values()] for name, samples in found.items()}
