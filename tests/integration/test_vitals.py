"""A real agent under a service manager: it is ready without a broker, says how it is, and feeds the watchdog."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from tests.integration.test_service_host import Manager
from tests.support.brokers import embedded_broker
from tests.support.ports import free_port
from tests.support.services import Agent, running
from tests.support.twins import START_MS


async def test_agent_tells_the_manager_how_it_is_and_lives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    manager, port = Manager(str(tmp_path / "notify")), free_port()
    monkeypatch.setenv("NOTIFY_SOCKET", str(tmp_path / "notify"))
    monkeypatch.setenv("WATCHDOG_USEC", "600000")
    monkeypatch.delenv("WATCHDOG_PID", raising=False)
    agent = Agent(tmp_path, f"mqtt://127.0.0.1:{port}", "press-1")
    heard: list[str] = []

    async def hears(words: str) -> None:
        while not any(re.search(words, message) for message in heard):
            heard.append(await manager.hears())

    try:
        async with embedded_broker() as own:
            agent.config.write_text(agent.config.read_text() + f'[sensors_bus]\nurl = "{own}"\n')
            async with running(agent), MqttBus(BusSettings(own, "plc")) as plc:
                await hears("READY=1\nSTATUS=not linked; no model; 0 revisions wait")
                await hears("WATCHDOG=1")
                reading = json.dumps({"time": START_MS, "TS1": 50}).encode()
                await plc.publish("plant/press-1/sensors", reading)
                await hears("STATUS=not linked; no model; [1-9][0-9]* revisions wait")
                assert await agent.metric("gemel_outbox_revisions") >= 1
                assert await agent.metric('gemel_link_up{bus="plant"}') == 0
                heard.clear()
                async with embedded_broker(port):
                    await hears("STATUS=linked; no model; [1-9][0-9]* revisions wait")  # for a registry's answer
                    await hears("WATCHDOG=1")
            assert "crashed" not in agent.log
    finally:
        manager.close()
