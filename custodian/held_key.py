"""bfv-packed and ckks: one secret key a round, which opens the one confirmed sum."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

import structlog

from custodian.offers import Offers
from custodian.round_secrets import RoundSecrets
from custodian.training_desk import TrainingDesk
from gemel.errors import Refused
from gemel.exchange.post import Post
from gemel.exchange.transfers import Transfers
from gemel.host.workers import Workers
from gemel.ports import Records, RoundRecord
from gemel.sealing.opener import RoundKey, create_key, open_sum, public_context_of
from gemel.wire import boxes
from gemel.wire.envelope import Kind
from gemel.wire.messages import Aggregate, Context, Opened, Policy, encode
from gemel.wire.reasons import Reason
from gemel.wire.types import sha256

SUM_BYTES = 1 << 30
FETCH_S = 60.0
_OPENING = "opening"  # round → digest of the one sum that may be opened in it

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class HeldKeyOpening:
    """Implements Opening (custodian/service.py)."""

    post: Post
    transfers: Transfers
    records: Records
    offers: Offers
    workers: Workers
    policy: Policy
    parameters: int  # of the task's model
    secrets: RoundSecrets
    training: TrainingDesk | None = None  # where the policy says training.encrypted

    async def listen(self, number: int) -> None:
        """Agents need no more than the public half of the key, unless they train on encrypted data."""
        if self.training is not None:
            await self.training.listen(number)

    async def begin(self, number: int, record: RoundRecord) -> None:
        """Offer and announce the round's public context."""
        public = (await self._key(number)).public_context
        context = await self.offers.hold(number, public)
        training = None if self.training is None else await self.training.begin(number, public)
        await self.post.say(
            self.post.topics.context(self.post.identity.address),
            Kind.CONTEXT,
            encode(Context(context, training)),
            round_=number,
            base=record.base,
            policy=record.policy,
        )

    async def open(self, number: int, record: RoundRecord, aggregate: Aggregate) -> Opened:
        """Open the confirmed sum, and offer what it holds to the collectors; the same sum again after a crash.

        Raises Refused(duplicate) for another sum than the one whose opening began.
        """
        sealed_sum = await self.transfers.fetch(
            self.post.trust.coordinator.address, aggregate.sum, max_bytes=SUM_BYTES, deadline_s=FETCH_S
        )
        digest = record.sum_digest.encode()
        if not await self.records.put_once(_OPENING, str(number), digest):
            if await self.records.get(_OPENING, str(number)) != digest:
                raise Refused(Reason.DUPLICATE, "another sum of this round has been opened")
            log.info("going on with an opening that a crash interrupted", number=number)
        secret = (await self._key(number)).secret
        added = sum(entry.level for entry in aggregate.entries)
        opened = await self.workers.run(open_sum, secret, sealed_sum, added)
        wrapped = await asyncio.to_thread(boxes.wrap, opened, [c.box for c in self.post.trust.collectors])
        return Opened(sha256(opened), await self.offers.hold(number, wrapped))

    async def end(self, number: int) -> None:
        """Erase the key, as soon as the opened sum is on its way, or cannot be any more."""
        await asyncio.to_thread(self.secrets.erase, number)
        if self.training is not None:
            await self.training.end(number)

    async def _key(self, number: int) -> RoundKey:
        """The round's key: the one on disk after a restart, else a fresh one, written before anybody hears of it."""
        secret = await asyncio.to_thread(self.secrets.read, number)
        if secret is not None:
            return RoundKey(secret, await self.workers.run(public_context_of, secret))
        key: RoundKey = await self.workers.run(create_key, self.policy.sealing, self.parameters)
        await asyncio.to_thread(self.secrets.write, number, key.secret)
        return key
