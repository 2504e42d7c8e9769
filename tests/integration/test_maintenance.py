"""An alert of a real twin becomes an order on a real chain, and people take it on with their key files."""

from __future__ import annotations

import asyncio
import json
import signal
import sqlite3
import time
import tomllib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest
import pytest_asyncio
import tomli_w
from typer.testing import CliRunner

from chain_listener.orders import WAITING
from gemel.__main__ import app
from gemel.adapters import key_files
from gemel.adapters.contract_abi import MAINTENANCE
from gemel.adapters.evm_upkeep import EvmUpkeep
from gemel.console.fleet_files import KEYS_FOLDER
from gemel.console.maintenance import OrderLine
from gemel.wire import topics
from gemel.wire.envelope import Kind
from gemel.wire.messages import HealthAlert, decode, encode
from gemel.wire.types import Digest, sha256
from gemel.wire.upkeep import OrderState, ToldOrder, order_of, sign_alert
from tests.support.fleet import SITE, Fleet, Player, fleet, in_one_task, module_of
from tests.support.services import Service

pytestmark = pytest.mark.asyncio(loop_scope="module")
AGENTS = {"a": "bonn", "b": "lyon", "c": "graz"}
RIG = "a-rig"
CANNOT = 2


@dataclass
class Plant:
    """A founded fleet with the chain listener running, and people's key files."""

    fleet: Fleet
    upkeep: EvmUpkeep
    people: Path
    listener: Service

    def configured(self, name: str, **more: Any) -> Service:
        path = self.fleet._configure(name, {})
        path.write_text(tomli_w.dumps(tomllib.loads(path.read_text()) | more))
        log = self.fleet.root / "logs" / f"{name}.log"
        if name in AGENTS:
            return Service("edge_agent", ["run", "--config", str(path)], log)
        return Service(module_of(name), ["--config", str(path)], log)

    async def gemel(self, *words: str) -> tuple[int, str]:
        """The command's exit status and what it said."""
        result = await asyncio.to_thread(CliRunner().invoke, app, ["maintenance", *words])
        return result.exit_code, result.output

    async def advance(self, word: str, order: Digest, who: str, *more: str) -> tuple[int, str]:
        """Signed with somebody's key file; the operator's account pays, as theirs hold nothing."""
        pays = self.fleet.root / KEYS_FOLDER / "operator.json"
        key = ["--key", str(self.people / f"{who}.json"), "--submit-with", str(pays)]
        return await self.gemel(word, str(self.fleet.root), order[:16], *key, *more)

    async def told(self, order: Digest, state: OrderState, asset: str = RIG) -> ToldOrder:
        """What the bus says of an order, once it is that far."""
        topic = topics.maintenance_order(SITE, asset, order)
        message = await self.fleet.wait(
            self.fleet.witness.message(topic, where=lambda payload: decode(ToldOrder, payload).state == state)
        )
        return decode(ToldOrder, message.payload)

    async def until_state(self, order: Digest, state: OrderState) -> None:
        async def there() -> bool:
            return (await self.upkeep.order(order)).state == state

        await self.fleet.until(there)

    def alert(self, of: Player, asset: str, number: int, time_s: int | None = None) -> HealthAlert:
        return sign_alert(
            of.keys.identity,
            self.fleet.place.domain(MAINTENANCE),
            site=SITE,
            asset=asset,
            alert=f"played-{number}@5",
            time_s=int(time.time()) - 5 if time_s is None else time_s,
            report=sha256(b"event"),
        )

    async def say(self, by: Player, alert: HealthAlert) -> None:
        await by.post.say(by.post.topics.health_alert(by.keys.identity.address), Kind.HEALTH_ALERT, encode(alert))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def plant(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Plant]:
    folder = tmp_path_factory.mktemp("maintenance")
    people = folder / "people"
    people.mkdir()
    keys = {who: key_files.create(people / f"{who}.json").identity.address for who in ("tina", "tom", "ines")}
    founded = fleet(
        folder,
        AGENTS,
        technicians=(keys["tina"], keys["tom"]),
        inspectors=(keys["ines"], keys["tom"]),
    )
    async with in_one_task(founded) as opened, AsyncExitStack() as stack:
        chain = await opened.chain_of("operator")
        plant = Plant(opened, EvmUpkeep(chain.calls), people, None)  # type: ignore[arg-type]  # on the next line
        plant.listener = plant.configured("listener")
        await plant.listener.start()
        stack.push_async_callback(plant.listener.stop)
        yield plant


