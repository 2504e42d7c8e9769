"""A dashboard that a plant has had for years still reads twins: asyncio-mqtt 0.16.2 on MQTT 3.1.1.

It is aiomqtt's former name and needs paho-mqtt 1, so it has a virtual environment of its own, kept under .tools/.
Its broker is mosquitto, as in a plant: rumqttd speaks one protocol version on each port.
"""

from __future__ import annotations

import asyncio
import textwrap
from pathlib import Path

import pytest

from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.twin.state import from_json
from gemel.wire import topics
from tests.support.brokers import mosquitto
from tests.support.environments import environment
from tests.support.services import Agent, running

REQUIREMENTS = ("asyncio-mqtt==0.16.2", "paho-mqtt<2")
READ_S = 30
DASHBOARD = textwrap.dedent(
    """
    import asyncio, sys
    import asyncio_mqtt

    async def main(port, topic):
        protocol = asyncio_mqtt.ProtocolVersion.V311
        async with asyncio_mqtt.Client("127.0.0.1", int(port), protocol=protocol) as client:
            async with client.messages() as messages:
                await client.subscribe(topic)
                async for message in messages:
                    print(int(message.retain), message.topic, message.payload.decode(), flush=True)
                    return

    asyncio.run(main(*sys.argv[1:]))
    """
)


@pytest.fixture(scope="module")
def old_python() -> Path:
    return environment("old-dashboard", *REQUIREMENTS)


@pytest.mark.broker
async def test_old_asyncio_mqtt_client_on_mqtt_3_reads_the_retained_twin(old_python: Path, tmp_path: Path) -> None:
    async with mosquitto() as url, running(Agent(tmp_path, url, "press-1")):
        arrived = asyncio.Event()

        async def hear(message: object) -> None:
            arrived.set()

        topic = topics.twin_state("north", "press-1")
        async with MqttBus(BusSettings(url, "plc")) as plc:
            await plc.subscribe(topic, hear)
            await plc.publish("plant/press-1/sensors", b'{"time": "2023-11-14T22:13:20Z", "TS1": 35.5}')
            async with asyncio.timeout(READ_S):
                await arrived.wait()
        command = [old_python, "-c", DASHBOARD, url.rsplit(":", 1)[1], topic]
        dashboard = await asyncio.create_subprocess_exec(*command, stdout=asyncio.subprocess.PIPE)
        async with asyncio.timeout(READ_S):
            said, _ = await dashboard.communicate()
        assert dashboard.returncode == 0
        retained, where, document = said.decode().split(" ", 2)
        assert (retained, where) == ("1", topic)
        reading = from_json(document.encode()).properties["TS1"]
        assert (reading.value, reading.unit, reading.source_time_ms) == (35.5, "degC", 1_700_000_000_000)
