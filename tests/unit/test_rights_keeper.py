"""The keeper of the broker's rights: when it looks, what it says, and what it does not fall over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import pytest
from structlog.testing import capture_logs
from structlog.typing import EventDict

from chain_listener import rights
from chain_listener.rights import NO_EVENT, RightsKeeper
from gemel.errors import BusRefused, BusUnavailable, ChainUnavailable, GemelError, Refused
from gemel.exchange.wanted_rights import Wanted
from gemel.host.metrics import Metrics
from gemel.ports import ChainEvent
from gemel.wire import topics
from gemel.wire.entitlements import Difference, Entitlement, differences
from gemel.wire.rights import Right
from gemel.wire.sharing import Grant
from tests.support.parties import identity

ANNE, BERT = identity(71).address, identity(72).address
STATE = topics.twin_state("bonn", "rig-1")
READS, NOTHING = frozenset({Right("read", STATE)}), frozenset[Right]()
STEPS = 200  # of the event loop, in which everything that is ready happens


class StillClock:
    """Time passes only by `now`; sleeping takes none."""

    def __init__(self) -> None:
        self.now, self.slept = 10_000, 0

    def now_ms(self) -> int:
        return self.now

    def monotonic_s(self) -> float:
        return self.now / 1000

    async def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.slept += 1
        await asyncio.sleep(0)


@dataclass
class World:
    """A chain and a broker in memory; either raises what waits in `errors`, in turn."""

    wanted: dict[str, frozenset[Right]] = field(default_factory=dict)
    found: dict[str, frozenset[Right]] = field(default_factory=dict)
    refused: tuple[tuple[Grant, Refused], ...] = ()
    next_change_ms: int | None = None
    errors: list[GemelError] = field(default_factory=list)
    broker_errors: list[GemelError] = field(default_factory=list)
    looks: int = 0
    clock: StillClock = field(default_factory=StillClock)
    metrics: Metrics = field(default_factory=lambda: Metrics("test"))
    gate: asyncio.Event = field(default_factory=asyncio.Event)  # the broker answers while it is set

    def __post_init__(self) -> None:
        self.gate.set()

    async def read_wanted(self) -> Wanted:
        self.looks += 1
        if self.errors:
            raise self.errors.pop(0)
        return Wanted(_entitlements(self.wanted), self.refused, self.next_change_ms)

    async def read(self) -> frozenset[Entitlement]:
        return _entitlements(self.found)

    async def apply(self, wanted: frozenset[Entitlement]) -> tuple[Difference, ...]:
        if self.broker_errors:
            raise self.broker_errors.pop(0)
        await self.gate.wait()
        mended = differences(wanted, _entitlements(self.found))
        self.found = {each.user: each.rights for each in wanted}
        return mended


def _entitlements(of: dict[str, frozenset[Right]]) -> frozenset[Entitlement]:
    return frozenset(Entitlement(user, rights) for user, rights in of.items())


def event(name: str, transaction: str = "aa", /, *, retracted: bool = False, **values: object) -> ChainEvent:
    return ChainEvent(f"{transaction}-0", name, values, 7, "bb" * 32, transaction * 32, retracted)


@asynccontextmanager
async def keeping(world: World, every_s: float = 3600) -> AsyncIterator[tuple[RightsKeeper, list[EventDict]]]:
    keeper = RightsKeeper(world.read_wanted, world, world.clock, world.metrics, every_s)
    with capture_logs() as logs:
        work = asyncio.create_task(keeper.run())
        await settle()
        yield keeper, logs
        assert not work.done()
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def settle() -> None:
    for _ in range(STEPS):
        await asyncio.sleep(0)


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(rights, "EVENT_LAG_S", 0.2)
    return World()


async def test_broker_is_made_as_wanted_at_the_start(world: World) -> None:
    world.wanted, world.found = {ANNE: READS}, {BERT: READS}
    async with keeping(world) as (_, logs):
        assert world.found == {ANNE: READS}
    assert [(line["event"], line["cause"]) for line in logs] == [("rights mended", "start")] * 2
    assert logs[0]["difference"] == f"missing: {ANNE}: may not read {STATE}"


async def test_each_difference_is_said_with_the_transaction_that_caused_it(world: World) -> None:
    async with keeping(world) as (keeper, logs):
        world.wanted = {ANNE: READS, BERT: READS}
        await keeper.on_event(event("AccessGranted", "a1", owner=BERT, consumer=ANNE))
        await keeper.on_event(event("PartyRegistered", "a2", account=BERT, owner=BERT))
        await settle()
    said = {line["difference"].split(": ")[1]: line for line in logs}
    assert (said[ANNE]["cause"], said[ANNE]["transaction"], said[ANNE]["block"]) == ("AccessGranted", "a1" * 32, 7)
    assert said[BERT]["transaction"] == ", ".join(("a1" * 32, "a2" * 32))  # both name him


async def test_event_that_was_reorganised_away_is_looked_after_and_named_so(world: World) -> None:
    world.wanted = {ANNE: READS}
    async with keeping(world) as (keeper, logs):
        world.wanted = {}
        await keeper.on_event(event("AccessGranted", owner=BERT, consumer=ANNE, retracted=True))
        await settle()
    assert logs[-1]["cause"] == "AccessGranted retracted"


async def test_machine_that_changed_hands_explains_only_its_own_topics(world: World) -> None:
    world.wanted = {ANNE: READS, BERT: frozenset({Right("read", topics.twin_state("bonn", "rig-2"))})}
    async with keeping(world) as (keeper, logs):
        world.wanted = {}
        assigned = event("AssetAssigned", site="bonn", name="rig-1", owner=identity(73).address)
        await keeper.on_event(assigned)
        await settle()
        await asyncio.sleep(rights.EVENT_LAG_S * 2)
    causes = {line["difference"].split(": ")[1]: line["cause"] for line in logs[2:]}
    assert causes == {ANNE: "AssetAssigned", BERT: NO_EVENT}


async def test_what_was_read_before_its_event_came_is_still_said_with_its_transaction(world: World) -> None:
    async with keeping(world) as (keeper, logs):
        world.wanted = {ANNE: READS}
        await keeper.on_event(event("ScoreMoved", device=BERT))
        await settle()
        assert world.found == {ANNE: READS}
        assert logs == []
        await keeper.on_event(event("AccessGranted", "a3", owner=BERT, consumer=ANNE))
        await settle()
    assert [line["transaction"] for line in logs] == ["a3" * 32]


async def test_events_that_come_during_a_look_cost_one_more_together(world: World) -> None:
    async with keeping(world) as (keeper, _):
        world.gate.clear()
        await keeper.on_event(event("AccessGranted", consumer=ANNE))
        await settle()
        assert world.looks == 2
        for _ in range(50):
            await keeper.on_event(event("AccessGranted", consumer=ANNE))
        world.gate.set()
        await settle()
        assert world.looks == 3


@pytest.mark.parametrize("name", ["RoundOpened", "SumAttested", "RewardClaimed"])
async def test_event_that_changes_nobodys_rights_is_passed_over(world: World, name: str) -> None:
    async with keeping(world) as (keeper, _):
        await keeper.on_event(event(name))
        await settle()
        assert world.looks == 1


async def test_grant_ends_by_the_clock_without_an_event(world: World) -> None:
    world.wanted, world.next_change_ms = {ANNE: READS}, world.clock.now + 50
    async with keeping(world) as (_, logs):
        world.wanted, world.next_change_ms, world.clock.now = {}, None, world.clock.now + 50
        await asyncio.sleep(0.1)
        assert world.found == {}
    assert (logs[-1]["cause"], world.looks) == ("a grant began or ended", 2)


async def test_what_others_change_at_the_broker_is_undone_at_the_next_look(world: World) -> None:
    async with keeping(world, every_s=0.05) as (_, logs):
        world.found = {BERT: READS}
        await asyncio.sleep(0.05 + rights.EVENT_LAG_S * 2)
        assert world.found == {}
    assert [line["cause"] for line in logs] == [NO_EVENT]


@pytest.mark.parametrize(
    "away",
    [BusUnavailable("no link"), BusRefused("publish to", "$CONTROL", 0x87, "Not authorized")],
)
async def test_broker_that_is_away_or_refuses_is_asked_again_and_the_cause_is_not_forgotten(
    world: World, away: GemelError
) -> None:
    async with keeping(world) as (keeper, logs):
        world.wanted, world.broker_errors = {ANNE: READS}, [away, away]
        await keeper.on_event(event("AccessGranted", "a1", consumer=ANNE))
        await settle()
        assert world.found == {ANNE: READS}
    assert [line["event"] for line in logs] == ["rights not compared"] * 2 + ["rights mended"]
    assert (logs[0]["why"], logs[-1]["transaction"]) == (str(away), "a1" * 32)


async def test_chain_that_is_away_at_the_start_is_waited_for(world: World) -> None:
    world.wanted, world.errors = {ANNE: READS}, [ChainUnavailable("no node")]
    async with keeping(world):
        assert world.found == {ANNE: READS}
        assert world.clock.slept == 1


async def test_grant_that_opens_nothing_is_said_once(world: World) -> None:
    stolen = Grant(ANNE, BERT, STATE, 0, 10)
    world.refused = ((stolen, Refused("out_of_scope", "not hers")),)
    async with keeping(world) as (keeper, logs):
        for _ in range(3):
            await keeper.on_event(event("AccessGranted"))
            await settle()
    assert [(line["event"], line["scope"]) for line in logs] == [("grant opens nothing", STATE)]


async def test_metrics_say_when_the_broker_was_as_wanted_and_how_often_it_was_not(world: World) -> None:
    world.wanted, world.broker_errors = {ANNE: READS}, [BusUnavailable("no link")]
    world.gate.clear()
    async with keeping(world):
        said = world.metrics.registry.get_sample_value
        assert said("gemel_rights_compared_timestamp_seconds") is None
        world.gate.set()
        await settle()
        assert said("gemel_rights_compared_timestamp_seconds") == world.clock.now / 1000
        assert said("gemel_rights_mended_total", {"kind": "missing"}) == 1
