"""The listener's part in maintenance: alerts become orders, once each, and what the chain says of orders is told."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from itertools import count
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from chain_listener.order_telling import VERIFIED_KEPT_S, OrderTelling
from chain_listener.orders import MOST_AN_HOUR, OPENED, WAITING, OrderOpening
from gemel.adapters.clock import FakeClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import BusRefused, BusUnavailable, ChainReverted, ChainUnavailable, Malformed, PeerError, Refused
from gemel.exchange.chain_watch import RETRY_S, Parties
from gemel.exchange.post import Post
from gemel.ports import ChainEvent, PartyRecord, Role, Sent
from gemel.wire import topics
from gemel.wire.eip712 import Domain
from gemel.wire.envelope import Envelope, Kind
from gemel.wire.identity import Identity
from gemel.wire.messages import HealthAlert, decode, encode
from gemel.wire.types import NO_ADDRESS, Address, Digest, sha256
from gemel.wire.upkeep import ToldOrder, alert_id, asset_id, occurrence, order_of, sign_alert
from tests.support.parties import AGENTS, LISTENER, TRUST

MAINTENANCE = Domain(1337, "0x" + "cd" * 20)
OWNER, OTHER_OWNER = "0x" + "0a" * 20, "0x" + "0b" * 20
AGENT, FOREIGN_AGENT = AGENTS
SITE, ASSET = "bonn", "rig-1"
NOW_S = 1_800_000_000
_blocks = count(1)


class Contract:
    """The contract's rules in memory, as far as opening goes."""

    def __init__(self) -> None:
        self.opened: list[str] = []
        self.away, self.latest = False, NOW_S

    async def owner_of(self, asset: Digest) -> Address:
        if self.away:
            raise ChainUnavailable("no node answers")
        return OWNER if asset == asset_id(SITE, ASSET) else NO_ADDRESS

    async def open_order(self, alert: HealthAlert, agent: Address) -> Sent:
        if alert.alert in self.opened:
            raise ChainReverted("open", "OrderExists", {"id": order_of(alert)})
        if alert.time_s > self.latest:
            raise ChainReverted(
                "open", "TimeOutOfOrder", {"time": alert.time_s, "earliest": 0, "latest": self.latest}
            )
        self.opened.append(alert.alert)
        return Sent(sha256(b"t"), 1, 100_000)


class Air:
    """A broker that keeps retained messages, and is cut by the test."""

    connected = True

    def __init__(self) -> None:
        self.retained: dict[str, bytes] = {}
        self.expiry_s: dict[str, int | None] = {}
        self.error: Exception | None = None

    async def publish(
        self, topic: str, payload: bytes, *, retain: bool = False, expiry_s: int | None = None, **options: object
    ) -> None:
        if self.error is not None:
            raise self.error
        assert retain
        self.retained[topic], self.expiry_s[topic] = payload, expiry_s

    def order(self, alert: HealthAlert) -> ToldOrder:
        return decode(ToldOrder, self.retained[topics.maintenance_order(SITE, ASSET, order_of(alert))])


@pytest.fixture
async def records(tmp_path: Path) -> AsyncIterator[SqliteRecords]:
    async with SqliteRecords(tmp_path / "records.sqlite") as opened:
        yield opened


class Listener:
    """Both parts on one set of records, as after a start."""

    def __init__(self, records: SqliteRecords, contract: Contract | None = None, air: Air | None = None) -> None:
        self.records, self.contract, self.air = records, contract or Contract(), air or Air()
        self.clock, self.outcomes = FakeClock(NOW_S * 1000), list[str]()
        agents = Parties(Role.AGENT)
        owners = {AGENT: OWNER, FOREIGN_AGENT: OTHER_OWNER}
        agents.records = {
            who.address: PartyRecord(who.address, owner, Role.AGENT, "ab" * 32, active=True)
            for who, owner in owners.items()
        }
        self.agents = agents
        post = Post(self.air, TRUST, LISTENER, self.clock)  # type: ignore[arg-type]  # what it uses of a bus
        self.opening = OrderOpening(
            post,
            agents,
            self.contract,  # type: ignore[arg-type]  # what it uses of the port
            records,
            MAINTENANCE,
            self.outcomes.append,
        )
        self.telling = OrderTelling(self.air, records, self.clock, self.opening.reopen)  # type: ignore[arg-type]

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self.opening.run()), asyncio.create_task(self.telling.run())]
        try:
            await self.settle()
            yield
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    async def settle(self) -> None:
        """Let both do all that they can do now: records answer in turn, so each of ours lets theirs on."""
        for _ in range(60):
            await self.records.get("nothing", "at all")

    async def waiting(self) -> int:
        return len(await self.records.items(WAITING))


