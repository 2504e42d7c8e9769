"""A plant whose broker obeys a chain: node, contracts, mosquitto with TLS, the chain listener as a process."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import msgspec
import tomli_w
from msgspec.structs import replace
from typer.testing import CliRunner, Result

from gemel.__main__ import app
from gemel.adapters.bus_settings import BusSettings
from gemel.adapters.clock import SystemClock
from gemel.adapters.dynamic_security import security_file
from gemel.adapters.mqtt_bus import MqttBus
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

OWNER = identity(31)
FAR_MS = 4_000_000_000_000
WAIT_S = 20.0
RIG_1, RIG_2 = Asset("bonn", "rig-1"), Asset("bonn", "rig-2")  # of OWNER's
EVENT_2 = topics.twin_event(*RIG_2)  # granted where a test needs a word that tells that all before it has come
GATEWAY = AGENTS[0]  # keeps the twins of both rigs


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


async def configure(folder: Path, fleet: Fleet, authority: PlantCA, port: int, every_s: float) -> Path:
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
        "rights": {"plant_file": str(folder / "plant.toml"), "every_s": every_s},
    }
    (folder / "listener.toml").write_text(tomli_w.dumps(document))
    return folder / "listener.toml"


@asynccontextmanager
async def ruled_plant(
    folder: Path, kind: str, consumers: Sequence[Identity], *, every_s: float
) -> AsyncIterator[Plant]:
    """Running, with the broker as wanted; `consumers` have certificates, and the broker knows none of them."""
    need_mosquitto()
    authority = PlantCA(folder)
    users = {party.user for party in (*fleet_parties(TRUST), *PLANT)}
    for name in ("broker", *users, *(consumer.address for consumer in consumers)):
        authority.leaf(name)
    nobody = frozenset({Entitlement(LISTENER.address, frozenset())})  # the listener fills it at its start
    (folder / "dynamic-security.json").write_bytes(security_file(nobody, LISTENER.address))
    async with AsyncExitStack() as stack:
        chain = await stack.enter_async_context(running_chain(folder, FUNDED, kind))
        fleet = await stack.enter_async_context(open_fleet(chain, terms=replace(TERMS, trust_step=1_000_000)))
        gate = {"threshold": 0, "max_regression": 0, "minimum_owners": 3, "quorum_part": TERMS.quorum_part}
        await fleet.operator.create_task(TRUST.task, **gate, policy=sha256(b"policy"))
        for rig in (RIG_1, RIG_2):
            await Notary(fleet).sharing.assign(rig, OWNER.address)
        for agent in AGENTS:
            await fleet.register(agent, Role.AGENT, owner=OWNER.address)
        broker = stack.enter_context(plant_broker(folder, dynamic=True))
        config = await configure(folder, fleet, authority, broker.port, every_s)
        listener = Service("chain_listener", ["--config", str(config)], folder / "listener.log")
        await listener.start()
        stack.push_async_callback(listener.stop)
        gateway = MqttBus(settings(authority, broker.port, GATEWAY.address), uniform=lambda: 0.0)
        plant = Plant(fleet, authority, broker, listener, await stack.enter_async_context(gateway), stack)
        await plant.mended(f"missing: {GATEWAY.address}", "cause=start")
        yield plant
