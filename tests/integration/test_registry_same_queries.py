"""One registry process, asked the same over HTTP and over the bus: the answers are the same."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any

import httpx
import pytest

from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.ports import BusMessage
from gemel.twin.agent import ONLINE, AgentStatus, status_to_json
from gemel.twin.state import to_json
from gemel.wire import topics
from tests.support.brokers import mosquitto
from tests.support.registry_api import alert, twin
from tests.support.services import Registry, running

COME_S = 30
VERSIONS = 130
PRESS = "/twins/north/press-1"
FINE = (
    "/twins",
    "/twins?where=TS1%3E40&where=health.cooler.condition==near_failure",
    PRESS,
    PRESS + "?revision=7",
    PRESS + "/history?limit=3&after=5",
    PRESS + "/series/TS1?from=5000&to=9000",
    PRESS + "/series/TS1?step_s=60&limit=2",
    PRESS + "/thing-description",
    PRESS + "/asset-shell",
    "/schemas/twin/1",
    "/events",
    "/events?asset=press-1&limit=1",
    "/agents",
    "/assets",
    "/assets/north/press-1",
    "/tree",
    "/relations?of=north/hall",
    "/accesses/roots",
    "/healthz",
    "/openapi.json",
)
REFUSED = {
    "/twins?where=TS1": 400,
    PRESS + "/series/TS1?step_s=7": 400,
    PRESS + "?revision=9999": 404,
    PRESS + "?at=1": 404,
    "/twins/north/nobody": 404,
    "/nothing": 404,
}


@pytest.mark.broker
async def test_same_queries_over_http_and_over_the_bus_have_the_same_answers(tmp_path: Path) -> None:
    async with (
        mosquitto(["allow_anonymous true", "max_queued_messages 0"]) as broker,
        running(Registry(tmp_path, broker)) as registry,
        MqttBus(BusSettings(broker, "gateway")) as bus,
    ):
        assert isinstance(registry, Registry)
        async with httpx.AsyncClient(base_url=registry.url, timeout=COME_S) as http:
            await _a_plants_hour(bus, http)
            answers: asyncio.Queue[BusMessage] = asyncio.Queue()
            await bus.subscribe(topics.query_response("north", "wallboard"), answers.put)

            async def over_the_bus(path: str) -> tuple[int, Any]:
                question = json.dumps({"get": path}).encode()
                await bus.publish(topics.query_request("north", "wallboard"), question, correlation=path.encode())
                answer = await asyncio.wait_for(answers.get(), COME_S)
                assert answer.correlation == path.encode()
                said = json.loads(answer.payload)
                return said["status"], said["body"]

            shown = (await http.get(PRESS)).json()["received_ms"]
            for path in (*FINE, f"{PRESS}?at={shown}"):
                answer = await http.get(path)
                assert answer.status_code == 200, path
                assert answer.json(), path
                assert await over_the_bus(path) == (200, answer.json()), path
            for path, status in REFUSED.items():
                answer = await http.get(path)
                assert answer.status_code == status, path
                assert await over_the_bus(path) == (status, answer.json()), path


async def _a_plants_hour(bus: MqttBus, http: httpx.AsyncClient) -> None:
    """Twins, alerts and an agent over the bus, assets over HTTP; returns when the registry has it all."""
    for version in range(1, VERSIONS + 1):
        document = twin(version, value=float(version), condition="near_failure")
        await bus.publish(topics.twin_state("north", "press-1"), to_json(document), retain=True)
    await bus.publish(topics.twin_state("north", "press-2"), to_json(twin(1, "press-2")), retain=True)
    for id_ in ("hot-1", "hot-2"):
        await bus.publish(topics.twin_event("north", "press-1"), alert(id_))
    status = AgentStatus("gemel.agent/1", "north", "gw", "press-1", None, "", None, 0, 0)
    await bus.publish(topics.agent("north", "gw", "status"), status_to_json(status), retain=True)
    await bus.publish(topics.agent("north", "gw", "availability"), ONLINE, retain=True)
    for asset, declared in (
        ("hall", {}),
        ("press-1", {"parent": "north/hall", "relations": [{"kind": "stands-in", "to": "north/hall"}]}),
    ):
        body, none_yet = json.dumps(declared), {"If-None-Match": "*"}
        assert (await http.put(f"/assets/north/{asset}", content=body, headers=none_yet)).status_code == 204
    async with asyncio.timeout(COME_S):
        while True:
            twins = (await http.get("/twins")).json()["twins"]
            events = (await http.get("/events")).json()["events"]
            agents = (await http.get("/agents")).json()["agents"]
            known = [agent["availability"] == "online" and agent["status"] is not None for agent in agents]
            if [line["version"] for line in twins] == [VERSIONS, 1] and len(events) == 2 and known == [True]:
                return
