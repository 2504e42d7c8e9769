"""What an agent keeps on disk: labelled windows, the model in use, its twin's version."""

import asyncio
from pathlib import Path

import numpy as np
import pytest

from edge_agent.learning.examples import Examples
from edge_agent.learning.history import read_history
from edge_agent.learning.model_in_use import ModelInUse
from edge_agent.metrics import AgentMetrics
from edge_agent.sensing.mapping import load_sensor_map
from edge_agent.twinning.live import LiveTwin
from gemel.adapters.clock import SystemClock
from gemel.adapters.sqlite_records import SqliteRecords
from gemel.errors import ConfigError, Refused
from gemel.host.metrics import Metrics
from gemel.learning.tasks.hydraulic import task
from gemel.twin.state import Property, Quality, Twin, from_json, hold
from gemel.twin.window import Example, Shape, Window
from gemel.wire.reasons import Reason
from gemel.wire.types import sha256

INPUTS = tuple(column.name for column in task.inputs)
SHAPE = Shape(INPUTS, task.window_s)


def example(start_s: int, fill: float = 1.0, labels: tuple[int, ...] = (0, 1, 2, -1)) -> Example:
    values = np.full((task.window_s, len(INPUTS)), fill, np.float32)
    return Example(Window(start_s * 1000, (start_s + 60) * 1000, values, 0), labels)


async def test_examples_come_back_by_source_time_after_reopening(tmp_path: Path) -> None:
    async with Examples(tmp_path / "examples.sqlite", task, 100) as store:
        assert await store.add([example(120, 3.0), example(0, 1.0)]) == 2
        assert await store.add([example(60, 2.0), example(0, 9.0)]) == 1
    async with Examples(tmp_path / "examples.sqlite", task, 100) as store:
        assert await store.count() == 3
        windows = await store.until(120_000)
        assert windows.inputs.shape == (2, 60, 8)
        assert windows.inputs[:, 0, 0].tolist() == [1.0, 2.0]
        assert windows.labels.tolist() == [[0, 1, 2, -1]] * 2
        assert len(await store.until(0)) == 0


async def test_full_store_lets_the_oldest_go(tmp_path: Path) -> None:
    async with Examples(tmp_path / "examples.sqlite", task, 3) as store:
        await store.add([example(60 * n, float(n)) for n in range(5)])
        assert (await store.until(2**53)).inputs[:, 0, 0].tolist() == [2.0, 3.0, 4.0]


async def test_store_with_windows_of_another_task_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "examples.sqlite"
    async with Examples(path, task, 3) as store:
        short = Window(0, 60_000, np.zeros((5, 2), np.float32), 0)
        await store.add([Example(short, (0,))])
    with pytest.raises(ConfigError, match="state_dir"):
        async with Examples(path, task, 3):
            pass


# --- a historian's export ---------------------------------------------------------------------------

MAPPING = load_sensor_map(
    b'[[source]]\ntopic = "t"\n[source.properties.TS1]\nunit = "degC"\nminimum = 0\nmaximum = 200\n', "sensors.toml"
)
HEADER = "time,note," + ",".join(INPUTS)
FOUND = "time,cycle,cooler,valve,pump,accumulator"


def export(folder: Path, sensors: list[str], inspections: list[str]) -> Path:
    (folder / "sensors.csv").write_text("\n".join([HEADER, *sensors]) + "\n")
    (folder / "inspections.csv").write_text("\n".join([FOUND, *inspections]) + "\n")
    return folder


def line(second: int, ts1: str = "35.5") -> str:
    return f"{second * 1000},x,{ts1}" + ",1.5" * 7


def test_export_gives_labelled_windows(tmp_path: Path) -> None:
    inspections = ["1970-01-01T00:01:00Z,1,full,optimal,no_leakage,-1", "120000,2,reduced,,weak_leakage,optimal"]
    folder = export(tmp_path, [line(s) for s in range(180)], inspections)
    history = read_history(folder, MAPPING, task.heads, SHAPE)
    assert [(e.window.start_ms, e.labels) for e in history.examples] == [
        (0, (2, 3, 0, -1)),
        (60_000, (1, -1, 1, 3)),
    ]
    assert history.examples[0].window.values[0].tolist() == [35.5] + [1.5] * 7
    assert (history.readings, history.refused, history.dropped, history.unmatched) == (180 * 8, 0, 0, 0)


