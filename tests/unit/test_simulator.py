import numpy as np
import pytest

from gemel.demo import sabotage
from gemel.demo.rig import read_cycles
from gemel.errors import ConfigError
from gemel.learning.simulator import federate, train_centrally, train_locally
from gemel.learning.splits import split_cycles
from gemel.learning.tasks.hydraulic import task
from gemel.wire.messages import TrainingPlan
from gemel.wire.tensors import flatten, to_bytes

PLAN = TrainingPlan(epochs=2, batch_size=32, learning_rate=0.002)
CLIP = 0.25


@pytest.fixture(scope="module")
def cycles():
    return read_cycles()


@pytest.fixture(scope="module")
def split(cycles):
    return split_cycles(cycles.labels, seed=0)


@pytest.fixture(scope="module")
def agents(cycles, split):
    return [(task, cycles.take(rows[::4])) for rows in split.gateways]


@pytest.fixture(scope="module")
def start():
    return task.initial_model(0)


def test_a_round_adds_the_updates_weighted_by_their_windows(agents, start):
    (simulated,) = federate(agents, start, PLAN, rounds=1, seed=0)
    samples = np.array([len(windows) for _, windows in agents], np.float64)
    shares = samples / samples.sum()
    average = sum(
        share * flatten(result.model).astype(np.float64)
        for share, result in zip(shares, simulated.trained, strict=True)
    )
    assert len(set(samples)) > 1
    assert flatten(simulated.model) == pytest.approx(average, abs=1e-6)


def test_the_same_seed_gives_the_same_bytes(agents, start):
    first, second, other = (
        to_bytes(list(federate(agents, start, PLAN, rounds=2, seed=seed))[-1].model) for seed in (1, 1, 2)
    )
    assert first == second
    assert first != other


def test_rounds_go_on_from_one_another(agents, start):
    one, two = federate(agents, start, PLAN, rounds=2, seed=0)
    assert (one.round_, two.round_) == (1, 2)
    base = flatten(one.model)
    for result, update in zip(two.trained, two.updates, strict=True):
        assert flatten(result.model) - base == pytest.approx(update)


def test_updates_go_through_the_hook(agents, start):
    seen = []

    def nothing_arrives(agent, update):
        seen.append((agent, float(np.abs(update).max())))
        return np.zeros_like(update)

    (simulated,) = federate(agents, start, PLAN, rounds=1, seed=0, on_update=nothing_arrives)
    assert [agent for agent, _ in seen] == [0, 1, 2, 3]
    assert all(largest > 0 for _, largest in seen)
    assert to_bytes(simulated.model) == to_bytes(start)


def test_central_training_stops_at_its_best_epoch(cycles, agents, split, start):
    validation = cycles.take(split.validation)
    together = cycles.take(np.concatenate([rows[::4] for rows in split.gateways]))
    central = train_centrally(task, together, validation, start, PLAN, rounds=3, seed=0)
    assert 1 <= central.epoch <= 6
    assert task.evaluate(central.model, validation) == central.validation
    shorter = train_centrally(task, together, validation, start, PLAN, rounds=1, seed=0)
    assert shorter.validation.accuracy <= central.validation.accuracy
    assert task.evaluate(start, validation).accuracy < central.validation.accuracy


def test_local_training_goes_on_for_its_rounds(agents, start):
    windows = agents[0][1]
    once = train_locally(task, windows, start, PLAN, rounds=1, seed=7)
    twice = train_locally(task, windows, start, PLAN, rounds=2, seed=7)
    assert to_bytes(task.train(once, windows, PLAN, 7, 2).model) == to_bytes(twice)


def test_learning_together_beats_the_untrained_model(cycles, split, agents, start):
    report = cycles.take(split.report)
    last = list(federate(agents, start, TrainingPlan(4, 32, 0.002), rounds=3, seed=0))[-1].model
    assert task.evaluate(last, report).accuracy > task.evaluate(start, report).accuracy + 0.1


# --- the demo's poisoned agent ------------------------------------------------------------------


def median_accuracy(cycles, split, model):
    return float(np.median([task.evaluate(model, cycles.take(rows)).accuracy for rows in split.validators]))


def test_the_saboteur_is_honest_in_every_other_round(agents, start, monkeypatch):
    monkeypatch.setenv(sabotage.ROUND_VARIABLE, "2")
    windows = agents[0][1]
    assert to_bytes(sabotage.task.train(start, windows, PLAN, 0, 1).model) == to_bytes(
        task.train(start, windows, PLAN, 0, 1).model
    )
    assert to_bytes(sabotage.task.train(start, windows, PLAN, 0, 2).model) != to_bytes(
        task.train(start, windows, PLAN, 0, 2).model
    )


@pytest.mark.parametrize("saboteur", [0, 1])  # of many windows, of few
def test_the_saboteur_spoils_the_candidate_even_within_the_clip(cycles, split, agents, start, monkeypatch, saboteur):
    monkeypatch.setenv(sabotage.ROUND_VARIABLE, "3")
    poisoned = [(sabotage.task if i == saboteur else task, windows) for i, (_, windows) in enumerate(agents)]
    rounds = federate(
        poisoned,
        start,
        TrainingPlan(10, 32, 0.002),
        rounds=3,
        seed=0,
        on_update=lambda _, update: np.clip(update, -CLIP, CLIP),
    )
    _, in_use, candidate = [median_accuracy(cycles, split, simulated.model) for simulated in rounds]
    assert candidate < in_use - 0.02


@pytest.mark.parametrize("named", ["", "-1", "two"])
def test_a_saboteur_without_a_round_is_a_configuration_error(agents, start, monkeypatch, named):
    monkeypatch.setenv(sabotage.ROUND_VARIABLE, named)
    with pytest.raises(ConfigError, match=sabotage.ROUND_VARIABLE):
        sabotage.task.train(start, agents[0][1], PLAN, 0, 1)
