"""What a model looks at: LIME and gradient × input, on groups of readings that a person can name.

A group is one input in one sixth of the window ("SE 10-20 s"): single readings are too many to explain stably
and say nothing to a reader. LIME: Ribeiro, Singh, Guestrin, "Why Should I Trust You?", KDD 2016. Gateways use
`top_inputs` only, which needs no lime.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from dataclasses import dataclass

import msgspec
import numpy as np
from numpy.typing import NDArray

from gemel.errors import Malformed
from gemel.learning.task import Floats, Task, Windows
from gemel.wire.messages import encode
from gemel.wire.tensors import Model
from gemel.wire.types import Digest, sha256

SEGMENTS = 6  # of a window
LIME_SAMPLES = 1000  # disturbed copies of a window
EXPLAINED_WINDOWS = 8  # of a reference set, spread evenly over it

Weights = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Attribution:
    """Why one window got one class: `weights` (groups,), positive where the group speaks for the class."""

    class_name: str
    probability: float
    weights: Weights


@dataclass(frozen=True, slots=True)
class Weighed:
    """One input and its share (0..1) of all attribution in a prediction."""

    input: str
    share: float


class HeadWeights(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A head's mean absolute weights by group, each method's summing to 1 (or all 0 if nothing weighs)."""

    lime: tuple[float, ...]
    gradient: tuple[float, ...]


