"""Pooled statistics as a task: the numbers, under encryption too, what they do to M0, and who is refused."""

import msgspec
import numpy as np
import pytest

from edge_agent.learning.training import Job, train_and_seal
from gemel.demo.rig import read_cycles
from gemel.errors import ConfigError, Malformed, Refused
from gemel.host.party import read_policy
from gemel.learning.explaining import drift, explain_model
from gemel.learning.fleet_statistics import (
    BINS,
    CLASSES,
    HISTOGRAM,
    LIMIT,
    MEAN,
    SQUARE,
    FleetStatistics,
    normalisation,
    refusal,
)
from gemel.learning.simulator import federate
from gemel.learning.splits import split_cycles
from gemel.learning.task import UNKNOWN, Task, Windows, load_task
from gemel.learning.tasks.hydraulic import normalised, statistics
from gemel.sealing.candidate import candidate_model
from gemel.wire.messages import Policy, SealingPolicy, TrainingPlan, encode
from gemel.wire.tensors import flatten, from_bytes, to_bytes
from gemel.wire.types import NO_ADDRESS
from tests.support.sealing import Plant
from tests.support.tiny_task import HEADS, INPUTS, sample_windows, task

CAP = 600
PLAN = TrainingPlan(epochs=1, batch_size=64, learning_rate=0.002)
TINY = FleetStatistics(task)


@pytest.fixture(scope="module")
def gateways() -> list[Windows]:
    cycles = read_cycles()
    return [cycles.take(rows) for rows in split_cycles(cycles.labels, seed=1).gateways]


def together(windows: list[Windows]) -> Windows:
    return Windows(np.concatenate([w.inputs for w in windows]), np.concatenate([w.labels for w in windows]))


def pooled_under_encryption(scheme: str, windows: list[Windows], contributors: int) -> bytes:
    """One round's sums through the ports of sealing, as coordinator, custodian and validators have it."""
    policy = SealingPolicy(scheme, 16, 1.0, contributors, CAP)
    base = statistics.initial_model(0)
    plant = Plant(policy, flatten(base).size)
    trained = [statistics.train(base, each, PLAN, 0, 1) for each in windows]
    total = plant.sum_of(
        plant.seal(flatten(result.model) - flatten(base), min(result.samples, CAP)) for result in trained
    )
    weight = sum(min(result.samples, CAP) for result in trained)
    return candidate_model(to_bytes(base), plant.opener.open(total, len(windows)), policy, weight)


def figures(windows: Windows) -> tuple[np.ndarray, np.ndarray]:
    """Mean and deviation of each input, computed in the open and in one place; one in 3000 speeds is an outlier."""
    readings = windows.inputs.reshape(-1, windows.inputs.shape[2]).astype(np.float64)
    readings = np.clip(readings, MIDDLES - LIMIT * RANGES / 2, MIDDLES + LIMIT * RANGES / 2)
    return readings.mean(axis=0), readings.std(axis=0)


MIDDLES = np.array([(column.high + column.low) / 2 for column in statistics.inputs])
RANGES = np.array([column.high - column.low for column in statistics.inputs])


# --- the numbers ----------------------------------------------------------------------------------


def test_pooled_in_the_open_they_are_those_of_all_windows_in_one_place(gateways):
    agents = [(statistics, windows) for windows in gateways]
    (round_,) = federate(agents, statistics.initial_model(0), PLAN, rounds=1, seed=1)
    central = statistics.train(statistics.initial_model(0), together(gateways), PLAN, 0, 1).model
    for name, values in central.items():
        assert np.allclose(round_.model[name], values, atol=1e-6)
    mean, std = figures(together(gateways))
    pooled = statistics.pooled(round_.model)
    assert np.abs(np.array([column.mean for column in pooled]) - mean).max() < 1e-4 * RANGES.max()
    assert (np.abs(np.array([column.std for column in pooled]) - std) < 1e-4 * RANGES).all()