def alerted(number: int = 1, *, agent: Identity = AGENT, asset: str = ASSET, time_s: int = NOW_S) -> HealthAlert:
    return sign_alert(
        agent,
        MAINTENANCE,
        site=SITE,
        asset=asset,
        alert=occurrence(f"hot-{number}", time_s * 1000),
        time_s=time_s,
        report=sha256(b"event"),
    )


def said(alert: HealthAlert, sender: Identity = AGENT) -> Envelope:
    post = Post(Air(), TRUST, sender, FakeClock(NOW_S * 1000))  # type: ignore[arg-type]  # only signs
    return post.sign(Kind.HEALTH_ALERT, encode(alert))


# --- alerts become orders -----------------------------------------------------------------------


async def test_alert_opens_one_order_however_often_it_is_said(records: SqliteRecords) -> None:
    listener = Listener(records)
    async with listener.running():
        for _ in range(3):
            await listener.opening.on_alert(said(alerted()))
            await listener.settle()
    assert listener.contract.opened == [alerted().alert]
    assert (listener.outcomes, await listener.waiting()) == (["opened"], 0)


async def test_alert_that_was_heard_is_handed_in_after_a_crash(records: SqliteRecords) -> None:
    contract = Contract()
    await Listener(records, contract).opening.on_alert(said(alerted()))  # and killed before it was handed in
    assert contract.opened == []
    async with Listener(records, contract).running():
        pass
    assert contract.opened == [alerted().alert]


async def test_order_that_stands_already_is_success(records: SqliteRecords) -> None:
    """Killed between the transaction and its note, or somebody else handed it in."""
    listener = Listener(records)
    listener.contract.opened.append(alerted().alert)
    await listener.opening.on_alert(said(alerted()))
    async with listener.running():
        pass
    assert (listener.outcomes, await listener.waiting()) == (["opened"], 0)


async def test_alerts_wait_while_the_chain_is_away(records: SqliteRecords) -> None:
    listener = Listener(records)
    listener.contract.away = True
    async with listener.running():
        for number in (1, 2):
            await listener.opening.on_alert(said(alerted(number)))
        await listener.settle()
        assert await listener.waiting() == 2
    listener.contract.away = False
    async with Listener(records, listener.contract).running():
        pass
    assert sorted(listener.contract.opened) == [alerted(1).alert, alerted(2).alert]


