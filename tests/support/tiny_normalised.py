"""tiny_task's windows for a task whose model holds its normalisation: one linear layer a head, over torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from gemel.learning.classifier import Classifier, Parameters
from gemel.wire.tensors import Model
from tests.support.tiny_task import FEATURES, HEADS, INPUTS, WINDOW_S

if TYPE_CHECKING:
    from torch import Tensor


def _draw(random: np.random.Generator) -> Model:
    return {head.name: random.normal(0, 0.01, (len(head.classes), FEATURES)).astype(np.float32) for head in HEADS}


def _network(parameters: Parameters, windows: Tensor) -> dict[str, Tensor]:
    return {head.name: windows.flatten(1) @ parameters[head.name].T for head in HEADS}


task = Classifier(
    name="tiny-normalised",
    inputs=INPUTS,
    window_s=WINDOW_S,
    heads=HEADS,
    draw=_draw,
    network=_network,
    label_smoothing=0.0,
    weight_decay=0.0,
    normalised=True,
)