class Explanation(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a model looks at, over several windows. Its digest goes on chain with the candidate."""

    task: str
    groups: tuple[str, ...]
    heads: dict[str, HeadWeights]

    def to_bytes(self) -> bytes:
        """Canonical JSON: equal explanations have equal bytes."""
        return encode(self)

    @property
    def digest(self) -> Digest:
        """SHA-256 of `to_bytes`."""
        return sha256(self.to_bytes())


def group_names(task: Task) -> tuple[str, ...]:
    """Names of the groups, input by input, each from the window's beginning to its end."""
    edges = _edges(task)
    return tuple(
        f"{column.name} {start}-{stop} s" for column in task.inputs for start, stop in itertools.pairwise(edges)
    )


def gradient_attributions(task: Task, model: Model, window: Floats) -> dict[str, Attribution]:
    """Head → gradient × input of one window (window length, inputs), summed in groups; in logits."""
    attributed = task.attribute(model, window[None])
    return {
        head: Attribution(name, probability, _grouped(task, attributed[head]).ravel())
        for head, (_, name, probability) in _predicted(task, model, window).items()
    }


def lime_attributions(
    task: Task, model: Model, window: Floats, background: Floats, seed: int
) -> dict[str, Attribution]:
    """Head → LIME's linear weights for one window: change of the class's probability per standard deviation.

    A disturbed copy shifts the level of each group by a normal draw, as wide as that group's level varies over
    `background` (n, window length, inputs); what happens inside a group stays. One sample serves all heads.
    """
    # lime costs 2 s to import and gateways do not have it
    from lime.lime_tabular import LimeTabularExplainer  # noqa: PLC0415

    predicted = _predicted(task, model, window)
    starts = np.cumsum([0] + [len(head.classes) for head in task.heads])
    columns = {
        head.name: int(start) + predicted[head.name][0] for head, start in zip(task.heads, starts, strict=False)
    }
    levels = _levels(task, window[None])[0]

    def probabilities(samples: NDArray[np.float64]) -> NDArray[np.float64]:
        shifts = _spread(task, samples - levels)
        by_head = task.predict(model, (window[None] + shifts).astype(np.float32))
        # side by side; divided by their number, each row is a distribution, as lime expects
        return np.concatenate([by_head[head.name] for head in task.heads], axis=1) / len(task.heads)

    explainer = LimeTabularExplainer(
        _levels(task, background),
        mode="classification",
        discretize_continuous=False,
        sample_around_instance=True,
        feature_selection="none",
        random_state=seed,
    )
    explained = explainer.explain_instance(
        levels, probabilities, labels=tuple(columns.values()), num_features=levels.size, num_samples=LIME_SAMPLES
    )
    result: dict[str, Attribution] = {}
    for head, (_, name, probability) in predicted.items():
        weights = np.zeros(levels.size)
        for group, weight in explained.local_exp[columns[head]]:
            weights[group] = weight * len(task.heads)
        result[head] = Attribution(name, probability, weights)
    return result


def top_inputs(task: Task, model: Model, window: Floats, k: int = 3) -> dict[str, tuple[Weighed, ...]]:
    """Head → the k inputs that weighed most in one window's prediction, by gradient × input; cheap."""
    attributed = task.attribute(model, window[None])
    result: dict[str, tuple[Weighed, ...]] = {}
    for head in task.heads:
        weights = _shares(np.abs(_grouped(task, attributed[head.name])).sum(axis=(0, 2)))
        order = np.argsort(-weights, kind="stable")[:k]
        result[head.name] = tuple(Weighed(task.inputs[i].name, round(float(weights[i]), 4)) for i in order)
    return result


def explain_model(task: Task, model: Model, windows: Windows, seed: int) -> Explanation:
    """Both methods over some of the windows: per head, each group's share of the absolute weight.

    Rounded to six places, so that a difference in the last bit of a sum does not show.
    """
    rows = np.unique(np.linspace(0, len(windows) - 1, EXPLAINED_WINDOWS).round().astype(int))
    lime = [
        lime_attributions(task, model, windows.inputs[row], windows.inputs, seed + number)
        for number, row in enumerate(rows)
    ]
    gradient = [gradient_attributions(task, model, windows.inputs[row]) for row in rows]
    return Explanation(
        task.name,
        group_names(task),
        {
            head.name: HeadWeights(_mean_share(lime, head.name), _mean_share(gradient, head.name))
            for head in task.heads
        },
    )


def drift(before: Explanation, after: Explanation) -> float:
    """How far two models look at different things: 0 the same, 1 nothing in common.

    One minus the cosine of their weights, mean over heads and both methods. Weights are shares, never negative,
    so it lies in 0..1. Raises Malformed where the two do not speak of the same groups and heads.
    """
    if before.groups != after.groups or before.heads.keys() != after.heads.keys():
        raise Malformed("explanation", "the two are not of the same groups and heads")
    pairs = [
        (getattr(before.heads[head], method), getattr(after.heads[head], method))
        for head in sorted(before.heads)
        for method in ("lime", "gradient")
    ]
    return float(np.mean([1 - _cosine(np.array(a), np.array(b)) for a, b in pairs]))


# --- groups -------------------------------------------------------------------------------------


def _edges(task: Task) -> NDArray[np.int64]:
    """Where the segments begin, and the window's end."""
    return np.linspace(0, task.window_s, SEGMENTS + 1).round().astype(np.int64)


def _grouped(task: Task, values: Floats) -> NDArray[np.float64]:
    """(n, time, inputs) summed in groups: (n, inputs, segments)."""
    summed = np.add.reduceat(values.astype(np.float64), _edges(task)[:-1], axis=1)
    return summed.transpose(0, 2, 1)


def _levels(task: Task, inputs: Floats) -> NDArray[np.float64]:
    """(n, time, inputs) as mean level of each group: (n, groups)."""
    return (_grouped(task, inputs) / np.diff(_edges(task))).reshape(len(inputs), -1)


def _spread(task: Task, levels: NDArray[np.float64]) -> NDArray[np.float64]:
    """The inverse direction: (n, groups) repeated over each group's readings, (n, time, inputs)."""
    grouped = levels.reshape(len(levels), len(task.inputs), SEGMENTS)
    return np.repeat(grouped, np.diff(_edges(task)), axis=2).transpose(0, 2, 1)


def _predicted(task: Task, model: Model, window: Floats) -> Mapping[str, tuple[int, str, float]]:
    """Head → number, name and probability of the predicted class of one window."""
    probabilities = task.predict(model, window[None])
    result = {}
    for head in task.heads:
        number = int(probabilities[head.name][0].argmax())
        result[head.name] = (number, head.classes[number], float(probabilities[head.name][0, number]))
    return result


def _shares(weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Non-negative weights scaled to sum to 1; zeros stay zeros."""
    total = weights.sum()
    return weights / total if total > 0 else weights


def _mean_share(attributions: list[dict[str, Attribution]], head: str) -> tuple[float, ...]:
    weights = np.mean([np.abs(attribution[head].weights) for attribution in attributions], axis=0)
    return tuple(round(float(weight), 6) for weight in _shares(weights))


def _cosine(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    """Cosine of two non-negative vectors; two that weigh nothing look at the same, one of them does not."""
    norms = float(np.linalg.norm(a) * np.linalg.norm(b))
    if norms == 0:
        return 1.0 if not a.any() and not b.any() else 0.0
    return min(1.0, float(a @ b) / norms)
