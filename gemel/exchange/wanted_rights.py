"""What everybody may do at the broker, by what the chain says now: for who keeps the rights and who audits them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from gemel.errors import Refused
from gemel.ports import Chain, Clock, Role, Sharing, Suspensions
from gemel.wire.electorate import Electorate
from gemel.wire.entitlements import Entitlement, entitlements
from gemel.wire.rights import Party
from gemel.wire.sharing import Grant, shares
from gemel.wire.trust import Trust
from gemel.wire.types import Address, Millis


class Wanted(NamedTuple):
    """What the broker should let everybody do, as of one moment."""

    rights: frozenset[Entitlement]
    refused: tuple[tuple[Grant, Refused], ...]  # grants that would be open and open nothing, and why
    next_change_ms: Millis | None  # when it changes although nothing happens on chain; None if never


@dataclass(frozen=True, slots=True)
class WantedRights:
    """`trust` are the pinned parties and `plant` everybody else at the broker; validators follow the elections."""

    chain: Chain
    sharing: Sharing
    suspensions: Suspensions
    trust: Trust
    plant: tuple[Party, ...]
    clock: Clock

    async def read(self) -> Wanted:
        """Raises ConfigError where a user comes twice, ChainUnavailable."""
        records, owners = await self.sharing.grants(), await self.sharing.owners()
        trust, suspended = await self._voting(), await self._suspended()
        standing = [record.grant for record in records if record.revoked_ms is None]
        shared = shares(standing, owners, self.clock.now_ms())
        rights = entitlements(trust, self.plant, shared=shared.rights, suspended=suspended)
        return Wanted(rights, shared.refused, shared.next_change_ms)

    async def _voting(self) -> Trust:
        """The parties with all validators who have something to say: who sits, who sat before, as they sign who
        follows, and whose round is not over. Before the first election those that are pinned."""
        now = await self.chain.epoch()
        last_round = (await self.chain.task(self.trust.task)).last_round
        of_round = (await self.chain.round(self.trust.task, last_round)).epoch
        electorates = [
            await self.chain.electorate(self.trust.task, epoch)
            for epoch in sorted({now, now - 1, of_round})
            if epoch > 0
        ]
        if not electorates:
            return self.trust
        members = {member.address: member for each in electorates for member in each.members}
        latest = electorates[-1]
        return self.trust.under(Electorate(latest.epoch, latest.quorum_part, tuple(members.values())))

    async def _suspended(self) -> frozenset[Address]:
        parties = await self.chain.parties()
        agents = [party.address for party in parties if party.role is Role.AGENT]
        for_good = frozenset(party.address for party in parties if not party.active)
        return for_good | await self.suspensions.below_floor(agents)
