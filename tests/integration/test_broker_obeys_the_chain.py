"""A chain, the listener as a process, and mosquitto: what the chain says is what consumers and devices can do."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from gemel.adapters.clock import SystemClock
from gemel.adapters.mqtt_bus import MqttBus
from gemel.errors import BusRefused
from gemel.wire import topics
from gemel.wire.identity import Identity
from gemel.wire.sharing import Asset
from tests.support.parties import AGENTS, identity
from tests.support.ruled_plant import EVENT_2, GATEWAY, OWNER, RIG_1, RIG_2, Plant, grant, ruled_plant, settings
from tests.support.trust_reports import report_worst

pytestmark = [pytest.mark.broker, pytest.mark.asyncio(loop_scope="module")]

OTHER = identity(33)
CONSUMERS = tuple(identity(number) for number in range(40, 64))
OPENS_S = 2.0  # the project's bound for a grant to hold, from its block on
STATE_1, STATE_2 = topics.twin_state(*RIG_1), topics.twin_state(*RIG_2)
EVERYTHING = "gemel/v1/#"
_fresh = iter(CONSUMERS)


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["embedded", pytest.param("anvil", marks=pytest.mark.anvil)]
)
async def plant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    async with ruled_plant(tmp_path_factory.mktemp("plant"), request.param, CONSUMERS, every_s=1.0) as running:
        yield running


@pytest.fixture
def consumer() -> Identity:
    return next(_fresh)


async def test_grant_opens_exactly_its_topics_within_two_seconds_of_its_block(
    plant: Plant, consumer: Identity
) -> None:
    other = next(_fresh)
    await plant.notary.enter(OWNER, other, grant(other, EVENT_2))
    await plant.mended(f"missing: {other.address}")
    await plant.say_everything(b"before")
    async with plant.consuming(consumer, EVERYTHING) as ear, plant.consuming(other, EVERYTHING) as others:
        _, sent = await plant.notary.enter(OWNER, consumer, grant(consumer, STATE_1))
        in_block = time.monotonic()
        first = await ear.next()
        assert (first.topic, first.payload, first.retained) == (STATE_1, b"twin", True)
        assert first.at_s - in_block < OPENS_S
        assert sent.transaction in await plant.mended(consumer.address, "AccessGranted")

        await plant.say_everything(b"end")
        await plant.gateway.publish(STATE_1, b"end")
        assert await ear.until(b"end") == {(STATE_1, b"twin")}
        assert await others.until(b"end") == {(EVENT_2, b"word")}


async def test_revocation_closes_what_the_grant_opened_and_nothing_else(plant: Plant, consumer: Identity) -> None:
    id_, _ = await plant.notary.enter(OWNER, consumer, grant(consumer, STATE_1))
    await plant.notary.enter(OWNER, consumer, grant(consumer, EVENT_2))
    await plant.mended(consumer.address, EVENT_2)
    async with plant.consuming(consumer, EVERYTHING) as ear:
        await plant.say_everything(b"open")
        assert await ear.until(b"open") == {(STATE_1, b"twin"), (EVENT_2, b"word")}
        sent = await plant.notary.revoke(OWNER, id_)
        async with asyncio.timeout(OPENS_S):
            assert f"may read {STATE_1}, unwanted" in await plant.mended(consumer.address, sent.transaction)
        await plant.say_everything(b"end")
        assert await ear.until(b"end") == {(EVENT_2, b"word")}
    async with plant.consuming(consumer, EVERYTHING) as ear:  # nor what is retained
        await plant.say_everything(b"end")
        assert await ear.until(b"end") == {(EVENT_2, b"word")}


async def test_grant_is_over_at_its_end_without_a_transaction(plant: Plant, consumer: Identity) -> None:
    if plant.fleet.chain.kind != "anvil":
        return  # the embedded chain's clock gains a second with each block: the end would be half a minute away
    await plant.notary.enter(OWNER, consumer, grant(consumer, EVENT_2))
    until_ms = await plant.in_s(3)
    await plant.notary.enter(OWNER, consumer, grant(consumer, STATE_1, until_ms=until_ms))
    await plant.mended(consumer.address, STATE_1)
    head = await plant.fleet.chain.rpc("eth_blockNumber")
    async with plant.consuming(consumer, EVERYTHING) as ear:
        await plant.gateway.publish(STATE_1, b"open")
        await ear.until(b"open")
        assert "a grant began or ended" in await plant.mended(consumer.address, f"may read {STATE_1}, unwanted")
        assert 0 <= SystemClock().now_ms() - until_ms < OPENS_S * 1000
        await plant.say_everything(b"end")
        assert await ear.until(b"end") == {(EVENT_2, b"word")}
    assert await plant.fleet.chain.rpc("eth_blockNumber") == head


async def test_grant_that_begins_later_opens_by_the_clock(plant: Plant, consumer: Identity) -> None:
    await plant.say_everything(b"end")
    from_ms = SystemClock().now_ms() // 1000 * 1000 + 2000
    async with plant.consuming(consumer, STATE_1) as ear:
        await plant.notary.enter(OWNER, consumer, grant(consumer, STATE_1, from_ms=from_ms))
        assert (await ear.next()).payload == b"twin"
        assert 0 <= SystemClock().now_ms() - from_ms < OPENS_S * 1000


async def test_grants_end_when_the_machine_becomes_somebody_elses(plant: Plant, consumer: Identity) -> None:
    rig, sharing = Asset("lyon", "rig-3"), plant.notary.sharing
    await sharing.assign(rig, OWNER.address)
    await plant.notary.enter(OWNER, consumer, grant(consumer, topics.twin_state(*rig)))
    await plant.mended(f"missing: {consumer.address}", topics.twin_state(*rig))
    sent = await sharing.assign(rig, OTHER.address)
    assert "AssetAssigned" in await plant.mended(f"surplus: {consumer.address}", sent.transaction)


async def test_revocation_while_the_listener_was_dead_holds_from_its_start(plant: Plant, consumer: Identity) -> None:
    id_, _ = await plant.notary.enter(OWNER, consumer, grant(consumer, STATE_1))
    await plant.mended(f"missing: {consumer.address}", STATE_1)
    assert (await plant.audit()).exit_code == 0
    await plant.listener.stop(signal.SIGKILL)
    await plant.notary.revoke(OWNER, id_)
    audited = await plant.audit("--json")
    assert audited.exit_code == 1
    (named,) = json.loads(audited.stdout)["findings"]
    says = f"surplus: {consumer.address}: may read {STATE_1}, unwanted"
    assert named == {"user": consumer.address, "kind": "surplus", "says": says}
    assert says in (await plant.audit()).stdout
    await plant.listener.start()
    await plant.mended(f"surplus: {consumer.address}", "cause=start")
    assert (await plant.audit()).exit_code == 0


async def test_grant_while_the_broker_is_away_opens_when_it_is_back(plant: Plant, consumer: Identity) -> None:
    plant.broker.process.terminate()
    plant.broker.process.wait(10)
    _, sent = await plant.notary.enter(OWNER, consumer, grant(consumer, STATE_1))
    plant.restart_broker()
    assert sent.transaction in await plant.mended(f"missing: {consumer.address}")


async def test_device_that_validators_trust_no_more_loses_the_bus(plant: Plant) -> None:
    device, topic = AGENTS[1].address, topics.twin_state("lyon", "rig-3")
    async with MqttBus(settings(plant.authority, plant.broker.port, device), uniform=lambda: 0.0) as bus:
        await bus.publish(topic, b"twin")
        sent = await report_worst(plant.fleet, device)
        assert sent.transaction in await plant.mended(device, "ScoreMoved")
        with pytest.raises(BusRefused, match="Not authorized"):
            await bus.publish(topic, b"twin")


async def test_suspended_device_loses_its_link_and_can_do_nothing_with_a_new_one(plant: Plant) -> None:
    await plant.gateway.publish(STATE_1, b"before")
    words = f"Client {GATEWAY.address} been disconnected by administrative action"
    before = plant.broker.said(words)
    sent = await plant.fleet.operator.suspend(GATEWAY.address)
    async with asyncio.timeout(OPENS_S):
        assert sent.transaction in await plant.mended(GATEWAY.address, "PartySuspended")
    plant.broker.wait_until_said(words, before + 1)
    with pytest.raises(BusRefused, match="Not authorized"):
        await plant.gateway.publish(STATE_1, b"meanwhile")
