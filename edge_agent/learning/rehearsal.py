"""Before a gateway joins a fleet: how good would a model be that learns from this machine alone?

It shows whether a task fits its data. What is trained here is never put in use: only a fleet approves models.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edge_agent.inferring.judging import Judgement, judge_window
from gemel.errors import ConfigError
from gemel.learning.task import UNKNOWN, Floats, Labels, Task, Windows
from gemel.wire.messages import TrainingPlan

HELD_OUT = 0.2  # of the windows, the newest: neighbours are near copies, so they are not dealt out by chance
FEWEST = 10


@dataclass(frozen=True, slots=True)
class HeadRehearsal:
    """One head on the windows held out. `commonest`: how many always naming the commonest class would get right."""

    inspected: int
    right: int
    commonest: int
    found: str  # the class of the newest window; "" where nobody said


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What a model learnt from the older windows says about the newer ones, and about the newest of them."""

    trained: int
    held_out: int
    heads: Mapping[str, HeadRehearsal]
    newest: Mapping[str, Judgement]


def rehearse(task: Task, windows: Windows, plan: TrainingPlan, seed: int) -> Rehearsal:
    """Train on the older windows, measure on the newer. Raises ConfigError for fewer than FEWEST."""
    if len(windows) < FEWEST:
        raise ConfigError("examples", "windows", f"at least {FEWEST} with their outcome, not {len(windows)}")
    held_out = round(len(windows) * HELD_OUT)
    rows = np.arange(len(windows))
    older, newer = windows.take(rows[:-held_out]), windows.take(rows[-held_out:])
    model = task.train(task.initial_model(seed), older, plan, seed, 1).model
    answers = task.predict(model, newer.inputs)
    heads = {
        head.name: _head(answers[head.name], newer.labels[:, column], older.labels[:, column], head.classes)
        for column, head in enumerate(task.heads)
    }
    return Rehearsal(len(older), len(newer), heads, judge_window(task, model, newer.inputs[-1]))


def report(rehearsal: Rehearsal) -> str:
    """A few lines for a person."""
    lines = [f"trained on the {rehearsal.trained} older windows, measured on the {rehearsal.held_out} newest"]
    for name, head in rehearsal.heads.items():
        lines.append(
            f"{name}: {head.right} of {head.inspected} right; always naming the commonest class: {head.commonest}"
        )
        said = rehearsal.newest[name]
        why = ", ".join(f"{one.input} {one.weight:.0%}" for one in said.top_inputs)
        lines.append(
            f"  newest window: {said.condition}, probability {said.probability:.2f}, because of {why or 'nothing'};"
            f" found: {head.found or 'not inspected'}"
        )
    return "\n".join(lines)


def _head(given: Floats, labels: Labels, learnt: Labels, classes: tuple[str, ...]) -> HeadRehearsal:
    known = labels != UNKNOWN
    counts = np.bincount(learnt[learnt != UNKNOWN], minlength=len(classes))
    return HeadRehearsal(
        inspected=int(known.sum()),
        right=int((given.argmax(axis=1) == labels)[known].sum()),
        commonest=int((labels[known] == counts.argmax()).sum()),
        found=classes[labels[-1]] if labels[-1] != UNKNOWN else "",
    )
