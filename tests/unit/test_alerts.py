"""Alerts: raised after their hold time, cleared with hysteresis, silent at start."""

from dataclasses import dataclass, field
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec.structs import replace

from gemel.errors import ConfigError
from gemel.twin.alerts import AlertBook, AlertEvent, AlertRule, Holds, check, look, said
from gemel.twin.state import (
    Alert,
    AlertKind,
    Diagnosis,
    InputWeight,
    Property,
    Quality,
    RunningModel,
    Twin,
    blank,
    diagnose,
    hold,
)
from gemel.wire.types import sha256

HOT = AlertRule("hot", "TS1", above=70.0, clear_at=65.0, hold_s=10.0, text="oil is hot")
COLD = AlertRule("cold", "TS1", below=5.0, clear_at=8.0)
SILENT = AlertRule("silent", "TS1", stale=True, hold_s=1.0)
FAILING = AlertRule("failing", "health.cooler.condition", equals="near_failure", confidence_above=0.8, clear_at=0.6)


def reading(value: float | None, quality: Quality = Quality.GOOD) -> Twin:
    return hold(blank("north", "press-1"), {"TS1": Property(value, "degC", 1, 2, quality)})


def cooler(condition: str, confidence: float, quality: Quality = Quality.GOOD) -> Twin:
    said_ = Diagnosis(condition, confidence, (InputWeight("TS1", 0.6),), 5, quality)
    return diagnose(blank("north", "press-1"), RunningModel(sha256(b"m"), 1), {"cooler": said_})


@dataclass
class Watch:
    """Rules over time; a restart loses the holds and keeps the book."""

    rules: tuple[AlertRule, ...]
    book: AlertBook = field(default_factory=AlertBook)
    holds: Holds = field(default_factory=dict)

    def sees(self, twin: Twin, at_s: float) -> list[str]:
        """What this look raised and cleared."""
        before = len(self.book.unsaid)
        self.book, self.holds = look(
            self.rules, self.book, self.holds, twin, now_s=at_s, now_ms=1_000_000 + round(at_s * 1000)
        )
        return [f"{event.event} {event.id}" for event in self.book.unsaid[before:]]


def test_alert_is_raised_once_its_condition_has_held_and_cleared_beyond_the_hysteresis() -> None:
    watch = Watch((HOT,))
    assert watch.sees(reading(71), 0) == []
    assert watch.sees(reading(72), 9.9) == []
    assert watch.sees(reading(73), 10) == ["raised hot-1"]
    assert watch.sees(reading(90), 11) == []
    assert watch.sees(reading(66), 12) == []  # below the bound, above where it clears
    assert watch.sees(reading(65), 13) == ["cleared hot-1"]
    assert watch.sees(reading(60), 14) == []
    raised, cleared = watch.book.unsaid
    assert (raised.value, raised.text, raised.time_ms, raised.kind) == (
        73.0,
        "oil is hot",
        1_010_000,
        AlertKind.VALUE,
    )
    assert (cleared.value, cleared.alert, watch.book.alerts) == (65.0, "hot", {})


def test_condition_that_ends_before_its_hold_time_begins_anew() -> None:
    watch = Watch((HOT,))
    for at_s, value in enumerate((71, 71, 71, 71, 71, 71, 71, 71, 71, 69, 71, 71)):
        assert watch.sees(reading(value), at_s) == []
    assert watch.sees(reading(71), 19.9) == []
    assert watch.sees(reading(71), 20) == ["raised hot-1"]


def test_lower_bound_is_the_mirror_of_the_upper() -> None:
    watch = Watch((COLD,))
    steps = [watch.sees(reading(value), at_s) for at_s, value in enumerate((5, 4.9, 7.9, 4, 8, 7))]
    assert steps == [[], ["raised cold-1"], [], [], ["cleared cold-1"], []]


@pytest.mark.parametrize("quality", [Quality.BAD, Quality.STALE])
def test_untrusted_value_neither_raises_nor_clears_and_pauses_the_hold_time(quality: Quality) -> None:
    watch = Watch((HOT,))
    watch.sees(reading(71), 0)
    watch.sees(reading(71), 6)
    assert watch.sees(reading(71, quality), 100) == []
    assert watch.sees(reading(71), 200) == []  # held for 6 s so far
    assert watch.sees(reading(71), 204) == ["raised hot-1"]
    assert watch.sees(reading(1, quality), 300) == []
    assert watch.sees(reading(None), 301) == []
    assert watch.sees(blank("north", "press-1"), 302) == []
    assert set(watch.book.alerts) == {"hot"}


def test_property_that_cannot_be_trusted_has_an_alert_of_its_own_kind() -> None:
    watch = Watch((HOT, SILENT))
    watch.sees(reading(71, Quality.STALE), 0)
    assert watch.sees(reading(71, Quality.BAD), 1) == ["raised silent-1"]
    assert watch.book.alerts["silent"].kind is AlertKind.STALE
    assert watch.sees(reading(20), 2) == ["cleared silent-1"]


