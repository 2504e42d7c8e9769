"""What the fleet's sensors read on the whole, learnt as a model is: only totals are opened, nobody's own figures.

The paper's E(x1) + E(x2): each agent seals the sums of its readings, and the sum of the ciphertexts opens to the
fleet's. A second protocol for that would need everything a round has (commitments, a confirmed sum, a custodian,
votes, an audit). So it is a round: `FleetStatistics` is a task whose model is the vector of pooled statistics and
whose training computes an agent's own. Federated averaging then pools them, with n_k windows for a weight:

    Σ n_k · mean_k / Σ n_k  =  Σ over all windows / their number

exactly so, but for what sealing rounds. Readings are taken from the middle of the sensor's nominal range, in half
ranges: far from zero, E(x^2) - E(x)^2 would lose everything to rounding.

    mean        (inputs,)         E(x) / LIMIT
    square      (inputs,)         E(x^2) / LIMIT^2
    histogram   (inputs, BINS)    share of readings; equal bins over the nominal range, the outer ones open
    head.<name> (classes,)        share of windows of each class; the rest is not known

All of it lies in -1..1, so a policy's clip is 1. How many windows there were is no secret: n_k stands in headers.

Of two agents each could subtract its own figures and hold the other's, which are plain facts about a plant and not
just a model's gradients. So fewer than three owners are refused, and the exception that a policy can make for a fleet
of two does not count here (`refusal`).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.errors import Malformed
from gemel.learning.derived_task import DerivedTask
from gemel.learning.task import UNKNOWN, Floats, Head, Input, Measured, Task, Trained, Windows
from gemel.wire.messages import SAFE_OWNERS, Policy, TrainingPlan
from gemel.wire.tensors import Manifest, Model, flatten, manifest_of

LIMIT = 4.0  # half ranges that a reading counts at most, as in training: a broken sensor cannot drown the others
BINS = 8
CLIP = 1.0  # what a policy's clip must be at least
MEAN, SQUARE, HISTOGRAM, CLASSES = "mean", "square", "histogram", "head."
_LEAST_SPREAD = 0.01  # half ranges: below, a sensor stands still, and what it reads means nothing


@dataclass(frozen=True, slots=True)
class InputStatistics:
    """What one input reads over the whole fleet. `histogram`: shares of readings between consecutive `edges`."""

    name: str
    unit: str
    mean: float
    std: float
    edges: tuple[float, ...]  # BINS + 1, of which the outer ones stand for everything beyond
    histogram: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class FleetStatistics(DerivedTask):
    """Implements Task for the statistics of another task's windows. Labels may be unknown throughout."""

    @property
    def name(self) -> str:
        """See Task."""
        return f"{self.of.name}-statistics"

    @property
    def manifest(self) -> Manifest:
        """See the module."""
        return manifest_of(self.initial_model(0))

    def initial_model(self, seed: int) -> Model:  # noqa: ARG002  nothing is drawn
        """Zeros: what the first round's updates are taken from."""
        count = len(self.inputs)
        model: Model = {
            MEAN: np.zeros(count, np.float32),
            SQUARE: np.zeros(count, np.float32),
            HISTOGRAM: np.zeros((count, BINS), np.float32),
        }
        for head in self.heads:
            model[CLASSES + head.name] = np.zeros(len(head.classes), np.float32)
        return model

    def train(self, model: Model, windows: Windows, plan: TrainingPlan, seed: int, round_: int) -> Trained:  # noqa: ARG002  statistics need neither plan nor chance
        """The windows' own statistics, whatever `model` is. Loss and accuracy: how far they lie from it."""
        self._check(model)
        own = self._of(windows)
        measured = self._compared(model, own)
        return Trained(own, measured.loss, measured.accuracy, len(windows))

    def evaluate(self, model: Model, windows: Windows) -> Measured:
        """How near the model is to these windows' own statistics: 1 the same, 0 as far as two can be."""
        self._check(model)
        return self._compared(model, self._of(windows))

    def predict(self, model: Model, inputs: Floats) -> dict[str, Floats]:
        """Head → how often each class occurs in the fleet, whatever is read; evenly where none is known."""
        self._check(model)
        return {head.name: np.tile(self._shares(model, head), (len(inputs), 1)) for head in self.heads}

    def attribute(self, model: Model, inputs: Floats) -> dict[str, Floats]:
        """Zeros: no reading speaks for a class here."""
        self._check(model)
        return {head.name: np.zeros_like(inputs) for head in self.heads}

    def pooled(self, model: Model) -> tuple[InputStatistics, ...]:
        """A model as figures in the inputs' units. Raises Malformed for one of another task."""
        self._check(model)
        mean = model[MEAN].astype(np.float64) * LIMIT
        square = model[SQUARE].astype(np.float64) * LIMIT**2
        std = np.sqrt(np.maximum(square - mean**2, 0))
        return tuple(
            InputStatistics(
                column.name,
                column.unit,
                mean=_middle(column) + _half(column) * float(mean[index]),
                std=_half(column) * float(std[index]),
                edges=tuple(np.linspace(column.low, column.high, BINS + 1).tolist()),
                histogram=tuple(model[HISTOGRAM][index].astype(np.float64).tolist()),
            )
            for index, column in enumerate(self.inputs)
        )

    # --- computing --------------------------------------------------------------------------------

    def _of(self, windows: Windows) -> Model:
        if len(windows) == 0 or windows.inputs.shape[2] != len(self.inputs):
            raise Malformed(
                "windows", f"inputs have shape {windows.inputs.shape}, and {len(self.inputs)} columns count"
            )
        middle, half = (np.array([of(column) for column in self.inputs]) for of in (_middle, _half))
        readings = (windows.inputs.reshape(-1, len(self.inputs)).astype(np.float64) - middle) / half
        bins = np.clip(np.floor((readings + 1) * (BINS / 2)), 0, BINS - 1).astype(np.int64)
        readings = np.clip(readings, -LIMIT, LIMIT)
        model: Model = {
            MEAN: (readings.mean(axis=0) / LIMIT).astype(np.float32),
            SQUARE: ((readings**2).mean(axis=0) / LIMIT**2).astype(np.float32),
            HISTOGRAM: np.stack([np.bincount(column, minlength=BINS) / len(column) for column in bins.T]).astype(
                np.float32
            ),
        }
        for column, head in enumerate(self.heads):
            if windows.labels[:, column].max() >= len(head.classes):
                raise Malformed("windows", "a label is not the number of a class")
            known = windows.labels[:, column][windows.labels[:, column] != UNKNOWN]
            shares = np.bincount(known, minlength=len(head.classes)) / len(windows)
            model[CLASSES + head.name] = shares.astype(np.float32)
        return model

    def _check(self, model: Model) -> None:
        if manifest_of(model) != self.manifest:
            raise Malformed("model", f"tensors are not those of task {self.name}")

    def _compared(self, model: Model, own: Model) -> Measured:
        per_head = {
            head.name: 1 - 0.5 * float(np.abs(model[CLASSES + head.name] - own[CLASSES + head.name]).sum())
            for head in self.heads
        }
        away = np.abs(flatten(model).astype(np.float64) - flatten(own))
        return Measured(float(away.mean()), float(np.clip(1 - away.mean() / CLIP, 0, 1)), per_head)

    def _shares(self, model: Model, head: Head) -> Floats:
        shares = np.maximum(model[CLASSES + head.name].astype(np.float64), 0)
        total = shares.sum()
        even = np.full(len(head.classes), 1 / len(head.classes))
        return (shares / total if total > 0 else even).astype(np.float32)


