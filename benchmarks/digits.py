"""What rounding costs a model, on a small task: FedAvg on sklearn's digits, paired with float32 by seed.

Part of `python -m benchmarks.sealing --accuracy`. Updates are clipped, rounded and fed back as sealing does it
(gemel.sealing.packing.quantise); sealing itself is exact and need not be run.
"""

from __future__ import annotations

import math
import statistics
from typing import Any

import numpy as np
from scipy.stats import t
from sklearn.datasets import load_digits

from gemel.sealing.packing import quantise
from gemel.wire.tensors import Vector

ROUNDS, AGENTS = 30, 10
HIDDEN, EPOCHS, BATCH, RATE = 32, 2, 16, 0.1
CLIP = 0.25
Network = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def train(flat: Vector, inputs: np.ndarray, labels: np.ndarray, rng: np.random.Generator) -> Vector:
    """Some epochs of plain gradient descent on a network 64-32-10; the change of its parameters."""
    w1, b1, w2, b2 = (part.copy() for part in tensors_of(flat))
    for _ in range(EPOCHS):
        order = rng.permutation(len(inputs))
        for start in range(0, len(order), BATCH):
            rows = order[start : start + BATCH]
            hidden = np.maximum(inputs[rows] @ w1 + b1, 0)
            scores = hidden @ w2 + b2
            chances = np.exp(scores - scores.max(axis=1, keepdims=True))
            chances /= chances.sum(axis=1, keepdims=True)
            chances[np.arange(len(rows)), labels[rows]] -= 1
            slope = chances / len(rows)
            back = (slope @ w2.T) * (hidden > 0)
            w2 -= RATE * hidden.T @ slope
            b2 -= RATE * slope.sum(axis=0)
            w1 -= RATE * inputs[rows].T @ back
            b1 -= RATE * back.sum(axis=0)
    trained = np.concatenate([part.reshape(-1) for part in (w1, b1, w2, b2)])
    return (trained - flat).astype(np.float32)


def tensors_of(flat: Vector) -> Network:
    """The network's four tensors, as views."""
    first, second = 64 * HIDDEN, 64 * HIDDEN + HIDDEN
    third = second + HIDDEN * 10
    return (
        flat[:first].reshape(64, HIDDEN),
        flat[first:second],
        flat[second:third].reshape(HIDDEN, 10),
        flat[third:],
    )


def federate(seed: int, bits: int | None) -> float:
    """Test accuracy of FedAvg over ten agents with skewed labels; `bits` None sends float32.

    The same seed splits, starts and shuffles the same way, so that two runs differ in rounding alone.
    """
    digits = load_digits()
    rng = np.random.default_rng(seed)
    order = rng.permutation(len(digits.target))
    inputs, labels = (digits.data[order] / 16).astype(np.float32), digits.target[order]
    test_inputs, test_labels = inputs[:450], labels[:450]
    owner = np.argsort(labels[450:] + rng.normal(0, 3, len(labels) - 450))  # neighbours share digits
    shards = [450 + rows for rows in np.array_split(owner, AGENTS)]
    flat = np.concatenate(
        [rng.standard_normal(64 * HIDDEN) / 8, np.zeros(HIDDEN), rng.standard_normal(HIDDEN * 10) / 6, np.zeros(10)]
    ).astype(np.float32)
    residuals = [np.zeros_like(flat) for _ in shards]
    for round_ in range(ROUNDS):
        total = np.zeros(flat.size)
        for agent, rows in enumerate(shards):
            shuffle = np.random.default_rng([seed, round_, agent])
            update = train(flat, inputs[rows], labels[rows], shuffle)
            if bits is not None:
                rounded = quantise(update, residuals[agent], clip=CLIP, bits=bits, share=1.0)
                residuals[agent] = rounded.residual
                update = (rounded.values * (CLIP / (2 ** (bits - 1) - 1))).astype(np.float32)
            total += update
        flat = (flat + total / AGENTS).astype(np.float32)
    w1, b1, w2, b2 = tensors_of(flat)
    return float(((np.maximum(test_inputs @ w1 + b1, 0) @ w2 + b2).argmax(axis=1) == test_labels).mean())


def accuracy(seeds: int, bits: int) -> dict[str, Any]:
    """Rounded against float32, paired by seed: the mean difference in points and its 95 % interval (Student's t)."""
    plain = [federate(seed, None) for seed in range(seeds)]
    rounded = [federate(seed, bits) for seed in range(seeds)]
    differences = [100 * (ours - theirs) for ours, theirs in zip(rounded, plain, strict=True)]
    mean = statistics.mean(differences)
    half = float(t.ppf(0.975, seeds - 1)) * statistics.stdev(differences) / math.sqrt(seeds)
    return {
        "task": f"sklearn digits, 64-{HIDDEN}-10, {AGENTS} agents, skewed labels, {ROUNDS} rounds, error feedback",
        "bits": bits,
        "seeds": seeds,
        "float32_percent": round(100 * statistics.mean(plain), 3),
        "rounded_percent": round(100 * statistics.mean(rounded), 3),
        "difference_points": round(mean, 3),
        "interval_95": [round(mean - half, 3), round(mean + half, 3)],
        "excludes_a_loss_of_one_point": mean - half > -1,
    }
