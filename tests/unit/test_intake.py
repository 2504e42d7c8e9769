"""Messages about one asset become its twin and its windows, and time alone makes them stale."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sensing.decoding import Decoded, Reading
from edge_agent.sensing.intake import Intake, Taken
from edge_agent.sensing.mapping import PropertyMap
from edge_agent.sensing.sieve import Verdict
from edge_agent.sensing.values import Fault
from gemel.twin.state import Diagnosis, Property, Quality, RunningModel, Twin, blank, diagnose, doubt_health

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
PROPERTIES = {
    "TS1": PropertyMap("degC", stale_after_s=2.0, dead_band=1.0),
    "flow": PropertyMap("l/min", max_rate_hz=1.0),
    "plain": PropertyMap("%"),
}


class Machine:
    """One asset's intake, and its twin."""

    def __init__(self, twin: Twin | None = None, now_ms: int = NOW_MS) -> None:
        self.twin, self.counted, self.at_s = twin or blank("north", "press-1"), list[Verdict | Fault](), 100.0
        self.intake = Intake(PROPERTIES, self.twin, now_ms, self.at_s, self.counted.append)

    def hear(self, name: str, value: float, time_ms: int, *, now_ms: int = NOW_MS, **more: object) -> Taken:
        quality = more.pop("quality", Quality.GOOD)
        assert isinstance(quality, Quality)
        fault = None if quality in (Quality.GOOD, Quality.UNCERTAIN) else Fault.SAID_BAD
        came = Reading(name, Property(value, "", NOW_MS + time_ms, now_ms, quality), fault)
        return self.take(Decoded("press-1", (came,), **more), now_ms)  # type: ignore[arg-type]  one bool

    def take(self, decoded: Decoded, now_ms: int = NOW_MS) -> Taken:
        taken = self.intake.take(self.twin, decoded, now_ms, self.at_s)
        self.twin = taken.twin
        return taken

    def tend(self, after_s: float) -> None:
        self.at_s += after_s
        self.twin = self.intake.tend(self.twin, self.at_s)

    def quality(self, name: str = "TS1") -> Quality:
        return self.twin.properties[name].quality


def test_windows_get_every_reading_that_dead_band_and_rate_keep_from_the_twin() -> None:
    machine = Machine()
    windows = [
        machine.hear(name, value, time_ms).values[NOW_MS + time_ms].by_name
        for name, value, time_ms in [("TS1", 5, 0), ("TS1", 5.5, 1), ("flow", 1, 0), ("flow", 2, 1)]
    ]
    assert windows == [{"TS1": 5}, {"TS1": 5.5}, {"flow": 1}, {"flow": 2}]
    assert (machine.twin.properties["TS1"].value, machine.twin.properties["flow"].value) == (5, 1)
    assert machine.counted == [Verdict.PASSES, Verdict.UNCHANGED, Verdict.PASSES, Verdict.WAITS]
    machine.tend(1.0)
    assert machine.twin.properties["flow"].value == 2


@given(st.lists(st.tuples(st.integers(0, 5) | st.integers(0, 2**40), st.floats(-9, 9)), max_size=20))
def test_youngest_source_time_stands_whatever_the_order_of_arrival_and_the_first_of_equals(
    told: list[tuple[int, float]],
) -> None:
    machine, first = Machine(), dict[int, float]()
    for time_ms, value in told:
        version = machine.twin.version
        machine.hear("plain", value, time_ms)
        passed = machine.counted[-1] is Verdict.PASSES
        assert machine.twin.version == version + passed
        assert passed == (time_ms > max(first, default=-1))
        first.setdefault(time_ms, value)
    if told:
        standing = machine.twin.properties["plain"]
        assert (standing.source_time_ms, standing.value) == (NOW_MS + max(first), first[max(first)])


def test_late_reading_enters_windows_but_not_the_twin_and_a_duplicate_neither() -> None:
    machine = Machine()
    machine.hear("TS1", 5, 0)
    assert list(machine.hear("TS1", 9, -10).values) == [NOW_MS - 10]
    assert machine.hear("TS1", 9, 0).values == {}
    assert machine.twin.properties["TS1"].value == 5
    assert machine.counted[1:] == [Fault.TOO_OLD, Fault.DUPLICATE]


