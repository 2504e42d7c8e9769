"""A chain, the listener as a process, and mosquitto: what the chain says is what consumers and devices can do."""

from __future__ import annotations

import asyncio
import json
import signal
import time
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

import msgspec
import pytest
import pytest_asyncio
import tomli_w
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from gemel.__main__ import app
from gemel.adapters.bus_settings import BusSettings
from gemel.adapters.clock import SystemClock
from gemel.adapters.dynamic_security import security_file
from gemel.adapters.mqtt_bus import MqttBus
from gemel.errors import BusRefused
from gemel.ports import Role
from gemel.wire import topics
from gemel.wire.entitlements import Entitlement
from gemel.wire.identity import Identity
from gemel.wire.rights import fleet_parties
from gemel.wire.sharing import Asset, Grant
from gemel.wire.types import sha256
from tests.support.certificates import PlantCA
from tests.support.chains import FUNDED, TERMS, Fleet, open_fleet, running_chain
from tests.support.consumers import Consumer, consuming
from tests.support.grants import Notary
from tests.support.mosquitto import Broker, need_mosquitto, plant_broker
from tests.support.parties import AGENTS, LISTENER, PLANT, TRUST, identity
from tests.support.services import Service
from tests.support.trust_reports import report_worst

pytestmark = [pytest.mark.broker, pytest.mark.asyncio(loop_scope="module")]

OWNER, OTHER = identity(31), identity(33)
CONSUMERS = tuple(identity(number) for number in range(40, 64))
OPENS_S = 2.0  # the project's bound for a grant to hold, from its block on
FAR_MS = 4_000_000_000_000
WAIT_S = 20.0
RIG_1, RIG_2 = Asset("bonn", "rig-1"), Asset("bonn", "rig-2")
STATE_1, STATE_2 = topics.twin_state(*RIG_1), topics.twin_state(*RIG_2)
EVENT_2 = topics.twin_event(*RIG_2)  # granted where a test needs a word that tells that all before it has come
GATEWAY = AGENTS[0]  # keeps the twins of both rigs
EVERYTHING = "gemel/v1/#"
_fresh = iter(CONSUMERS)


