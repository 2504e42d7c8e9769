"""What another model would have said: windows out of history, two models side by side, a twin forked. No I/O."""

from __future__ import annotations

import re
from dataclasses import replace
from io import StringIO
from pathlib import Path

import numpy as np
import pytest
import typer
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from gemel.errors import Malformed
from gemel.learning.task import UNKNOWN
from gemel.twin.state import Quality, RunningModel, blank
from gemel.wire import tensors
from gemel.wire.messages import TrainingPlan
from tests.support.tiny_task import HEADS, INPUTS, WINDOW_S, sample_windows, task
from validator.what_if import Comparison, Reading, Replay, Replayed, compare, compare_bytes, fork, shape_of
from validator.what_if_command import what_if
from validator.what_if_tables import show

NAMES = tuple(column.name for column in INPUTS)
CYCLE_MS = WINDOW_S * 1000
START_MS = 1_700_000_000_000
WINDOWS = sample_windows(3, 20)
UNTRAINED = task.initial_model(1)
TRAINED = task.train(UNTRAINED, sample_windows(4, 200), TrainingPlan(30, 20, 0.3), 0, 0).model


def readings(inputs: np.ndarray, start_ms: int = START_MS) -> list[Reading]:
    """What a registry would hold of these windows, one reading a second."""
    rows = inputs.reshape(-1, len(NAMES))
    return [
        Reading(start_ms + second * 1000, dict(zip(NAMES, map(float, row), strict=True)))
        for second, row in enumerate(rows)
    ]


def inspected(labels: np.ndarray) -> list[tuple[int, tuple[int, ...]]]:
    return [
        (START_MS + (row + 1) * CYCLE_MS, tuple(int(label) for label in found)) for row, found in enumerate(labels)
    ]


def replay(history: list[Reading], inspections: list[tuple[int, tuple[int, ...]]] | None = None) -> Replayed:
    replaying = Replay(shape_of(task), inspections or [])
    for reading in history:
        replaying.take(reading)
    return replaying.finish()


@given(rows=st.integers(0, 12), known=st.sets(st.integers(0, 11)))
def test_every_whole_cycle_is_a_window_and_only_inspected_ones_are_labelled(rows: int, known: set[int]) -> None:
    inspections = [found for row, found in enumerate(inspected(WINDOWS.labels[:rows])) if row in known]
    replayed = replay(readings(WINDOWS.inputs[:rows]), inspections)
    assert [window.start_ms for window in replayed.windows] == [START_MS + row * CYCLE_MS for row in range(rows)]
    for window, values in zip(replayed.windows, WINDOWS.inputs, strict=False):
        np.testing.assert_array_equal(window.values, values)
    assert set(replayed.labels) == {START_MS + row * CYCLE_MS for row in known if row < rows}
    assert (replayed.dropped, replayed.unmatched) == (0, 0)


@given(rows=st.integers(1, 12), known=st.sets(st.integers(0, 11)), seeds=st.tuples(*[st.integers(0, 3)] * 2))
def test_comparison_says_what_each_model_says_by_itself(rows: int, known: set[int], seeds: tuple[int, int]) -> None:
    labels = WINDOWS.labels[:rows]
    inspections = [found for row, found in enumerate(inspected(labels)) if row in known]
    models = tuple(TRAINED if seed == 0 else task.initial_model(seed) for seed in seeds)
    compared = compare(task, replay(readings(WINDOWS.inputs[:rows]), inspections), *models)
    assert len(compared.windows) == rows
    for column, head in enumerate(HEADS):
        given_by = [task.predict(model, WINDOWS.inputs[:rows])[head.name] for model in models]
        summary, agreed, right = compared.heads[head.name], 0, [0, 0]
        for row, window in enumerate(compared.windows):
            pair = window.heads[head.name]
            said = [head.classes[int(answer[row].argmax())] for answer in given_by]
            assert [pair.in_use.condition, pair.candidate.condition] == said
            assert pair.in_use.confidence == pytest.approx(float(given_by[0][row].max()), abs=1e-4)
            assert pair.candidate.confidence == pytest.approx(float(given_by[1][row].max()), abs=1e-4)
            assert pair.agree == (said[0] == said[1])
            assert pair.inspected == (head.classes[labels[row, column]] if row in known else None)
            agreed += pair.agree
            right = [count + (answer == pair.inspected) for count, answer in zip(right, said, strict=True)]
        assert (summary.windows, summary.agree) == (rows, agreed)
        assert summary.inspected == len([row for row in known if row < rows])
        assert [summary.in_use_right, summary.candidate_right] == right
    assert compared.differing == sum(
        any(not pair.agree for pair in window.heads.values()) for window in compared.windows
    )


def test_model_beside_itself_agrees_everywhere() -> None:
    compared = compare(task, replay(readings(WINDOWS.inputs)), TRAINED, TRAINED)
    assert compared.differing == 0
    assert all(summary.agree == summary.windows == len(WINDOWS) for summary in compared.heads.values())


def test_better_model_is_right_more_often() -> None:
    compared = compare(task, replay(readings(WINDOWS.inputs), inspected(WINDOWS.labels)), UNTRAINED, TRAINED)
    right = [(summary.in_use_right, summary.candidate_right) for summary in compared.heads.values()]
    assert sum(candidate for _, candidate in right) > sum(in_use for in_use, _ in right)
    assert compared.differing > 0