def refusal(task: Task, policy: Policy) -> str:
    """Why this policy must not open sums of this task; empty where it may. There is no exception."""
    if not isinstance(task, FleetStatistics):
        return ""
    if policy.minimum_owners < SAFE_OWNERS:
        return f"statistics of at least {SAFE_OWNERS} owners: of two, each could subtract its own, whoever allowed it"
    if policy.sealing.clip < CLIP:
        return f"policy.sealing.clip of at least {CLIP:g}: statistics lie in -1..1"
    return ""


def normalisation(task: FleetStatistics, model: Model) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Centre and spread (inputs,) in the inputs' units, from a pooled model: mean and standard deviation.

    A sensor that stands still has a hundredth of its half range for a spread. Raises Malformed for a model of another
    task, or one that says nothing (no reading in any bin).
    """
    pooled = task.pooled(model)
    if not all(sum(column.histogram) > 0.5 for column in pooled):
        raise Malformed("statistics", "an input without readings: they have not been pooled yet")
    centre = np.array([column.mean for column in pooled], np.float32)
    least = [_LEAST_SPREAD * _half(column) for column in task.inputs]
    return centre, np.array(
        [max(column.std, lowest) for column, lowest in zip(pooled, least, strict=True)], np.float32
    )


def _middle(column: Input) -> float:
    return (column.low + column.high) / 2


def _half(column: Input) -> float:
    return (column.high - column.low) / 2
