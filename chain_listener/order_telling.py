"""What the chain says of maintenance orders is told on the bus: retained, an order a topic, with who, when and where.

An event is finished when its order is in the records; telling it waits for the broker, never the events for it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

import msgspec
import structlog
from msgspec.structs import replace

from chain_listener.orders import heard
from gemel.errors import BusRefused, Unavailable
from gemel.exchange.chain_watch import RETRY_S
from gemel.ports import Bus, ChainEvent, Clock, Records
from gemel.wire import topics
from gemel.wire.messages import decode, encode
from gemel.wire.types import Digest
from gemel.wire.upkeep import SCHEMA, OrderState, ToldOrder, ToldStep

VERIFIED_KEPT_S = 30 * 86_400  # the broker forgets a verified order then; the chain never does
_ORDERS, _UNTOLD, _ASSETS = "order", "order-untold", "asset"  # kinds of records

log = structlog.get_logger(__name__)


class _Asset(msgspec.Struct, frozen=True):
    """The names behind an asset's id on chain."""

    site: str
    name: str


@dataclass(slots=True)
class OrderTelling:
    """`reopen` hears of orders whose opening was reorganised away."""

    bus: Bus
    records: Records
    clock: Clock
    reopen: Callable[[Digest], Awaitable[None]]
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    _moved: asyncio.Event = field(default_factory=asyncio.Event)

    async def on_event(self, event: ChainEvent) -> None:
        """What the chain says of assets and orders."""
        if event.name == "AssetAssigned":
            asset = _Asset(str(event.values["site"]), str(event.values["name"]))
            await self.records.put(_ASSETS, str(event.values["asset"]), msgspec.json.encode(asset))
        elif event.name in ("OrderOpened", "OrderAdvanced"):
            await self._follow(event)

    async def run(self) -> None:
        """After a restart everything that is not verified yet, then each change, for ever."""
        for _, raw in await self.records.items(_ORDERS):
            order = decode(ToldOrder, raw)
            if order.state != OrderState.VERIFIED:
                await self._note(order)
        while True:
            self._moved.clear()
            try:
                for id_, raw in await self.records.items(_UNTOLD):
                    await self._tell(decode(ToldOrder, raw))
                    async with self._turn:
                        if await self.records.get(_UNTOLD, id_) == raw:
                            await self.records.drop(_UNTOLD, id_)
            except Unavailable as error:
                log.warning("orders not told yet", why=str(error), retry_s=RETRY_S)
                await self.clock.sleep(RETRY_S)
                continue
            await self._moved.wait()

    async def _follow(self, event: ChainEvent) -> None:
        id_, step = str(event.values["id"]), _step(event)
        order = await self._kept(id_) or await self._begun(id_, event)
        if order is None:
            log.error("an order of an asset that the chain never named", order=id_)
            return
        reached = OrderState[step.state.upper()]
        before = tuple(each for each in order.steps if OrderState[each.state.upper()] < reached)
        order = replace(order, steps=before if event.retracted else (*before, step))
        if order.steps:
            await self.records.put(_ORDERS, id_, encode(order))
        else:
            log.warning("an order was reorganised away", order=id_, asset=order.asset)
            await self.records.drop(_ORDERS, id_)
            await self.reopen(id_)
        await self._note(order)

    async def _kept(self, id_: Digest) -> ToldOrder | None:
        raw = await self.records.get(_ORDERS, id_)
        return None if raw is None else decode(ToldOrder, raw)

    async def _begun(self, id_: Digest, event: ChainEvent) -> ToldOrder | None:
        """An order without a step. The chain has the names of its asset, and we those of alerts that came by us."""
        raw = await self.records.get(_ASSETS, str(event.values.get("asset")))
        if raw is None:
            return None
        asset, raised = msgspec.json.decode(raw, type=_Asset), await heard(self.records, id_)
        alert = str(event.values["alert"]) if raised is None else raised.alert.alert
        return ToldOrder(SCHEMA, asset.site, asset.name, id_, alert, ())

    async def _note(self, order: ToldOrder) -> None:
        """To be told; durable."""
        async with self._turn:
            await self.records.put(_UNTOLD, order.order, encode(order))
        self._moved.set()

    async def _tell(self, order: ToldOrder) -> None:
        topic = topics.maintenance_order(order.site, order.asset, order.order)
        payload = encode(order) if order.steps else b""  # a retained message that is empty takes away the one before
        expiry_s = VERIFIED_KEPT_S if order.state == OrderState.VERIFIED else None
        try:
            await self.bus.publish(topic, payload, retain=True, expiry_s=expiry_s, content_type="application/json")
        except BusRefused as error:  # a broker with rights from before there were orders
            log.warning("the broker refuses an order's state", topic=topic, why=str(error))


def _step(event: ChainEvent) -> ToldStep:
    v = event.values
    state = OrderState(int(str(v["state"]))) if event.name == "OrderAdvanced" else OrderState.OPEN
    fields = {"state": state.name.lower(), "by": v["by"], "time_s": v["time"], "report": v["report"]}
    return msgspec.convert(fields | {"transaction": event.transaction, "block": event.block}, ToldStep)
