"""What validators say of the chain, again and again: the newest of each, and what a quorum of them agrees on."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial

import msgspec

from gemel.errors import Refused
from gemel.exchange.electorates import Electorates
from gemel.exchange.post import Post
from gemel.wire.electorate import Electorate
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.messages import Handover, Standing, decode
from gemel.wire.reasons import Reason
from gemel.wire.standing import Facts, StandingSignature, quorum_time_ms
from gemel.wire.types import Address, Digest

AHEAD_MS = 120_000  # how far a validator's clock may be ahead of ours
EPOCHS_KEPT = 4  # of each validator: an electorate's last word for the next stays while that one speaks already

Fits = Callable[[Facts], bool]


class Agreed(msgspec.Struct, frozen=True):
    """What a quorum says, and since when it has not said so again: the oldest word that the quorum needs."""

    facts: Facts
    signatures: tuple[StandingSignature, ...]
    time_ms: int


class Standings:
    """Hears validators that have, or had, a seat; keeps of each the newest word for each epoch that it names.

    A word counts when its validator signed it, it is not older than one that we have, and it is not from the future:
    nobody who keeps or repeats messages makes them look newer than they are.
    """

    def __init__(self, post: Post, electorates: Electorates) -> None:
        self._post, self._electorates = post, electorates
        self.on_heard: Callable[[], None] = lambda: None  # called after each new word
        self._said: dict[Address, dict[int, Standing]] = {}
        self._came = asyncio.Condition()

    async def listen(self) -> None:
        """Subscribe; call once."""
        await self._post.hear(self._post.topics.standing(), Kind.STANDING, self._electorates, self.on_standing)

    async def on_standing(self, message: Envelope) -> None:
        """A validator's word. Raises Refused: bad_signature, digest_mismatch, from_future; Malformed."""
        standing = decode(Standing, message.body)
        facts, signature = standing.facts, standing.signature
        if (facts.electorate, facts.epoch) != (standing.electorate.digest, standing.electorate.epoch):
            raise Refused(Reason.DIGEST_MISMATCH, "a standing comes with another electorate than it names")
        ahead_ms = signature.time_ms - self._post.clock.now_ms()
        if ahead_ms > AHEAD_MS:
            raise Refused(Reason.FROM_FUTURE, f"a standing is signed for {ahead_ms / 1000:.0f} s from now")
        by_epoch = self._said.setdefault(message.header.sender, {})
        known = by_epoch.get(facts.epoch)
        if known is not None and signature.time_ms <= known.signature.time_ms:
            return  # the broker kept it, or somebody repeats it
        trust = self._post.trust
        signer = signature.signer(facts, trust.task, trust.domain)
        if not signer == signature.validator == message.header.sender:
            raise Refused(Reason.BAD_SIGNATURE, f"a standing is not signed by {message.header.sender}")
        by_epoch[facts.epoch] = standing
        while len(by_epoch) > EPOCHS_KEPT:
            del by_epoch[min(by_epoch)]
        async with self._came:
            self._came.notify_all()
        self.on_heard()

    def agreed(self, electorate: Electorate, fits: Fits = lambda _: True) -> Agreed | None:
        """What a quorum of `electorate` says, of the latest epoch on which one agrees; None where none does."""
        signed: dict[Facts, list[StandingSignature]] = {}
        for standing in self._by(electorate):
            if fits(standing.facts):
                signed.setdefault(standing.facts, []).append(standing.signature)
        for facts in sorted(signed, key=lambda facts: facts.epoch, reverse=True):
            times_ms = {each.validator: each.time_ms for each in signed[facts]}
            time_ms = quorum_time_ms(times_ms, electorate)
            if time_ms is not None:
                return Agreed(facts, tuple(signed[facts]), time_ms)
        return None

    def handover(self, before: Electorate, epoch: int | None = None) -> Handover | None:
        """The next electorate that a quorum of `before` names, or that of `epoch`; None where none does."""
        named = {each.electorate.digest: each.electorate for each in self._by(before)}
        for digest, following in sorted(named.items(), key=lambda each: each[1].epoch):
            if following.epoch > before.epoch and epoch in (None, following.epoch):
                agreed = self.agreed(before, partial(_names, digest))
                if agreed is not None:
                    return Handover(agreed.facts, following, agreed.signatures)
        return None

    async def quorum(self, fits: Fits) -> tuple[Facts, tuple[StandingSignature, ...]]:
        """What a quorum of the electorate in force says that fits, now or as soon as it does."""
        async with self._came:
            while True:
                agreed = self.agreed(self._electorates.current, fits)
                if agreed is not None:
                    return agreed.facts, agreed.signatures
                await self._came.wait()

    def _by(self, electorate: Electorate) -> Iterator[Standing]:
        for address in electorate.addresses:
            yield from self._said.get(address, {}).values()


def _names(electorate: Digest, facts: Facts) -> bool:
    return facts.electorate == electorate
