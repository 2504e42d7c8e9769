"""Condition of a hydraulic rig's four components from one load cycle: 60 s of eight 1 Hz sensors.

Data: ZeMA's test rig (Helwig, Pignanelli, Schütze, I2MTC 2015). The pressure sensors, which show valve and
accumulator best, are not among the 1 Hz ones: those two heads are the hard ones.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from gemel.learning.classifier import Classifier, Parameters
from gemel.learning.fleet_statistics import FleetStatistics
from gemel.learning.linear_head import LinearHead
from gemel.learning.task import Head, Input, Labels
from gemel.wire.messages import TrainingPlan
from gemel.wire.tensors import Model

if TYPE_CHECKING:
    from torch import Tensor

WINDOW_S = 60

INPUTS = (
    Input("TS1", "degC", 30, 60),
    Input("TS2", "degC", 30, 60),
    Input("TS3", "degC", 30, 60),
    Input("TS4", "degC", 30, 60),
    Input("VS1", "mm/s", 0.4, 0.8),
    Input("CE", "%", 15, 50),
    Input("CP", "kW", 1, 3),
    Input("SE", "%", 0, 100),
)

HEADS = (
    Head("cooler", ("near_failure", "reduced", "full")),
    Head("valve", ("near_failure", "severe_lag", "small_lag", "optimal")),
    Head("pump", ("no_leakage", "weak_leakage", "severe_leakage")),
    Head("accumulator", ("near_failure", "severely_reduced", "slightly_reduced", "optimal")),
)

_PROFILE = ((3, 20, 100), (73, 80, 90, 100), (0, 1, 2), (90, 100, 115, 130))  # the data's own numbers, class by class


def labels_of(profile: NDArray[np.int16]) -> Labels:
    """The first four columns of the data set's profile (n, 5) as class numbers (n, 4)."""
    columns = [np.searchsorted(values, profile[:, column]) for column, values in enumerate(_PROFILE)]
    return np.stack(columns, axis=1).astype(np.int64)


_LAYERS: dict[str, tuple[int, ...]] = {
    "conv1.weight": (32, 8, 5),
    "conv2.weight": (48, 32, 5),
    "conv3.weight": (48, 48, 3),
    "dense.weight": (48, 336),
    "cooler.weight": (3, 48),
    "valve.weight": (4, 48),
    "pump.weight": (3, 48),
    "accumulator.weight": (4, 48),
}


def _draw(random: np.random.Generator) -> Model:
    """He initialisation (uniform, by fan-in), biases zero."""
    model: Model = {}
    for name, shape in _LAYERS.items():
        bound = np.sqrt(6 / np.prod(shape[1:]))
        model[name] = random.uniform(-bound, bound, shape).astype(np.float32)
        model[name.replace("weight", "bias")] = np.zeros(shape[0], np.float32)
    return model


def _network(parameters: Parameters, windows: Tensor) -> dict[str, Tensor]:
    """Three convolutions over time, each halving it, one dense layer, four linear heads."""
    from torch.nn.functional import conv1d, linear, max_pool1d, relu  # noqa: PLC0415  # see classifier._torch

    hidden = windows
    for layer, padding in (("conv1", 2), ("conv2", 2), ("conv3", 1)):
        hidden = conv1d(hidden, parameters[f"{layer}.weight"], parameters[f"{layer}.bias"], padding=padding)
        hidden = max_pool1d(relu(hidden), 2)
    hidden = relu(linear(hidden.flatten(1), parameters["dense.weight"], parameters["dense.bias"]))
    return {
        head.name: linear(hidden, parameters[f"{head.name}.weight"], parameters[f"{head.name}.bias"])
        for head in HEADS
    }


task = Classifier(
    name="hydraulic",
    inputs=INPUTS,
    window_s=WINDOW_S,
    heads=HEADS,
    draw=_draw,
    network=_network,
    label_smoothing=0.1,
    weight_decay=0.01,
)

# The same, its readings scaled by what the fleet's sensors read on the whole (docs/statistics.md). `statistics` is
# the task whose rounds pool that, under encryption.
normalised = replace(task, name="hydraulic-normalised", normalised=True)
statistics = FleetStatistics(task)

# The model that can be trained on encrypted data (docs/decisions/0013-training-on-encrypted-data.md).
linear = LinearHead(task)

# What an agent does in one round: 0.75 s of one core for 400 windows. More epochs let the agents drift apart
# no less than they learn; see benchmarks/learning.py for what it reaches.
PLAN = TrainingPlan(epochs=10, batch_size=32, learning_rate=0.002)
