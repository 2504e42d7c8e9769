"""What learning together is worth on the hydraulic rig: `python -m benchmarks.learning --json`.

Accuracies (mean over the four heads) on the report's cycles, which nobody trained on, for each seed: every gateway
on its own, FedAvg over the gateways after a few and after many rounds (updates clipped and rounded as in the
plant), and everybody's windows in one place, stopped at the best epoch on the validation blocks. In full it takes
a quarter of an hour on one core: the time goes with `--rounds` and with the number of `--seeds`. Progress goes to
stderr, the result to stdout.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Sequence

import numpy as np

from gemel.demo.rig import read_cycles
from gemel.learning.simulator import OnUpdate, agent_seed, federate, train_centrally, train_locally
from gemel.learning.splits import split_cycles
from gemel.learning.task import Task, Windows, load_task
from gemel.learning.tasks.hydraulic import PLAN
from gemel.wire.tensors import Model, Vector

CLIP = 0.25
BITS = 8


def rounding(agents: int) -> OnUpdate:
    """Clip to ± CLIP and round to BITS, each agent keeping its rounding error for its next update."""
    errors: list[Vector | None] = [None] * agents
    levels = 2 ** (BITS - 1) - 1

    def arrives(agent: int, update: Vector) -> Vector:
        error = errors[agent]
        wanted = np.clip(update if error is None else update + error, -CLIP, CLIP)
        sent: Vector = (np.round(wanted / CLIP * levels) * (CLIP / levels)).astype(np.float32)
        errors[agent] = wanted - sent
        return sent

    return arrives


def calibration(task: Task, model: Model, windows: Windows) -> dict[str, float]:
    """Mean confidence and expected calibration error (ten bins, all heads together)."""
    probabilities = task.predict(model, windows.inputs)
    confidence = np.concatenate([probabilities[head.name].max(axis=1) for head in task.heads])
    hits = np.concatenate(
        [probabilities[head.name].argmax(axis=1) == windows.labels[:, i] for i, head in enumerate(task.heads)]
    )
    bins = np.minimum((confidence * 10).astype(int), 9)
    gaps = [abs(confidence[bins == b].mean() - hits[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)]
    return {"mean_confidence": float(confidence.mean()), "expected_calibration_error": float(sum(gaps))}


BEGAN = time.perf_counter()


def say(text: str) -> None:
    """One line of progress."""
    print(f"{time.perf_counter() - BEGAN:7.1f} s  {text}", file=sys.stderr, flush=True)


def one_seed(task: Task, cycles: Windows, seed: int, few: int, many: int) -> dict[str, object]:
    """Everything for one seed of split, M0 and shuffling."""
    split = split_cycles(cycles.labels, seed)
    gateways = [cycles.take(rows) for rows in split.gateways]
    report, validation = cycles.take(split.report), cycles.take(split.validation)
    start = task.initial_model(seed)
    result: dict[str, object] = {"seed": seed, "windows": [len(windows) for windows in gateways]}
    accuracy: dict[str, float] = {}
    for simulated in federate(
        [(task, windows) for windows in gateways],
        start,
        PLAN,
        rounds=many,
        seed=seed,
        on_update=rounding(len(gateways)),
    ):
        say(f"seed {seed}: round {simulated.round_} of {many}")
        if simulated.round_ in {few, many}:
            name = f"federated_{simulated.round_}_rounds"
            accuracy[name] = task.evaluate(simulated.model, report).accuracy
            result[f"{name}_per_head"] = task.evaluate(simulated.model, report).per_head
            result[f"{name}_confidence"] = calibration(task, simulated.model, report)
        if simulated.round_ == 1:
            sizes = np.abs(np.stack(simulated.updates))
            result["first_update_quantiles"] = {str(q): float(np.quantile(sizes, q)) for q in (0.5, 0.99, 0.999, 1.0)}
    for rounds in sorted({few, many}):
        say(f"seed {seed}: every gateway alone, {rounds} rounds")
        alone = [
            task.evaluate(
                train_locally(task, windows, start, PLAN, rounds=rounds, seed=agent_seed(seed, number)), report
            ).accuracy
            for number, windows in enumerate(gateways)
        ]
        accuracy[f"local_{rounds}_rounds_mean"] = statistics.mean(alone)
        accuracy[f"local_{rounds}_rounds_best"] = max(alone)
    say(f"seed {seed}: all windows in one place")
    together = cycles.take(np.concatenate(split.gateways))
    central = train_centrally(task, together, validation, start, PLAN, rounds=many, seed=seed)
    accuracy["central"] = task.evaluate(central.model, report).accuracy
    result["central_epoch"] = central.epoch
    result["accuracy"] = accuracy
    result["federated_to_central"] = accuracy[f"federated_{many}_rounds"] / accuracy["central"]
    result["federated_above_local"] = accuracy[f"federated_{few}_rounds"] - accuracy[f"local_{few}_rounds_mean"]
    return result


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one line, for programs; otherwise indented")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--few", type=int, default=3, help="rounds of the demo; at most --rounds")
    parser.add_argument("--rounds", type=int, default=30, help="rounds of the long run, and the central budget")
    options = parser.parse_args(arguments)
    few = min(options.few, options.rounds)
    task, cycles = load_task("gemel.learning.tasks.hydraulic:task"), read_cycles()
    seeds = [one_seed(task, cycles, seed, few, options.rounds) for seed in options.seeds]
    result = {
        "benchmark": "learning",
        "machine": {"system": platform.platform(), "cores": os.cpu_count(), "python": platform.python_version()},
        "plan": {"epochs": PLAN.epochs, "batch_size": PLAN.batch_size, "learning_rate": PLAN.learning_rate},
        "parameters": task.manifest.size,
        "clip": CLIP,
        "bits": BITS,
        "seeds": seeds,
        "took_s": round(time.perf_counter() - BEGAN, 1),
    }
    print(json.dumps(result, indent=None if options.json else 2))


if __name__ == "__main__":
    main()