@pytest.mark.parametrize("scheme", ["bfv-packed", "ckks"])
@pytest.mark.parametrize("contributors", [4, 30])
def test_from_ciphertexts_mean_and_deviation_are_right_to_a_thousandth_of_the_range(scheme, contributors, gateways):
    parts = [part for windows in gateways for part in np.array_split(np.arange(len(windows)), contributors // 4)]
    owner = [windows for windows in gateways for _ in range(contributors // 4)]
    windows = [each.take(rows) for each, rows in zip(owner, parts, strict=True)]
    model = from_bytes(pooled_under_encryption(scheme, windows, contributors), statistics.manifest)
    mean, std = figures(together(windows))
    pooled = statistics.pooled(model)
    assert (np.abs(np.array([column.mean for column in pooled]) - mean) < 1e-3 * RANGES).all()
    assert (np.abs(np.array([column.std for column in pooled]) - std) < 1e-3 * RANGES).all()
    central = statistics.train(model, together(windows), PLAN, 0, 1).model
    assert np.abs(model[HISTOGRAM] - central[HISTOGRAM]).max() < 1e-3
    assert [sum(column.histogram) for column in pooled] == pytest.approx([1.0] * 8, abs=2e-3)


def test_histograms_and_classes_count_what_is_there():
    inputs = np.zeros((4, 6, 3), np.float32)
    inputs[:, :, 0] = 5  # the middle of 0..10: the upper of the two middle bins
    inputs[:2, :, 1] = -100  # far below: the first bin, and four half ranges for the mean
    inputs[2:, :, 1] = 10  # the upper end: the last
    inputs[:, :, 2] = 12.4
    labels = np.array([[0, 1], [0, 1], [2, UNKNOWN], [UNKNOWN, UNKNOWN]], np.int64)
    model = TINY.train(TINY.initial_model(0), Windows(inputs, labels), PLAN, 0, 1).model
    assert np.flatnonzero(model[HISTOGRAM][0]).tolist() == [BINS // 2]
    assert model[HISTOGRAM][1].tolist() == [0.5, 0, 0, 0, 0, 0, 0, 0.5]
    assert np.flatnonzero(model[HISTOGRAM][2]).tolist() == [0]
    assert model[MEAN][1] == pytest.approx((-4 + 1) / 2 / 4)
    assert model[SQUARE][1] == pytest.approx((16 + 1) / 2 / 16)
    assert model[CLASSES + "pump"].tolist() == [0.5, 0, 0.25]
    assert model[CLASSES + "valve"].tolist() == [0, 0.5]
    assert TINY.pooled(model)[0].mean == pytest.approx(5)
    assert TINY.pooled(model)[0].std == 0
    assert TINY.pooled(model)[2].edges[:2] == (0, 12.5)


def test_every_statistic_lies_within_the_clip_whatever_is_read():
    inputs = np.random.default_rng(1).choice([-1e30, -5.0, 0.0, 5.0, 1e30], (50, 6, 3)).astype(np.float32)
    windows = Windows(inputs, np.zeros((50, 2), np.int64))
    assert np.abs(flatten(TINY.train(TINY.initial_model(0), windows, PLAN, 0, 1).model)).max() <= 1


def test_statistics_of_the_same_windows_are_the_same_bytes_whatever_seed_and_round():
    windows, base = sample_windows(3), TINY.initial_model(0)
    first = TINY.train(base, windows, PLAN, 1, 1).model
    again = TINY.train(first, windows, PLAN, 2, 9).model
    assert to_bytes(first) == to_bytes(again)


# --- a task like any other ------------------------------------------------------------------------


def test_it_is_a_task_that_services_can_load():
    loaded = load_task("gemel.learning.tasks.hydraulic:statistics")
    assert isinstance(loaded, Task)
    assert loaded.name == "hydraulic-statistics"
    assert loaded.manifest.size == 8 + 8 + 8 * BINS + 3 + 4 + 3 + 4
    assert flatten(loaded.initial_model(5)).any() == False  # noqa: E712  numpy's


def test_measuring_says_how_near_it_is_to_ones_own_windows():
    windows = sample_windows(3)
    own = TINY.train(TINY.initial_model(0), windows, PLAN, 0, 1)
    assert TINY.evaluate(own.model, windows).accuracy == 1
    assert TINY.evaluate(own.model, windows).per_head == {"pump": 1, "valve": 1}
    others = TINY.evaluate(own.model, sample_windows(4))
    far = Windows(windows.inputs + 300, windows.labels)
    assert TINY.evaluate(own.model, far).accuracy < others.accuracy < 1
    assert own.accuracy == TINY.evaluate(TINY.initial_model(0), windows).accuracy


def test_predictions_are_the_fleets_class_shares_and_are_explained_by_nothing():
    windows = sample_windows(3)
    model = TINY.train(TINY.initial_model(0), windows, PLAN, 0, 1).model
    answers = TINY.predict(model, windows.inputs)
    for column, head in enumerate(HEADS):
        shares = np.bincount(windows.labels[:, column], minlength=len(head.classes)) / len(windows)
        assert np.allclose(answers[head.name], shares, atol=1e-6)
    even = TINY.predict(TINY.initial_model(0), windows.inputs)["valve"]
    assert np.allclose(even, 0.5)
    explained = explain_model(TINY, model, windows, 1)
    assert all(weight == 0 for head in explained.heads.values() for weight in head.gradient)
    assert 0 <= drift(explained, explain_model(TINY, TINY.initial_model(0), windows, 1)) <= 1


@pytest.mark.parametrize("what", ["train", "evaluate", "predict", "attribute", "pooled"])
def test_another_tasks_model_is_malformed(what):
    model, windows = task.initial_model(0), sample_windows(1)
    calls = {
        "train": lambda: TINY.train(model, windows, PLAN, 0, 1),
        "evaluate": lambda: TINY.evaluate(model, windows),
        "predict": lambda: TINY.predict(model, windows.inputs),
        "attribute": lambda: TINY.attribute(model, windows.inputs),
        "pooled": lambda: TINY.pooled(model),
    }
    with pytest.raises(Malformed, match="tensors"):
        calls[what]()


def test_no_windows_and_other_columns_are_malformed():
    windows = sample_windows(1)
    for bad in (windows.take(np.array([], np.int64)), Windows(windows.inputs[:, :, :2], windows.labels)):
        with pytest.raises(Malformed, match="inputs have shape"):
            TINY.evaluate(TINY.initial_model(0), bad)
    wrong = Windows(windows.inputs, windows.labels + 5)
    with pytest.raises(Malformed, match="class"):
        TINY.evaluate(TINY.initial_model(0), wrong)


# --- who is refused -------------------------------------------------------------------------------


def policy_of(**changes) -> Policy:
    sealing = SealingPolicy("bfv-packed", 16, changes.pop("clip", 1.0), 8, CAP)
    return Policy(sealing, PLAN, **{"minimum_owners": 3, "max_frame_bytes": 10**6} | changes)


def test_statistics_of_two_owners_are_refused_and_no_exception_counts():
    excepted = policy_of(minimum_owners=2, two_owners_exception="the plant's head, on paper")
    assert "whoever allowed it" in refusal(TINY, excepted)
    assert refusal(task, excepted) == ""  # a model's gradients it may be, by the policy's own word
    assert refusal(TINY, policy_of()) == ""


def test_clip_that_would_cut_statistics_off_is_refused():
    assert "clip of at least 1" in refusal(TINY, policy_of(clip=0.5))


def test_no_service_reads_such_a_policy_and_no_agent_trains_by_it(tmp_path):
    path = tmp_path / "policy.json"
    path.write_bytes(encode(policy_of(minimum_owners=2, two_owners_exception="the plant's head, on paper")))
    with pytest.raises(ConfigError, match="at least 3 owners"):
        read_policy(path, TINY)
    policy = read_policy(path, task)  # its gradients it may sum
    base, windows = to_bytes(TINY.initial_model(0)), sample_windows(1)
    with pytest.raises(Refused, match="too_few_owners"):
        train_and_seal(Job("tests.support.tiny_task:statistics", base, windows, policy, b"", None, 1, 1, NO_ADDRESS))


# --- what becomes of M0 ---------------------------------------------------------------------------


def test_normalised_task_without_statistics_scales_as_the_nominal_ranges_do(gateways):
    plain = load_task("gemel.learning.tasks.hydraulic:task")
    few = gateways[0].take(np.arange(64))
    model = normalised.initial_model(1)
    answers, plainly = normalised.predict(model, few.inputs), plain.predict(plain.initial_model(1), few.inputs)
    assert np.allclose(answers["pump"], plainly["pump"], atol=1e-5)


def test_m0_from_ciphertexts_learns_as_m0_from_plain_central_figures_does(gateways):
    """The same normalisation but for a thousandth of a range, so the same model but for less than a point."""
    sealed = from_bytes(pooled_under_encryption("bfv-packed", gateways, 4), statistics.manifest)
    central = figures(together(gateways))
    by_sealed = normalised.normalise(normalised.initial_model(1), *normalisation(statistics, sealed))
    by_central = normalised.normalise(normalised.initial_model(1), *(each.astype(np.float32) for each in central))
    few = together(gateways).take(np.arange(0, 1200, 4))
    plan = msgspec.structs.replace(PLAN, epochs=8)
    trained = [normalised.train(m0, few, plan, 1, 1) for m0 in (by_sealed, by_central)]
    for result, m0 in zip(trained, (by_sealed, by_central), strict=True):
        assert np.array_equal(result.model["input.centre"], m0["input.centre"])
        assert np.array_equal(result.model["input.spread"], m0["input.spread"])
        assert not np.array_equal(result.model["conv1.weight"], m0["conv1.weight"])
    test = together(gateways).take(np.arange(2, 1200, 4))
    accuracies = [normalised.evaluate(result.model, test).accuracy for result in trained]
    assert accuracies[0] == pytest.approx(accuracies[1], abs=0.01)
    commonest = np.mean([np.bincount(column).max() / len(test) for column in test.labels.T])
    assert min(accuracies) > commonest + 0.1


def test_task_whose_model_holds_no_normalisation_takes_none():
    plain = load_task("gemel.learning.tasks.hydraulic:task")
    with pytest.raises(ConfigError, match="holds its normalisation"):
        plain.normalise(plain.initial_model(1), np.zeros(8, np.float32), np.ones(8, np.float32))


@pytest.mark.parametrize("spread", [0.0, -1.0, np.inf, np.nan])
def test_spread_that_is_not_above_zero_is_malformed(spread):
    with pytest.raises(Malformed, match="spread"):
        normalised.normalise(normalised.initial_model(1), np.zeros(8), np.full(8, spread))
    model = normalised.initial_model(1) | {"input.spread": np.full(8, spread, np.float32)}
    with pytest.raises(Malformed, match="spread"):
        normalised.predict(model, np.zeros((1, 60, 8), np.float32))


def test_statistics_that_have_not_been_pooled_normalise_nothing():
    with pytest.raises(Malformed, match="not been pooled"):
        normalisation(TINY, TINY.initial_model(0))


def test_sensor_that_stands_still_keeps_a_spread_of_a_hundredth_of_its_half_range():
    windows = Windows(np.full((3, 6, 3), 5, np.float32), np.zeros((3, 2), np.int64))
    centre, spread = normalisation(TINY, TINY.train(TINY.initial_model(0), windows, PLAN, 0, 1).model)
    assert np.allclose(centre, 5, atol=1e-5)
    assert np.allclose(spread, [0.01 * (column.high - column.low) / 2 for column in INPUTS])
