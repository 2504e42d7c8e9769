"""Readings become windows, windows with labels become examples."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gemel.twin.window import KEPT, Example, Shape, Window, Windower

LENGTH, STEP_MS = 10, 1000
SHAPE = Shape(("a", "b"), LENGTH, STEP_MS, max_fill=2)
CYCLE_MS = LENGTH * STEP_MS
LABELS = (1, -1)


class Fed:
    """A windower and everything it gave."""

    def __init__(self, shape: Shape = SHAPE) -> None:
        self.windower = Windower(shape)
        self.windows: list[Window] = []
        self.examples: list[Example] = []
        self.dropped = self.unmatched = 0

    def read(self, *seconds: float, offset_ms: int = 0) -> None:
        for second in seconds:
            self._took(
                self.windower.add(offset_ms + round(second * STEP_MS), {"a": second, "b": -second, "other": 1.0})
            )

    def inspect(self, time_ms: int, labels: tuple[int, ...] = LABELS) -> None:
        self._took(self.windower.inspect(time_ms, labels))

    def _took(self, collected: object) -> None:
        self.windows += collected.windows
        self.examples += collected.examples
        self.dropped += collected.dropped
        self.unmatched += collected.unmatched


def test_full_window_closes_with_its_last_reading_and_is_labelled_afterwards() -> None:
    fed = Fed()
    fed.read(*range(LENGTH))
    (window,) = fed.windows
    assert (window.start_ms, window.end_ms, window.filled) == (0, CYCLE_MS, 0)
    assert window.values.dtype == np.float32
    assert window.values.tolist() == [[s, -s] for s in range(LENGTH)]
    fed.inspect(CYCLE_MS)
    (example,) = fed.examples
    assert (example.window is window, example.labels) == (True, LABELS)


@pytest.mark.parametrize("stamp_ms", [CYCLE_MS - STEP_MS, CYCLE_MS, CYCLE_MS + 3 * STEP_MS])
def test_inspection_labels_the_window_that_ends_nearest_to_it(stamp_ms: int) -> None:
    fed = Fed()
    fed.read(*range(2 * LENGTH + 5))  # the third window is filling when the inspection of the first comes
    fed.inspect(stamp_ms)
    assert [example.window.start_ms for example in fed.examples] == [0]


def test_inspection_that_overtakes_the_last_reading_labels_the_window_it_belongs_to() -> None:
    fed = Fed()
    fed.read(*range(LENGTH - 1))
    fed.inspect(CYCLE_MS)
    assert fed.examples == []
    fed.read(LENGTH - 1)
    assert len(fed.examples) == len(fed.windows) == 1


def test_inspection_without_a_window_near_is_counted() -> None:
    fed = Fed()
    fed.inspect(CYCLE_MS)
    fed.read(*range(LENGTH))
    fed.inspect(3 * CYCLE_MS)
    assert (fed.unmatched, fed.examples) == (2, [])


def test_each_window_is_labelled_once() -> None:
    fed = Fed()
    fed.read(*range(LENGTH))
    fed.inspect(CYCLE_MS)
    fed.inspect(CYCLE_MS, (0, 0))
    assert [example.labels for example in fed.examples] == [LABELS]
    assert fed.unmatched == 1


def test_gap_up_to_the_bound_is_filled_from_the_slot_before() -> None:
    fed = Fed()
    fed.read(0, 1, 2, 5, 6, 7, 8, 9, 10)
    (window,) = fed.windows
    assert window.values[:, 0].tolist() == [0, 1, 2, 2, 2, 5, 6, 7, 8, 9]
    assert window.filled == 4


def test_gap_beyond_the_bound_drops_the_window_and_the_next_one_is_whole() -> None:
    fed = Fed()
    fed.read(0, 1, 2, 6, 7, 8, 9, *range(10, 20))
    assert fed.dropped == 1
    assert [window.start_ms for window in fed.windows] == [CYCLE_MS]


def test_lost_head_is_filled_backwards_and_does_not_shift_what_follows() -> None:
    fed = Fed()
    fed.read(*range(10), *range(12, 30))
    assert [(w.start_ms, w.filled) for w in fed.windows] == [(0, 0), (CYCLE_MS, 4), (2 * CYCLE_MS, 0)]
    assert fed.windows[1].values[:3, 0].tolist() == [12, 12, 12]


def test_inspection_ends_a_short_cycle_and_the_next_window_begins_at_its_end() -> None:
    fed = Fed()
    fed.read(*range(8))
    fed.inspect(8 * STEP_MS)
    fed.read(*range(8, 18))
    assert [(w.start_ms, w.end_ms, w.filled) for w in fed.windows] == [(0, 8000, 4), (8000, 18000, 0)]
    assert len(fed.examples) == 1


def test_pause_between_cycles_begins_a_new_window_at_the_first_reading() -> None:
    fed = Fed()
    fed.read(*range(10))
    fed.read(*range(10), offset_ms=1_000_000)
    assert [window.start_ms for window in fed.windows] == [0, 1_000_000]


@given(st.lists(st.integers(-400, 400), min_size=2 * LENGTH, max_size=2 * LENGTH))
def test_jitter_below_half_a_step_loses_no_slot(jitter_ms: list[int]) -> None:
    fed = Fed()
    fed.read(0)
    for second, jitter in enumerate(jitter_ms[1:], start=1):
        fed.read(second + jitter / 1000)
    assert [(w.start_ms, w.filled) for w in fed.windows] == [(0, 0), (CYCLE_MS, 0)]


def test_reading_from_before_the_open_window_is_counted_and_changes_nothing() -> None:
    fed = Fed()
    fed.read(*range(10), 10, 11)
    fed.read(3)
    assert fed.unmatched == 1
    fed.read(*range(12, 20))
    assert fed.windows[1].values[:, 0].tolist() == list(range(10, 20))


def test_inputs_that_come_in_messages_of_their_own_fill_one_window() -> None:
    fed = Fed()
    for second, name in itertools.product(range(LENGTH), ("a", "b")):
        fed._took(fed.windower.add(second * STEP_MS, {name: 1.0}))
    assert [window.filled for window in fed.windows] == [0]


def test_input_that_never_came_drops_the_window() -> None:
    fed = Fed()
    for second in range(LENGTH + 1):
        fed._took(fed.windower.add(second * STEP_MS, {"a": 1.0}))
    assert (fed.windows, fed.dropped) == ([], 1)


def test_window_begun_anew_takes_readings_of_a_clock_that_was_set_back() -> None:
    windower = Windower(SHAPE)
    windower.add(100 * STEP_MS, {"a": 1.0, "b": 1.0})
    assert windower.add(0, {"a": 1.0, "b": 1.0}).unmatched == 1
    assert windower.begin_anew().dropped == 1
    collected = [windower.add(slot * STEP_MS, {"a": 1.0, "b": 1.0}) for slot in range(LENGTH)]
    assert [window.start_ms for window in collected[-1].windows] == [0]


def test_window_counts_what_its_sources_call_uncertain() -> None:
    windower = Windower(SHAPE)
    for slot in range(LENGTH):
        collected = windower.add(slot * STEP_MS, {"a": 1.0, "b": 1.0}, ["a", "unmapped"] if slot < 3 else ())
    assert [window.uncertain for window in collected.windows] == [3]


def test_windows_without_inspections_do_not_pile_up() -> None:
    fed = Fed()
    fed.read(*range(20 * LENGTH))
    assert len(fed.windows) == 20
    assert len(fed.windower._closed) == KEPT


@given(
    st.lists(
        st.tuples(st.booleans(), st.integers(0, 2**53), st.floats(-1e6, 1e6))
        | st.integers(0, 60_000).map(lambda t: (True, t, 1.0)),
        max_size=100,
    )
)
def test_any_order_of_readings_and_inspections_gives_only_whole_finite_windows(
    events: list[tuple[bool, int, float]],
) -> None:
    fed = Fed()
    for is_reading, time_ms, value in events:
        if is_reading:
            fed._took(fed.windower.add(time_ms, {"a": value, "b": value}))
        else:
            fed.inspect(time_ms)
    for window in fed.windows:
        assert window.values.shape == (LENGTH, 2)
        assert np.isfinite(window.values).all()
    assert len({id(example.window) for example in fed.examples}) == len(fed.examples)
