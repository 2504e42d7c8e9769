"""A gateway with several machines and a broker of its own: each has alerts, and is told what it shall be."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.twin.state import DesiredState, Settable, Twin
from tests.support.brokers import embedded_broker
from tests.support.services import Agent, running
from tests.support.twins import COME_S, Ear, Machine, Office

MAPPING = """
[assets]
"Press 2" = "press-2"
[[source]]
topic = "plant/{asset}/sensors"
[source.properties.SE]
unit = "%"
[source.properties.TS1]
unit = "degC"
"""
TWIN_FILE = """
[actuator.SE]
unit = "%"
maximum = 100
topic = "commands/{asset}/efficiency"
payload = '{"set": $value}'
tolerance = 0.5
retry_s = 0.2

[actuator.TS1]
unit = "degC"
topic = "commands/oven"  # of the agent's own asset: no other machine's
tolerance = 1

[[alert]]
id = "hot-oil"
property = "TS1"
above = 70
"""


def pair(folder: Path, plant: str, own: str) -> Agent:
    """An agent of press-1 that keeps one more twin and hears machines on the gateway's own broker."""
    twin_file = folder / "twin.toml"
    twin_file.write_text(TWIN_FILE)
    agent = Agent(folder, plant, "press-1", max_assets="2", twin_file=str(twin_file))
    agent.config.write_text(agent.config.read_text() + f'[sensors_bus]\nurl = "{own}"\n')
    (agent.config.parent / "sensors.toml").write_text(MAPPING)
    return agent


def state(twin: Twin, id_: str) -> DesiredState | None:
    wanted = twin.desired.get("SE")
    return wanted.state if wanted is not None and wanted.id == id_ else None


async def test_further_machine_has_alerts_and_obeys_where_its_readings_come_from_over_a_kill(tmp_path: Path) -> None:
    async with (
        embedded_broker() as plant,
        embedded_broker() as own,
        MqttBus(BusSettings(plant, "office")) as of_plant,
        MqttBus(BusSettings(own, "machine")) as of_gateway,
    ):
        office, machine, astray = Office(of_plant, "press-2"), Machine(of_gateway, "Press 2"), Ear()
        await office.listen()
        await machine.listen()
        await of_plant.subscribe("commands/#", astray.hear)
        agent = pair(tmp_path, plant, own)
        async with running(agent):
            await machine.report(SE=10, TS1=71)
            twin = await office.twin(lambda t: "hot-oil" in t.alerts)
            assert twin.settable == {"SE": Settable("%", None, 100.0)}
            raised = json.loads((await office.events.first()).payload)
            assert (raised["asset"], raised["event"], raised["id"]) == ("press-2", "raised", "hot-oil-1")
            assert await agent.metric('gemel_alerts_total{event="raised"}') == 1
            for bus in ("plant", "sensors"):
                assert await agent.metric(f'gemel_link_up{{bus="{bus}"}}') == 1

            machine.obeys = lambda _: False
            deadline_ms = round((time.time() + COME_S) * 1000)
            await office.ask(id="a", property="SE", value=42, unit="%", deadline_ms=deadline_ms)
            assert (await office.answer("a"))["outcome"] == "accepted"
            await machine.commands.first(lambda m: m.topic == "commands/Press 2/efficiency")
            await office.ask(id="b", property="TS1", value=42, unit="degC", deadline_ms=deadline_ms)
            assert (await office.answer("b"))["reason"] == "unknown_property"

            await agent.stop(signal.SIGKILL)
            machine.obeys = lambda _: True
            await agent.start()
            applied = await office.twin(lambda t: state(t, "a") is DesiredState.APPLIED)
            assert applied.properties["SE"].value == 42.0
            assert applied.alerts["hot-oil"].id == "hot-oil-1"  # stands, and is not raised anew

            await machine.report(TS1=60)
            await office.events.first(lambda m: b"cleared" in m.payload)
            assert astray.messages == []
