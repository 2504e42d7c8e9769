"""Round by round: make the round's secret, open the one sum that the chain confirmed, destroy the secret."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import structlog

from custodian.offers import Offers
from custodian.round_secrets import RoundSecrets
from gemel.errors import ChainReverted, PeerError, Refused, Unavailable
from gemel.exchange import admission
from gemel.exchange.chain_watch import RETRY_S, ChainWatch, Parties, RoundEnded
from gemel.exchange.mailbox import Mailbox
from gemel.exchange.post import Post, reason_of
from gemel.ports import Chain, RoundRecord, RoundState
from gemel.wire.envelope import Kind
from gemel.wire.messages import Aggregate, Opened, Policy, decode, encode
from gemel.wire.reasons import Reason

log = structlog.get_logger(__name__)


class Opening(Protocol):
    """One scheme's way from a round's beginning to its opened sum."""

    async def listen(self, number: int) -> None:
        """Hear what the scheme needs, from round `number` on; call once."""
        ...

    async def begin(self, number: int, record: RoundRecord) -> None:
        """Make the round's secret, or read it after a restart, and announce its public half."""
        ...

    async def open(self, number: int, record: RoundRecord, aggregate: Aggregate) -> Opened | None:
        """The announcement of the opened sum, which the chain has confirmed; None where another has opened it."""
        ...

    async def end(self, number: int) -> None:
        """Destroy the round's secret."""
        ...


@dataclass(frozen=True, slots=True)
class Custodian:
    """Holds one round's secret at a time. Acts on the chain's word, never on the coordinator's."""

    post: Post
    mailbox: Mailbox
    chain: Chain
    watch: ChainWatch
    agents: Parties
    policy: Policy  # the one policy it makes secrets for
    opening: Opening
    offers: Offers
    secrets: RoundSecrets
    count_refusal: Callable[[str, str], None]  # (kind, reason), for the metric

    async def listen(self) -> None:
        """Hear which updates the coordinator says are in the sum; the chain decides whether that is so."""
        coordinator = {self.post.trust.coordinator.address}
        await self.post.hear(self.post.topics.aggregate, Kind.AGGREGATE, coordinator, self.mailbox.put)
        await self.opening.listen(await self._first())

    async def run(self) -> None:
        """Serve every round from the first that is not decided yet, for ever."""
        number = await self._first()
        await asyncio.to_thread(self.secrets.erase_before, number)
        while True:
            await self.watch.reached(number, RoundState.OPEN, even_if_ended=True)
            await self.offers.withdraw_before(number)
            try:
                await self.watch.before_verdict(number, self._serve(number))
            except RoundEnded as ended:
                log.info("round ended without an opening", number=number, state=ended.state.name.lower())
            except (PeerError, ChainReverted) as error:
                log.warning("sum not opened", number=number, why=str(error))
                if isinstance(error, PeerError):
                    self.count_refusal("aggregate", reason_of(error))
                await self.watch.reached(number, RoundState.OPENED, even_if_ended=True)
            except Unavailable as error:
                log.warning("once more", number=number, why=str(error), retry_s=RETRY_S)
                await self.post.clock.sleep(RETRY_S)
                continue
            await self.opening.end(number)
            await self.offers.transfers.drop_unfinished()
            await self.mailbox.clear_through(number)
            number += 1

    async def _first(self) -> int:
        return max(1, (await self.chain.task(self.post.trust.task)).last_round)

    async def _serve(self, number: int) -> None:
        record = await self.watch.reached(number, RoundState.OPEN)
        if record.policy != self.policy.digest:
            raise Refused(Reason.WRONG_POLICY, f"the round's policy is {record.policy[:12]}, not the pinned one")
        if record.state >= RoundState.OPENED:
            return
        await self.opening.begin(number, record)
        record = await self.watch.reached(number, RoundState.CONFIRMED)
        if record.state >= RoundState.OPENED:
            return
        aggregate = decode(Aggregate, (await self.mailbox.take(Kind.AGGREGATE, number)).body)
        await self._check(record, aggregate)
        announcement = await self.opening.open(number, record, aggregate)
        if announcement is None:
            log.info("another custodian opened the sum", number=number)
        else:
            await self._announce(number, record, announcement)

    async def _check(self, record: RoundRecord, aggregate: Aggregate) -> None:
        """Raises Refused unless the aggregate is the one that validators confirmed, of enough distinct owners."""
        if record.state != RoundState.CONFIRMED:
            raise Refused(Reason.STALE_ROUND, f"the round is {record.state.name.lower()}, not confirmed")
        if aggregate.sum.digest != record.sum_digest:
            raise Refused(Reason.DIGEST_MISMATCH, "the sum is not the one that the chain confirmed")
        if admission.root_of(aggregate.entries) != record.updates_root:
            raise Refused(Reason.DIGEST_MISMATCH, "the updates are not those that the chain confirmed")
        await self.agents.refresh(self.chain)
        strangers = [e.device for e in aggregate.entries if e.device not in self.agents]
        if strangers:
            raise Refused(Reason.UNREGISTERED, strangers[0])
        owners = {self.agents.records[e.device].owner for e in aggregate.entries}
        if len(owners) < self.policy.minimum_owners:
            raise Refused(Reason.TOO_FEW_OWNERS, f"{len(owners)} owners, {self.policy.minimum_owners} needed")

    async def _announce(self, number: int, record: RoundRecord, announcement: Opened) -> None:
        """Say it, then put it on chain: whoever reads it there can count on having heard it."""
        await self.post.say(
            self.post.topics.opened(self.post.identity.address),
            Kind.OPENED,
            encode(announcement),
            round_=number,
            base=record.base,
            policy=record.policy,
        )
        try:
            await self.chain.record_opening(self.post.trust.task, number, opened=announcement.opened)
        except ChainReverted as error:
            if (await self.chain.round(self.post.trust.task, number)).opened != announcement.opened:
                raise
            log.info("another custodian was faster", number=number, why=str(error))
        log.info("sum opened", number=number, owners=record.owners, sum=record.sum_digest[:12])
