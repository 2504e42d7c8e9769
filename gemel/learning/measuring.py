"""Measuring models on a reference set, for worker processes: bytes and paths in, plain figures out."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import orjson

from gemel.errors import ConfigError, Malformed, Refused
from gemel.learning.classifier import CENTRE, SPREAD, Classifier
from gemel.learning.explaining import drift, explain_model
from gemel.learning.fleet_statistics import FleetStatistics, normalisation
from gemel.learning.task import Measured, Task, Windows, load_task
from gemel.wire import tensors
from gemel.wire.reasons import Reason
from gemel.wire.tensors import Model


def save_windows(path: Path, windows: Windows) -> None:
    """A reference set on disk: `inputs` and `labels` in an npz without pickles."""
    np.savez_compressed(path, inputs=windows.inputs, labels=windows.labels)


def load_windows(path: Path) -> Windows:
    """Read a reference set. Raises ConfigError for a file that is none."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as arrays:
            return Windows(arrays["inputs"], arrays["labels"])
    except (OSError, EOFError, ValueError, KeyError, BadZipFile, zlib.error, Malformed) as error:
        raise ConfigError(str(path), "reference", f"an npz with inputs and labels ({error})") from error


def initial_model(task_path: str, seed: int, statistics: bytes | None = None) -> bytes:
    """M0 as safetensors, scaled by the fleet's pooled statistics (safetensors) where they are given.

    Raises ConfigError for statistics with a task that is not normalised, Malformed for none or another task's.
    """
    return tensors.to_bytes(_initial(load_task(task_path), seed, statistics))


def check_normalisation(task_path: str, m0: bytes, statistics: bytes | None) -> None:
    """Raises Refused(broken_model) unless M0 is scaled by these statistics, or without any by the nominal ranges.

    Only what scales readings is compared: the rest of M0 is drawn by a seed of the coordinator's choice.
    """
    task = load_task(task_path)
    model, due = tensors.from_bytes(m0, task.manifest), _initial(task, 0, statistics)
    if not all(np.array_equal(model[name], due[name]) for name in (CENTRE, SPREAD) if name in due):
        raise Refused(Reason.BROKEN_MODEL, "M0 is not normalised by the approved statistics")


def _initial(task: Task, seed: int, statistics: bytes | None) -> Model:
    model = task.initial_model(seed)
    if statistics is None:
        return model
    if not isinstance(task, Classifier):
        raise ConfigError("task", task.name, "a task whose model holds its normalisation, if there are statistics")
    pooling = FleetStatistics(task)
    return task.normalise(model, *normalisation(pooling, tensors.from_bytes(statistics, pooling.manifest)))


def measure(task_path: str, model: bytes, reference: str) -> Measured:
    """A model on the reference set at this path. Raises Malformed for bytes that are no model of the task."""
    task = load_task(task_path)
    return task.evaluate(tensors.from_bytes(model, task.manifest), load_windows(Path(reference)))


@dataclass(frozen=True, slots=True)
class Report:
    """What the coordinator says of a candidate: documents as JSON bytes, and the accuracy that goes on chain."""

    measurement: bytes
    explanation: bytes
    accuracy: float


def examine(task_path: str, candidate: bytes, base: bytes, reference: str, seed: int) -> Report:
    """Measure candidate and base, explain both, and say how far the explanation moved."""
    task, windows = load_task(task_path), load_windows(Path(reference))
    model, model_in_use = tensors.from_bytes(candidate, task.manifest), tensors.from_bytes(base, task.manifest)
    measured, before = task.evaluate(model, windows), task.evaluate(model_in_use, windows)
    explanation = explain_model(task, model, windows, seed)
    explanation_before = explain_model(task, model_in_use, windows, seed)
    change = tensors.flatten(model) - tensors.flatten(model_in_use)
    measurement = {
        "candidate": {"loss": measured.loss, "accuracy": measured.accuracy, "per_head": measured.per_head},
        "in_use": {"loss": before.loss, "accuracy": before.accuracy, "per_head": before.per_head},
        "mean_absolute_change": float(np.abs(change).mean()),
        "explanation_drift": drift(explanation_before, explanation),
        "windows": len(windows),
    }
    return Report(orjson.dumps(measurement, option=orjson.OPT_INDENT_2), explanation.to_bytes(), measured.accuracy)
