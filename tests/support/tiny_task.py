"""A learning task for tests, numpy only: softmax regression with 95 parameters, so that a round takes seconds."""

from __future__ import annotations

import numpy as np

from gemel.errors import Malformed
from gemel.learning.fleet_statistics import FleetStatistics
from gemel.learning.linear_head import LinearHead
from gemel.learning.task import Floats, Head, Input, Labels, Measured, Trained, Windows
from gemel.wire.messages import TrainingPlan
from gemel.wire.tensors import Manifest, Model, manifest_of

WINDOW_S = 6
INPUTS = (Input("pressure", "bar", 0, 10), Input("flow", "l/min", 0, 10), Input("heat", "degC", 0, 100))
HEADS = (Head("pump", ("good", "worn", "broken")), Head("valve", ("shut", "open")))
FEATURES = WINDOW_S * len(INPUTS)


class TinyTask:
    """Implements gemel.learning.task.Task; see there."""

    name, inputs, window_s, heads = "tiny", INPUTS, WINDOW_S, HEADS

    @property
    def manifest(self) -> Manifest:
        return manifest_of(self.initial_model(0))

    def initial_model(self, seed: int) -> Model:
        random = np.random.default_rng(seed)
        model: Model = {}
        for head in HEADS:
            model[f"{head.name}.weight"] = random.normal(0, 0.01, (len(head.classes), FEATURES)).astype(np.float32)
            model[f"{head.name}.bias"] = np.zeros(len(head.classes), np.float32)
        return model

    def train(self, model: Model, windows: Windows, plan: TrainingPlan, seed: int, round_: int) -> Trained:
        self._check(model)
        trained = {name: values.copy() for name, values in model.items()}
        features, random = _features(windows.inputs), np.random.default_rng((seed, round_))
        for _ in range(plan.epochs):
            order = random.permutation(len(windows))
            for start in range(0, len(order), plan.batch_size):
                rows = order[start : start + plan.batch_size]
                for column, head in enumerate(HEADS):
                    error = _probabilities(trained, head, features[rows])
                    error[np.arange(len(rows)), windows.labels[rows, column]] -= 1
                    step = np.float32(plan.learning_rate / len(rows))
                    trained[f"{head.name}.weight"] -= step * error.T @ features[rows]
                    trained[f"{head.name}.bias"] -= step * error.sum(0)
        measured = self.evaluate(trained, windows)
        return Trained(trained, measured.loss, measured.accuracy, len(windows))

    def evaluate(self, model: Model, windows: Windows) -> Measured:
        self._check(model)
        losses, per_head = [], {}
        for column, head in enumerate(HEADS):
            probabilities, found = _probabilities(model, head, _features(windows.inputs)), windows.labels[:, column]
            losses.append(-np.log(probabilities[np.arange(len(found)), found] + 1e-9).mean())
            per_head[head.name] = float((probabilities.argmax(1) == found).mean())
        return Measured(float(np.mean(losses)), float(np.mean(list(per_head.values()))), per_head)

    def predict(self, model: Model, inputs: Floats) -> dict[str, Floats]:
        self._check(model)
        return {head.name: _probabilities(model, head, _features(inputs)) for head in HEADS}

    def attribute(self, model: Model, inputs: Floats) -> dict[str, Floats]:
        features, attributed = _features(inputs), {}
        for head in HEADS:
            predicted = _probabilities(model, head, features).argmax(1)
            attributed[head.name] = (features * model[f"{head.name}.weight"][predicted]).reshape(inputs.shape)
        return attributed

    def _check(self, model: Model) -> None:
        if manifest_of(model) != self.manifest:
            raise Malformed("model", "tensors are not those of this task")


def sample_windows(seed: int, count: int = 60) -> Windows:
    """Windows whose classes show in their levels, the same for the same seed."""
    random = np.random.default_rng(seed)
    labels: Labels = np.stack([random.integers(0, len(head.classes), count) for head in HEADS], 1).astype(np.int64)
    levels = np.stack([2.0 + 3 * labels[:, 0], 3.0 + 4 * labels[:, 1], random.uniform(40, 60, count)], 1)
    noise = random.normal(0, 0.5, (count, WINDOW_S, len(INPUTS)))
    return Windows((levels[:, None, :] + noise).astype(np.float32), labels)


def _features(inputs: Floats) -> Floats:
    low, high = (np.array([getattr(column, end) for column in INPUTS], np.float32) for end in ("low", "high"))
    scaled = (inputs - (low + high) / 2) / ((high - low) / 2)
    return scaled.reshape(len(inputs), FEATURES).astype(np.float32)


def _probabilities(model: Model, head: Head, features: Floats) -> Floats:
    logits = features @ model[f"{head.name}.weight"].T + model[f"{head.name}.bias"]
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return (powers / powers.sum(1, keepdims=True)).astype(np.float32)


task = TinyTask()
statistics = FleetStatistics(task)
linear = LinearHead(task)
