"""Rounding on a small task: ten agents learn sklearn's digits, the labels dealt unevenly."""

from __future__ import annotations

import numpy as np
from sklearn.datasets import load_digits

from benchmarks.rounding import ROUNDS, SealedAverage
from gemel.learning.simulator import fed_avg
from gemel.wire.messages import SealingPolicy
from gemel.wire.tensors import Vector

AGENTS = 10
HIDDEN, EPOCHS, BATCH, RATE = 32, 2, 16, 0.1
ABOUT = f"sklearn digits, 64-{HIDDEN}-10, {AGENTS} agents, skewed labels, on 450 digits that nobody trained on"
POLICY = SealingPolicy("bfv-packed", bits=4, clip=0.25, contributors=AGENTS, weight_cap=150)  # n_k is 134 or 135
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


def federated(seed: int, policy: SealingPolicy | None, rounds: int = ROUNDS) -> float:
    """See rounding.Trial."""
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
    combine = fed_avg if policy is None else SealedAverage(policy, AGENTS)
    for round_ in range(rounds):
        updates = [
            train(flat, inputs[rows], labels[rows], np.random.default_rng([seed, round_, agent]))
            for agent, rows in enumerate(shards)
        ]
        flat = combine(flat, updates, [len(rows) for rows in shards])
    w1, b1, w2, b2 = tensors_of(flat)
    return float(((np.maximum(test_inputs @ w1 + b1, 0) @ w2 + b2).argmax(axis=1) == test_labels).mean())
