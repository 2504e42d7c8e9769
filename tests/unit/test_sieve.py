"""Which of a property's readings reach the twin: order, dead band, rate, and clocks that step."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edge_agent.sensing.mapping import PropertyMap
from edge_agent.sensing.sieve import HEARTBEAT_S, Sieve, Verdict
from gemel.twin.state import Property, Quality

NOW_MS = 1_700_000_000_000
HOUR_MS = 3_600_000
PASSES, SET_BACK, UNCHANGED, WAITS = Verdict.PASSES, Verdict.SET_BACK, Verdict.UNCHANGED, Verdict.WAITS
TOO_OLD, DUPLICATE = Verdict.TOO_OLD, Verdict.DUPLICATE


def reading(value: float | None, time_ms: int, quality: Quality = Quality.GOOD) -> Property:
    return Property(value, "degC", time_ms, NOW_MS, quality)


def verdicts(sieve: Sieve, *told: tuple[float, int, float]) -> list[Verdict]:
    """(value, source time in ms, monotonic s) one after the other."""
    return [sieve.sift(reading(value, NOW_MS + time_ms), at_s) for value, time_ms, at_s in told]


def test_order_is_by_source_time() -> None:
    sieve = Sieve(PropertyMap("degC"), reading(1, NOW_MS))
    told = [(1, 0, 0.0), (2, -5, 0.0), (3, 5, 0.0), (4, 5, 0.1), (5, 4, 0.2)]
    assert verdicts(sieve, *told) == [DUPLICATE, TOO_OLD, PASSES, DUPLICATE, TOO_OLD]


def test_dead_band_holds_small_changes_against_what_passed_last() -> None:
    sieve = Sieve(PropertyMap("degC", dead_band=1.0), None)
    told = [(10.0, 0, 0), (10.9, 1, 1), (9.1, 2, 2), (11.1, 3, 3), (10.2, 4, 4)]
    assert verdicts(sieve, *told) == [PASSES, UNCHANGED, UNCHANGED, PASSES, UNCHANGED]


def test_dead_band_in_percent_is_of_the_range() -> None:
    sieve = Sieve(PropertyMap("degC", minimum=0, maximum=50, dead_band_percent=2), None)
    assert verdicts(sieve, (10, 0, 0), (11, 1, 1), (11.01, 2, 2)) == [PASSES, UNCHANGED, PASSES]


@pytest.mark.parametrize(("stale_after_s", "beat_s"), [(None, HEARTBEAT_S), (10.0, 5.0), (1000.0, HEARTBEAT_S)])
def test_unchanged_value_passes_often_enough_to_show_its_age(stale_after_s: float | None, beat_s: float) -> None:
    sieve = Sieve(PropertyMap("degC", dead_band=1.0, stale_after_s=stale_after_s), None)
    told = [(10, 0, 0), (10, 1, beat_s - 0.1), (10, 2, beat_s)]
    assert verdicts(sieve, *told) == [PASSES, UNCHANGED, PASSES]


def test_change_of_quality_passes_dead_band_and_rate() -> None:
    sieve = Sieve(PropertyMap("degC", dead_band=5.0, max_rate_hz=0.1), None)
    assert verdicts(sieve, (10, 0, 0), (11, 1, 1)) == [PASSES, UNCHANGED]
    assert sieve.sift(reading(None, NOW_MS + 2, Quality.BAD), 2.0) is PASSES
    assert sieve.sift(reading(11, NOW_MS + 3), 3.0) is PASSES


def test_rate_keeps_the_youngest_and_lets_it_pass_when_its_time_has_come() -> None:
    sieve = Sieve(PropertyMap("degC", max_rate_hz=2.0), None)
    told = [(1, 0, 0.0), (2, 1, 0.1), (4, 3, 0.3), (3, 2, 0.4)]
    assert verdicts(sieve, *told) == [PASSES, WAITS, WAITS, TOO_OLD]
    assert sieve.due(0.49) is None
    assert sieve.due(0.5) == reading(4, NOW_MS + 3)
    assert sieve.due(9.9) is None
    assert verdicts(sieve, (5, 4, 0.9), (6, 5, 1.0)) == [WAITS, PASSES]
    assert sieve.due(9.9) is None  # the one that waited was overtaken


def test_value_that_comes_back_into_the_dead_band_takes_the_waiting_one_away() -> None:
    sieve = Sieve(PropertyMap("degC", dead_band=1.0, max_rate_hz=1.0), None)
    assert verdicts(sieve, (10, 0, 0.0), (20, 1, 0.1), (10, 2, 0.2)) == [PASSES, WAITS, UNCHANGED]
    assert sieve.due(5.0) is None


def test_after_a_doubt_the_next_reading_passes() -> None:
    sieve = Sieve(PropertyMap("degC", dead_band=1.0, max_rate_hz=0.1), None)
    assert verdicts(sieve, (10, 0, 0.0), (20, 1, 0.1)) == [PASSES, WAITS]
    sieve.doubted()
    assert sieve.due(99.0) is None
    assert verdicts(sieve, (10, 2, 0.2)) == [PASSES]


def test_birth_says_again_what_stands() -> None:
    sieve = Sieve(PropertyMap("degC"), reading(1, NOW_MS, Quality.STALE))
    assert sieve.sift(reading(1, NOW_MS), 0.0) is DUPLICATE
    assert sieve.sift(reading(1, NOW_MS), 0.0, says_again=True) is PASSES
    assert sieve.sift(reading(1, NOW_MS - 1), 0.0, says_again=True) is TOO_OLD


def test_source_clock_set_back_by_an_hour_is_believed_after_ten_seconds() -> None:
    sieve = Sieve(PropertyMap("degC"), reading(1, NOW_MS))
    heard = verdicts(sieve, *((1.0, -HOUR_MS + 1000 * s, float(s)) for s in range(15)))
    assert heard == [TOO_OLD] * 10 + [SET_BACK] + [PASSES] * 4


def test_source_clock_that_went_ahead_by_an_hour_and_came_back_is_followed_both_ways() -> None:
    sieve = Sieve(PropertyMap("degC"), reading(1, NOW_MS))
    assert verdicts(sieve, (1, HOUR_MS, 1.0), (1, HOUR_MS + 1000, 2.0)) == [PASSES, PASSES]
    back = verdicts(sieve, *((1.0, 1000 * s, float(s)) for s in range(3, 20)))
    assert back.count(SET_BACK) == 1
    assert back[-1] is PASSES


def test_backfill_after_an_outage_is_no_clock_set_back() -> None:
    sieve = Sieve(PropertyMap("degC"), reading(1, NOW_MS))
    fast = verdicts(sieve, *((1.0, -HOUR_MS + 1000 * n, n * 0.1) for n in range(600)))
    assert set(fast) == {TOO_OLD}
    between = [(1.0, -HOUR_MS + 1000 * s, float(s)) for s in range(60, 100)]
    live = [(1.0, 1000 * s, s + 0.5) for s in range(60, 100)]
    both = verdicts(sieve, *(one for pair in zip(between, live, strict=True) for one in pair))
    assert both == [TOO_OLD, PASSES] * 40


def test_late_readings_out_of_order_are_no_clock_set_back() -> None:
    sieve = Sieve(PropertyMap("degC"), reading(1, NOW_MS))
    shuffled = random.Random(1).sample(range(100), 100)
    late = verdicts(sieve, *((1.0, -HOUR_MS + 1000 * n, s * 0.5) for s, n in enumerate(shuffled)))
    assert set(late) == {TOO_OLD}


@given(
    st.lists(st.tuples(st.floats(-5, 5), st.integers(0, 50), st.floats(0, 2)), max_size=60),
    st.sampled_from([0.0, 1.0]),
    st.sampled_from([None, 0.5, 100.0]),
)
def test_what_reaches_the_twin_rises_in_source_time_and_ends_with_the_youngest_or_one_within_the_band(
    told: list[tuple[float, int, float]], band: float, rate_hz: float | None
) -> None:
    sieve, at_s, reached = Sieve(PropertyMap("degC", dead_band=band, max_rate_hz=rate_hz), None), 0.0, []
    youngest: Property | None = None
    for value, time_ms, pause_s in told:
        at_s += min(pause_s, 0.15)  # too short for a clock to count as set back
        came = reading(value, NOW_MS + time_ms)
        if (waited := sieve.due(at_s)) is not None:
            reached.append(waited)
        verdict = sieve.sift(came, at_s)
        if verdict is PASSES:
            reached.append(came)
        if verdict not in (TOO_OLD, DUPLICATE):
            youngest = came
    if (waited := sieve.due(at_s + 1000)) is not None:
        reached.append(waited)
    times = [one.source_time_ms for one in reached]
    assert times == sorted(set(times))
    if youngest is not None:
        assert reached[-1].value is not None
        assert youngest.value is not None
        assert abs(reached[-1].value - youngest.value) <= band
