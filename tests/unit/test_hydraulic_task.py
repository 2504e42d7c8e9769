import subprocess
import sys

import numpy as np
import pytest

from gemel.demo.rig import read_cycles
from gemel.errors import ConfigError, Malformed
from gemel.learning.splits import split_cycles
from gemel.learning.task import UNKNOWN, Task, Windows, load_task
from gemel.learning.tasks.hydraulic import labels_of, task
from gemel.wire.messages import TrainingPlan
from gemel.wire.tensors import flatten, from_bytes, manifest_of, to_bytes

PLAN = TrainingPlan(epochs=2, batch_size=32, learning_rate=0.002)


@pytest.fixture(scope="module")
def cycles():
    return read_cycles()


@pytest.fixture(scope="module")
def few(cycles):
    return cycles.take(np.arange(0, 2205, 30))


def test_the_rigs_file_has_the_cycles_and_classes_its_readme_counts(cycles):
    assert cycles.inputs.shape == (2205, 60, 8)
    counts = [np.bincount(column).tolist() for column in cycles.labels.T]
    assert counts == [[732, 732, 741], [360, 360, 360, 1125], [1221, 492, 492], [808, 399, 399, 599]]


def test_labels_mean_what_the_data_says():
    names = [
        [head.classes[label] for head, label in zip(task.heads, row, strict=True)]
        for row in labels_of(
            np.array([[3, 73, 0, 90, 0], [20, 80, 1, 100, 0], [100, 90, 2, 115, 0], [100, 100, 0, 130, 1]], np.int16)
        )
    ]
    assert names == [
        ["near_failure", "near_failure", "no_leakage", "near_failure"],
        ["reduced", "severe_lag", "weak_leakage", "severely_reduced"],
        ["full", "small_lag", "severe_leakage", "slightly_reduced"],
        ["full", "optimal", "no_leakage", "optimal"],
    ]


def test_a_task_is_loaded_by_its_import_path():
    loaded = load_task("gemel.learning.tasks.hydraulic:task")
    assert loaded is task
    assert isinstance(loaded, Task)


@pytest.mark.parametrize(
    "path",
    ["", "nowhere:task", "gemel.learning.tasks.hydraulic", "gemel.learning.tasks.hydraulic:other", "os:path", ":"],
)
def test_a_path_without_a_task_is_a_configuration_error(path):
    with pytest.raises(ConfigError):
        load_task(path)