def test_readings_that_the_mapping_refuses_count_as_missing(tmp_path: Path) -> None:
    bad = {3: "999", 10: "nan", 11: "", 20: "warm"}
    sensors = [line(s, bad.get(s, "35.5")) for s in range(61)]
    folder = export(tmp_path, sensors, ["60000,1,full,optimal,no_leakage,optimal"])
    history = read_history(folder, MAPPING, task.heads, SHAPE)
    assert (len(history.examples), history.refused) == (1, 3)
    assert history.examples[0].window.filled == 4


@pytest.mark.parametrize(
    ("sensors", "inspections", "says"),
    [
        (["yesterday" + line(0)[1:]], [], "sensors.csv: line 2: time"),
        ([line(0)], ["60000,1,molten,,,"], "near_failure"),
        ([line(0)], ["60000,1,full,,,", "noon,2,full,,,"], "inspections.csv: line 3: time"),
    ],
)
def test_broken_export_is_refused_with_file_and_line(
    tmp_path: Path, sensors: list[str], inspections: list[str], says: str
) -> None:
    with pytest.raises(ConfigError) as caught:
        read_history(export(tmp_path, sensors, inspections), MAPPING, task.heads, SHAPE)
    assert says in str(caught.value)


def test_export_without_a_column_or_a_file_says_which(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"inspections\.csv"):
        read_history(tmp_path, MAPPING, task.heads, SHAPE)
    export(tmp_path, [], [])
    (tmp_path / "sensors.csv").write_text("time,TS1\n")
    with pytest.raises(ConfigError, match="also CE, CP, SE"):
        read_history(tmp_path, MAPPING, task.heads, SHAPE)
    (tmp_path / "sensors.csv").write_bytes(b"\xff\xfe,")
    with pytest.raises(ConfigError, match="readable CSV"):
        read_history(tmp_path, MAPPING, task.heads, SHAPE)


# --- the model in use -------------------------------------------------------------------------------


async def test_installed_model_survives_a_restart_with_the_one_before_and_older_ones_go(tmp_path: Path) -> None:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        model = await ModelInUse.load(records, tmp_path / "models")
        assert (model.current(), model.before()) == (None, None)
        await model.install(1, sha256(b"one"), b"one")
        await model.install(2, sha256(b"two"), b"two")
        await model.install(4, sha256(b"four"), b"four")
        again = await ModelInUse.load(records, tmp_path / "models")
        current, before = again.current(), again.before()
        assert current is not None
        assert before is not None
        assert (current.deployment, current.digest, current.path.read_bytes()) == (4, sha256(b"four"), b"four")
        assert (before.deployment, before.digest, before.path.read_bytes()) == (2, sha256(b"two"), b"two")
        assert set((tmp_path / "models").iterdir()) == {current.path, before.path}


async def test_model_before_can_be_put_in_use_again_under_a_higher_number(tmp_path: Path) -> None:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        model = await ModelInUse.load(records, tmp_path / "models")
        await model.install(1, sha256(b"one"), b"one")
        await model.install(2, sha256(b"two"), b"two")
        held = await model.held(sha256(b"one"))
        assert held == b"one"
        restored = await model.install(3, sha256(b"one"), held)
        before = model.before()
        assert (restored.deployment, restored.path.read_bytes()) == (3, b"one")
        assert before is not None
        assert before.digest == sha256(b"two")
        assert await model.held(sha256(b"three")) is None


async def test_same_model_under_a_higher_number_keeps_what_was_before_it(tmp_path: Path) -> None:
    """An agent that was no canary hears only that the model it runs has a new number."""
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        model = await ModelInUse.load(records, tmp_path / "models")
        await model.install(1, sha256(b"one"), b"one")
        await model.install(2, sha256(b"two"), b"two")
        await model.install(4, sha256(b"two"), b"two")
        before = (await ModelInUse.load(records, tmp_path / "models")).before()
        assert before is not None
        assert (before.deployment, before.path.read_bytes()) == (1, b"one")


async def test_model_before_that_rotted_is_not_held(tmp_path: Path) -> None:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        model = await ModelInUse.load(records, tmp_path / "models")
        first = await model.install(1, sha256(b"one"), b"one")
        await model.install(2, sha256(b"two"), b"two")
        first.path.write_bytes(b"onE")
        assert await model.held(sha256(b"one")) is None


