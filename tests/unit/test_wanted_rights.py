"""What the broker should let everybody do, by what a chain says: voters of several epochs, suspensions, grants."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import pytest
from msgspec.structs import replace

from gemel.errors import ConfigError
from gemel.exchange.wanted_rights import Wanted, WantedRights
from gemel.ports import GrantRecord, PartyRecord, Role
from gemel.wire import topics
from gemel.wire.electorate import Electorate, Member
from gemel.wire.entitlements import entitlements
from gemel.wire.rights import BusRole, Party, Right, rights
from gemel.wire.sharing import Asset, Grant
from gemel.wire.types import Address
from tests.support.parties import AGENTS, COORDINATOR, PLANT, TRUST, identity

OWNER, CONSUMER = identity(31).address, identity(32).address
RIG = Asset("bonn", "rig-1")
STATE = topics.twin_state(*RIG)
GRANT = Grant(OWNER, CONSUMER, STATE, from_ms=1_000, until_ms=2_000)
SEATS = {epoch: identity(80 + epoch).address for epoch in range(1, 6)}  # another validator in each epoch
NOW_MS = 1_500


def party_of(address: Address, role: Role = Role.AGENT, *, active: bool = True) -> PartyRecord:
    return PartyRecord(address, OWNER, role, "ab" * 32, active)


@dataclass
class Facts:
    """A chain as it stands: every port that is asked."""

    running: int = 0
    last_round_epoch: int = 0
    registered: Sequence[PartyRecord] = ()
    entered: Sequence[GrantRecord] = ()
    of_owners: Mapping[Asset, Address] = field(default_factory=lambda: {RIG: OWNER})
    fallen: frozenset[Address] = frozenset()
    asked: list[Address] = field(default_factory=list)

    async def epoch(self) -> int:
        return self.running

    async def task(self, task: str) -> Any:
        return SimpleNamespace(last_round=7)

    async def round(self, task: str, round_: int) -> Any:
        assert (task, round_) == (TRUST.task, 7)
        return SimpleNamespace(epoch=self.last_round_epoch)

    async def electorate(self, task: str, epoch: int) -> Electorate:
        return Electorate(epoch, 600_000, (Member(SEATS[epoch], "ab" * 32, 1),))

    async def parties(self) -> Sequence[PartyRecord]:
        return self.registered

    async def grants(self) -> Sequence[GrantRecord]:
        return self.entered

    async def owners(self) -> Mapping[Asset, Address]:
        return self.of_owners

    async def below_floor(self, devices: Sequence[Address]) -> frozenset[Address]:
        self.asked += devices
        return self.fallen

    def now_ms(self) -> int:
        return NOW_MS


async def wanted(facts: Facts, plant: tuple[Party, ...] = PLANT) -> Wanted:
    everything: Any = facts
    return await WantedRights(everything, everything, everything, TRUST, plant, everything).read()


async def held(facts: Facts) -> dict[str, frozenset[Right]]:
    return {one.user: one.rights for one in (await wanted(facts)).rights}


async def test_before_the_first_election_the_pinned_validators_have_their_rights() -> None:
    assert (await wanted(Facts())).rights == entitlements(TRUST, PLANT, shared={}, suspended=frozenset())


@pytest.mark.parametrize(
    ("running", "of_round", "voting"),
    [
        (1, 0, {1}),
        (1, 1, {1}),
        (4, 4, {3, 4}),  # who sat before signs who follows
        (5, 2, {2, 4, 5}),  # and a round keeps whom it opened with
    ],
)
async def test_validators_have_rights_while_they_have_something_to_say(
    running: int, of_round: int, voting: set[int]
) -> None:
    users = await held(Facts(running, of_round))
    pinned = {member.address for member in TRUST.validators}
    assert users.keys() & ({*SEATS.values()} | pinned) == {SEATS[epoch] for epoch in voting}
    for epoch in voting:
        assert users[SEATS[epoch]] == set(rights(Party(BusRole.VALIDATOR, SEATS[epoch]), TRUST))


async def test_suspended_parties_and_agents_below_the_floor_keep_no_right() -> None:
    first, second = (agent.address for agent in AGENTS)
    registered = [
        party_of(first, active=False),
        party_of(second),
        party_of(COORDINATOR.address, Role.COORDINATOR, active=False),
    ]
    facts = Facts(registered=registered, fallen=frozenset({second}))
    users = await held(facts)
    assert [users[user] for user in (first, second, COORDINATOR.address)] == [frozenset()] * 3
    assert all(its for user, its in users.items() if user not in (first, second, COORDINATOR.address))
    assert set(facts.asked) == {first, second}  # only agents have a score


async def test_agent_that_the_chain_does_not_know_keeps_its_twins_rights() -> None:
    users = await held(Facts(registered=[]))
    assert all(users[agent.address] for agent in AGENTS)


async def test_grants_that_stand_open_and_revoked_ones_do_not() -> None:
    revoked = replace(GRANT, scope=topics.twin_event(*RIG))
    entered = [GrantRecord("aa" * 32, GRANT, None), GrantRecord("bb" * 32, revoked, 1_200)]
    found = await wanted(Facts(entered=entered))
    assert {one.user: one.rights for one in found.rights}[CONSUMER] == {Right("read", STATE)}
    assert found.next_change_ms == GRANT.until_ms
    assert found.refused == ()


async def test_grant_of_a_machine_that_is_somebody_elses_is_named() -> None:
    found = await wanted(Facts(entered=[GrantRecord("aa" * 32, GRANT, None)], of_owners={RIG: CONSUMER}))
    assert CONSUMER not in {one.user for one in found.rights}
    assert [grant for grant, _ in found.refused] == [GRANT]


async def test_suspended_consumer_reads_nothing() -> None:
    facts = Facts(
        entered=[GrantRecord("aa" * 32, GRANT, None)],
        registered=[party_of(CONSUMER, Role.VALIDATOR, active=False)],
    )
    assert (await held(facts))[CONSUMER] == frozenset()


async def test_plant_that_names_one_of_the_fleets_parties_is_refused() -> None:
    with pytest.raises(ConfigError, match="each user once"):
        await wanted(Facts(), (Party(BusRole.DASHBOARD, COORDINATOR.address, sites=("bonn",)),))
