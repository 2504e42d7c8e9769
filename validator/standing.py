"""Says again and again what the chain says, for those who have none: how new it is, who votes, what is in use."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

import structlog

from gemel.errors import BusRefused, Refused, Unavailable
from gemel.exchange.chain_watch import RETRY_S, AnyOf
from gemel.exchange.electorates import Electorates
from gemel.exchange.post import Post
from gemel.ports import Chain, ChainEvent
from gemel.ports.elections import ChainStanding, Elections
from gemel.wire.electorate import Electorate
from gemel.wire.envelope import Kind
from gemel.wire.messages import Standing, encode
from gemel.wire.standing import Facts, sign_standing

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class StandingReporter:
    """One validator's that has a seat, or had one: whoever lost it still names who came after.

    Of one that never had any nobody would believe a word, and every agent would complain of it.
    """

    post: Post
    electorates: Electorates
    chain: Chain
    elections: Elections
    interval_s: float
    _woken: asyncio.Event = field(default_factory=asyncio.Event)

    async def on_event(self, _event: ChainEvent) -> None:
        """Something happened on chain: look whether it changes what is to be said."""
        self._woken.set()

    async def run(self) -> None:
        """Report each change at once, and otherwise each `interval_s`, for ever."""
        said: Facts | None = None
        due_s = 0.0
        while True:
            self._woken.clear()
            pause_s = RETRY_S
            try:
                found = await self.elections.standing(self.post.trust.task)
                electorate = await self._electorate(found.epoch)
                facts = _facts(found, electorate)
                seated = self.post.identity.address in AnyOf(self.electorates, electorate.addresses)
                if seated and (facts != said or self.post.clock.monotonic_s() >= due_s):
                    await self._report(facts, electorate, found.block)
                    said, due_s = facts, self.post.clock.monotonic_s() + self.interval_s
                pause_s = max(0.0, due_s - self.post.clock.monotonic_s()) if seated else self.interval_s
            except (Unavailable, BusRefused) as error:
                log.warning("standing not reported", why=str(error), retry_s=RETRY_S)
            try:
                async with asyncio.timeout(pause_s):
                    await self._woken.wait()
            except TimeoutError:
                continue

    async def _electorate(self, epoch: int) -> Electorate:
        """Of the epoch that the chain names, which may be one whose event has not come yet."""
        try:
            return self.electorates.of_epoch(epoch)
        except Refused:
            return await self.chain.electorate(self.post.trust.task, epoch)

    async def _report(self, facts: Facts, electorate: Electorate, block: int) -> None:
        trust, validator = self.post.trust, self.post.identity
        signature = sign_standing(
            facts, trust.task, trust.domain, validator, block=block, time_ms=self.post.clock.now_ms()
        )
        body = encode(Standing(facts, electorate, signature))
        await self.post.say(self.post.topics.standing(validator.address), Kind.STANDING, body, retain=True)


def _facts(found: ChainStanding, electorate: Electorate) -> Facts:
    return Facts(found.epoch, electorate.digest, found.deployment, found.model, found.policy)
