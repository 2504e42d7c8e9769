"""A linear head over a task's windows: the one model that can be trained on encrypted data, and small without it.

Features are each sensor's mean over the window, scaled by its Input to -1..1 and cut off there, and a constant 1.
For every class of every head there is a logistic classifier, one against the rest; all their weights are one tensor
(features, classes). Training is full-batch gradient descent with a cubic in the sigmoid's place:

    p(z) = 1/2 + 0.197 z - 0.004 z^3           (least squares on -8..8; Kim et al., JMIR Med Inform 6(2), 2018)
    w   <- w - rate / n · X^T (p(X w) - y)     as many times as the plan has epochs

which is what a ciphertext can do (docs/decisions/0013-training-on-encrypted-data.md): with `training.encrypted` the
same numbers come out, but for rounding. Beyond 8 the cubic runs away; `train` follows the scores and refuses to.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gemel.errors import Malformed
from gemel.learning.derived_task import DerivedTask
from gemel.learning.task import UNKNOWN, Floats, Head, Measured, Trained, Windows
from gemel.wire.messages import TrainingPlan
from gemel.wire.tensors import Manifest, Model, manifest_of

WEIGHT = "weight"
P1, P3 = 0.197, -0.004
LARGEST_SCORE = 8.0
_SMALLEST_PROBABILITY = 1e-7

Rows = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class LinearHead(DerivedTask):
    """Implements Task for the windows of another task."""

    @property
    def name(self) -> str:
        """See Task."""
        return f"{self.of.name}-linear"

    @property
    def features(self) -> int:
        """Columns of `rows`, the constant included."""
        return len(self.inputs) + 1

    @property
    def manifest(self) -> Manifest:
        """See the module."""
        return manifest_of(self.initial_model(0))

    def initial_model(self, seed: int) -> Model:  # noqa: ARG002  nothing is drawn
        """Zeros: every class is as likely as not."""
        return {WEIGHT: np.zeros((self.features, sum(len(head.classes) for head in self.heads)), np.float32)}

    def rows(self, windows: Windows) -> tuple[Rows, Rows]:
        """Features (n, features) in -1..1 and targets (n, classes), 0 or 1, of the windows with every label known.

        Raises Malformed for windows that are not this task's, and where none is left.
        """
        known = (windows.labels != UNKNOWN).all(axis=1)
        if windows.labels.shape[1] != len(self.heads) or not known.any():
            raise Malformed("windows", "none of them has a known label for every head")
        targets = []
        for column, head in enumerate(self.heads):
            labels = windows.labels[known, column]
            if labels.max() >= len(head.classes):
                raise Malformed("windows", f"a label of {head.name} is not the number of a class")
            targets.append(np.eye(len(head.classes))[labels])
        return self._features(windows.inputs[known]), np.concatenate(targets, axis=1)

    def train(self, model: Model, windows: Windows, plan: TrainingPlan, seed: int, round_: int) -> Trained:  # noqa: ARG002  full batches need no order
        """See Task. Raises Malformed, too, where a score leaves -8..8: a smaller rate or fewer epochs, then."""
        weights = self._weights(model).astype(np.float64)
        features, targets = self.rows(windows)
        for _ in range(plan.epochs):
            scores = features @ weights
            if not np.abs(scores).max() <= LARGEST_SCORE:
                raise Malformed("training", f"a score is beyond ± {LARGEST_SCORE:g}: smaller steps, or fewer of them")
            gradient = features.T @ (0.5 + P1 * scores + P3 * scores**3 - targets)
            weights -= plan.learning_rate / len(features) * gradient
        trained: Model = {WEIGHT: weights.astype(np.float32)}
        measured = self.evaluate(trained, windows)
        return Trained(trained, measured.loss, measured.accuracy, len(features))

    def evaluate(self, model: Model, windows: Windows) -> Measured:
        """See Task."""
        probabilities = self.predict(model, windows.inputs)
        losses, per_head = [], {}
        for column, head in enumerate(self.heads):
            known = windows.labels[:, column] != UNKNOWN
            if not known.any():
                continue
            labels, given = windows.labels[known, column], probabilities[head.name][known]
            if labels.max() >= len(head.classes):
                raise Malformed("windows", f"a label of {head.name} is not the number of a class")
            right = given[np.arange(len(labels)), labels]
            losses.append(-np.log(np.maximum(right, _SMALLEST_PROBABILITY)).mean())
            per_head[head.name] = float((given.argmax(axis=1) == labels).mean())
        if not losses:
            raise Malformed("windows", "none of them has a known label")
        return Measured(float(np.mean(losses)), float(np.mean(list(per_head.values()))), per_head)

    def predict(self, model: Model, inputs: Floats) -> dict[str, Floats]:
        """See Task: each class's own logistic answer, scaled so that those of a head add up to 1."""
        scores = self._features(inputs) @ self._weights(model)
        answers = 1 / (1 + np.exp(-np.clip(scores, -50, 50)))
        return {
            head.name: (own / own.sum(axis=1, keepdims=True)).astype(np.float32)
            for head, own in self._by_head(answers)
        }

    def attribute(self, model: Model, inputs: Floats) -> dict[str, Floats]:
        """See Task. A window's mean has its part from each of its readings."""
        weights = self._weights(model)[:-1]
        scaled = self._scaled(inputs)
        scores = self._features(inputs) @ self._weights(model)
        columns = self._by_head(np.arange(weights.shape[1], dtype=np.float64)[None])
        attributed: dict[str, Floats] = {}
        for (head, own), (_, numbers) in zip(self._by_head(scores), columns, strict=True):
            of_predicted = weights[:, numbers[0].astype(np.int64)[own.argmax(axis=1)]].T
            attributed[head.name] = (scaled * of_predicted[:, None, :] / inputs.shape[1]).astype(np.float32)
        return attributed

    # --- computing --------------------------------------------------------------------------------

    def _by_head(self, columns: Rows) -> list[tuple[Head, Rows]]:
        ends = np.cumsum([len(head.classes) for head in self.heads])
        return list(zip(self.heads, np.split(columns, ends[:-1], axis=1), strict=True))

    def _scaled(self, inputs: Floats) -> Rows:
        if inputs.ndim != 3 or len(inputs) == 0 or inputs.shape[2] != len(self.inputs):
            raise Malformed("windows", f"inputs have shape {inputs.shape}, and {len(self.inputs)} columns count")
        if not np.isfinite(inputs).all():
            raise Malformed("windows", "a reading is not finite")
        low, high = (np.array([getattr(column, end) for column in self.inputs]) for end in ("low", "high"))
        scaled: Rows = (inputs - (low + high) / 2) / ((high - low) / 2)
        return scaled

    def _features(self, inputs: Floats) -> Rows:
        means = np.clip(self._scaled(inputs).mean(axis=1), -1, 1)
        return np.concatenate([means, np.ones((len(means), 1))], axis=1)

    def _weights(self, model: Model) -> Floats:
        if manifest_of(model) != self.manifest:
            raise Malformed("model", f"tensors are not those of task {self.name}")
        if not np.isfinite(model[WEIGHT]).all():
            raise Malformed("model", "a weight is not finite")
        return model[WEIGHT]