def test_long_gap_costs_its_window_and_a_short_one_is_filled_and_counted() -> None:
    history = readings(WINDOWS.inputs[:4])
    history[8] = Reading(history[8].time_ms, {"pressure": 5.0})  # two values of one second are missing
    del history[13:17]  # four seconds in the third window
    replayed = replay(history)
    compared = compare(task, replayed, TRAINED, TRAINED)
    assert [window.filled for window in compared.windows] == [0, 2, 0]
    assert compared.dropped == 1
    assert compared.windows[2].start_ms == START_MS + 3 * CYCLE_MS


def test_longer_gap_is_filled_where_that_is_asked_for() -> None:
    history = readings(WINDOWS.inputs[:2])
    del history[1:5]
    for max_fill, windows in ((3, 1), (4, 2)):
        replaying = Replay(shape_of(task, max_fill))
        for reading in history:
            replaying.take(reading)
        assert len(replaying.finish().windows) == windows


def test_unknown_label_counts_for_neither_model() -> None:
    compared = compare(
        task,
        replay(readings(WINDOWS.inputs[:1]), [(START_MS + CYCLE_MS, (1, UNKNOWN))]),
        TRAINED,
        TRAINED,
    )
    assert compared.windows[0].heads["pump"].inspected == "worn"
    assert compared.windows[0].heads["valve"].inspected is None
    assert [summary.inspected for summary in compared.heads.values()] == [1, 0]


def test_inspection_far_from_any_window_is_counted() -> None:
    assert replay(readings(WINDOWS.inputs[:2]), [(START_MS + 50 * CYCLE_MS, (0, 0))]).unmatched == 1


def test_forked_twins_share_the_readings_and_differ_in_what_their_model_says() -> None:
    stood = blank("north", "press-1")
    history = readings(WINDOWS.inputs[:2])
    history[-1] = Reading(history[-1].time_ms, history[-1].values, frozenset({"flow"}))
    replayed = replay(history)
    running, proposed = RunningModel("aa" * 32, 3), RunningModel("bb" * 32, 4)
    compared = compare(task, replayed, UNTRAINED, TRAINED)
    forked = fork(task, stood, replayed, compared, running, proposed)
    assert forked.stood is stood
    assert forked.in_use.properties == forked.candidate.properties
    flow = forked.in_use.properties["flow"]
    assert (flow.value, flow.unit, flow.quality) == (history[-1].values["flow"], "l/min", Quality.UNCERTAIN)
    assert (forked.in_use.model, forked.candidate.model) == (running, proposed)
    for name, pair in compared.windows[-1].heads.items():
        assert forked.in_use.health[name].condition == pair.in_use.condition
        assert forked.candidate.health[name].condition == pair.candidate.condition
        assert forked.candidate.health[name].quality is Quality.UNCERTAIN  # carried from what it was said of


def test_bytes_of_another_task_are_refused() -> None:
    other = tensors.to_bytes({"other": np.zeros(3, np.float32)})
    with pytest.raises(Malformed, match="model"):
        compare_bytes(
            "tests.support.tiny_task:task", replay(readings(WINDOWS.inputs[:1])), tensors.to_bytes(TRAINED), other
        )


# --- for people -----------------------------------------------------------------------------------


def shown(compared: Comparison, *, everything: bool) -> list[str]:
    console = Console(width=140, file=StringIO())
    show(compared, "aa" * 32, "bb" * 32, console, everything=everything)
    return console.file.getvalue().splitlines()


def test_table_shows_where_the_models_differ_and_how_far_they_agree() -> None:
    compared = compare(task, replay(readings(WINDOWS.inputs), inspected(WINDOWS.labels)), UNTRAINED, TRAINED)
    parted = sum(not pair.agree for window in compared.windows for pair in window.heads.values())
    lines = shown(compared, everything=False)
    assert lines[:2] == [f"in use     {'aa' * 32}", f"candidate  {'bb' * 32}"]
    assert sum("2023-11-14 22:" in line for line in lines) == parted
    assert sum("2023-11-14 22:" in line for line in shown(compared, everything=True)) == 2 * len(WINDOWS)
    pump = compared.heads["pump"]
    assert any(f"{pump.agree} of 20" in line and f"{pump.candidate_right} of 20" in line for line in lines)
    assert f"20 windows, {compared.differing} on which the models differ" in lines


def test_table_without_inspections_claims_nothing_about_who_is_right() -> None:
    lines = shown(compare(task, replay(readings(WINDOWS.inputs)), UNTRAINED, TRAINED), everything=False)
    (pump,) = [line.split() for line in lines if line.strip().startswith("pump") and "of 20" in line]
    assert pump[4:6] == ["-", "-"]


def test_table_says_how_many_windows_are_doubtful_dropped_or_without_their_inspection() -> None:
    history = readings(WINDOWS.inputs[:4])
    history[8] = replace(history[8], uncertain=frozenset({"flow"}))
    del history[13:17]  # four seconds of the third window
    del history[-2]
    history += readings(WINDOWS.inputs[4:5], START_MS + 4 * CYCLE_MS)
    compared = compare(task, replay(history, [(START_MS + 50 * CYCLE_MS, (0, 0))]), TRAINED, TRAINED)
    assert shown(compared, everything=False)[-4:] == [
        "4 windows, 0 on which the models differ",
        "2 of them hold values that were filled in, or that their source calls uncertain",
        "1 more were dropped: their gaps are too long to fill",
        "1 inspections or readings belong to no window",
    ]


def test_page_names_every_option_of_the_command_and_no_other() -> None:
    page = (Path(__file__).parents[2] / "docs" / "what-if.md").read_text()
    app = typer.Typer(add_completion=False)
    app.command()(what_if)
    known = {name for option in typer.main.get_command(app).params for name in option.opts}
    named = set(re.findall(r"--[a-z][a-z-]+", page))
    assert known - {"--config", "--site", "--asset"} <= named <= known
