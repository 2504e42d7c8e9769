"""Measuring models on a reference set, for worker processes: bytes and paths in, plain figures out."""

from __future__ import annotations

import zlib
from dataclasses import dataclass
from pathlib import Path
from zipfile import BadZipFile

import numpy as np
import orjson

from gemel.errors import ConfigError, Malformed
from gemel.learning.explaining import drift, explain_model
from gemel.learning.task import Measured, Windows, load_task
from gemel.wire import tensors


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


def initial_model(task_path: str, seed: int) -> bytes:
    """M0 as safetensors."""
    return tensors.to_bytes(load_task(task_path).initial_model(seed))


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
