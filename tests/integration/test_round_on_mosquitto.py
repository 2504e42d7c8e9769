"""A whole round on mosquitto as a plant runs it: its configuration, TLS, a certificate for each party, rights on."""

from __future__ import annotations

import asyncio
import json
import tomllib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import tomli_w

from gemel.adapters.clock import SystemClock
from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.errors import BusRefused
from gemel.ports import ChainEvent, RoundState
from gemel.wire import topics
from gemel.wire.rights import BusRole, Party, acl_text, fleet_parties
from tests.support.certificates import PlantCA
from tests.support.crew import Crew, crew
from tests.support.fleet import SITE, Fleet
from tests.support.mosquitto import need_mosquitto, plant_broker
from tests.support.services import Registry, running, scrape

pytestmark = [pytest.mark.broker, pytest.mark.slow]

AGENTS = {name: f"owner of {name}" for name in ("a", "b", "c")}
SERVICES = ("custodian", "listener", "validator-1", "validator-2", "validator-3", "coordinator", *AGENTS)
REGISTRY, DASHBOARD, SOURCE = "twin-registry", "wallboard", "plc-a"
NOT_AUTHORISED = 0x87
WAIT_S = 60


class PlantBroker:
    """A broker, and what a party needs to come in."""

    def __init__(self, authority: PlantCA, port: int) -> None:
        self.authority, self.url = authority, f"mqtts://127.0.0.1:{port}"

    def section(self, user: str) -> dict[str, Any]:
        """[bus] of a service whose certificate is `user`'s."""
        certificate, key = (str(self.authority.directory / f"{user}.{kind}") for kind in ("pem", "key"))
        return {"url": self.url, "ca_file": str(self.authority.ca_file), "cert_file": certificate, "key_file": key}

    def bus(self, user: str) -> MqttBus:
        """The test itself, with `user`'s certificate."""
        files = {key: Path(value) for key, value in self.section(user).items() if key != "url"}
        return MqttBus(BusSettings(self.url, user, session_expiry_s=0, **files))


def parties_of(plant: Fleet) -> list[Party]:
    agents = [
        Party(
            BusRole.AGENT,
            plant.address(name),
            site=SITE,
            agent=name,
            assets=(f"{name}-rig",),
            readings=(f"plant/{name}/#",),
        )
        for name in AGENTS
    ]
    others = (
        Party(BusRole.REGISTRY, REGISTRY),
        Party(BusRole.DASHBOARD, DASHBOARD, sites=(SITE,)),
        Party(BusRole.SOURCE, SOURCE, readings=("plant/a/#",)),
    )
    return [*agents, *others]


@contextmanager
def broker_of(plant: Fleet, folder: Path) -> Iterator[PlantBroker]:
    """mosquitto with the fleet's rights, and a certificate for everybody."""
    folder.mkdir()
    authority, parties = PlantCA(folder), parties_of(plant)
    for user in ("broker", *(party.user for party in (*fleet_parties(plant.trust), *parties))):
        authority.leaf(user)
    (folder / "acl").write_text(acl_text(plant.trust, parties))
    with plant_broker(folder) as broker:
        yield PlantBroker(authority, broker.port)


@pytest.fixture
async def hired(tmp_path: Path) -> AsyncIterator[tuple[Crew, PlantBroker]]:
    need_mosquitto()
    brokers: list[PlantBroker] = []

    def bus_of(plant: Fleet, name: str) -> dict[str, Any]:
        return brokers[0].section(plant.address(name))

    async with crew(tmp_path / "fleet", AGENTS, bus_of) as crew_:
        with broker_of(crew_.plant, tmp_path / "broker") as broker:
            brokers.append(broker)
            yield crew_, broker
            await crew_.end()


def registry_on(broker: PlantBroker, folder: Path) -> Registry:
    registry = Registry(folder, broker.url)
    config = folder / "registry.toml"
    config.write_text(tomli_w.dumps(tomllib.loads(config.read_text()) | {"bus": broker.section(REGISTRY)}))
    return registry


async def event(crew_: Crew, folder: Path, name: str, number: int) -> ChainEvent:
    async with asyncio.timeout(WAIT_S):
        async for each in crew_.chain.events(folder / "events.sqlite"):
            if each.name == name and each.values["round"] == number:
                return each
    raise AssertionError("events never end")


async def test_round_is_deployed_through_tls_and_rights_that_refuse_nothing_needed(
    hired: tuple[Crew, PlantBroker], tmp_path: Path
) -> None:
    crew_, broker = hired
    plant = crew_.plant
    registry = registry_on(broker, tmp_path)
    async with running(registry):
        await crew_.start(*SERVICES, rounds=1)
        assert await crew_.final(0) == RoundState.DEPLOYED
        assert await crew_.final(1) == RoundState.DEPLOYED
        deployed = await event(crew_, tmp_path, "RoundDeployed", 1)
        assert deployed.values["agents"] == len(AGENTS)

        await a_reading_reaches_registry_and_dashboard(broker, registry.url)

        for name in SERVICES:
            for sample in ("gemel_mqtt_publishes_failed_total", "gemel_mqtt_refused_total"):
                assert await scrape(plant._ports[name], sample) == 0, (name, sample, crew_[name].log)
    await rights_are_on(crew_, broker)


async def a_reading_reaches_registry_and_dashboard(broker: PlantBroker, registry_url: str) -> None:
    seen: dict[str, bytes] = {}
    complete = asyncio.Event()
    wanted = {topics.twin_state(SITE, "a-rig"), *(topics.agent(SITE, name, "status") for name in AGENTS)}

    async def watch(message: Any) -> None:
        seen[message.topic] = message.payload
        if wanted <= seen.keys() and b"4.5" in seen[topics.twin_state(SITE, "a-rig")]:
            complete.set()

    async with asyncio.timeout(WAIT_S), broker.bus(DASHBOARD) as dashboard, broker.bus(SOURCE) as source:
        for topic_filter in (topics.twin_state(SITE, "+"), topics.agent(SITE, "+", "status")):
            await dashboard.subscribe(topic_filter, watch)
        reading = {"time": SystemClock().now_ms(), "pressure": 4.5}
        await source.publish("plant/a/sensors", json.dumps(reading).encode())
        await complete.wait()
        async with aiohttp.ClientSession() as session:
            while True:
                async with session.get(f"{registry_url}/twins/{SITE}/a-rig") as answer:
                    if answer.status == 200 and "4.5" in await answer.text():
                        return
                await asyncio.sleep(0.05)


async def rights_are_on(crew_: Crew, broker: PlantBroker) -> None:
    plant = crew_.plant
    await crew_["a"].stop()  # its certificate is its client id: two at once would end each other
    async with broker.bus(plant.address("a")) as mallory:
        await mallory.publish(plant.topics.commitment(plant.address("a")), b"its own")
        for topic in (plant.topics.commitment(plant.address("b")), plant.topics.deployment):
            with pytest.raises(BusRefused) as refused:
                await mallory.publish(topic, b"another's")
            assert refused.value.code == NOT_AUTHORISED
    async with broker.bus(DASHBOARD) as dashboard:
        with pytest.raises(BusRefused):
            await dashboard.publish(plant.topics.commitment(plant.address("b")), b"nobody's")
