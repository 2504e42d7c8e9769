"""M0 takes its scale from approved statistics; a validator computes the same, and refuses any other."""

import numpy as np
import pytest

from gemel.errors import ConfigError, Malformed, Refused
from gemel.learning.measuring import check_normalisation, initial_model
from gemel.learning.task import Windows
from gemel.learning.tasks.hydraulic import INPUTS, normalised, statistics
from gemel.wire import tensors
from gemel.wire.messages import TrainingPlan

PLAIN = "gemel.learning.tasks.hydraulic:task"
NORMALISED = "gemel.learning.tasks.hydraulic:normalised"


def pooled(seed: int) -> bytes:
    middle = np.array([(column.low + column.high) / 2 for column in INPUTS])
    half = np.array([(column.high - column.low) / 2 for column in INPUTS])
    readings = middle + half * np.random.default_rng(seed).normal(0.2, 0.3, (20, 60, 8))
    windows = Windows(readings.astype(np.float32), np.zeros((20, 4), np.int64))
    trained = statistics.train(statistics.initial_model(0), windows, TrainingPlan(1, 1, 1.0), 0, 1)
    return tensors.to_bytes(trained.model)


def test_m0_is_scaled_by_the_statistics_and_otherwise_the_same():
    m0, plain = (tensors.from_bytes(initial_model(NORMALISED, 3, given)) for given in (pooled(1), None))
    assert {name for name in m0 if not np.array_equal(m0[name], plain[name])} == {"input.centre", "input.spread"}
    for column, centre, spread in zip(INPUTS, m0["input.centre"], m0["input.spread"], strict=True):
        half = (column.high - column.low) / 2
        assert centre == pytest.approx((column.low + column.high) / 2 + 0.2 * half, abs=0.05 * half)
        assert spread == pytest.approx(0.3 * half, rel=0.1)


@pytest.mark.parametrize("seed", [1, 2])
def test_validator_accepts_m0_of_any_seed_with_its_own_statistics(seed):
    check_normalisation(NORMALISED, initial_model(NORMALISED, seed, pooled(1)), pooled(1))
    check_normalisation(NORMALISED, initial_model(NORMALISED, seed), None)
    check_normalisation(PLAIN, initial_model(PLAIN, seed), None)


@pytest.mark.parametrize(("proposed", "own"), [(pooled(2), pooled(1)), (None, pooled(1)), (pooled(1), None)])
def test_validator_refuses_m0_with_others_or_with_any_that_it_has_not_been_given(proposed, own):
    with pytest.raises(Refused, match="broken_model"):
        check_normalisation(NORMALISED, initial_model(NORMALISED, 1, proposed), own)


def test_statistics_for_a_task_that_takes_none_are_a_configuration_error():
    with pytest.raises(ConfigError, match="holds its normalisation"):
        initial_model(PLAIN, 1, pooled(1))
    with pytest.raises(ConfigError, match="holds its normalisation"):
        initial_model("tests.support.tiny_task:task", 1, pooled(1))


@pytest.mark.parametrize("bad", [b"", b"no safetensors", tensors.to_bytes(normalised.initial_model(1))])
def test_bytes_that_are_no_statistics_are_malformed(bad):
    with pytest.raises(Malformed):
        initial_model(NORMALISED, 1, bad)


def test_statistics_that_were_never_pooled_are_malformed():
    with pytest.raises(Malformed, match="not been pooled"):
        initial_model(NORMALISED, 1, tensors.to_bytes(statistics.initial_model(0)))
