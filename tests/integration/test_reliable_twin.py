"""Desired values, alerts, deltas and schema of a twin, through a real agent process and a real broker."""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from gemel.ports import BusMessage
from gemel.twin import delta
from gemel.twin.state import Desired, DesiredState, Quality, Settable, Twin, from_json
from gemel.wire import topics
from tests.support.brokers import embedded_broker, mosquitto
from tests.support.services import Agent, running
from tests.support.twins import COME_S, SITE, Machine, Office, office_and_machine

ASSET = "press-1"
TWIN_FILE = """
[actuator.SE]
unit = "%"
minimum = 0
maximum = 100
topic = "commands/press-1/efficiency"
payload = '{"set": $value, "request": "$id"}'
tolerance = 0.5
retry_s = 0.2

[[alert]]
id = "hot-oil"
property = "TS1"
above = 70
clear_at = 65
hold_s = 0.5
severity = "critical"
text = "oil is hot"

[[alert]]
id = "no-oil-temperature"
property = "TS1"
stale = true
"""


class Press(Agent):
    """An agent with actuators and alerts."""

    ready_words = "takes requests"

    def __init__(self, folder: Path, url: str, **settings: str | float) -> None:
        file = folder / "twin.toml"
        file.write_text(TWIN_FILE)
        super().__init__(folder, url, ASSET, twin_file=str(file), **settings)


@asynccontextmanager
async def plant(folder: Path, url: str, **settings: float) -> AsyncIterator[tuple[Office, Machine, Press]]:
    async with office_and_machine(url, ASSET) as (office, machine), running(Press(folder, url, **settings)) as press:
        assert isinstance(press, Press)
        yield office, machine, press


@pytest.fixture
async def url() -> AsyncIterator[str]:
    async with embedded_broker() as url:
        yield url


def in_ms(seconds: float) -> int:
    return round((time.time() + seconds) * 1000)


def wanted(twin: Twin) -> Desired | None:
    return twin.desired.get("SE")


def reads(twin: Twin, name: str, value: float) -> bool:
    return name in twin.properties and twin.properties[name].value == value


def heard(message: BusMessage) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(message.payload)
    return document


def ended(id_: str, state: DesiredState) -> Callable[[Twin], bool]:
    def holds(twin: Twin) -> bool:
        return (one := wanted(twin)) is not None and (one.id, one.state) == (id_, state)

    return holds


async def test_desired_value_is_answered_commanded_and_applied_once_the_machine_reports_it(
    url: str, tmp_path: Path
) -> None:
    async with plant(tmp_path, url) as (office, machine, _):
        twin = await office.twin(lambda t: bool(t.settable))
        assert twin.settable == {"SE": Settable("%", 0.0, 100.0)}
        machine.obeys = lambda number: number >= 3  # it misses the first two commands
        deadline_ms = in_ms(COME_S)
        await office.ask(b"\x01", id="a", property="SE", value=42, unit="%", deadline_ms=deadline_ms)
        assert (await office.answer("a"))["outcome"] == "accepted"
        assert office.answers.messages[0].correlation == b"\x01"
        await office.twin(ended("a", DesiredState.PENDING))
        twin = await office.twin(ended("a", DesiredState.APPLIED))
        applied = wanted(twin)
        assert applied is not None
        assert (applied.value, applied.unit, applied.reason, applied.deadline_ms) == (42.0, "%", "", deadline_ms)
        assert twin.properties["SE"].value == 42.0
        assert len(machine.commands.messages) == 3
        assert {m.payload for m in machine.commands.messages} == {b'{"set": 42, "request": "a"}'}
        assert not any(m.retained for m in machine.commands.messages)
        assert machine.commands.messages[0].properties == {"request": "a"}

        await office.ask(id="a", property="SE", value=42, unit="%", deadline_ms=deadline_ms)
        await office.ask(id="b", property="SE", value=50, unit="%", deadline_ms=deadline_ms, expected_version=0)
        conflict = await office.answer("b")
        assert (conflict["outcome"], conflict["reason"]) == ("refused", "version_conflict")
        assert [a["outcome"] for a in office.answers.documents] == ["accepted", "accepted", "refused"]
        version = applied.version
        await office.ask(id="c", property="SE", value=50, unit="%", deadline_ms=deadline_ms, expected_version=version)
        await office.twin(ended("c", DesiredState.APPLIED))
        assert len(machine.commands.messages) == 4