@dataclass
class Plant:
    """A broker whose rights the listener keeps by what it reads on a chain."""

    fleet: Fleet
    authority: PlantCA
    broker: Broker
    listener: Service
    gateway: MqttBus
    stack: AsyncExitStack

    def restart_broker(self) -> None:
        """It was ended, and comes back with what it kept."""
        again = plant_broker(self.authority.directory, dynamic=True, port=self.broker.port)
        self.broker = self.stack.enter_context(again)

    async def audit(self, *options: str) -> Result:
        """`gemel audit grants`, as an auditor with a copy of the plugin's file runs it."""
        folder = self.authority.directory
        files = (folder / "dynamic-security.json", "--plant", folder / "plant.toml", "--fleet", folder)
        command = ["audit", "grants", *map(str, files), *options]
        return await asyncio.to_thread(CliRunner().invoke, app, command)

    async def in_s(self, seconds: int) -> int:
        """So many seconds ahead for the chain, whose clock may be before ours, in milliseconds."""
        head = await self.fleet.operator.calls.node.head()
        return max(head.timestamp_s, SystemClock().now_ms() // 1000) * 1000 + seconds * 1000

    @property
    def notary(self) -> Notary:
        return Notary(self.fleet)

    def consuming(self, who: Identity, *filters: str) -> AbstractAsyncContextManager[Consumer]:
        """A consumer with its certificate."""
        return consuming(settings(self.authority, self.broker.port, who.address), *filters)

    async def mended(self, *words: str) -> str:
        """The listener's line about a difference, once there is one with all these words."""
        async with asyncio.timeout(WAIT_S):
            while True:
                for line in self.listener.log.splitlines():
                    if "rights mended" in line and all(word in line for word in words):
                        return line
                await asyncio.sleep(0.01)

    async def say_everything(self, last: bytes) -> None:
        """Every word of both rigs' twins, and `last` where a test's consumers have a grant that stands."""
        for rig in (RIG_1, RIG_2):
            for word in (topics.twin_delta, topics.twin_schema, topics.twin_event, topics.twin_backfill):
                await self.gateway.publish(word(*rig), b"word")
            await self.gateway.publish(topics.twin_state(*rig), b"twin", retain=True)
        await self.gateway.publish(EVENT_2, last)


def settings(authority: PlantCA, port: int, user: str) -> BusSettings:
    folder = authority.directory
    files = (folder / "ca.pem", folder / f"{user}.pem", folder / f"{user}.key")
    return BusSettings(f"mqtts://127.0.0.1:{port}", user, None, None, *files, publish_deadline_s=10)


def grant(consumer: Identity, scope: str, **times: int) -> Grant:
    return Grant(OWNER.address, consumer.address, scope, **({"from_ms": 0, "until_ms": FAR_MS} | times))


async def configure(folder: Path, fleet: Fleet, authority: PlantCA, port: int) -> Path:
    """The listener's files, as founding and an operator leave them."""
    electorate = await fleet.electorate()
    trust = replace(TRUST, chain_id=fleet.place.chain_id, registry=fleet.domain.registry, electorate=electorate)
    (folder / "trust.json").write_bytes(msgspec.json.encode(trust))
    (folder / "chain.json").write_bytes(msgspec.json.encode(fleet.place))
    (folder / "policy.json").write_text("{}")
    key = folder / "key.json"
    key.touch(mode=0o600)
    key.write_text(msgspec.json.encode({"identity": f"{3:064x}", "box": f"{3:064x}"}).decode())
    parties = [msgspec.to_builtins(party) for party in PLANT]
    (folder / "plant.toml").write_text(tomli_w.dumps({"party": parties}))
    files = {name: str(authority.directory / name) for name in ("ca.pem", f"{LISTENER.address}.pem")}
    document = {
        "state_dir": str(folder / "state"),
        "trust_file": str(folder / "trust.json"),
        "key_file": str(key),
        "policy_file": str(folder / "policy.json"),
        "chain": {"file": str(folder / "chain.json")},
        "bus": {
            "url": f"mqtts://127.0.0.1:{port}",
            "ca_file": files["ca.pem"],
            "cert_file": files[f"{LISTENER.address}.pem"],
            "key_file": str(authority.directory / f"{LISTENER.address}.key"),
        },
        "rights": {"plant_file": str(folder / "plant.toml"), "every_s": 1.0},
    }
    (folder / "listener.toml").write_text(tomli_w.dumps(document))
    return folder / "listener.toml"


@pytest_asyncio.fixture(
    scope="module", loop_scope="module", params=["embedded", pytest.param("anvil", marks=pytest.mark.anvil)]
)
async def plant(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    need_mosquitto()
    folder = tmp_path_factory.mktemp("plant")
    authority = PlantCA(folder)
    users = {party.user for party in (*fleet_parties(TRUST), *PLANT)}
    for name in ("broker", *users, *(consumer.address for consumer in CONSUMERS)):
        authority.leaf(name)
    nobody = frozenset({Entitlement(LISTENER.address, frozenset())})  # the listener fills it at its start
    (folder / "dynamic-security.json").write_bytes(security_file(nobody, LISTENER.address))
    async with AsyncExitStack() as stack:
        chain = await stack.enter_async_context(running_chain(folder, FUNDED, request.param))
        fleet = await stack.enter_async_context(open_fleet(chain, terms=replace(TERMS, trust_step=1_000_000)))
        gate = {"threshold": 0, "max_regression": 0, "minimum_owners": 3, "quorum_part": TERMS.quorum_part}
        await fleet.operator.create_task(TRUST.task, **gate, policy=sha256(b"policy"))
        for rig in (RIG_1, RIG_2):
            await Notary(fleet).sharing.assign(rig, OWNER.address)
        for agent in AGENTS:
            await fleet.register(agent, Role.AGENT, owner=OWNER.address)
        broker = stack.enter_context(plant_broker(folder, dynamic=True))
        config = await configure(folder, fleet, authority, broker.port)
        listener = Service("chain_listener", ["--config", str(config)], folder / "listener.log")
        await listener.start()
        stack.push_async_callback(listener.stop)
        gateway = MqttBus(settings(authority, broker.port, GATEWAY.address), uniform=lambda: 0.0)
        plant = Plant(fleet, authority, broker, listener, await stack.enter_async_context(gateway), stack)
        await plant.mended(f"missing: {GATEWAY.address}", "cause=start")
        yield plant


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