@pytest.mark.parametrize("number", [3, 4])
async def test_number_that_is_not_above_is_refused_even_after_a_restart(tmp_path: Path, number: int) -> None:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        await (await ModelInUse.load(records, tmp_path / "models")).install(4, sha256(b"four"), b"four")
        model = await ModelInUse.load(records, tmp_path / "models")
        before = model.current()
        with pytest.raises(Refused) as caught:
            await model.install(number, sha256(b"other"), b"other")
        assert caught.value.reason == Reason.NOT_ABOVE
        assert model.current() == before


async def test_bytes_of_another_digest_are_refused(tmp_path: Path) -> None:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        model = await ModelInUse.load(records, tmp_path / "models")
        with pytest.raises(Refused) as caught:
            await model.install(1, sha256(b"one"), b"onE")
        assert (caught.value.reason, model.current()) == (Reason.DIGEST_MISMATCH, None)


async def test_rotten_model_file_leaves_no_model_but_its_number_counts(tmp_path: Path) -> None:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        installed = await (await ModelInUse.load(records, tmp_path / "models")).install(4, sha256(b"x"), b"x")
        installed.path.write_bytes(b"y")
        model = await ModelInUse.load(records, tmp_path / "models")
        assert (model.current(), model.deployment) == (None, 4)
        with pytest.raises(Refused):
            await model.install(4, sha256(b"x"), b"x")


async def test_waiters_see_each_swap(tmp_path: Path) -> None:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        model = await ModelInUse.load(records, tmp_path / "models")
        first, second = asyncio.create_task(model.other_than(None)), asyncio.create_task(model.wait_for(sha256(b"2")))
        await model.install(1, sha256(b"1"), b"1")
        assert (await first).deployment == 1
        assert not second.done()
        await model.install(2, sha256(b"2"), b"2")
        assert await second == b"2"
        assert (await model.other_than(await first)).deployment == 2


# --- the live twin ----------------------------------------------------------------------------------


class SpyBus:
    """Takes the states that are published."""

    connected = True

    def __init__(self) -> None:
        self.published: list[Twin] = []
        self.something = asyncio.Event()

    async def publish(self, topic: str, payload: bytes, **options: object) -> None:
        if topic.endswith("/state"):
            self.published.append(from_json(payload))
            self.something.set()


async def test_version_stays_above_all_that_was_published_even_after_a_crash(tmp_path: Path) -> None:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        highest = 0
        for life in range(3):
            bus, lost = SpyBus(), CrashSafe(records)
            lost.crashed = True
            twin = await LiveTwin.load(
                "north",
                "press-1",
                bus=bus,
                clock=SystemClock(),
                records=CrashSafe(records),
                latest=lost,
                metrics=AgentMetrics(Metrics("test")),
                rate_hz=1000,
            )
            publishing = asyncio.create_task(twin.run())
            for change in range(1, 1500):
                changed = hold(twin.now, {"TS1": Property(1.0, "degC", life * 10_000 + change, 0, Quality.GOOD)})
                twin.become(changed)
                if change % 300 == 0:
                    bus.something.clear()
                    await bus.something.wait()
            twin._records.crashed = True
            publishing.cancel()
            await asyncio.gather(publishing, return_exceptions=True)
            versions = [published.version for published in bus.published]
            assert versions == sorted(set(versions))
            assert versions[0] > highest
            highest = versions[-1]


async def test_twin_goes_on_after_kill_9_where_its_readers_saw_it_last(tmp_path: Path) -> None:
    async with SqliteRecords(tmp_path / "records.sqlite") as records:
        bus, crash_safe = SpyBus(), CrashSafe(records)
        common = {"bus": bus, "clock": SystemClock(), "metrics": AgentMetrics(Metrics("test")), "rate_hz": 1000}
        twin = await LiveTwin.load("north", "press-1", records=crash_safe, latest=crash_safe, **common)
        publishing = asyncio.create_task(twin.run())
        for time_ms in (1, 2, 3):
            bus.something.clear()
            twin.become(hold(twin.now, {"TS1": Property(float(time_ms), "degC", time_ms, 0, Quality.GOOD)}))
            await bus.something.wait()
        crash_safe.crashed = True
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
        again = await LiveTwin.load("north", "press-1", records=records, latest=records, **common)
        assert again.now.properties == bus.published[-1].properties
        assert again.now.version > bus.published[-1].version


class CrashSafe:
    """Records of a process that is about to be killed: from then on nothing is written."""

    def __init__(self, records: SqliteRecords) -> None:
        self._records, self.crashed = records, False
        self.get = records.get

    async def put(self, kind: str, key: str, value: bytes) -> None:
        if not self.crashed:
            await self._records.put(kind, key, value)
