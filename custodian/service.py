"""Round by round: make the sealing key, open the one sum that the chain confirmed, destroy the key."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import structlog

from gemel.adapters.secret_files import create_private, erase, read_private, sync_folder
from gemel.errors import ChainReverted, PeerError, Refused, Unavailable
from gemel.exchange import admission
from gemel.exchange.chain_watch import RETRY_S, ChainWatch, Parties, RoundEnded
from gemel.exchange.mailbox import Mailbox
from gemel.exchange.post import Post, reason_of
from gemel.exchange.transfers import Transfers, describe
from gemel.host.workers import Workers
from gemel.ports import Chain, Records, RoundRecord, RoundState
from gemel.sealing.opener import RoundKey, create_key, open_sum, public_context_of
from gemel.wire import boxes
from gemel.wire.chunks import Transfer
from gemel.wire.envelope import Kind
from gemel.wire.messages import Aggregate, Context, Opened, Policy, decode, encode
from gemel.wire.reasons import Reason
from gemel.wire.types import sha256

SUM_BYTES = 1 << 30
FETCH_S = 60.0
KEY_BYTES = 64 << 20
_OPENING = "opening"  # round → digest of the one sum that may be opened in it
_OFFERED = "offered"  # round/digest → a transfer that is held ready until the next round opens

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class Custodian:
    """Holds one round's secret sealing key at a time. Acts on the chain's word, never on the coordinator's."""

    post: Post
    transfers: Transfers
    mailbox: Mailbox
    chain: Chain
    watch: ChainWatch
    agents: Parties
    records: Records
    workers: Workers
    policy: Policy  # the one policy it makes keys for
    parameters: int  # of the task's model
    keys_dir: Path
    count_refusal: Callable[[str, str], None]  # (kind, reason), for the metric

    async def listen(self) -> None:
        """Hear which updates the coordinator says are in the sum; the chain decides whether that is so."""
        coordinator = {self.post.trust.coordinator.address}
        await self.post.hear(self.post.topics.aggregate, Kind.AGGREGATE, coordinator, self.mailbox.put)

    async def run(self) -> None:
        """Serve every round from the first that is not decided yet, for ever."""
        number = max(1, (await self.chain.task(self.post.trust.task)).last_round)
        await asyncio.to_thread(self._erase_keys_before, number)
        while True:
            await self.watch.reached(number, RoundState.OPEN, even_if_ended=True)
            await self._withdraw_before(number)
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
            await self._destroy(number)
            number += 1

    async def _serve(self, number: int) -> None:
        record = await self.watch.reached(number, RoundState.OPEN)
        if record.policy != self.policy.digest:
            raise Refused(Reason.WRONG_POLICY, f"the round's policy is {record.policy[:12]}, not the pinned one")
        if record.state >= RoundState.OPENED:
            return
        key = await self._key(number)
        context = await self._offer(number, key.public_context)
        await self.post.say(
            self.post.topics.context,
            Kind.CONTEXT,
            encode(Context(context)),
            round_=number,
            base=record.base,
            policy=record.policy,
        )
        record = await self.watch.reached(number, RoundState.CONFIRMED)
        aggregate = decode(Aggregate, (await self.mailbox.take(Kind.AGGREGATE, number)).body)
        await self._check(record, aggregate)
        sealed_sum = await self.transfers.fetch(
            self.post.trust.coordinator.address, aggregate.sum, max_bytes=SUM_BYTES, deadline_s=FETCH_S
        )
        await self._open_once(number, record, aggregate, key, sealed_sum)

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

    async def _open_once(
        self, number: int, record: RoundRecord, aggregate: Aggregate, key: RoundKey, sealed_sum: bytes
    ) -> None:
        digest = record.sum_digest.encode()
        if not await self.records.put_once(_OPENING, str(number), digest):
            if await self.records.get(_OPENING, str(number)) != digest:
                raise Refused(Reason.DUPLICATE, "another sum of this round has been opened")
            log.info("going on with an opening that a crash interrupted", number=number)
        added = sum(entry.level for entry in aggregate.entries)
        opened = await self.workers.run(open_sum, key.secret, sealed_sum, added)
        wrapped = await asyncio.to_thread(boxes.wrap, opened, [c.box for c in self.post.trust.collectors])
        transfer = await self._offer(number, wrapped)
        await self.post.say(
            self.post.topics.opened,
            Kind.OPENED,
            encode(Opened(sha256(opened), transfer)),
            round_=number,
            base=record.base,
            policy=record.policy,
        )
        await self.chain.record_opening(self.post.trust.task, number, opened=sha256(opened))
        log.info("sum opened", number=number, owners=record.owners, sum=record.sum_digest[:12])

    # --- offers: the public context, and the opened sum for collectors --------------------------------

    async def _offer(self, number: int, payload: bytes) -> Transfer:
        """Hold a payload ready until the round is final; written down first, so that a crash leaves no orphan."""
        transfer = describe(payload)
        await self.records.put(_OFFERED, f"{number}/{transfer.digest}", encode(transfer))
        return await self.transfers.offer(payload)

    async def _withdraw_before(self, number: int) -> None:
        """The contract opens a round when the one before is final: what that one was offered goes."""
        for key, stored in await self.records.items(_OFFERED):
            if int(key.split("/", 1)[0]) < number:
                await self.transfers.withdraw(decode(Transfer, stored))
                await self.records.drop(_OFFERED, key)

    # --- the key ------------------------------------------------------------------------------------

    def _key_path(self, number: int) -> Path:
        return self.keys_dir / f"round-{number:06d}.key"

    async def _key(self, number: int) -> RoundKey:
        """The round's key: the one on disk after a restart, else a fresh one, written before anybody hears of it."""
        path = self._key_path(number)
        if path.exists():
            secret = await asyncio.to_thread(read_private, path, "sealing key", KEY_BYTES)
            return RoundKey(secret, await self.workers.run(public_context_of, secret))
        key: RoundKey = await self.workers.run(create_key, self.policy.sealing, self.parameters)
        await asyncio.to_thread(_write_secret, path, key.secret)
        return key

    async def _destroy(self, number: int) -> None:
        """Overwrite and remove the key as soon as the opened sum is on its way, or cannot be any more."""
        await asyncio.to_thread(erase, self._key_path(number))
        await self.transfers.drop_unfinished()
        await self.mailbox.clear_through(number)

    def _erase_keys_before(self, number: int) -> None:
        """Keys of rounds that ended while this process was away, and what a crash left of making one."""
        for path in sorted(self.keys_dir.glob("round-*")):
            if path.stem < self._key_path(number).stem:
                erase(path)


def _write_secret(path: Path, secret: bytes) -> None:
    """Whole or not at all: half a key, left by a crash, would be no key and yet be taken for one."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    scratch = path.with_suffix(".new")
    erase(scratch)
    create_private(scratch, secret, "sealing key")
    scratch.rename(path)
    sync_folder(path.parent)
