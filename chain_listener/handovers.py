"""Hands each electorate over to those who have no chain, signed by the one before; closes epochs that are over."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog

from gemel.errors import BusRefused, ChainReverted, Unavailable
from gemel.exchange.chain_watch import RETRY_S
from gemel.exchange.electorates import Electorates
from gemel.exchange.post import Post
from gemel.exchange.standings import Standings
from gemel.ports import ChainEvent, Records
from gemel.ports.elections import Elections
from gemel.wire.electorate import Electorate
from gemel.wire.envelope import Kind
from gemel.wire.messages import Handover, decode, encode

LOOK_S = 60.0  # the longest sleep: our clock may be set meanwhile

_KIND = "handover"

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class Handovers:
    """Gathers what validators sign anyway. It decides nothing: agents check every signature, and can gather too."""

    post: Post
    records: Records
    electorates: Electorates
    standings: Standings
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    async def on_event(self, event: ChainEvent) -> None:
        """Who votes has changed."""
        if event.name == "EpochClosed":
            self._woken.set()

    def look(self) -> None:
        """A validator has spoken."""
        self._woken.set()

    async def run(self) -> None:
        """After a restart what was handed over before, then each handover as soon as a quorum has signed it."""
        waiting = [decode(Handover, raw) for _, raw in await self.records.items(_KIND)]
        published = {handover.electorate.epoch for handover in waiting}
        while True:
            self._woken.clear()
            for handover in self._ready(published):
                await self.records.put(_KIND, f"{handover.electorate.epoch:020d}", encode(handover))
                published.add(handover.electorate.epoch)
                waiting.append(handover)
            try:
                while waiting:
                    await self._publish(waiting[0])
                    del waiting[0]
            except (Unavailable, BusRefused) as error:
                log.warning("handover not published yet", why=str(error), retry_s=RETRY_S)
                await self.post.clock.sleep(RETRY_S)
                continue
            await self._woken.wait()

    def _ready(self, published: set[int]) -> Iterator[Handover]:
        """Of every later epoch than the pinned one: signed by the electorate before it, or by an earlier one's."""
        for following in self.electorates.after_pinned():
            if following.epoch in published:
                continue
            for before in self._before(following, published):
                handover = self.standings.handover(before, following.epoch)
                if handover is not None and handover.electorate == following:
                    yield handover
                    break

    def _before(self, following: Electorate, published: set[int]) -> Iterator[Electorate]:
        yield self.electorates.before(following.epoch)
        handed_over = [epoch for epoch in published if epoch < following.epoch]
        if handed_over:
            yield self.electorates.of_epoch(max(handed_over))

    async def _publish(self, handover: Handover) -> None:
        """Retained: an agent that was away needs every one since it left."""
        epoch = handover.electorate.epoch
        await self.post.say(self.post.topics.electorate(epoch), Kind.HANDOVER, encode(handover), retain=True)
        log.info("electorate handed over", epoch=epoch, seats=len(handover.electorate.members))


@dataclass(frozen=True, slots=True)
class EpochKeeper:
    """Closes each epoch when it is over. Anybody may, so a listener that does not is no more than late."""

    post: Post
    elections: Elections

    async def run(self) -> None:
        """For ever. Where the contract says no (too few candidates: the old set stays) it is asked again later."""
        clock = self.post.clock
        while True:
            pause_s = LOOK_S
            try:
                left_s = await self.elections.epoch_ends_s() - clock.now_ms() / 1000
                if left_s <= 0:
                    sent = await self.elections.close_epoch()
                    log.info("epoch closed", transaction=sent.transaction[:12], block=sent.block)
                    continue
                pause_s = min(left_s, LOOK_S)
            except ChainReverted as error:
                log.warning("epoch not closed", why=str(error))
                pause_s = LOOK_S if error.error == "TooFewCandidates" else RETRY_S  # or the chain's clock is behind
            except Unavailable as error:
                log.warning("epoch not closed", why=str(error), retry_s=RETRY_S)
                pause_s = RETRY_S
            await clock.sleep(pause_s)
