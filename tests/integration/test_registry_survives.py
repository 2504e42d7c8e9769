"""A real registry process on a real broker: killed, started again, and asked over the bus."""

from __future__ import annotations

import asyncio
import json
import signal
from pathlib import Path

import httpx
import pytest
from msgspec.structs import replace

from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.ports import BusMessage
from gemel.twin.state import Property, Quality, blank, to_json
from gemel.wire import topics
from tests.support.brokers import mosquitto
from tests.support.services import Registry, running, scrape

UPDATES = 600
MACHINES = 3


def document(number: int) -> tuple[str, bytes]:
    asset, version = f"press-{number % MACHINES}", number // MACHINES + 1
    reading = Property(float(version), "degC", version, version, Quality.GOOD)
    twin = replace(blank("north", asset), version=version, properties={"TS1": reading})
    return topics.twin_state("north", asset), to_json(twin)


@pytest.mark.broker
async def test_killed_again_and_again_it_loses_nothing_and_answers_over_the_bus(tmp_path: Path) -> None:
    answered: asyncio.Queue[BusMessage] = asyncio.Queue()
    async with (
        mosquitto(["allow_anonymous true", "max_queued_messages 0"]) as url,
        running(Registry(tmp_path, url)) as registry,
        MqttBus(BusSettings(url, "gateway")) as gateway,
        httpx.AsyncClient(base_url=registry.url) as http,
    ):

        async def publish() -> None:
            for begin in range(0, UPDATES, 20):
                documents = [document(number) for number in range(begin, begin + 20)]
                await asyncio.gather(*(gateway.publish(topic, payload) for topic, payload in documents))

        publishing = asyncio.create_task(publish())
        for _ in range(2):
            await asyncio.sleep(0.3)
            await registry.stop(signal.SIGKILL)
            await registry.start()
        await publishing

        for asset in (f"press-{n}" for n in range(MACHINES)):
            versions: list[int] = []
            async with asyncio.timeout(20):
                while len(versions) < UPDATES // MACHINES:
                    answer = await http.get(f"/twins/north/{asset}/history?limit=1000")
                    versions = [r["twin"]["version"] for r in answer.json().get("revisions", [])]
            assert versions == list(range(1, UPDATES // MACHINES + 1))

        commits = await scrape(registry.metrics_port, "gemel_registry_commit_seconds_count")
        shared = await scrape(registry.metrics_port, "gemel_registry_commit_changes_sum")
        assert 0 < commits <= shared <= await scrape(registry.metrics_port, "gemel_registry_rows_total")
        assert await scrape(registry.metrics_port, "gemel_registry_commit_wait_seconds_count") == commits
        assert await scrape(registry.metrics_port, "gemel_registry_waiting_seconds") < 5

        await gateway.subscribe(topics.query_response("north", "wallboard"), answered.put)
        question = json.dumps({"get": "/twins/north/press-0?revision=7"}).encode()
        await gateway.publish(topics.query_request("north", "wallboard"), question, correlation=b"\x01")
        answer = await asyncio.wait_for(answered.get(), 10)
        assert answer.correlation == b"\x01"
        assert json.loads(answer.payload)["body"]["twin"]["version"] == 7
