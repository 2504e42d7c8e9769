"""One-time keys: keep what agents sent of their keys, give out the total of the confirmed list, open the sum with it.

Three custodians do this side by side; none of them ever holds a whole key, and the totals of any two open the sum.
Whoever is first says so on chain, and the others leave it at that.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field

import structlog

from custodian.round_secrets import RoundSecrets
from custodian.witness import ChainWitness
from gemel.errors import BusUnavailable, PeerError, Refused
from gemel.exchange.admission import Terms
from gemel.exchange.chain_watch import ChainWatch, Parties
from gemel.exchange.mailbox import Mailbox
from gemel.exchange.opened_sums import OpenedSums, SealedSum
from gemel.exchange.post import Post, detail_of, reason_of
from gemel.exchange.round_contexts import announced_context
from gemel.exchange.transfers import Transfers
from gemel.ports import RoundRecord, RoundState
from gemel.sealing.onetime.context import RoundContext
from gemel.sealing.onetime.custodian import KeyCustodian
from gemel.sealing.onetime.letters import letter_bytes
from gemel.sealing.ports import Member
from gemel.sealing.stored_key import StoredKey
from gemel.wire import boxes
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import Aggregate, KeyContext, LetterReceipt, Opened, Policy, encode
from gemel.wire.reasons import Reason
from gemel.wire.types import sha256

SUM_BYTES = 1 << 30
FETCH_S = 60.0
STAGGER_S = 2.0  # each custodian leaves the opening to those before it for so long: one of them is enough

log = structlog.get_logger(__name__)


@dataclass(slots=True)
class OneTimeOpening:
    """Implements Opening (custodian/service.py)."""

    post: Post
    transfers: Transfers
    mailbox: Mailbox
    watch: ChainWatch
    agents: Parties
    opened_sums: OpenedSums
    policy: Policy
    parameters: int  # of the task's model
    secrets: RoundSecrets
    count_refusal: Callable[[str, str], None]  # (kind, reason), for the metric
    _number: int = 0  # of the round that letters may come for
    _context: bytes = b""
    _keys: KeyCustodian | None = None  # once every custodian has announced its key
    _witness: ChainWitness = field(default_factory=ChainWitness)

    async def listen(self, number: int) -> None:
        """Hear agents' letters of that round, and the other custodians."""
        self._number = number
        topics, custodians = self.post.topics, self.post.trust.custodian_addresses
        await self.post.hear(topics.context(), Kind.CONTEXT, custodians, self.mailbox.put)
        await self.post.hear(topics.key_total(), Kind.KEY_TOTAL, custodians, self.mailbox.put)
        own = topics.letter(self.post.identity.address)
        limit = letter_bytes(0, len(custodians))
        await self.post.hear(own, Kind.LETTER, self.agents, self._on_letter, max_body_bytes=limit)

    async def begin(self, number: int, record: RoundRecord) -> None:
        """Announce this round's key; once all custodians have, take the letters that have come, and those to come."""
        self._number, self._keys, self._witness = number, None, ChainWitness()
        secret = await asyncio.to_thread(self._secret, number)
        topic, key = self.post.topics.context(self.post.identity.address), KeyContext(boxes.box_key(secret))
        await self._say(topic, Kind.CONTEXT, encode(key), record)
        terms = Terms(self.post.trust, number, record.base, self.policy)
        context = await announced_context(terms, self.parameters, self.mailbox, self.transfers, deadline_s=FETCH_S)
        if key.box not in RoundContext.parse(context).custodians:
            raise Refused(Reason.DIGEST_MISMATCH, "another key was announced for us in this round")
        self._context = context
        self._keys = KeyCustodian(
            context, secret, registered=self.agents, minimum=self.policy.minimum_owners, witness=self._witness
        )
        for letter in await self.mailbox.here(Kind.LETTER, number):
            await self._keep(self._keys, letter)

    async def open(self, number: int, record: RoundRecord, aggregate: Aggregate) -> Opened | None:
        """Give out the total of the confirmed list, then open the sum. None: another custodian has opened it."""
        opening = asyncio.create_task(self._open(number, record, aggregate), name=f"open {number}")
        another = asyncio.create_task(self.watch.reached(number, RoundState.OPENED), name=f"opened {number}")
        try:
            await asyncio.wait({opening, another}, return_when=asyncio.FIRST_COMPLETED)
            if opening.done():
                return Opened(sha256(opening.result()))
            another.result()
            return None
        finally:
            opening.cancel()
            another.cancel()
            await asyncio.gather(opening, another, return_exceptions=True)

    async def end(self, number: int) -> None:
        """Forget this round's shares, and erase the secret that opened the letters."""
        if self._keys is not None:
            self._keys.destroy()
        self._keys = None
        await asyncio.to_thread(self.secrets.erase, number)

    # --- letters ----------------------------------------------------------------------------------------

    async def _on_letter(self, message: Envelope) -> None:
        """One letter an agent and round is kept. Raises Refused for another round than this one."""
        if message.header.round != self._number:
            raise Refused(Reason.STALE_ROUND, f"a letter of round {message.header.round}, this is {self._number}")
        await self.mailbox.put(message)
        if self._keys is not None:
            await self._keep(self._keys, message)

    async def _keep(self, keys: KeyCustodian, message: Envelope) -> None:
        """The agent and the coordinator hear what became of it; the same letter again gets the same answer."""
        agent = message.header.sender
        try:
            share = await asyncio.to_thread(keys.receive, message.body)
            if share.member.agent != agent:
                raise Refused(Reason.NOT_ADDRESSED, f"a letter of {share.member.agent}")
            parts = share.part_digests if len(self.post.trust.custodians) > 1 else ()  # nobody to compare with
            receipt = LetterReceipt(agent, "accepted", update=share.member.update, parts=parts)
        except PeerError as error:
            log.warning("letter refused", agent=agent, round=message.header.round, why=str(error))
            self.count_refusal("letter", reason_of(error))
            receipt = LetterReceipt(agent, "refused", reason_of(error), detail_of(error))
        topic = self.post.topics.letter_receipt(self.post.identity.address, agent)
        try:
            await self.post.say(topic, Kind.LETTER_RECEIPT, encode(receipt), round_=message.header.round)
        except BusUnavailable as unsaid:  # the other custodians' receipts may be enough
            log.warning("letter's receipt not sent", agent=agent, round=message.header.round, why=str(unsaid))

    # --- totals -----------------------------------------------------------------------------------------

    async def _open(self, number: int, record: RoundRecord, aggregate: Aggregate) -> bytes:
        assert self._keys is not None  # the round began
        self._witness.confirm(RoundContext.parse(self._context).digest, record, aggregate.entries)
        members = [Member(entry.device, entry.digest) for entry in aggregate.entries]
        total = await asyncio.to_thread(self._keys.total, members)
        trust, own = self.post.trust, self.post.identity.address
        readers = [party.box for party in (*trust.custodians, *trust.collectors)]
        await self._say(self.post.topics.key_total(own), Kind.KEY_TOTAL, boxes.wrap(total, readers), record)
        await self.post.clock.sleep(STAGGER_S * [custodian.address for custodian in trust.custodians].index(own))
        body = await self.transfers.fetch(
            trust.coordinator.address, aggregate.sum, max_bytes=SUM_BYTES, deadline_s=FETCH_S
        )
        return await self.opened_sums.open(SealedSum(number, self._context, body, len(members)))

    async def _say(self, topic: str, kind: Kind, body: bytes, record: RoundRecord) -> None:
        await self.post.say(topic, kind, body, round_=self._number, base=record.base, policy=record.policy)

    def _secret(self, number: int) -> bytes:
        """The Curve25519 secret of this round: the one on disk after a restart, else a fresh one."""
        stored = self.secrets.read(number)
        if stored is not None:
            return StoredKey.parse(stored).secret
        secret = boxes.new_secret()
        public = bytes.fromhex(boxes.box_key(secret))
        self.secrets.write(number, StoredKey(self.policy.sealing, self.parameters, public, secret).pack())
        return secret
