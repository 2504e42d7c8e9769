"""What counts as drift, when it is over, and when it is worth a round."""

from __future__ import annotations

from itertools import count

import numpy as np
import pytest

from edge_agent.inferring import drift
from edge_agent.inferring.change_detection import Series, find_changes
from edge_agent.inferring.drift import DriftPolicy, Watched
from gemel.twin.state import DriftKind

POLICY = DriftPolicy(("flow",), 0.002, 20, 2.0, 0.2, hold_windows=3, hold_examples=5, cool_down_s=60)
ERROR = "error.pump"


class Machine:
    """One input and one head of a machine, looked at after each sample as the agent does it."""

    def __init__(self) -> None:
        self.watched, self.now_ms, self._times = Watched(), 0, count(1000, 1000)
        self._random = np.random.default_rng(7)

    def flow(self, level: float, windows: int) -> None:
        for value in self._random.normal(level, 0.5, windows):
            self._sample(DriftKind.INPUT, "flow", float(value), 0.05)

    def errors(self, share: float, inspections: int) -> None:
        for wrong in self._random.random(inspections) < share:
            self._sample(DriftKind.ERROR, ERROR, float(wrong), 0.0)

    def _sample(self, kind: DriftKind, name: str, value: float, scale: float) -> None:
        self.now_ms = next(self._times)
        self.watched = drift.sampled(self.watched, kind, self.now_ms, {name: (value, scale)}, POLICY)
        calm = self.watched.calm
        series = {
            name: Series(s.values, s.scale if s.kind is DriftKind.INPUT else None, POLICY.threshold(s.kind))
            for name, s in calm.items()
        }
        found = find_changes(series, POLICY.delta, POLICY.grace_windows)
        times = {name: (calm[name].samples[a][0], calm[name].samples[b][0]) for name, (a, b) in found.items()}
        self.watched = drift.found(self.watched, times, POLICY)


def test_shift_of_an_input_is_found_with_its_beginning_levels_and_strength() -> None:
    machine = Machine()
    machine.flow(5, 60)
    assert machine.watched.drift == {}
    shift_ms = machine.now_ms
    machine.flow(8, 20)
    found = machine.watched.drift["flow"]
    assert found.kind is DriftKind.INPUT
    assert abs(found.since_ms - shift_ms) <= 2000
    assert (found.before, found.after) == (pytest.approx(5, abs=0.3), pytest.approx(8, abs=0.3))
    assert found.strength == pytest.approx(6, abs=1.5)


@pytest.mark.parametrize("seed", range(5))
def test_noise_and_a_shift_below_the_policys_strength_are_no_drift(seed: int) -> None:
    random = np.random.default_rng(seed)
    noise = random.normal(5, 0.5, 300)
    series = {
        "noise": Series(tuple(noise), 0.05, 2.0),
        "weak": Series((*noise, *random.normal(5.4, 0.5, 100)), 0.05, 2.0),
        "wrong now and then": Series(tuple((random.random(300) < 0.2).astype(float)), None, 0.2),
        "better than before": Series((1.0,) * 60 + (0.0,) * 60, None, 0.2),
        "constant": Series((3.0,) * 100 + (3.001,) * 50, 0.05, 2.0),
        "nothing yet": Series((), 0.05, 2.0),
    }
    assert find_changes(series, 0.002, 20) == {}


def test_strong_shift_is_found_after_a_weak_one() -> None:
    random = np.random.default_rng(1)
    values = (*random.normal(5, 0.5, 100), *random.normal(5.5, 0.5, 100), *random.normal(9, 0.5, 50))
    begin, split = find_changes({"flow": Series(values, 0.05, 2.0)}, 0.002, 20)["flow"]
    assert begin == 0
    assert abs(split - 200) <= 2


def test_errors_that_rise_again_after_they_had_fallen_are_measured_against_the_better_time() -> None:
    values = (1.0,) * 40 + (0.0,) * 60 + (1.0,) * 40
    begin, split = find_changes({"pump": Series(values, None, 0.2)}, 0.002, 20)["pump"]
    assert begin in range(38, 43)
    assert split == 100


def test_input_that_comes_back_is_calm_and_begins_anew() -> None:
    machine = Machine()
    machine.flow(5, 60)
    machine.flow(8, 20)
    machine.flow(5, drift.RECENT[DriftKind.INPUT] + 2)
    assert machine.watched.drift == {}
    assert len(machine.watched.streams["flow"].samples) <= 3


def test_new_model_ends_the_drift_of_inputs_and_leaves_that_of_errors_until_answers_are_right_again() -> None:
    machine = Machine()
    machine.flow(5, 60)
    machine.errors(0.05, 60)
    machine.flow(8, 20)
    machine.errors(0.95, 30)
    assert set(machine.watched.drift) == {"flow", ERROR}
    machine.watched = drift.installed(machine.watched)
    assert set(machine.watched.drift) == {ERROR}
    machine.errors(0.95, drift.RECENT[DriftKind.ERROR])  # the new model is no better
    assert machine.watched.drift[ERROR].after > 0.6
    machine.watched = drift.installed(machine.watched)
    machine.errors(0.0, drift.RECENT[DriftKind.ERROR] - 1)
    assert set(machine.watched.drift) == {ERROR}  # too few to say
    machine.errors(0.0, 1)
    assert machine.watched.drift == {}
    machine.flow(8, 60)  # what the new model has learnt is the new normal
    assert machine.watched.drift == {}


def test_round_is_asked_for_once_the_drift_has_stood_there_is_something_to_learn_and_not_again_too_soon() -> None:
    machine = Machine()
    machine.flow(5, 60)
    assert drift.oldest(machine.watched) is None
    assert drift.request(machine.watched, 100, machine.now_ms, POLICY) is None
    machine.flow(8, 20)
    now_ms = machine.now_ms
    assert drift.request(machine.watched, 4, now_ms, POLICY) is None  # too few examples
    wanted = drift.request(machine.watched, 5, now_ms, POLICY)
    assert wanted is not None
    assert (wanted.reason, wanted.examples) == ("input_drift", 5)
    (evidence,) = wanted.evidence
    assert (evidence.stream, evidence.since_ms) == ("flow", drift.oldest(machine.watched))
    asked = drift.asked(machine.watched, now_ms)
    assert asked.drift["flow"].asked_ms == now_ms
    assert drift.request(asked, 50, now_ms + 59_999, POLICY) is None
    assert drift.request(asked, 50, now_ms + 60_000, POLICY) is not None
    assert drift.answered(asked, now_ms - 1, "refused").drift["flow"].answer == ""  # to another request
    assert drift.answered(asked, now_ms, "accepted").drift["flow"].answer == "accepted"


def test_drift_that_has_just_been_found_is_held_back() -> None:
    machine = Machine()
    machine.flow(5, 60)
    while "flow" not in machine.watched.drift:
        machine.flow(9, 1)
    policy = DriftPolicy(("flow",), 0.002, 20, 2.0, 0.2, hold_windows=30, hold_examples=0, cool_down_s=60)
    assert drift.request(machine.watched, 0, machine.now_ms, policy) is None
    machine.flow(9, 30)
    assert drift.request(machine.watched, 0, machine.now_ms, policy) is not None


def test_memory_of_a_stream_is_bounded() -> None:
    watched = Watched()
    for n in range(drift.REMEMBERED + 50):
        watched = drift.sampled(watched, DriftKind.INPUT, n, {"flow": (0.0, 1.0)}, POLICY)
    assert len(watched.streams["flow"].samples) == drift.REMEMBERED
