"""What a learning task is: a model, the data it reads and the metric it is held to, behind one Protocol.

Models cross this boundary as `gemel.wire.tensors.Model` (name → float32 array), data as `Windows`. Everything is
synchronous, runs on one CPU thread and is deterministic: equal arguments give equal bytes. Importing this module,
or a task's module, does not import torch; training, predicting and attributing do.
"""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from gemel.errors import ConfigError, Malformed
from gemel.wire.messages import TrainingPlan
from gemel.wire.tensors import Manifest, Model

Floats = NDArray[np.float32]
Labels = NDArray[np.int64]

UNKNOWN = -1  # a label that nobody has given: it counts neither in the loss nor in the accuracy


@dataclass(frozen=True, slots=True)
class Input:
    """One column of a window. Readings are scaled so that `low` becomes -1 and `high` becomes +1.

    The range is what the sensor shows in normal and degraded operation, written down once; it is not fitted to
    anybody's data, so it gives nothing away and is the same for every agent.
    """

    name: str
    unit: str
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class Head:
    """One question that the model answers, and the names of its classes in the order of their numbers."""

    name: str
    classes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Windows:
    """Windows of readings and their labels.

    `inputs`: float32 (n, window length, inputs), in the inputs' units. `labels`: int64 (n, heads), UNKNOWN where
    there is none. Raises Malformed for other shapes or types, and for readings that are not finite.
    """

    inputs: Floats
    labels: Labels

    def __post_init__(self) -> None:
        if self.inputs.ndim != 3 or self.inputs.dtype != np.float32:
            raise Malformed(
                "windows", f"inputs are {self.inputs.dtype} {self.inputs.shape}, float32 (n, time, inputs)"
            )
        if self.labels.shape[:1] != self.inputs.shape[:1] or self.labels.ndim != 2 or self.labels.dtype != np.int64:
            raise Malformed(
                "windows", f"labels are {self.labels.dtype} {self.labels.shape}, int64 (n, heads) expected"
            )
        if not np.isfinite(self.inputs).all():
            raise Malformed("windows", "a reading is not finite")

    def __len__(self) -> int:
        return len(self.inputs)

    def take(self, rows: NDArray[np.int64]) -> Windows:
        """Those rows, in that order."""
        return Windows(self.inputs[rows], self.labels[rows])


@dataclass(frozen=True, slots=True)
class Trained:
    """What training gave: the new model, loss and accuracy over the last epoch's batches, and n_k."""

    model: Model
    loss: float
    accuracy: float
    samples: int


@dataclass(frozen=True, slots=True)
class Measured:
    """A model on a set of windows. `accuracy` is the mean over the heads that have a known label there."""

    loss: float
    accuracy: float
    per_head: dict[str, float]


@runtime_checkable
class Task(Protocol):
    """A model, its data and its metric. Implementations are stateless: everything comes as an argument."""

    @property
    def name(self) -> str:
        """Short, lower case."""
        ...

    @property
    def inputs(self) -> tuple[Input, ...]:
        """The columns of a window, in order."""
        ...

    @property
    def window_s(self) -> int:
        """Rows of a window: seconds, at one reading a second."""
        ...

    @property
    def heads(self) -> tuple[Head, ...]:
        """The questions, in the order of the label columns."""
        ...

    @property
    def manifest(self) -> Manifest:
        """Names and shapes of the model's tensors."""
        ...

    def initial_model(self, seed: int) -> Model:
        """M0: the same bytes for the same seed, on every machine."""
        ...

    def train(self, model: Model, windows: Windows, plan: TrainingPlan, seed: int, round_: int) -> Trained:
        """Train a copy of `model` by `plan` with a fresh optimiser; the batches' order follows (seed, round).

        Raises Malformed for a model or windows that are not this task's, and for windows without any known label.
        """
        ...

    def evaluate(self, model: Model, windows: Windows) -> Measured:
        """Loss (mean cross-entropy over known labels) and accuracy. Raises Malformed as `train` does."""
        ...

    def predict(self, model: Model, inputs: Floats) -> dict[str, Floats]:
        """Head → class probabilities (n, classes). Raises Malformed for readings or results that are not finite."""
        ...

    def attribute(self, model: Model, inputs: Floats) -> dict[str, Floats]:
        """Head → gradient × input (n, window length, inputs), for the logit of each window's predicted class.

        The input is taken in scaled units (see Input), so its zero is the middle of the range, not 0 °C.
        """
        ...


def load_task(path: str) -> Task:
    """The task at an import path such as `gemel.learning.tasks.hydraulic:task`. ConfigError if it is absent."""
    module_name, _, attribute = path.partition(":")
    try:
        task = getattr(importlib.import_module(module_name), attribute)
    except (ImportError, AttributeError, ValueError) as error:
        raise ConfigError("task", path, f"module:attribute of a learning task expected ({error})") from error
    if not isinstance(task, Task):
        raise ConfigError("task", path, "is not a learning task")
    return task


def class_names(task: Task) -> Mapping[str, tuple[str, ...]]:
    """Head → names of its classes."""
    return {head.name: head.classes for head in task.heads}