async def test_desired_value_that_the_machine_never_reports_fails_at_its_deadline(url: str, tmp_path: Path) -> None:
    async with plant(tmp_path, url) as (office, machine, _):
        machine.obeys = lambda _: False
        await office.ask(id="a", property="SE", value=42, unit="%", deadline_ms=in_ms(1.5))
        twin = await office.twin(ended("a", DesiredState.FAILED))
        failed = wanted(twin)
        assert failed is not None
        assert failed.reason == "deadline: the machine does not report it"
        assert failed.since_ms >= failed.deadline_ms
        assert len(machine.commands.messages) > 1  # it was tried again


async def test_request_that_does_not_hold_is_answered_with_its_reason_and_commands_nothing(
    url: str, tmp_path: Path
) -> None:
    async with plant(tmp_path, url) as (office, machine, press):
        good = {"property": "SE", "value": 42, "unit": "%", "deadline_ms": in_ms(COME_S)}
        elsewhere = "commands/press-1/efficiency"
        await office.ask(response_topic=elsewhere, id="deputy", **good | {"unit": "rpm"})
        for id_, change in {
            "range": {"value": 101},
            "unit": {"unit": "rpm"},
            "property": {"property": "TS1"},
            "late": {"deadline_ms": in_ms(-1)},
            "malformed": {"value": "much"},
        }.items():
            await office.ask(id=id_, **good | change)
        await office.bus.publish(topics.desired_set(SITE, ASSET), b"\xff" * 10_000)
        await office.ask(id="retained", **good | {"value": -1})
        await office.answer("retained")
        reasons = [(a["id"], a["reason"]) for a in office.answers.documents]
        assert reasons == [
            ("range", "out_of_range"),
            ("unit", "wrong_unit"),
            ("property", "unknown_property"),
            ("late", "late"),
            ("", "malformed"),
            ("retained", "out_of_range"),
        ]
        assert machine.commands.messages == []  # not even the answer that was asked for on the command's topic
        assert "deputy" in press.log


async def test_agent_killed_in_the_middle_brings_it_about_after_its_restart(url: str, tmp_path: Path) -> None:
    async with plant(tmp_path, url) as (office, machine, press):
        machine.obeys = lambda _: False
        await office.ask(id="long", property="SE", value=42, unit="%", deadline_ms=in_ms(COME_S))
        await office.answer("long")
        await machine.commands.first()
        await press.stop(signal.SIGKILL)
        heard = len(machine.commands.messages)
        machine.obeys = lambda _: True
        await press.start()
        twin = await office.twin(ended("long", DesiredState.APPLIED))
        assert twin.properties["SE"].value == 42.0
        assert len(machine.commands.messages) > heard

        machine.obeys = lambda _: False
        await office.ask(id="short", property="SE", value=90, unit="%", deadline_ms=in_ms(1))
        await office.answer("short")
        await press.stop(signal.SIGKILL)
        await asyncio.sleep(1)  # its deadline passes while nobody is there
        await press.start()
        failed = wanted(await office.twin(ended("short", DesiredState.FAILED)))
        assert failed is not None
        assert failed.reason.startswith("deadline")
        await office.ask(id="long", property="SE", value=42, unit="%", deadline_ms=in_ms(COME_S))
        await office.ask(id="end", property="SE", value=-1, unit="%", deadline_ms=in_ms(COME_S))
        await office.answer("end")
        assert wanted(from_json(office.states.messages[-1].payload)) == failed  # done once, however often it comes


