"""What would another model have said? A twin's stored history, replayed through two models. Pure: no I/O, no clock.

    replay = Replay(shape_of(task), inspections)
    for reading in history: replay.take(reading)        ascending source time
    compare(task, replay.finish(), in_use, candidate)   both models' answers, window by window

Windows are cut as an agent cuts them (gemel/twin/window.py), so the first one begins at the first reading.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import msgspec
import numpy as np

from gemel.learning.task import UNKNOWN, Floats, Head, Task, load_task
from gemel.twin.state import Diagnosis, Property, Quality, RunningModel, Twin, diagnose, hold
from gemel.twin.window import Collected, Shape, Window, Windower
from gemel.wire import tensors
from gemel.wire.tensors import Model
from gemel.wire.types import Count, Millis

MAX_FILL: Final = 3  # readings: what an agent fills where its settings say nothing
Inspection = tuple[Millis, tuple[int, ...]]  # the end of a cycle, and the class number of each head


@dataclass(frozen=True, slots=True)
class Reading:
    """The usable values of one instant by property, and which of them their source calls uncertain."""

    time_ms: Millis
    values: Mapping[str, float]
    uncertain: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """What a stretch of history gave: finished windows, labels by the start of their window, the last readings.

    `dropped`: windows with a gap too long to fill. `unmatched`: inspections and readings that belong to no window.
    """

    windows: Sequence[Window]
    labels: Mapping[Millis, tuple[int, ...]]
    latest: Mapping[str, tuple[Millis, float, Quality]]
    readings: int
    dropped: int
    unmatched: int


class Replay:
    """Gathers history in ascending source time. A window that is still filling at the end is no window."""

    def __init__(self, shape: Shape, inspections: Iterable[Inspection] = ()) -> None:
        self._inputs = frozenset(shape.inputs)
        self._windower = Windower(shape)
        self._inspections = deque(sorted(inspections))
        self._windows: list[Window] = []
        self._labels: dict[Millis, tuple[int, ...]] = {}
        self._latest: dict[str, tuple[Millis, float, Quality]] = {}
        self._readings = self._dropped = self._unmatched = 0

    def take(self, reading: Reading) -> None:
        """The next instant; names that are no input of the task are ignored."""
        self._inspect(until_ms=reading.time_ms)
        self._collect(self._windower.add(reading.time_ms, reading.values, reading.uncertain))
        for name in reading.values.keys() & self._inputs:
            quality = Quality.UNCERTAIN if name in reading.uncertain else Quality.GOOD
            self._latest[name] = (reading.time_ms, reading.values[name], quality)
            self._readings += 1

    def finish(self) -> Replayed:
        """All of it; call it once."""
        if self._inspections:
            self._inspect(until_ms=self._inspections[-1][0])
        return Replayed(self._windows, self._labels, self._latest, self._readings, self._dropped, self._unmatched)

    def _inspect(self, *, until_ms: Millis) -> None:
        while self._inspections and self._inspections[0][0] <= until_ms:
            self._collect(self._windower.inspect(*self._inspections.popleft()))

    def _collect(self, collected: Collected) -> None:
        self._windows += collected.windows
        self._labels |= {example.window.start_ms: example.labels for example in collected.examples}
        self._dropped += collected.dropped
        self._unmatched += collected.unmatched


def shape_of(task: Task, max_fill: int = MAX_FILL) -> Shape:
    """The windows that the task's models read; gaps of at most `max_fill` readings are filled."""
    return Shape(tuple(column.name for column in task.inputs), task.window_s, max_fill=max_fill)


class Answer(msgspec.Struct, frozen=True):
    """One model's class for one head, and the probability that it gives to it."""

    condition: str
    confidence: float


class Pair(msgspec.Struct, frozen=True):
    """Both models on one head of one window. `inspected`: what was really found, where that is known."""

    in_use: Answer
    candidate: Answer
    agree: bool
    inspected: str | None


class WindowAnswers(msgspec.Struct, frozen=True):
    """One window: from when to when, how much of it was filled in or uncertain, and both models' answers by head."""

    start_ms: Millis
    end_ms: Millis
    filled: Count
    uncertain: Count
    heads: dict[str, Pair]


class HeadSummary(msgspec.Struct, frozen=True):
    """One head over all windows: where the models agree, and how often each was right where somebody looked."""

    windows: Count
    agree: Count
    inspected: Count
    in_use_right: Count
    candidate_right: Count
    in_use_confidence: float  # mean
    candidate_confidence: float