def test_diagnosis_raises_by_condition_and_confidence_with_hysteresis() -> None:
    watch = Watch((FAILING,))
    assert watch.sees(cooler("near_failure", 0.8), 0) == []
    assert watch.sees(cooler("reduced", 0.99), 1) == []
    assert watch.sees(cooler("near_failure", 0.81), 2) == ["raised failing-1"]
    assert watch.book.alerts["failing"].value == "near_failure"
    assert watch.sees(cooler("near_failure", 0.61), 3) == []
    assert watch.sees(cooler("full", 0.99, Quality.STALE), 4) == []
    assert watch.sees(cooler("near_failure", 0.6), 5) == ["cleared failing-1"]
    assert watch.sees(cooler("near_failure", 0.9), 6) == ["raised failing-2"]
    assert watch.sees(cooler("full", 0.9), 7) == ["cleared failing-2"]


def test_restart_raises_nothing_again_and_new_conditions_need_their_hold_time() -> None:
    before = Watch((HOT, SILENT))
    before.sees(reading(71), 0)
    before.sees(reading(71), 10)
    before.sees(reading(71, Quality.STALE), 11)
    after = Watch(before.rules, before.book)
    assert after.sees(reading(71, Quality.STALE), 1000) == []
    assert after.sees(reading(71, Quality.STALE), 1001) == ["raised silent-2"]
    assert after.sees(reading(60), 1002) == ["cleared hot-1", "cleared silent-2"]


def test_alert_whose_rule_is_gone_is_cleared() -> None:
    watch = Watch((COLD,))
    watch.sees(reading(1), 0)
    assert Watch((), watch.book).sees(reading(1), 1) == ["cleared cold-1"]


def test_what_was_said_is_not_said_again_and_stands_on() -> None:
    watch = Watch((COLD,))
    watch.sees(reading(1), 0)
    after = said(watch.book, watch.book.unsaid)
    assert (after.unsaid, after.alerts) == ((), watch.book.alerts)
    assert look((COLD,), after, {}, reading(1), now_s=1, now_ms=1)[0] is after


values = st.floats(-100, 200) | st.sampled_from([65.0, 70.0])
looks = st.lists(st.tuples(values, st.sampled_from(Quality), st.floats(0, 20)), max_size=60)


@given(looks, st.integers(0, 60))
def test_each_occurrence_is_raised_once_and_cleared_once_whatever_comes_and_whenever_it_restarts(
    seen: list[tuple[float, Quality, float]], restart: int
) -> None:
    watch, now_s = Watch((HOT, COLD, SILENT)), 0.0
    for number, (value, quality, passed_s) in enumerate(seen):
        if number == restart:
            watch = Watch(watch.rules, watch.book)
        now_s += passed_s
        watch.sees(reading(value, quality), now_s)
    standing = {alert.id for alert in watch.book.alerts.values()}
    raised, cleared = (events_of(watch.book, kind) for kind in ("raised", "cleared"))
    assert len(raised) == len(set(raised)) == watch.book.raised
    assert len(cleared) == len(set(cleared))
    assert set(raised) - set(cleared) == standing
    order = [(event.id, event.event) for event in watch.book.unsaid]
    assert all(order.index((id_, "raised")) < order.index((id_, "cleared")) for id_ in cleared)


@given(st.lists(st.tuples(st.floats(70.01, 200), st.floats(0, 3)), max_size=30))
def test_nothing_is_raised_before_the_hold_time_and_everything_after_it(seen: list[tuple[float, float]]) -> None:
    watch, now_s = Watch((HOT,)), 0.0
    for number, (value, passed_s) in enumerate(seen):
        now_s += passed_s if number else 0.0
        watch.sees(reading(value), now_s)
        assert bool(watch.book.alerts) == (now_s >= HOT.hold_s or pytest.approx(now_s) == HOT.hold_s)


def events_of(book: AlertBook, kind: str) -> list[str]:
    return [event.id for event in book.unsaid if event.event == kind]


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"above": None}, "exactly one"),
        ({"below": 3.0}, "exactly one"),
        ({"stale": True}, "exactly one"),
        ({"clear_at": 71.0}, "below 70"),
        ({"above": None, "below": 70.0}, "above 70"),
        ({"above": None, "stale": True}, "clear_at beside"),
        ({"above": None, "equals": "x"}, "clear_at beside"),
        ({"confidence_above": 0.5}, "confidence_above beside equals"),
        ({"above": None, "equals": "x", "confidence_above": 0.5}, "confidence_above beside equals"),
    ],
)
def test_rule_that_contradicts_itself_is_refused_by_name(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=f"twin.toml: alert hot: .*{says}"):
        check((replace(HOT, **changes),), "twin.toml")


def test_sound_rules_are_accepted_and_one_id_is_one_rule() -> None:
    check((HOT, COLD, SILENT, FAILING), "twin.toml")
    with pytest.raises(ConfigError, match="once"):
        check((HOT, HOT), "twin.toml")


def test_alert_and_event_say_the_same_of_an_occurrence() -> None:
    watch = Watch((COLD,))
    watch.sees(reading(1), 0)
    event: AlertEvent = watch.book.unsaid[0]
    alert: Alert = watch.book.alerts["cold"]
    shared = ("id", "kind", "property", "severity", "text", "value")
    assert all(getattr(event, name) == getattr(alert, name) for name in shared)
    assert event.time_ms == alert.raised_ms
