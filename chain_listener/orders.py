"""A twin's health alert becomes a maintenance order on chain.

An alert is in the records before it is acknowledged to the broker, and waits there until the chain has its order; the
order's id is made of the alert, so handing it in twice opens nothing twice.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict, deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from enum import Enum

import msgspec
import structlog

from gemel.errors import ChainReverted, Refused, Unavailable
from gemel.exchange.chain_watch import RETRY_S, Parties
from gemel.exchange.post import Post
from gemel.ports import Records, Upkeep
from gemel.wire.eip712 import Domain
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import HealthAlert, decode
from gemel.wire.reasons import Reason
from gemel.wire.types import Address, Digest
from gemel.wire.upkeep import alert_signer, asset_id, order_of

ALERT_BYTES = 4096
AHEAD_S = 600  # so far a gateway's clock may be ahead of the chain's: its alert waits until the chain is there
MOST_AN_HOUR = 60  # alerts of one agent: every one costs us gas
WAITING = "alert-waiting"  # a kind of records, by order and agent: nobody's bad alert takes a good one's place
OPENED = "alert-opened"  # by order

log = structlog.get_logger(__name__)


class Raised(msgspec.Struct, frozen=True):
    """An alert, and the agent that signed it."""

    agent: Address
    alert: HealthAlert


async def heard(records: Records, order: Digest) -> Raised | None:
    """The alert behind an order, if one came by us."""
    if (opened := await records.get(OPENED, order)) is not None:
        return msgspec.json.decode(opened, type=Raised)
    waiting = (raw for key, raw in await records.items(WAITING) if key.startswith(order))
    return next((msgspec.json.decode(raw, type=Raised) for raw in waiting), None)


class Outcome(Enum):
    """What became of an alert that was handed in."""

    OPENED = "opened"
    REFUSED = "refused"
    WAITS = "waits"  # its time has not come on chain


@dataclass(slots=True)
class OrderOpening:
    """`maintenance` is what alerts are signed for; `count` hears what became of each."""

    post: Post
    agents: Parties
    upkeep: Upkeep
    records: Records
    maintenance: Domain
    count: Callable[[str], None]
    _recent_s: defaultdict[Address, deque[float]] = field(default_factory=lambda: defaultdict(deque))
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def listen(self) -> None:
        """Hear what agents raise."""
        topic = self.post.topics.health_alert()
        await self.post.hear(topic, Kind.HEALTH_ALERT, self.agents, self.on_alert, max_body_bytes=ALERT_BYTES)

    async def on_alert(self, message: Envelope) -> None:
        """An agent says that a twin raised an alert. Raises Refused, Malformed."""
        alert, agent = decode(HealthAlert, message.body), message.header.sender
        if alert_signer(alert, self.maintenance) != agent:
            raise Refused(Reason.BAD_SIGNATURE, f"the alert is not signed by {agent}")
        order = order_of(alert)
        if await self.records.get(OPENED, order) is not None:
            return  # said again
        if await self.records.get(WAITING, _key(order, agent)) is None:
            self._require_patience(agent)
            await self.records.put(WAITING, _key(order, agent), msgspec.json.encode(Raised(agent, alert)))
        self._moved.set()

    def _require_patience(self, agent: Address) -> None:
        now_s, recent = self.post.clock.monotonic_s(), self._recent_s[agent]
        while recent and recent[0] < now_s - 3600:
            recent.popleft()
        if len(recent) >= MOST_AN_HOUR:
            raise Refused(Reason.TOO_SOON, f"{MOST_AN_HOUR} alerts of {agent} within an hour")
        recent.append(now_s)

    async def reopen(self, order: Digest) -> None:
        """The block that opened it is no more: hand its alert in again, if it came by us."""
        if (raw := await self.records.get(OPENED, order)) is not None:
            agent = msgspec.json.decode(raw, type=Raised).agent
            await self.records.put(WAITING, _key(order, agent), raw)
            await self.records.drop(OPENED, order)
            self._moved.set()

    async def run(self) -> None:
        """Hand in what waits, for ever."""
        while True:
            self._moved.clear()
            again = await self._hand_in_all()
            with suppress(TimeoutError):
                async with asyncio.timeout(RETRY_S if again else None):
                    await self._moved.wait()

    async def _hand_in_all(self) -> bool:
        """Whether some must be tried again."""
        again = False
        for key, raw in await self.records.items(WAITING):
            raised = msgspec.json.decode(raw, type=Raised)
            order = order_of(raised.alert)
            try:
                outcome = await self._hand_in(order, raised)
            except Unavailable as error:
                log.warning("alerts wait for the chain", why=str(error), retry_s=RETRY_S)
                return True
            if outcome is Outcome.WAITS:
                again = True
                continue
            if outcome is Outcome.OPENED:
                await self.records.put(OPENED, order, raw)
            await self.records.drop(WAITING, key)
            self.count(outcome.value)
        return again

    async def _hand_in(self, order: Digest, raised: Raised) -> Outcome:
        """Raises ChainUnavailable."""
        alert, agent = raised.alert, raised.agent
        said = {"site": alert.site, "asset": alert.asset, "alert": alert.alert, "agent": agent}
        party, owner = self.agents.records.get(agent), await self.upkeep.owner_of(asset_id(alert.site, alert.asset))
        if party is None or party.owner != owner:
            log.warning("no order: the agent is not active, or not one of the asset's owner", owner=owner, **said)
            return Outcome.REFUSED
        try:
            sent = await self.upkeep.open_order(alert, agent)
        except ChainReverted as error:
            if error.error == "OrderExists":
                return Outcome.OPENED
            if error.error == "TimeOutOfOrder" and alert.time_s <= int(str(error.values["latest"])) + AHEAD_S:
                return Outcome.WAITS
            log.warning("the contract opens no order", why=str(error), **said)
            return Outcome.REFUSED
        log.info("order opened", order=order, transaction=sent.transaction, **said)
        return Outcome.OPENED


def _key(order: Digest, agent: Address) -> str:
    return f"{order}/{agent}"
