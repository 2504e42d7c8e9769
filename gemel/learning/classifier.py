"""A Task for every multi-head classifier of windows: give it a network, get training, measuring and attributions.

The network is a pure function of (parameters, windows), not a torch module: parameters come and go as numpy arrays,
the initial ones are drawn by numpy (so that M0 has the same bytes whatever torch is installed), and nothing is
kept between calls.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, TypeAlias

import numpy as np

from gemel.errors import ConfigError, Malformed
from gemel.learning.task import UNKNOWN, Floats, Head, Input, Measured, Trained, Windows
from gemel.wire.messages import TrainingPlan
from gemel.wire.tensors import Manifest, Model, manifest_of

if TYPE_CHECKING:
    from torch import Tensor

Parameters: TypeAlias = "Mapping[str, Tensor]"
Network: TypeAlias = "Callable[[Parameters, Tensor], dict[str, Tensor]]"

BATCH = 512  # windows predicted at once: bounds memory, changes no result
SCALED_LIMIT = 4.0  # a reading counts at most as four half-ranges: a broken sensor cannot drown the others
GRADIENT_NORM = 5.0  # a batch's gradient is scaled down to this L2 norm
CENTRE, SPREAD = "input.centre", "input.spread"  # of a normalised task's model: (inputs,) each, in the inputs' units


@dataclass(frozen=True)
class Classifier:
    """A task made of a description, a way to draw M0 and a network.

    `network(parameters, windows)` takes scaled windows (n, inputs, time) and returns head → logits (n, classes).
    Training: AdamW on the cross-entropy over the known labels, with `label_smoothing`, which keeps confidence near
    accuracy; measuring: without it.

    Readings are scaled by the inputs' nominal ranges. If `normalised`, the model itself says by what: M0 by those
    ranges, too, until `normalise` gives it the fleet's pooled statistics. Training leaves these two tensors alone.
    """

    name: str
    inputs: tuple[Input, ...]
    window_s: int
    heads: tuple[Head, ...]
    draw: Callable[[np.random.Generator], Model]
    network: Network
    label_smoothing: float
    weight_decay: float
    normalised: bool = False

    @property
    def manifest(self) -> Manifest:
        """Names and shapes of the model's tensors."""
        return manifest_of(self.initial_model(0))

    def initial_model(self, seed: int) -> Model:
        """M0."""
        model = self.draw(np.random.default_rng(seed))
        if self.normalised:
            low, high = self._nominal
            model[CENTRE], model[SPREAD] = (low + high) / np.float32(2), (high - low) / np.float32(2)
        return model

    def normalise(self, model: Model, centre: Floats, spread: Floats) -> Model:
        """The same model with readings taken from `centre` in units of `spread`, both (inputs,), in their units.

        Raises ConfigError unless the task is a normalised one, Malformed for a spread that is not above 0.
        """
        if not self.normalised:
            raise ConfigError("task", self.name, "a task whose model holds its normalisation")
        changed = model | {CENTRE: centre.astype(np.float32), SPREAD: spread.astype(np.float32)}
        self._range(changed)
        return changed

    def train(self, model: Model, windows: Windows, plan: TrainingPlan, seed: int, round_: int) -> Trained:
        """See Task.train."""
        torch = _torch()
        parameters = {name: value.requires_grad_() for name, value in self._parameters(model).items()}
        inputs, labels = self._scaled(model, windows.inputs), self._labels(windows)
        optimiser = _AdamW(list(parameters.values()), plan.learning_rate, self.weight_decay)
        order = np.random.default_rng((seed, round_))
        total = hits = known = 0.0
        for _ in range(plan.epochs):
            total = hits = known = 0.0
            for rows in np.array_split(order.permutation(len(windows)), -(-len(windows) // plan.batch_size)):
                truth = labels[rows]
                logits = self.network(parameters, inputs[rows])
                loss, count = self._loss(logits, truth, self.label_smoothing)
                if count == 0:
                    continue
                optimiser.step(torch.autograd.grad(loss / count, optimiser.parameters))
                total += loss.item()
                hits += self._hits(logits, truth)
                known += count
        trained = {name: value.detach().numpy().copy() for name, value in parameters.items()}
        trained |= {name: model[name].copy() for name in (CENTRE, SPREAD) if self.normalised}
        return Trained(trained, total / known, hits / known, len(windows))

    def evaluate(self, model: Model, windows: Windows) -> Measured:
        """See Task.evaluate."""
        self._labels(windows)
        probabilities = self.predict(model, windows.inputs)
        per_head: dict[str, float] = {}
        surprise: list[Floats] = []
        for column, head in enumerate(self.heads):
            labels = windows.labels[:, column]
            known = np.flatnonzero(labels != UNKNOWN)
            if known.size:
                given = probabilities[head.name][known]
                truth = labels[known]
                per_head[head.name] = float(np.mean(given.argmax(axis=1) == truth))
                surprise.append(-np.log(np.maximum(given[np.arange(known.size), truth], 1e-12)))
        return Measured(float(np.mean(np.concatenate(surprise))), float(np.mean(list(per_head.values()))), per_head)

    def predict(self, model: Model, inputs: Floats) -> dict[str, Floats]:
        """See Task.predict."""
        torch = _torch()
        parameters, scaled = self._parameters(model), self._scaled(model, inputs)
        parts: dict[str, list[Floats]] = {head.name: [] for head in self.heads}
        with torch.no_grad():
            for start in range(0, len(inputs), BATCH):
                for head, logits in self.network(parameters, scaled[start : start + BATCH]).items():
                    parts[head].append(torch.softmax(logits, dim=1).numpy())
        result = {
            head.name: np.concatenate([np.empty((0, len(head.classes)), np.float32), *parts[head.name]])
            for head in self.heads
        }
        if not all(np.isfinite(values).all() for values in result.values()):
            raise Malformed("model", "its predictions are not finite")
        return result

    def attribute(self, model: Model, inputs: Floats) -> dict[str, Floats]:
        """See Task.attribute."""
        torch = _torch()
        parameters = self._parameters(model)
        scaled = self._scaled(model, inputs).requires_grad_()
        result: dict[str, Floats] = {}
        for head, logits in self.network(parameters, scaled).items():
            (gradient,) = torch.autograd.grad(logits.max(dim=1).values.sum(), scaled, retain_graph=True)
            result[head] = (gradient * scaled).detach().numpy().transpose(0, 2, 1).copy()
        return result

    # --- the border between numpy and torch -----------------------------------------------------

    def _parameters(self, model: Model) -> dict[str, Tensor]:
        if manifest_of(model) != self.manifest:
            raise Malformed("model", f"tensors are not those of task {self.name}")
        names = [name for name in sorted(model) if not (self.normalised and name in (CENTRE, SPREAD))]
        return {name: _torch().from_numpy(np.array(model[name], np.float32)) for name in names}

    @property
    def _nominal(self) -> tuple[Floats, Floats]:
        low = np.array([column.low for column in self.inputs], np.float32)
        high = np.array([column.high for column in self.inputs], np.float32)
        return low, high

    def _range(self, model: Model) -> tuple[Floats, Floats]:
        """What becomes -1 and +1: (inputs,) each."""
        if not self.normalised:
            return self._nominal
        centre, spread = model[CENTRE], model[SPREAD]
        if not (spread > 0).all() or not np.isfinite(spread).all():
            raise Malformed("model", "a spread of its normalisation is not above 0")
        return centre - spread, centre + spread

    def _scaled(self, model: Model, inputs: Floats) -> Tensor:
        expected = (self.window_s, len(self.inputs))
        if inputs.ndim != 3 or inputs.shape[1:] != expected:
            raise Malformed(
                "windows", f"inputs have shape {inputs.shape}, (n, {expected[0]}, {expected[1]}) expected"
            )
        if not np.isfinite(inputs).all():
            raise Malformed("windows", "a reading is not finite")
        low, high = self._range(model)
        scaled = np.clip((2 * inputs - (high + low)) / (high - low), -SCALED_LIMIT, SCALED_LIMIT)
        tensor: Tensor = _torch().from_numpy(np.ascontiguousarray(scaled.transpose(0, 2, 1), np.float32))
        return tensor

    def _labels(self, windows: Windows) -> Tensor:
        classes = np.array([len(head.classes) for head in self.heads])
        if windows.labels.shape[1] != len(self.heads):
            raise Malformed("windows", f"labels have {windows.labels.shape[1]} columns, {len(self.heads)} expected")
        if (windows.labels < UNKNOWN).any() or (windows.labels >= classes).any():
            raise Malformed("windows", "a label is not the number of a class")
        if not (windows.labels != UNKNOWN).any():
            raise Malformed("windows", "there is no known label")
        labels: Tensor = _torch().from_numpy(windows.labels.copy())
        return labels

    def _loss(self, logits: Mapping[str, Tensor], labels: Tensor, smoothing: float) -> tuple[Tensor, int]:
        """Sum of the cross-entropies over the known labels, and how many there are."""
        functional = _torch().nn.functional
        parts = [
            functional.cross_entropy(
                logits[head.name], labels[:, column], ignore_index=UNKNOWN, reduction="sum", label_smoothing=smoothing
            )
            for column, head in enumerate(self.heads)
        ]
        return sum(parts[1:], parts[0]), int((labels != UNKNOWN).sum())

    def _hits(self, logits: Mapping[str, Tensor], labels: Tensor) -> int:
        return sum(
            int((logits[head.name].argmax(dim=1) == labels[:, column]).sum())  # UNKNOWN is no class: never a hit
            for column, head in enumerate(self.heads)
        )


class _AdamW:
    """Adam with decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), with the usual constants.

    torch.optim's own imports the compiler with it, two seconds that every gateway would pay at its first round.
    """

    def __init__(self, parameters: list[Tensor], learning_rate: float, weight_decay: float) -> None:
        self.parameters, self.learning_rate, self.weight_decay = parameters, learning_rate, weight_decay
        self.means = [parameter.new_zeros(parameter.shape) for parameter in parameters]
        self.squares = [parameter.new_zeros(parameter.shape) for parameter in parameters]
        self.steps = 0

    def step(self, gradients: tuple[Tensor, ...]) -> None:
        """One step down `gradients`, which are first scaled down together to at most GRADIENT_NORM."""
        self.steps += 1
        scale = min(1.0, GRADIENT_NORM / (sum(float(g.square().sum()) for g in gradients) ** 0.5 + 1e-6))
        rate = self.learning_rate / (1 - 0.9**self.steps)
        with _torch().no_grad():
            for parameter, mean, square, gradient in zip(
                self.parameters, self.means, self.squares, gradients, strict=True
            ):
                scaled = gradient * scale
                mean.mul_(0.9).add_(scaled, alpha=0.1)
                square.mul_(0.999).addcmul_(scaled, scaled, value=0.001)
                parameter.mul_(1 - self.learning_rate * self.weight_decay)
                parameter.addcdiv_(mean, (square / (1 - 0.999**self.steps)).sqrt_().add_(1e-8), value=-rate)


def _torch() -> ModuleType:
    """torch, when it is needed and not before; on one thread, which is what makes sums repeatable."""
    import torch  # noqa: PLC0415  # a gateway that only twins does not pay for it

    torch.set_num_threads(1)
    return torch