async def test_alert_of_a_twin_is_acknowledged_done_and_verified_by_different_people(plant: Plant) -> None:
    twin_file = plant.fleet.root / "twin.toml"
    rule = {"id": "burning", "property": "heat", "above": 70, "severity": "critical"}
    tepid = {"id": "tepid", "property": "heat", "above": 50, "severity": "warning"}
    twin_file.write_text(tomli_w.dumps({"alert": [rule, tepid]}))
    agent = plant.configured("a", twin_file=str(twin_file))
    await agent.start()
    try:
        reading = {"time": time.time_ns() // 1_000_000, "pressure": 5, "flow": 5, "heat": 90}
        await plant.fleet.bus.publish("plant/a/sensors", json.dumps(reading).encode())
        own = plant.fleet.topics.health_alert(plant.fleet.address("a"))
        alert = decode(HealthAlert, (await plant.fleet.heard(own)).body)
        order = order_of(alert)
        opened = await plant.told(order, OrderState.OPEN)
        assert (opened.site, opened.asset, opened.alert) == (SITE, RIG, alert.alert)
        assert alert.alert.startswith("burning-1@")
        assert opened.steps[0].by == plant.fleet.address("a")
        assert len(plant.fleet.witness.on(own)) == 1  # the warning calls nobody
    finally:
        assert await agent.stop() == 0

    report = plant.fleet.root / "report.txt"
    report.write_text("replaced the pump's seal")
    assert (await plant.advance("acknowledge", order, "tina"))[0] == 0
    code, _ = await plant.advance("done", order, "tom", "--report", str(report))
    assert code == 0
    code, said = await plant.advance("verify", order, "tom")
    assert (code, "OwnWorkVerified" in said) == (CANNOT, True)
    code, said = await plant.advance("verify", order, "tina")
    assert (code, "AccessControlUnauthorizedAccount" in said) == (CANNOT, True)
    assert (await plant.advance("verify", order, "ines"))[0] == 0

    told = await plant.told(order, OrderState.VERIFIED)
    people = [key_files.load(plant.people / f"{who}.json").identity.address for who in ("tina", "tom", "ines")]
    assert [step.by for step in told.steps] == [plant.fleet.address("a"), *people]
    assert told.steps[2].report == sha256(report.read_bytes())
    assert len({step.transaction for step in told.steps}) == 4
    assert [step.time_s for step in told.steps] == sorted(step.time_s for step in told.steps)

    code, said = await plant.gemel("show", str(plant.fleet.root), order[:12], "--json")
    line = msgspec.json.decode(said, type=OrderLine)
    assert (code, line.order, line.state, line.asset) == (0, order, "verified", RIG)
    assert [step.by for step in line.steps] == [step.by for step in told.steps]
    code, said = await plant.gemel("list", str(plant.fleet.root))
    assert (code, order[:12] in said, "verified" in said) == (0, True, True)
    code, said = await plant.gemel("list", str(plant.fleet.root), "--unfinished", "--json")
    assert (code, order in said) == (0, False)


async def test_alert_of_a_foreign_agent_opens_no_order(plant: Plant) -> None:
    stranger, own = await plant.fleet.play("b"), await plant.fleet.play("c")
    foreign, after = plant.alert(stranger, RIG, 1), plant.alert(own, "c-rig", 2)
    await plant.say(stranger, foreign)
    in_anothers_name = plant.alert(own, "c-rig", 3)
    await plant.say(stranger, in_anothers_name)
    await plant.say(own, after)
    await plant.told(order_of(after), OrderState.OPEN, "c-rig")

    async def refused() -> bool:
        return await plant.fleet.metric("listener", "gemel_maintenance_alerts_total", outcome="refused") == 1

    await plant.fleet.until(refused)
    bad = {"kind": "health_alert", "reason": "bad_signature"}
    assert await plant.fleet.metric("listener", "gemel_messages_refused_total", **bad) == 1
    for alert in (foreign, in_anothers_name):
        assert (await plant.upkeep.order(order_of(alert))).state is OrderState.NONE


async def test_listener_that_is_killed_between_hearing_and_handing_in_opens_the_order_once(plant: Plant) -> None:
    agent = await plant.fleet.play("b")
    alert = plant.alert(agent, "b-rig", 4, time_s=int(time.time()) + 6)  # the chain takes it in a few seconds only
    await plant.say(agent, alert)
    records = plant.fleet.state("listener") / "records.sqlite"

    async def heard() -> bool:
        with sqlite3.connect(f"file:{records}?mode=ro", uri=True) as database:
            found = database.execute("SELECT count(*) FROM records WHERE kind = ?", (WAITING,)).fetchone()
        database.close()
        return bool(found[0])

    await plant.fleet.until(heard)
    await plant.listener.stop(signal.SIGKILL)
    assert (await plant.upkeep.order(order_of(alert))).state is OrderState.NONE
    await plant.listener.start()
    told = await plant.told(order_of(alert), OrderState.OPEN, "b-rig")
    assert told.alert == alert.alert
    await plant.say(agent, alert)  # said again, as after an acknowledgement that was lost
    orders = [each.order for each in await plant.upkeep.orders()]
    assert orders.count(order_of(alert)) == 1


@pytest.mark.parametrize("order", ["", "zz", "00000000000000000000"])
async def test_order_that_is_none_is_one_line(plant: Plant, order: str) -> None:
    code, said = await plant.gemel("show", str(plant.fleet.root), order)
    assert (code, said.count("\n")) == (CANNOT, 1)
    assert "the first digits of one order's id" in said