async def test_alert_is_raised_after_its_hold_time_stands_through_a_restart_and_is_cleared_once(
    url: str, tmp_path: Path
) -> None:
    async with plant(tmp_path, url) as (office, machine, press):
        await machine.report(TS1=71)
        raised = json.loads((await office.events.first()).payload)
        assert (raised["event"], raised["alert"], raised["severity"]) == ("raised", "hot-oil", "critical")
        assert (raised["value"], raised["property"], raised["text"]) == (71.0, "TS1", "oil is hot")
        twin = await office.twin(lambda t: "hot-oil" in t.alerts)
        assert twin.alerts["hot-oil"].id == raised["id"]
        assert raised["time_ms"] - twin.properties["TS1"].ingest_time_ms >= 500
        await machine.report(TS1=66)  # below the bound, above where it clears
        await press.stop(signal.SIGKILL)
        await press.start()
        await machine.report(TS1=80)
        await office.twin(lambda t: reads(t, "TS1", 80))
        await machine.report(TS1=60)
        cleared = json.loads((await office.events.first(lambda m: b"cleared" in m.payload)).payload)
        assert (cleared["id"], cleared["value"]) == (raised["id"], 60.0)
        twin = await office.twin(lambda t: reads(t, "TS1", 60) and not t.alerts)
        # an event that was said right before the kill may be said again: under the same id
        said = dict.fromkeys((event["id"], event["event"]) for event in office.events.documents)
        assert list(said) == [(raised["id"], "raised"), (raised["id"], "cleared")]


async def test_silence_raises_an_alert_of_its_own_and_leaves_that_on_the_value_as_it_stood(
    url: str, tmp_path: Path
) -> None:
    async with plant(tmp_path, url, stale_after_s=2) as (office, machine, _):
        await machine.report(TS1=71)
        await office.events.first(lambda m: b"no-oil-temperature" in m.payload)
        twin = await office.twin(lambda t: "no-oil-temperature" in t.alerts)
        assert twin.properties["TS1"].quality is Quality.STALE
        assert set(twin.alerts) == {"hot-oil", "no-oil-temperature"}
        await machine.report(TS1=50)
        await office.twin(lambda t: reads(t, "TS1", 50) and not t.alerts)
        for kind in ("stale", "value"):
            await office.events.first(lambda m, k=kind: {"event": "cleared", "kind": k}.items() <= heard(m).items())
        kinds = [(event["event"], event["kind"]) for event in office.events.documents[:4]]
        assert kinds[:2] == [("raised", "value"), ("raised", "stale")]
        assert sorted(kinds[2:]) == [("cleared", "stale"), ("cleared", "value")]


async def test_reader_that_lays_deltas_over_a_state_has_the_next_state(url: str, tmp_path: Path) -> None:
    async with plant(tmp_path, url) as (office, machine, _):
        for value in range(5):
            await machine.report(SE=value, TS1=30)
            await office.twin(lambda t, v=value: reads(t, "SE", v))
        await office.deltas.first(lambda m: json.loads(m.payload)["to"] == office.states.documents[-1]["version"])
        states = {twin.version: twin for twin in (from_json(m.payload) for m in office.states.messages)}
        followed = 0
        for change in (delta.from_json(m.payload) for m in office.deltas.messages):
            if change.from_version in states:
                assert delta.apply(states[change.from_version], change) == states[change.to_version]
                followed += 1
        assert followed >= 4
        (published, *_) = office.schemas.documents
        for state in office.states.documents:
            Draft202012Validator(published).validate(state)


@pytest.mark.broker
async def test_mosquitto_sub_gets_live_state_and_what_changed(tmp_path: Path) -> None:
    program = shutil.which("mosquitto_sub")
    if program is None:
        pytest.skip("mosquitto_sub is not installed")
    async with mosquitto() as url, plant(tmp_path, url) as (office, machine, _):
        port = url.rsplit(":", 1)[1]
        filters = ("-t", topics.twin_state(SITE, ASSET), "-t", topics.twin_delta(SITE, ASSET))
        await office.twin(lambda t: bool(t.settable))
        reader = await asyncio.create_subprocess_exec(
            program, "-p", port, "-V", "311", "-W", str(COME_S), "-v", *filters, stdout=asyncio.subprocess.PIPE
        )
        try:
            assert reader.stdout is not None
            topic, _, document = (await reader.stdout.readline()).decode().partition(" ")
            assert (topic, json.loads(document)["asset"]) == (
                topics.twin_state(SITE, ASSET),
                ASSET,
            )  # the retained one
            await machine.report(TS1=35.5)
            said: dict[str, object] = {}
            while len(said) < 2:
                topic, _, document = (await reader.stdout.readline()).decode().partition(" ")
                readings = json.loads(document).get("properties", {})
                if "TS1" in readings:
                    said[topic] = readings["TS1"]["value"]
            assert set(said.values()) == {35.5}
        finally:
            reader.kill()
            await reader.wait()
