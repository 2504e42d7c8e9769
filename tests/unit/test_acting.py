"""What an agent does about a desired value, by plug-in, and what its file may say."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from edge_agent.metrics import AgentMetrics
from edge_agent.sensing.mapping import SensorMap
from edge_agent.twinning.acting import DesiredDesk
from edge_agent.twinning.live import LiveTwin
from edge_agent.twinning.twin_file import ActuatorMap, load_plugin, load_twin_file
from gemel.adapters.clock import SystemClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import ConfigError, Refused
from gemel.host.metrics import Metrics
from gemel.ports import BusMessage
from gemel.twin.state import Desired, DesiredState
from gemel.wire import topics

SET = topics.desired_set("north", "press-1")


class Valve:
    """An actuator that goes through its answers, one for each attempt."""

    def __init__(self, *answers: Exception | None) -> None:
        self.answers, self.applied = list(answers), list[tuple[str, float]]()

    async def apply(self, property_: str, value: float) -> None:
        self.applied.append((property_, value))
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer


valve = Valve()
not_a_valve = 5


class NoBus:
    """Takes what is published and subscribed to."""

    connected = True

    def __init__(self) -> None:
        self.said: list[tuple[str, Any]] = []

    async def publish(self, topic: str, payload: bytes, **options: object) -> None:
        self.said.append((topic, json.loads(payload)))

    async def subscribe(self, topic_filter: str, handler: object, **options: object) -> None:
        assert topic_filter == SET

    async def unsubscribe(self, topic_filter: str) -> None:
        raise AssertionError


@asynccontextmanager
async def desk_with(folder: Path, plugin: Valve, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[tuple[Any, ...]]:
    monkeypatch.setattr("edge_agent.twinning.acting.load_plugin", lambda _path, _where: plugin)
    actuators = {"valve": ActuatorMap("%", plugin="rig:valve", retry_s=0.1)}
    bus, clock = NoBus(), SystemClock()
    async with SqliteRecords(folder / "records.sqlite") as records:
        metrics = AgentMetrics(Metrics("test"))
        twin = await LiveTwin.load(
            "north", "press-1", bus=bus, clock=clock, records=records, latest=records, metrics=metrics, rate_hz=5
        )
        desk = await DesiredDesk.load(actuators, twin=twin, bus=bus, machines=bus, clock=clock, records=records)
        running = asyncio.create_task(desk.run())
        await asyncio.sleep(0)
        try:
            yield desk, twin, bus
        finally:
            running.cancel()
            await asyncio.wait([running])


def question(id_: str, value: float = 40.0, in_s: float = 20, **message: Any) -> BusMessage:
    deadline_ms = round((time.time() + in_s) * 1000)
    body = {"id": id_, "property": "valve", "value": value, "unit": "%", "deadline_ms": deadline_ms}
    return BusMessage(SET, json.dumps(body).encode(), **message)


async def ended(twin: LiveTwin) -> Desired:
    async with asyncio.timeout(20):
        await twin.until(lambda t: "valve" in t.desired and t.desired["valve"].state is not DesiredState.PENDING)
    return twin.now.desired["valve"]


async def test_plug_in_that_raises_is_tried_again_until_it_returns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = Valve(OSError("cable"), TimeoutError(), None)
    async with desk_with(tmp_path, plugin, monkeypatch) as (desk, twin, _):
        await desk.hear(question("a"))
        assert (await ended(twin)).state is DesiredState.APPLIED
    assert plugin.applied == [("valve", 40.0)] * 3


async def test_plug_in_that_refuses_is_not_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = Valve(Refused("interlock", "door open"))
    async with desk_with(tmp_path, plugin, monkeypatch) as (desk, twin, _):
        await desk.hear(question("a"))
        failed = await ended(twin)
    assert (failed.state, failed.reason) == (DesiredState.FAILED, "interlock: door open")
    assert len(plugin.applied) == 1


async def test_reason_of_what_failed_at_its_deadline_says_what_was_in_the_way(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = Valve(*[OSError("cable\noff")] * 100)
    async with desk_with(tmp_path, plugin, monkeypatch) as (desk, twin, _):
        await desk.hear(question("a", in_s=0.5))
        assert (await ended(twin)).reason == "deadline: OSError: cable off"


async def test_newer_request_takes_the_place_of_one_that_is_pending(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plugin = Valve(OSError("busy"))
    async with desk_with(tmp_path, plugin, monkeypatch) as (desk, twin, _):
        await desk.hear(question("a", 10.0))
        await desk.hear(question("b", 20.0))
        last = await ended(twin)
    assert (last.id, last.value, last.state) == ("b", 20.0, DesiredState.APPLIED)


async def test_retained_request_is_refused_and_the_answer_goes_only_where_answers_go(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = topics.desired_answer("north", "press-1", "office")
    plugin = Valve()
    async with desk_with(tmp_path, plugin, monkeypatch) as (desk, _, bus):
        await desk.hear(question("a", retained=True, response_topic=answers))
        for elsewhere in (None, "", "plant/valve", f"{answers}/x", f"{answers}/+", answers.replace("office", "#")):
            await desk.hear(question("a", retained=True, response_topic=elsewhere))
    ((topic, answer),) = bus.said
    assert (topic, answer["outcome"], answer["reason"]) == (answers, "refused", "retained")
    assert plugin.applied == []


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('[actuator.a]\nunit = "%"', "either topic or plugin"),
        ('[actuator.a]\nunit = "%"\ntopic = "t"\nplugin = "m:p"', "either topic or plugin"),
        ('[actuator.a]\nunit = "%"\ntopic = "t"', "tolerance"),
        ('[actuator.a]\nunit = "%"\ntopic = "t/#"\ntolerance = 1', "without"),
        ('[actuator.a]\nunit = "%"\ntopic = "gemel/v1/north/twin/a/state"\ntolerance = 1', "of the plant"),
        ('[actuator.a]\nunit = "%"\ntopic = "t-{asset}"\ntolerance = 1', "whole levels"),
        ('[actuator.a]\nunit = "%"\ntopic = "t/{machine}"\ntolerance = 1', "whole levels"),
        ('[actuator.a]\nunit = "%"\ntopic = "t"\ntolerance = 1\npayload = "$speed"', "words only"),
        ('[actuator.a]\nunit = "%"\ntopic = "t"\ntolerance = 1\npayload = "5$"', "words only"),
        ('[actuator.a]\nunit = "%"\ntopic = "t"\ntolerance = 1\nminimum = 2\nmaximum = 1', "at most the maximum"),
        ('[actuator.a]\nunit = "%"\ntopik = "t"', "topik"),
        ('[[alert]]\nid = "hot"\nproperty = "TS1"', "exactly one"),
        ("[[alert", "twin file"),
    ],
)
def test_file_that_contradicts_itself_is_refused_in_one_line(text: str, says: str) -> None:
    with pytest.raises(ConfigError, match=f"twin.toml: .*{says}") as refused:
        load_twin_file(text.encode(), "twin.toml")
    assert "\n" not in str(refused.value)


def test_further_machines_have_the_actuators_whose_topic_names_them_as_the_plant_does() -> None:
    own = '[actuator.a]\nunit = "%"\ntopic = "t"\ntolerance = 1\n'
    named = '[actuator.b]\nunit = "%"\ntopic = "t/{asset}/b"\ntolerance = 1\n'
    file = load_twin_file((own + named + '[actuator.c]\nunit = "%"\nplugin = "m:p"').encode(), "twin.toml")
    mapping = SensorMap(assets={"Press 2": "press-2"})
    assert {n: a.topic for n, a in file.actuators(mapping.called("press-1"), own=True).items()} == {
        "a": "t",
        "b": "t/press-1/b",
        "c": "",
    }
    assert {n: a.topic for n, a in file.actuators(mapping.called("press-2"), own=False).items()} == {
        "b": "t/Press 2/b"
    }


def test_plug_in_is_an_object_with_apply() -> None:
    assert load_plugin("tests.unit.test_acting:valve", "actuator.a").apply
    for path in ("tests.unit.test_acting:not_a_valve", "tests.unit.test_acting:Valve", "nowhere:x", "tests", ""):
        with pytest.raises(ConfigError, match=r"actuator.a: plugin"):
            load_plugin(path, "actuator.a")
