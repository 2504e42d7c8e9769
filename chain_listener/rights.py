"""Keeps the broker's rights as the chain wants them: grants, revocations, suspensions, elections."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import Awaitable, Callable, Sequence

import structlog

from gemel.errors import BusRefused, Refused, Unavailable
from gemel.exchange.chain_watch import RETRY_S
from gemel.exchange.wanted_rights import Wanted
from gemel.host.metrics import Metrics
from gemel.ports import BrokerRights, ChainEvent, Clock
from gemel.wire.entitlements import Difference
from gemel.wire.sharing import Grant
from gemel.wire.types import Millis

# Everything after which rights may be others. ScoreMoved: below the floor a device is left out.
CAUSES = frozenset(
    {
        *("AccessGranted", "AccessRevoked", "AssetAssigned"),
        *("PartyRegistered", "PartySuspended", "EpochClosed", "ScoreMoved"),
    }
)

MOST_CAUSES = 1000  # that are remembered while chain or broker is away; what is lost only goes unsaid
EVENT_LAG_S = 1.0  # what is read may be ahead of its event by so much
NO_EVENT = "no event of the chain"

log = structlog.get_logger(__name__)


class RightsKeeper:
    """Events wake it up, and it believes only what it then reads: so none is lost with a crash, and a burst of them
    costs two looks at most. Times of grants wake it up without an event, and every `every_s` it looks in any case,
    for what others have changed at the broker and for scores that have recovered.
    """

    def __init__(
        self,
        read_wanted: Callable[[], Awaitable[Wanted]],
        broker: BrokerRights,
        clock: Clock,
        metrics: Metrics,
        every_s: float,
    ) -> None:
        """`read_wanted` is WantedRights.read."""
        self._read_wanted, self._broker, self._clock, self._every_s = read_wanted, broker, clock, every_s
        self._metrics = metrics
        self._moved = asyncio.Event()
        self._causes: deque[ChainEvent] = deque(maxlen=MOST_CAUSES)  # since the last look
        self._refused: frozenset[tuple[Grant, str]] = frozenset()  # that were said already

    async def on_event(self, event: ChainEvent) -> None:
        """One contract event; also one that was reorganised away."""
        if event.name in CAUSES:
            self._causes.append(event)
            self._moved.set()

    async def run(self) -> None:
        """Look and mend, for ever; while chain or broker is away, or the broker refuses, say so and try again."""
        before: Wanted | None = None
        while True:
            self._moved.clear()
            causes = tuple(self._causes)
            self._causes.clear()
            try:
                wanted = await self._read_wanted()
                mended = await self._broker.apply(wanted.rights)
            except (Unavailable, BusRefused) as error:
                log.warning("rights not compared", why=str(error), retry_s=RETRY_S)
                self._causes = deque((*causes, *self._causes), MOST_CAUSES)
                await self._clock.sleep(RETRY_S)
                continue
            self._metrics.rights_compared_s.set(self._clock.now_ms() / 1000)
            otherwise = self._without_event(before)
            if otherwise == NO_EVENT and not all(_because(difference, causes) for difference in mended):
                await self._moved_within(EVENT_LAG_S)
                causes += tuple(self._causes)
            for difference in mended:
                self._metrics.rights_mended.labels(difference.kind).inc()
                log.info(
                    "rights mended",
                    difference=str(difference),
                    **_because(difference, causes) or {"cause": otherwise},
                )
            self._say_refused(wanted.refused)
            before = wanted
            await self._wait(wanted.next_change_ms)

    def _without_event(self, before: Wanted | None) -> str:
        if before is None:
            return "start"
        due = before.next_change_ms is not None and before.next_change_ms <= self._clock.now_ms()
        return "a grant began or ended" if due else NO_EVENT

    async def _wait(self, next_change_ms: Millis | None) -> None:
        wait_s = self._every_s
        if next_change_ms is not None:
            wait_s = min(wait_s, max(0, next_change_ms - self._clock.now_ms()) / 1000)
        await self._moved_within(wait_s)

    async def _moved_within(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._moved.wait()

    def _say_refused(self, refused: Sequence[tuple[Grant, Refused]]) -> None:
        now = frozenset((grant, str(refusal)) for grant, refusal in refused)
        for grant, why in now - self._refused:
            log.warning("grant opens nothing", scope=grant.scope, owner=grant.owner, consumer=grant.consumer, why=why)
        self._refused = now


def _because(difference: Difference, causes: Sequence[ChainEvent]) -> dict[str, object]:
    """The events that brought a difference about; empty where there are none."""
    events = [event for event in causes if _concerns(event, difference)]
    if not events:
        return {}
    return {
        "cause": ", ".join(f"{event.name} retracted" if event.retracted else event.name for event in events),
        "transaction": ", ".join(event.transaction for event in events),
        "block": max(event.block for event in events),
    }


def _concerns(event: ChainEvent, difference: Difference) -> bool:
    if event.name == "AssetAssigned":
        return f"/{event.values['site']}/twin/{event.values['name']}/" in str(difference)
    if event.name == "EpochClosed":
        return "/learning/" in str(difference)
    return difference.user in event.values.values()
