"""`gemel twin describe` against a real broker."""

from __future__ import annotations

import asyncio
import json
import sys

from gemel.adapters.mqtt_bus import BusSettings, MqttBus
from gemel.twin.state import to_json
from gemel.wire import topics
from tests.support.brokers import embedded_broker
from tests.support.services import REPOSITORY
from tests.unit.test_twin_descriptions import machine


async def describe(*arguments: str) -> tuple[int, str, str]:
    """Exit code, and what it said."""
    command = [sys.executable, "-m", "gemel", "twin", "describe", *arguments]
    pipe = asyncio.subprocess.PIPE
    process = await asyncio.create_subprocess_exec(*command, cwd=REPOSITORY, stdout=pipe, stderr=pipe)
    out, err = await process.communicate()
    assert process.returncode is not None
    return process.returncode, out.decode(), err.decode()


async def test_retained_twin_is_described_in_the_words_of_both_standards() -> None:
    async with embedded_broker() as url, MqttBus(BusSettings(url, "agent")) as bus:
        await bus.publish(topics.twin_state("north", "press-1"), to_json(machine()), retain=True)
        code, td, _ = await describe("north", "press-1", "--broker", url)
        assert (code, json.loads(td)["title"]) == (0, "north/press-1")
        code, shell, _ = await describe("north", "press-1", "--broker", url, "--format", "aas")
        assert (code, len(json.loads(shell)["submodels"])) == (0, 2)


async def test_name_that_is_none_is_one_line_and_exit_code_2() -> None:
    code, out, err = await describe("North 1", "press-1", "--broker", "mqtt://127.0.0.1:1")
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert "site" in err