async def test_gateway_whose_clock_is_ahead_waits_until_the_chain_is_there(
    records: SqliteRecords, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("chain_listener.orders.RETRY_S", 0.01)
    listener, ahead = Listener(records), alerted(time_s=NOW_S + 30)
    async with listener.running():
        await listener.opening.on_alert(said(ahead))
        await listener.settle()
        assert (listener.contract.opened, await listener.waiting()) == ([], 1)
        listener.contract.latest = NOW_S + 31
        async with asyncio.timeout(10):
            while await listener.waiting():  # noqa: ASYNC110  it is tried again by the loop's clock
                await asyncio.sleep(0.01)
    assert listener.contract.opened == [ahead.alert]


async def test_alert_from_far_in_the_future_is_refused(records: SqliteRecords) -> None:
    listener = Listener(records)
    await listener.opening.on_alert(said(alerted(time_s=NOW_S + 3600)))
    async with listener.running():
        pass
    assert (listener.outcomes, await listener.waiting(), listener.contract.opened) == (["refused"], 0, [])


@pytest.mark.parametrize("alert", [alerted(agent=FOREIGN_AGENT), alerted(agent=FOREIGN_AGENT, asset="rig-9")])
async def test_alert_of_a_foreign_agent_opens_nothing(records: SqliteRecords, alert: HealthAlert) -> None:
    listener = Listener(records)
    await listener.opening.on_alert(said(alert, FOREIGN_AGENT))
    async with listener.running():
        pass
    assert (listener.outcomes, listener.contract.opened) == (["refused"], [])


async def test_bad_alert_of_another_does_not_take_the_place_of_a_good_one(records: SqliteRecords) -> None:
    listener = Listener(records)
    await listener.opening.on_alert(said(alerted(agent=FOREIGN_AGENT), FOREIGN_AGENT))
    await listener.opening.on_alert(said(alerted()))
    async with listener.running():
        pass
    assert (sorted(listener.outcomes), listener.contract.opened) == (["opened", "refused"], [alerted().alert])


async def test_agent_that_was_suspended_meanwhile_opens_nothing(records: SqliteRecords) -> None:
    listener = Listener(records)
    await listener.opening.on_alert(said(alerted()))
    listener.agents.records.clear()
    async with listener.running():
        pass
    assert (listener.outcomes, listener.contract.opened) == (["refused"], [])


@pytest.mark.parametrize(
    "alert",
    [
        alerted(agent=FOREIGN_AGENT),  # signed by another than who says it
        replace(alerted(), report=sha256(b"another event")),
        replace(alerted(), time_s=NOW_S + 1),
        replace(alerted(), asset="rig-2"),
        replace(alerted(), signature="00" * 65),
    ],
)
async def test_alert_that_its_sender_did_not_sign_is_refused_before_it_is_kept(
    records: SqliteRecords, alert: HealthAlert
) -> None:
    listener = Listener(records)
    with pytest.raises(Refused, match="bad_signature"):
        await listener.opening.on_alert(said(alert))
    assert await listener.waiting() == 0


@pytest.mark.parametrize("body", [b"", b"{}", b"[]", b"\xff", encode(alerted())[:-1], b"[" * 3000])
async def test_body_that_is_no_alert_is_malformed(records: SqliteRecords, body: bytes) -> None:
    listener = Listener(records)
    post = Post(listener.air, TRUST, AGENT, listener.clock)  # type: ignore[arg-type]  # only signs
    with pytest.raises(Malformed):
        await listener.opening.on_alert(post.sign(Kind.HEALTH_ALERT, body))


@pytest.mark.parametrize(
    "field", [{"site": "+"}, {"asset": "rig/1"}, {"asset": ""}, {"alert": ""}, {"alert": "x" * 200}]
)
async def test_names_that_are_no_topic_levels_are_malformed(records: SqliteRecords, field: dict[str, str]) -> None:
    with pytest.raises(Malformed):
        await Listener(records).opening.on_alert(said(replace(alerted(), **field)))


async def test_agent_that_raises_without_end_is_bounded_and_others_are_heard(records: SqliteRecords) -> None:
    listener = Listener(records)
    for number in range(MOST_AN_HOUR):
        await listener.opening.on_alert(said(alerted(number)))
    with pytest.raises(Refused, match="too_soon"):
        await listener.opening.on_alert(said(alerted(999)))
    await listener.opening.on_alert(said(alerted(1)))  # said again: it is kept already
    await listener.opening.on_alert(said(alerted(1, agent=FOREIGN_AGENT), FOREIGN_AGENT))
    await listener.clock.advance(3601)
    await listener.opening.on_alert(said(alerted(999)))


@given(st.binary(max_size=400))
def test_bytes_that_nobody_made_for_this_are_a_peers_fault(body: bytes) -> None:
    post = Post(Air(), TRUST, AGENT, FakeClock())  # type: ignore[arg-type]  # only signs
    with pytest.raises(PeerError):
        asyncio.run(UNREACHED.on_alert(post.sign(Kind.HEALTH_ALERT, body)))


@given(st.data())
def test_alert_with_one_byte_changed_is_a_peers_fault(data: st.DataObject) -> None:
    body = bytearray(encode(alerted()))
    body[data.draw(st.integers(0, len(body) - 1))] ^= data.draw(st.integers(1, 255))
    post = Post(Air(), TRUST, AGENT, FakeClock())  # type: ignore[arg-type]  # only signs
    with pytest.raises(PeerError):
        asyncio.run(UNREACHED.on_alert(post.sign(Kind.HEALTH_ALERT, bytes(body))))


class NoRecords:
    """Whoever looks at them has believed what he should not."""


UNREACHED = OrderOpening(
    Post(Air(), TRUST, LISTENER, FakeClock()),  # type: ignore[arg-type]  # only hears
    Parties(Role.AGENT),
    Contract(),  # type: ignore[arg-type]  # what it uses of the port
    NoRecords(),  # type: ignore[arg-type]  # nothing
    MAINTENANCE,
    lambda _outcome: None,
)


# --- orders are told ----------------------------------------------------------------------------


ASSIGNED = ChainEvent(
    id="0-0",
    name="AssetAssigned",
    values={
        "asset": asset_id(SITE, ASSET),
        "owner": OWNER,
        "previous": NO_ADDRESS,
        "site": SITE,
        "name": ASSET,
    },
    block=1,
    block_hash=sha256(b"1"),
    transaction=sha256(b"assigned"),
)


def event(name: str, of: HealthAlert, **values: object) -> ChainEvent:
    block = next(_blocks)
    known = {"id": order_of(of), "time": NOW_S, "report": sha256(b"r"), **values}
    return ChainEvent(f"{block}-0", name, known, block, sha256(b"%d" % block), sha256(b"transaction %d" % block))


def order_opened(alert: HealthAlert) -> ChainEvent:
    asset, known_as = asset_id(alert.site, alert.asset), alert_id(alert.alert)
    return event("OrderOpened", alert, asset=asset, alert=known_as, by=AGENT.address)


def advanced(alert: HealthAlert, state: int, by: Address = OWNER) -> ChainEvent:
    return event("OrderAdvanced", alert, state=state, by=by, time=NOW_S + state)


async def test_each_step_is_told_with_who_when_and_the_transaction(records: SqliteRecords) -> None:
    listener, alert = Listener(records), alerted()
    events = [ASSIGNED, order_opened(alert), *(advanced(alert, state) for state in (2, 3, 4))]
    async with listener.running():
        await listener.opening.on_alert(said(alert))
        for each in events:
            await listener.telling.on_event(each)
            await listener.settle()
            if each is not ASSIGNED:
                told = listener.air.order(alert).steps[-1]
                assert (told.transaction, told.block) == (each.transaction, each.block)
    told_order = listener.air.order(alert)
    assert told_order.alert == alert.alert
    assert [step.state for step in told_order.steps] == ["open", "acknowledged", "done", "verified"]
    assert [step.by for step in told_order.steps] == [AGENT.address, OWNER, OWNER, OWNER]
    assert [step.time_s for step in told_order.steps] == [NOW_S, NOW_S + 2, NOW_S + 3, NOW_S + 4]
    topic = topics.maintenance_order(SITE, ASSET, order_of(alert))
    assert listener.air.expiry_s[topic] == VERIFIED_KEPT_S


async def test_order_that_somebody_else_handed_in_is_told_by_what_the_chain_says(records: SqliteRecords) -> None:
    listener, alert = Listener(records), alerted()
    async with listener.running():
        for each in (ASSIGNED, order_opened(alert)):
            await listener.telling.on_event(each)
        await listener.settle()
    assert listener.air.order(alert).alert == alert_id(alert.alert)


async def test_events_do_not_wait_for_the_broker_and_what_it_missed_is_told_later(records: SqliteRecords) -> None:
    listener, alert = Listener(records), alerted()
    listener.air.error = BusUnavailable("cut")
    async with listener.running():
        for each in (ASSIGNED, order_opened(alert), advanced(alert, 2)):
            await listener.telling.on_event(each)
        await listener.settle()
        assert listener.air.retained == {}
        listener.air.error = None
        await listener.clock.advance(RETRY_S)
        await listener.settle()
    assert [step.state for step in listener.air.order(alert).steps] == ["open", "acknowledged"]


async def test_after_a_restart_open_orders_are_told_again_and_verified_ones_are_not(records: SqliteRecords) -> None:
    first, verified = alerted(1), alerted(2)
    listener = Listener(records)
    events = [order_opened(first), order_opened(verified), *(advanced(verified, state) for state in (2, 3, 4))]
    async with listener.running():
        for each in (ASSIGNED, *events):
            await listener.telling.on_event(each)
        await listener.settle()
    again = Listener(records)
    async with again.running():
        pass
    assert list(again.air.retained) == [topics.maintenance_order(SITE, ASSET, order_of(first))]


async def test_step_that_was_reorganised_away_is_taken_back(records: SqliteRecords) -> None:
    listener, alert = Listener(records), alerted()
    step = advanced(alert, 2)
    async with listener.running():
        for each in (ASSIGNED, order_opened(alert), step, replace(step, retracted=True)):
            await listener.telling.on_event(each)
        await listener.settle()
        assert [told.state for told in listener.air.order(alert).steps] == ["open"]
        await listener.telling.on_event(step)
        await listener.settle()
    assert [told.state for told in listener.air.order(alert).steps] == ["open", "acknowledged"]


async def test_order_that_was_reorganised_away_is_withdrawn_and_its_alert_handed_in_again(
    records: SqliteRecords,
) -> None:
    listener, alert = Listener(records), alerted()
    opened = order_opened(alert)
    async with listener.running():
        await listener.opening.on_alert(said(alert))
        await listener.settle()
        assert await records.get(OPENED, order_of(alert)) is not None
        for each in (ASSIGNED, opened):
            await listener.telling.on_event(each)
        await listener.settle()
        listener.contract.opened.clear()
        await listener.telling.on_event(replace(opened, retracted=True))
        await listener.settle()
        assert listener.air.retained[topics.maintenance_order(SITE, ASSET, order_of(alert))] == b""
        assert listener.contract.opened == [alert.alert]


async def test_broker_that_refuses_the_topic_costs_the_telling_only(records: SqliteRecords) -> None:
    listener, alert = Listener(records), alerted()
    listener.air.error = BusRefused("publish", "x", 0x87, "not authorised")
    async with listener.running():
        for each in (ASSIGNED, order_opened(alert)):
            await listener.telling.on_event(each)
        await listener.settle()
        await listener.opening.on_alert(said(alert))
        await listener.settle()
    assert listener.contract.opened == [alert.alert]


async def test_order_of_an_asset_that_was_never_named_is_remarked_on_and_passed_over(records: SqliteRecords) -> None:
    listener, alert = Listener(records), alerted()
    async with listener.running():
        await listener.telling.on_event(order_opened(alert))
        await listener.settle()
    assert listener.air.retained == {}
