"""What a model says about one window, and what weighed most in it. Runs in a worker process: torch lives there."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np

from gemel.learning.task import Floats, Task, load_task
from gemel.twin.state import InputWeight
from gemel.wire.tensors import Model, from_bytes

TOP_INPUTS = 3


@dataclass(frozen=True, slots=True)
class Judgement:
    """One head's answer: the class, its probability, and the inputs that weighed most, heaviest first."""

    label: int
    condition: str
    probability: float
    top_inputs: tuple[InputWeight, ...]


def judge(task_path: str, model_path: str, values: Floats) -> dict[str, Judgement]:
    """As `judge_window`, by import path and file. Raises OSError where the file is gone."""
    return judge_window(load_task(task_path), _model(model_path), values)


def judge_window(task: Task, model: Model, values: Floats) -> dict[str, Judgement]:
    """Head → answer for one window (window length, inputs).

    An input weighs by the sum over time of |gradient × input|, as a share of all inputs. Raises Malformed for a
    model that is not the task's.
    """
    window = values[np.newaxis]
    probabilities, attributions = task.predict(model, window), task.attribute(model, window)
    judgements = {}
    for head in task.heads:
        given = probabilities[head.name][0]
        label = int(given.argmax())
        top = _heaviest(np.abs(attributions[head.name][0]).sum(axis=0), tuple(column.name for column in task.inputs))
        judgements[head.name] = Judgement(label, head.classes[label], float(given[label]), top)
    return judgements


@lru_cache(maxsize=1)
def _model(path: str) -> Model:
    """Models are named by their digest, so a path always means the same bytes."""
    return from_bytes(Path(path).read_bytes())


def _heaviest(weights: Floats, names: tuple[str, ...]) -> tuple[InputWeight, ...]:
    total = float(weights.sum())
    if total == 0.0:
        return ()
    order = np.argsort(-weights, kind="stable")[:TOP_INPUTS]
    return tuple(InputWeight(names[column], round(float(weights[column]) / total, 4)) for column in order)
