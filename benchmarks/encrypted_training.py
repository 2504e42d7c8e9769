"""What training on encrypted data costs, and what it learns: `python -m benchmarks.encrypted_training --json`.

The hydraulic rig's linear head on one gateway's cycles, on ciphertexts, beside numpy with the same cubic and with the
true sigmoid. One process, no bus; half a minute on one core.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Callable
from time import perf_counter
from typing import Any, TypeVar

import numpy as np

from gemel.demo.rig import read_cycles
from gemel.learning.linear_head import WEIGHT
from gemel.learning.splits import split_cycles
from gemel.learning.tasks.hydraulic import linear
from gemel.sealing.encrypted_training.plan import features_of, head_plan
from gemel.sealing.encrypted_training.refresher import Refresher
from gemel.sealing.encrypted_training.trainer import Floats, Trainer, seal_rows
from gemel.wire.messages import TrainingPlan

TRAINING = TrainingPlan(epochs=6, batch_size=1, learning_rate=1.5, encrypted=True)
FACTOR = 4000.0  # integers a unit of a weight: as 16 bits and a clip of 8 give, at half the weight cap

T = TypeVar("T")


def row(seed: int) -> dict[str, Any]:
    """One gateway's training, timed and measured on the report's cycles."""
    cycles = read_cycles()
    split = split_cycles(cycles.labels, seed)
    features, labels = linear.rows(cycles.take(split.gateways[0]))
    plan = head_plan(TRAINING, linear.manifest.size, features_of(linear.manifest), len(features))
    zeros = np.zeros((plan.features, plan.outputs))
    seconds: dict[str, list[float]] = {}

    def timed(name: str, work: Callable[[], T]) -> T:
        began = perf_counter()
        result = work()
        seconds.setdefault(name, []).append(perf_counter() - began)
        return result

    refresher = timed("key", Refresher.create)
    trainer = timed("begin", lambda: Trainer(refresher.public_context(), plan, zeros))
    rows = timed("seal_rows", lambda: seal_rows(trainer.context, plan, features, labels))
    for _ in range(plan.steps):
        request = timed("step", lambda: trainer.request(rows))
        answer = timed("refresh", lambda data=request: refresher.refresh(plan, data))
        timed("accept", lambda data=answer: trainer.accept(data))
    message, masks = timed("release", lambda: trainer.release(FACTOR))
    integers = timed("round", lambda: refresher.round_off(plan, message))
    found = np.array([value - mask for value, mask in zip(integers, masks, strict=True)]) / FACTOR
    cubic = linear.train(linear.initial_model(0), cycles.take(split.gateways[0]), TRAINING, 0, 1).model[WEIGHT]
    sigmoid = _with_sigmoid(features, labels)
    report = cycles.take(split.report)
    learnt = {"encrypted": found.reshape(zeros.shape), "cubic": cubic, "sigmoid": sigmoid}
    return {
        "features": plan.features,
        "outputs": plan.outputs,
        "rows": plan.rows,
        "steps": plan.steps,
        "multiplications": plan.multiplications,
        "seconds": {name: round(statistics.median(each), 3) for name, each in seconds.items()},
        "context_bytes": len(refresher.public_context()),
        "request_bytes": len(request),
        "answer_bytes": len(answer),
        "release_bytes": len(message),
        "largest_error": round(float(np.abs(learnt["encrypted"] - cubic).max()), 6),
        "accuracy": {
            name: round(linear.evaluate({WEIGHT: weights.astype(np.float32)}, report).accuracy, 4)
            for name, weights in learnt.items()
        },
    }


def _with_sigmoid(features: Floats, labels: Floats) -> Floats:
    weights = np.zeros((features.shape[1], labels.shape[1]))
    for _ in range(TRAINING.epochs):
        gradient = features.T @ (1 / (1 + np.exp(-features @ weights)) - labels)
        weights -= TRAINING.learning_rate / len(features) * gradient
    return weights


def main() -> None:
    """Run from the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="as JSON, in one line")
    parser.add_argument("--seed", type=int, default=1)
    result = row(parser.parse_args().seed)
    print(json.dumps(result) if parser.parse_args().json else json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