def test_bad_reading_enters_the_twin_but_no_window_and_an_uncertain_one_says_so() -> None:
    machine = Machine()
    assert machine.hear("TS1", 5, 0, quality=Quality.BAD).values == {}
    assert machine.quality() is Quality.BAD
    assert machine.hear("TS1", 5, 1, quality=Quality.UNCERTAIN).values[NOW_MS + 1].uncertain == {"TS1"}


def test_reading_within_the_dead_band_keeps_its_property_from_becoming_stale() -> None:
    machine = Machine()
    machine.hear("TS1", 5, 0)
    for second in range(1, 6):
        machine.tend(1.0)
        machine.hear("TS1", 5, second * 1000)
    assert machine.quality() is Quality.GOOD
    machine.tend(2.1)
    assert machine.quality() is Quality.STALE
    machine.hear("TS1", 5, 9000)
    assert machine.quality() is Quality.GOOD


def test_our_clock_stepping_an_hour_either_way_makes_nothing_stale_and_keeps_nothing_fresh() -> None:
    for step_ms in (HOUR_MS, -HOUR_MS):
        machine = Machine()
        machine.hear("TS1", 5, 0)
        machine.hear("TS1", 7, 1000, now_ms=NOW_MS + step_ms)
        machine.tend(1.9)
        assert machine.quality() is Quality.GOOD
        machine.tend(0.2)
        assert machine.quality() is Quality.STALE


def test_silence_during_a_restart_counts_by_the_wall_clock() -> None:
    before = Machine()
    before.hear("TS1", 5, 0)
    after = Machine(before.twin, NOW_MS + 10_000)
    after.tend(0.0)
    assert after.quality() is Quality.STALE
    soon = Machine(before.twin, NOW_MS - HOUR_MS)  # our clock was set back meanwhile
    soon.tend(0.0)
    assert soon.quality() is Quality.GOOD


def test_garbling_source_is_bad_and_a_dead_one_stale() -> None:
    machine = Machine()
    machine.hear("TS1", 5, 0)
    machine.take(Decoded("press-1", fault=Fault.MALFORMED, suspects={"TS1": "degC"}))
    assert machine.quality() is Quality.BAD
    machine.hear("TS1", 5, 1)
    machine.take(Decoded("press-1", silenced=("TS1", "flow")))
    assert machine.quality() is Quality.STALE
    assert "flow" not in machine.twin.properties
    machine.hear("TS1", 5, 1, says_again=True)
    assert machine.quality() is Quality.GOOD


def test_source_clock_set_back_is_told_once_and_the_twin_goes_on() -> None:
    machine = Machine()
    machine.hear("TS1", 5, 0)
    told = []
    for second in range(20):
        machine.at_s += 1.0
        told.append(machine.hear("TS1", second * 10.0, second * 1000 - HOUR_MS).clock_set_back)
    assert told.count(True) == 1
    assert machine.twin.properties["TS1"].value == 190.0


def test_quality_of_inputs_is_carried_into_what_the_model_said() -> None:
    said = Diagnosis("worn", 0.9, (), NOW_MS, Quality.GOOD)
    machine = Machine()
    machine.hear("TS1", 5, 0)
    machine.twin = diagnose(machine.twin, RunningModel("0" * 64, 1), {"pump": said})
    assert doubt_health(machine.twin, ["TS1", "flow"]) is machine.twin
    machine.hear("TS1", 5, 1, quality=Quality.BAD)
    machine.twin = doubt_health(machine.twin, ["TS1", "flow"])
    assert machine.twin.health["pump"].quality is Quality.UNCERTAIN
    machine.tend(5.0)
    assert doubt_health(machine.twin, ["flow"]).health["pump"].quality is Quality.UNCERTAIN
    machine.twin = doubt_health(machine.twin, ["TS1", "flow"])
    assert machine.twin.health["pump"].quality is Quality.STALE
    machine.hear("TS1", 5, 2)
    assert doubt_health(machine.twin, ["TS1"]).health["pump"].quality is Quality.STALE  # until the next window