def test_loading_a_task_imports_neither_torch_nor_lime():
    code = (
        "import sys; from gemel.learning.task import load_task; import gemel.learning.explaining;"
        "load_task('gemel.learning.tasks.hydraulic:task').initial_model(0);"
        "sys.exit(bool({'torch', 'lime'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_the_initial_model_depends_on_the_seed_alone():
    assert to_bytes(task.initial_model(3)) == to_bytes(task.initial_model(3))
    assert to_bytes(task.initial_model(3)) != to_bytes(task.initial_model(4))
    assert manifest_of(task.initial_model(3)) == task.manifest


def test_training_is_deterministic_and_follows_seed_and_round(few):
    model = task.initial_model(0)
    first = task.train(model, few, PLAN, 1, 1)
    assert to_bytes(first.model) == to_bytes(task.train(model, few, PLAN, 1, 1).model)
    assert to_bytes(first.model) != to_bytes(task.train(model, few, PLAN, 2, 1).model)
    assert to_bytes(first.model) != to_bytes(task.train(model, few, PLAN, 1, 2).model)
    assert first.samples == len(few)


def test_training_leaves_the_base_model_as_it_was(few):
    model = task.initial_model(0)
    before = to_bytes(model)
    task.train(model, few, PLAN, 1, 1)
    assert to_bytes(model) == before


def test_a_model_survives_the_wire(few):
    trained = task.train(task.initial_model(0), few, PLAN, 1, 1).model
    received = from_bytes(to_bytes(trained), task.manifest)
    assert task.evaluate(received, few) == task.evaluate(trained, few)


def test_training_lowers_the_loss(few):
    model = task.initial_model(0)
    trained = task.train(model, few, TrainingPlan(8, 16, 0.002), 0, 1)
    assert task.evaluate(trained.model, few).loss < 0.8 * task.evaluate(model, few).loss
    assert 0 <= trained.accuracy <= 1


def test_unknown_labels_teach_nothing(few):
    labels = few.labels.copy()
    labels[:, 1] = UNKNOWN
    model = task.initial_model(0)
    trained = task.train(model, Windows(few.inputs, labels), PLAN, 1, 1).model
    assert np.array_equal(trained["valve.bias"], model["valve.bias"])  # weight decay does not move a zero
    assert not np.array_equal(trained["pump.bias"], model["pump.bias"])


def test_unknown_labels_are_not_measured(few):
    model = task.initial_model(0)
    labels = few.labels.copy()
    labels[:, 1] = UNKNOWN
    labels[10:] = UNKNOWN
    known = few.labels[:10].copy()
    known[:, 1] = UNKNOWN
    measured = task.evaluate(model, Windows(few.inputs, labels))
    assert set(measured.per_head) == {"cooler", "pump", "accumulator"}
    assert measured == task.evaluate(model, Windows(few.inputs[:10], known))


def test_a_batch_without_any_label_is_passed_over(few):
    labels = np.full_like(few.labels, UNKNOWN)
    labels[0] = few.labels[0]
    trained = task.train(task.initial_model(0), Windows(few.inputs, labels), TrainingPlan(1, 4, 0.002), 0, 1)
    assert np.isfinite(flatten(trained.model)).all()
    assert np.isfinite(trained.loss)


def test_evaluate_agrees_with_predict(few):
    model = task.train(task.initial_model(0), few, PLAN, 1, 1).model
    probabilities = task.predict(model, few.inputs)
    measured = task.evaluate(model, few)
    shares = {
        head.name: float((probabilities[head.name].argmax(axis=1) == few.labels[:, column]).mean())
        for column, head in enumerate(task.heads)
    }
    assert measured.per_head == shares
    assert measured.accuracy == pytest.approx(np.mean(list(shares.values())))
    for head in task.heads:
        assert probabilities[head.name].shape == (len(few), len(head.classes))
        assert probabilities[head.name].sum(axis=1) == pytest.approx(1, abs=1e-5)


def test_predicting_does_not_depend_on_who_is_beside_one(cycles):
    model = task.initial_model(0)
    together = task.predict(model, cycles.inputs[:600])["pump"]
    assert task.predict(model, cycles.inputs[590:591])["pump"] == pytest.approx(together[590:591], abs=1e-6)


def test_a_broken_sensor_does_not_drown_the_others(few):
    """A huge but finite reading counts as four half-ranges, no more."""
    huge, large = few.inputs[:1].copy(), few.inputs[:1].copy()
    huge[:, 30, 0], large[:, 30, 0] = 1e30, 200.0
    model = task.initial_model(0)
    assert np.array_equal(task.predict(model, huge)["pump"], task.predict(model, large)["pump"])


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_readings_that_are_not_finite_are_refused(few, bad):
    inputs = few.inputs.copy()
    inputs[0, 0, 0] = bad
    with pytest.raises(Malformed, match="not finite"):
        Windows(inputs, few.labels)
    for ask in (task.predict, task.attribute):
        with pytest.raises(Malformed, match="not finite"):
            ask(task.initial_model(0), inputs)


@pytest.mark.parametrize(
    ("inputs", "labels"),
    [
        (np.zeros((2, 60), np.float32), np.zeros((2, 4), np.int64)),
        (np.zeros((2, 60, 8), np.float64), np.zeros((2, 4), np.int64)),
        (np.zeros((2, 60, 8), np.float32), np.zeros((3, 4), np.int64)),
        (np.zeros((2, 60, 8), np.float32), np.zeros((2, 4), np.int32)),
        (np.zeros((2, 60, 8), np.float32), np.zeros(2, np.int64)),
        (np.zeros((2, 59, 8), np.float32), np.zeros((2, 4), np.int64)),
        (np.zeros((2, 60, 7), np.float32), np.zeros((2, 4), np.int64)),
        (np.zeros((2, 60, 8), np.float32), np.zeros((2, 3), np.int64)),
        (np.zeros((2, 60, 8), np.float32), np.full((2, 4), 4, np.int64)),
        (np.zeros((2, 60, 8), np.float32), np.full((2, 4), -2, np.int64)),
        (np.zeros((2, 60, 8), np.float32), np.full((2, 4), UNKNOWN, np.int64)),
        (np.zeros((0, 60, 8), np.float32), np.zeros((0, 4), np.int64)),
    ],
)
def test_windows_that_are_not_this_tasks_are_refused(inputs, labels):
    model = task.initial_model(0)
    with pytest.raises(Malformed):
        task.train(model, Windows(inputs, labels), PLAN, 0, 1)
    with pytest.raises(Malformed):
        task.evaluate(model, Windows(inputs, labels))


def test_another_tasks_model_is_refused(few):
    model = task.initial_model(0)
    del model["pump.bias"]
    with pytest.raises(Malformed, match="model"):
        task.evaluate(model, few)


def test_a_model_that_overflows_is_refused_and_not_measured(few):
    model = {name: np.full_like(values, 1e30) for name, values in task.initial_model(0).items()}
    with pytest.raises(Malformed, match="not finite"):
        task.evaluate(model, few)


def test_no_windows_give_no_predictions():
    predicted = task.predict(task.initial_model(0), np.zeros((0, 60, 8), np.float32))
    assert {head: values.shape for head, values in predicted.items()} == {
        "cooler": (0, 3),
        "valve": (0, 4),
        "pump": (0, 3),
        "accumulator": (0, 4),
    }


def test_confidence_on_unseen_blocks_is_near_accuracy(cycles):
    """Expected calibration error (ten bins, all heads) of a gateway's model after 20 epochs."""
    split = split_cycles(cycles.labels, seed=1)
    model = task.train(task.initial_model(1), cycles.take(split.gateways[0]), TrainingPlan(20, 32, 0.002), 1, 1).model
    unseen = cycles.take(split.report)
    probabilities = task.predict(model, unseen.inputs)
    confidence = np.concatenate([probabilities[head.name].max(axis=1) for head in task.heads])
    hits = np.concatenate(
        [
            probabilities[head.name].argmax(axis=1) == unseen.labels[:, column]
            for column, head in enumerate(task.heads)
        ]
    )
    bins = np.minimum((confidence * 10).astype(int), 9)
    error = sum(
        abs(confidence[bins == b].mean() - hits[bins == b].mean()) * (bins == b).mean() for b in np.unique(bins)
    )
    assert error < 0.15
