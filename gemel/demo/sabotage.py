"""The demo's poisoned agent: the hydraulic task, except that in one round it sends the opposite, enormously.

The demo starts one agent with `gemel.demo.sabotage:task` instead of the real task and names the round in
GEMEL_SABOTAGE_ROUND. Everything else about that agent is honest: it commits, seals and signs as the others do, and
its update stays within the clip, so only measuring can find it. The product's code holds no such switch.
"""

from __future__ import annotations

import os
from dataclasses import dataclass, replace

import numpy as np

from gemel.errors import ConfigError
from gemel.learning.classifier import Classifier
from gemel.learning.task import Trained, Windows
from gemel.learning.tasks import hydraulic
from gemel.wire.messages import TrainingPlan
from gemel.wire.tensors import Model

ROUND_VARIABLE = "GEMEL_SABOTAGE_ROUND"
FACTOR = -1000.0  # of the honest update: after clipping, nearly every parameter moves the wrong way by the whole clip


@dataclass(frozen=True)
class SabotagedClassifier(Classifier):
    """A classifier that poisons its update in the round that the environment names, and in no other."""

    def train(self, model: Model, windows: Windows, plan: TrainingPlan, seed: int, round_: int) -> Trained:
        """As Task.train, but in the named round the update is reversed and enlarged. ConfigError if none is named."""
        trained = super().train(model, windows, plan, seed, round_)
        if round_ != _sabotage_round():
            return trained
        poisoned = {
            name: (model[name] + np.float32(FACTOR) * (trained.model[name] - model[name])).astype(np.float32)
            for name in sorted(model)
        }
        return replace(trained, model=poisoned)


def _sabotage_round() -> int:
    text = os.environ.get(ROUND_VARIABLE, "")
    if not text.isdecimal():
        raise ConfigError("environment", ROUND_VARIABLE, f"the number of a round expected, got {text!r}")
    return int(text)


task = SabotagedClassifier(**vars(hydraulic.task))
