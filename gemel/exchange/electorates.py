"""Who votes now, and who did before: one party's durable memory of the elections, from the pinned electorate on.

Whoever has a node reads it there and tells (`adopt`). Whoever has none believes what a quorum of the electorate
before signed (`take`). Both end in the same memory, which `Post.trust` answers from.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence

import structlog

from gemel.errors import Refused
from gemel.ports import Chain, Records
from gemel.wire.electorate import Electorate
from gemel.wire.messages import Handover, decode, encode
from gemel.wire.reasons import Reason
from gemel.wire.standing import check_handover
from gemel.wire.trust import Trust

_KIND = "electorate"

log = structlog.get_logger(__name__)


class Electorates:
    """Durable. Begin with `await Electorates.load(records, trust)`.

    As a container it holds the addresses of the seats in force and of those before, so that what is heard from
    validators follows the elections: who lost a seat still speaks of the rounds that opened while it had one.
    """

    def __init__(self, records: Records, trust: Trust) -> None:
        self._records = records
        self._known = {trust.electorate.epoch: trust.electorate}
        self.pinned_epoch = trust.electorate.epoch
        self._trust = trust
        self._seated = trust.validator_addresses

    @classmethod
    async def load(cls, records: Records, trust: Trust) -> Electorates:
        """What is known from before: nothing, where it does not descend from the electorate that is pinned now.

        Raises StoreUnavailable.
        """
        electorates = cls(records, trust)
        stored = [(key, decode(Electorate, raw)) for key, raw in await records.items(_KIND)]
        if any(each == trust.electorate for _, each in stored):
            electorates._known |= {each.epoch: each for _, each in stored}
            electorates._follow()
            return electorates
        for key, _ in stored:
            await records.drop(_KIND, key)
        await electorates._keep(trust.electorate)
        return electorates

    def __contains__(self, address: object) -> bool:
        return address in self._seated

    @property
    def trust(self) -> Trust:
        """The pinned parties, under the electorate in force."""
        return self._trust

    @property
    def current(self) -> Electorate:
        """The electorate in force, as far as we know."""
        return self._trust.electorate

    def of_epoch(self, epoch: int) -> Electorate:
        """Who voted then. Raises Refused(unknown_epoch): its handover may yet come."""
        if epoch not in self._known:
            known = f"{min(self._known)} to {max(self._known)}"
            raise Refused(Reason.UNKNOWN_EPOCH, f"who votes in epoch {epoch} is not known here, only of {known}")
        return self._known[epoch]

    def knows(self, epoch: int) -> bool:
        """Whether `of_epoch` has an answer."""
        return epoch in self._known

    async def adopt(self, electorate: Electorate) -> None:
        """What our own node says, whatever was known before. Raises StoreUnavailable."""
        if self._known.get(electorate.epoch) != electorate:
            await self._keep(electorate)

    async def take(self, handover: Handover) -> bool:
        """What a quorum of the electorate before says; False where it is known already.

        The one before is the latest that is known of an earlier epoch. So an epoch may be left out where a quorum
        signed past it, and may come in later. Raises Refused: no_quorum, digest_mismatch; StoreUnavailable.
        """
        following = handover.electorate
        known = self._known.get(following.epoch)
        if known is not None:
            if known != following:
                raise Refused(Reason.DIGEST_MISMATCH, f"another electorate of epoch {following.epoch} is known")
            return False
        before = self.before(following.epoch)
        if following.quorum_part != before.quorum_part:
            raise Refused(Reason.NO_QUORUM, f"a quorum is {before.quorum_part} ppm, not {following.quorum_part}")
        trust = self._trust
        check_handover(handover.facts, following, handover.signatures, trust.task, trust.domain, before)
        await self._keep(following)
        return True

    def before(self, epoch: int) -> Electorate:
        """The latest known of an earlier epoch. Raises Refused(not_above) where there is none."""
        earlier = sorted(self._known)
        place = bisect_left(earlier, epoch)
        if place == 0:
            raise Refused(Reason.NOT_ABOVE, f"the electorate of epoch {epoch}, ours begin with {earlier[0]}")
        return self._known[earlier[place - 1]]

    def after_pinned(self) -> Sequence[Electorate]:
        """Every electorate of a later epoch than the pinned one's, the earliest first."""
        return [self._known[epoch] for epoch in sorted(self._known) if epoch > self.pinned_epoch]

    async def _keep(self, electorate: Electorate) -> None:
        await self._records.put(_KIND, f"{electorate.epoch:020d}", encode(electorate))
        self._known[electorate.epoch] = electorate
        self._follow()

    def _follow(self) -> None:
        self._seated = frozenset().union(*(each.addresses for each in self._known.values()))
        latest = self._known[max(self._known)]
        if latest != self.current:
            log.info("electorate in force", epoch=latest.epoch, seats=len(latest.members))
            self._trust = self._trust.under(latest)


async def electorate_of(electorates: Electorates, chain: Chain, epoch: int) -> Electorate:
    """Who votes in an epoch, for whoever has a node: its event may not have come yet, or came before our time.

    Raises ChainUnavailable.
    """
    try:
        return electorates.of_epoch(epoch)
    except Refused:
        return await chain.electorate(electorates.trust.task, epoch)
