"""Raises and clears alerts on the live twin, and says so: each event until the broker has it, over restarts too."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import NamedTuple

import structlog

from edge_agent.metrics import AgentMetrics
from gemel.errors import BusRefused
from gemel.ports import Bus, Clock, Records
from gemel.twin.alerts import AlertBook, AlertEvent, AlertRule, Holds, event_to_json, look, said
from gemel.twin.state import Twin, warn
from gemel.wire import topics
from gemel.wire.messages import decode, encode

Call = Callable[[AlertEvent], Awaitable[None]]  # who else is to hear of it; raises BusUnavailable
MAX_UNSAID = 1000  # events that wait for a broker; beyond that the oldest go
_KIND = "alerts"
_log = structlog.get_logger("gemel.agent.alerts")


class Where(NamedTuple):
    """Which machine's twin."""

    site: str
    asset: str


class AlertDesk:
    """The alerts of one machine. The live twin calls `look` with every change and every second, and then the others.
    They count when they are raised and cleared, whether there is a broker or not.

    Begin with `await AlertDesk.load(...)`. What stands, and what was not said yet, is on disk before it is said;
    where a crash comes before that, the alert is raised again under the same id. An event counts as said when `call`,
    too, has heard of it.
    """

    def __init__(
        self,
        where: Where,
        rules: Sequence[AlertRule],
        book: AlertBook,
        call: Call | None = None,
        *,
        bus: Bus,
        clock: Clock,
        records: Records,
        metrics: AgentMetrics,
    ) -> None:
        self._where, self._rules, self._book, self._call = where, rules, book, call
        self._bus, self._clock, self._records, self._metrics = bus, clock, records, metrics
        self._kept = book
        self._holds: Holds = {}

    @classmethod
    async def load(
        cls,
        site: str,
        asset: str,
        rules: Sequence[AlertRule],
        call: Call | None = None,
        *,
        bus: Bus,
        clock: Clock,
        records: Records,
        metrics: AgentMetrics,
    ) -> AlertDesk:
        """The desk as it was left."""
        kept = await records.get(_KIND, f"{site}/{asset}")
        book = AlertBook() if kept is None else decode(AlertBook, kept)
        return cls(Where(site, asset), rules, book, call, bus=bus, clock=clock, records=records, metrics=metrics)

    def look(self, twin: Twin) -> tuple[Twin, tuple[AlertEvent, ...]]:
        """The twin with the alerts that stand now, and what was raised and cleared."""
        now_s, now_ms = self._clock.monotonic_s(), self._clock.now_ms()
        book, self._holds = look(self._rules, self._book, self._holds, twin, now_s=now_s, now_ms=now_ms)
        events = book.unsaid[len(self._book.unsaid) :]
        for event in events:
            self._metrics.alert(event.event)
        self._book = self._bounded(book)
        return warn(twin, self._book.alerts), events

    async def keep(self) -> None:
        """Put on disk what changed."""
        if (book := self._book) is not self._kept:
            await self._records.put(_KIND, f"{self._where.site}/{self._where.asset}", encode(book))
            self._kept = book

    async def say(self) -> None:
        """Say in order what was kept and not said yet. Raises BusUnavailable; the rest is said the next time."""
        for event in self._kept.unsaid:
            topic = topics.twin_event(self._where.site, self._where.asset)
            try:
                await self._bus.publish(topic, event_to_json(event), content_type="application/json")
            except BusRefused as error:
                _log.error("the broker refused an event", id=event.id, error=str(error))
            else:
                _log.info(event.event, alert=event.id, value=event.value)
            if self._call is not None:
                await self._call(event)
            self._book = said(self._book, [event])
        await self.keep()

    def _bounded(self, book: AlertBook) -> AlertBook:
        if (surplus := len(book.unsaid) - MAX_UNSAID) <= 0:
            return book
        _log.error("events lost: too many wait for the broker", lost=surplus, oldest=book.unsaid[0].id)
        return said(book, book.unsaid[:surplus])