class Comparison(msgspec.Struct, frozen=True):
    """Both models on the same windows, oldest first. `differing`: windows where they part on any head."""

    windows: Sequence[WindowAnswers]
    heads: dict[str, HeadSummary]
    differing: Count
    dropped: Count
    unmatched: Count


def compare(task: Task, replayed: Replayed, in_use: Model, candidate: Model) -> Comparison:
    """Both models on every window. Raises Malformed for a model that is not the task's or gives no finite answer."""
    inputs = _stacked(task, replayed.windows)
    of_in_use, of_candidate = (_answers(task, task.predict(model, inputs)) for model in (in_use, candidate))
    windows = []
    for row, window in enumerate(replayed.windows):
        labels = replayed.labels.get(window.start_ms, (UNKNOWN,) * len(task.heads))
        pairs = {
            head.name: _pair(of_in_use[head.name][row], of_candidate[head.name][row], _class(head, label))
            for head, label in zip(task.heads, labels, strict=True)
        }
        windows.append(WindowAnswers(window.start_ms, window.end_ms, window.filled, window.uncertain, pairs))
    return Comparison(
        windows,
        {head.name: _summary([window.heads[head.name] for window in windows]) for head in task.heads},
        sum(any(not pair.agree for pair in window.heads.values()) for window in windows),
        replayed.dropped,
        replayed.unmatched,
    )


def compare_bytes(task_path: str, replayed: Replayed, in_use: bytes, candidate: bytes) -> Comparison:
    """`compare` for a worker process: the task by its import path, models as safetensors."""
    task = load_task(task_path)
    models = (tensors.from_bytes(model, task.manifest) for model in (in_use, candidate))
    return compare(task, replayed, *models)


class Fork(msgspec.Struct, frozen=True):
    """A twin as it stood, and what would have become of it under each model. Alerts and wishes stay as they stood."""

    stood: Twin
    in_use: Twin
    candidate: Twin


def fork(
    task: Task, stood: Twin, replayed: Replayed, comparison: Comparison, in_use: RunningModel, candidate: RunningModel
) -> Fork:
    """Replay the readings into two copies of the twin, each diagnosed by its model from the last window."""
    readings = {
        column.name: Property(value, column.unit, time_ms, time_ms, quality)
        for column in task.inputs
        if column.name in replayed.latest
        for time_ms, value, quality in [replayed.latest[column.name]]
    }
    moved = hold(stood, readings)
    last = comparison.windows[-1]
    quality = Quality.UNCERTAIN if last.filled or last.uncertain else Quality.GOOD

    def said(answers: Mapping[str, Answer]) -> dict[str, Diagnosis]:
        return {
            head: Diagnosis(answer.condition, answer.confidence, (), last.end_ms, quality)
            for head, answer in answers.items()
        }

    return Fork(
        stood,
        diagnose(moved, in_use, said({head: pair.in_use for head, pair in last.heads.items()})),
        diagnose(moved, candidate, said({head: pair.candidate for head, pair in last.heads.items()})),
    )


def _stacked(task: Task, windows: Sequence[Window]) -> Floats:
    empty = np.empty((0, task.window_s, len(task.inputs)), np.float32)
    return np.stack([window.values for window in windows]) if windows else empty


def _answers(task: Task, probabilities: Mapping[str, Floats]) -> dict[str, list[Answer]]:
    return {
        head.name: [
            Answer(head.classes[int(given.argmax())], round(float(given.max()), 4))
            for given in probabilities[head.name]
        ]
        for head in task.heads
    }


def _class(head: Head, label: int) -> str | None:
    return None if label == UNKNOWN else head.classes[label]


def _pair(in_use: Answer, candidate: Answer, inspected: str | None) -> Pair:
    return Pair(in_use, candidate, in_use.condition == candidate.condition, inspected)


def _summary(pairs: Sequence[Pair]) -> HeadSummary:
    known = [pair for pair in pairs if pair.inspected is not None]
    return HeadSummary(
        len(pairs),
        sum(pair.agree for pair in pairs),
        len(known),
        sum(pair.in_use.condition == pair.inspected for pair in known),
        sum(pair.candidate.condition == pair.inspected for pair in known),
        _mean([pair.in_use.confidence for pair in pairs]),
        _mean([pair.candidate.confidence for pair in pairs]),
    )


def _mean(shares: Sequence[float]) -> float:
    return round(sum(shares) / len(shares), 4) if shares else 0.0
