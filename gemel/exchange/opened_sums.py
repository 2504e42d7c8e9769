"""What a confirmed sum holds, for the coordinator, the validators, and under one-time keys for custodians, too."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import structlog

from gemel.errors import Malformed, PeerError, Refused
from gemel.exchange.mailbox import Mailbox
from gemel.exchange.transfers import Transfers
from gemel.sealing.onetime.letters import KeyTotal
from gemel.sealing.work import open_with_totals
from gemel.wire import boxes
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import Opened, SealingPolicy, decode
from gemel.wire.reasons import Reason
from gemel.wire.trust import Trust
from gemel.wire.types import Address, Digest, sha256

OPENED_BYTES = 1 << 30
ENOUGH = {1: 1, 3: 2}  # custodians there are → custodians whose totals open a sum

Compute = Callable[..., Awaitable[Any]]  # Workers.run

log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SealedSum:
    """A sealed sum whose digest is on chain."""

    round: int
    context: bytes
    body: bytes
    contributors: int


@dataclass(frozen=True, slots=True)
class OpenedSums:
    """One party's way to opened sums."""

    trust: Trust
    sealing: SealingPolicy
    mailbox: Mailbox
    transfers: Transfers
    compute: Compute
    box_secret: bytes

    async def announcement(self, round_: int, opened: Digest) -> Envelope:
        """A custodian's announcement of exactly this opened sum."""

        def names_it(message: Envelope) -> bool:
            try:
                return decode(Opened, message.body).opened == opened
            except Malformed:
                return False

        return await self.mailbox.take(Kind.OPENED, round_, names_it)

    async def fetch(self, announcement: Envelope, *, deadline_s: float) -> bytes:
        """bfv-packed: what the custodian that announced it offers. Raises Refused where those are other bytes."""
        announced = decode(Opened, announcement.body)
        if announced.transfer is None:
            raise Refused(Reason.MISSING, "the announcement offers no opened sum")
        wrapped = await self.transfers.fetch(
            announcement.header.sender, announced.transfer, max_bytes=OPENED_BYTES, deadline_s=deadline_s
        )
        opened = await asyncio.to_thread(boxes.unwrap, wrapped, self.box_secret)
        if await asyncio.to_thread(sha256, opened) != announced.opened:
            raise Refused(Reason.DIGEST_MISMATCH, "the opened sum is not the one that was announced")
        return opened

    async def open(self, sealed: SealedSum) -> bytes:
        """One-time keys: opened with the totals of enough custodians, as soon as there are some that fit.

        A false total opens nothing, with whichever other: it is logged and passed over. Raises Malformed once every
        custodian has spoken and no totals fit: then a letter of a member did not fit its body.
        """
        enough = ENOUGH[len(self.trust.custodians)]
        heard: dict[Address, bytes | None] = {}
        while len(heard) < len(self.trust.custodians):
            message = await self.mailbox.take(Kind.KEY_TOTAL, sealed.round, lambda m: m.header.sender not in heard)
            sender = message.header.sender
            earlier = [total for total in heard.values() if total is not None]
            heard[sender] = total = self._total(message)
            if total is None:
                continue
            for others in combinations(earlier, enough - 1):
                try:
                    opened: bytes = await self.compute(
                        open_with_totals,
                        sealed.context,
                        self.sealing,
                        (*others, total),
                        sealed.body,
                        sealed.contributors,
                    )
                except PeerError as error:
                    log.warning("totals do not open the sum", round=sealed.round, last=sender, why=str(error))
                else:
                    return opened
        raise Malformed("key totals", "no totals open the sum: a letter did not fit its body, or custodians lie")

    def _total(self, message: Envelope) -> bytes | None:
        """A custodian's total, or None for what is none of its own."""
        custodians = [custodian.address for custodian in self.trust.custodians]
        try:
            total = boxes.unwrap(message.body, self.box_secret)
            if custodians.index(message.header.sender) != KeyTotal.parse(total).custodian:
                raise Malformed("key total", "another custodian's")
        except PeerError as error:
            log.warning("key total refused", round=message.header.round, by=message.header.sender, why=str(error))
            return None
        return total
