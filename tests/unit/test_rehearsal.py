"""What one machine's own windows would teach a model."""

from __future__ import annotations

import numpy as np
import pytest

from edge_agent.learning.rehearsal import FEWEST, rehearse, report
from gemel.errors import ConfigError
from gemel.learning.task import UNKNOWN, Windows
from gemel.wire.messages import TrainingPlan
from tests.support.tiny_task import HEADS, sample_windows, task

PLAN = TrainingPlan(epochs=30, batch_size=8, learning_rate=0.1)


def test_a_model_is_measured_on_the_newest_windows_which_it_has_not_seen() -> None:
    windows = sample_windows(1, 100)
    turned = windows.labels.copy()
    turned[80:, 1] = 1 - turned[80:, 1]  # the newest fifth contradicts what the others teach
    before, after = rehearse(task, windows, PLAN, 1), rehearse(task, Windows(windows.inputs, turned), PLAN, 1)
    assert (before.trained, before.held_out) == (80, 20)
    valve, against = before.heads["valve"], after.heads["valve"]
    assert valve.right >= 18
    assert (against.right, against.inspected) == (20 - valve.right, 20)
    assert before.newest["valve"] == after.newest["valve"]


def test_always_naming_the_commonest_class_and_unknown_outcomes_are_counted_as_what_they_are() -> None:
    windows = sample_windows(2, 50)
    labels = windows.labels.copy()
    labels[:, 0], labels[40:, 0] = 2, [2, 2, 2, 0, 0, 1, UNKNOWN, UNKNOWN, UNKNOWN, UNKNOWN]
    rehearsal = rehearse(task, Windows(windows.inputs, labels), PLAN, 1)
    pump = rehearsal.heads["pump"]
    assert (pump.inspected, pump.commonest, pump.found) == (6, 3, "")
    assert "found: not inspected" in report(rehearsal)
    assert all(f"{head.name}: " in report(rehearsal) for head in HEADS)


@pytest.mark.parametrize("count", [0, FEWEST - 1])
def test_too_few_windows_are_refused(count: int) -> None:
    windows = sample_windows(1, FEWEST).take(np.arange(count))
    with pytest.raises(ConfigError, match=f"at least {FEWEST} with their outcome, not {count}"):
        rehearse(task, windows, PLAN, 1)
