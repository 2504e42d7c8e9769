"""The linear head as a task, without any encryption."""

import numpy as np
import pytest

from gemel.errors import Malformed
from gemel.learning.linear_head import WEIGHT, LinearHead
from gemel.learning.task import UNKNOWN, Task, Windows, load_task
from gemel.wire.messages import TrainingPlan
from tests.support.tiny_task import HEADS, INPUTS, WINDOW_S, sample_windows
from tests.support.tiny_task import task as tiny

head = LinearHead(tiny)
PLAN = TrainingPlan(epochs=8, batch_size=1, learning_rate=1.0)


def test_it_is_a_task_and_the_hydraulic_one_loads():
    assert isinstance(head, Task)
    assert load_task("gemel.learning.tasks.hydraulic:linear").name == "hydraulic-linear"
    assert head.manifest.tensors[0].shape == (len(INPUTS) + 1, 5)


def test_features_are_scaled_means_cut_off_and_a_constant():
    inputs = np.zeros((1, WINDOW_S, 3), np.float32)
    inputs[0, :, 0], inputs[0, :, 1] = 7.5, 30  # of 0..10 each
    inputs[0, ::2, 2] = 100  # half of the time at the top of 0..100
    features, targets = head.rows(Windows(inputs, np.array([[2, 0]])))
    assert features.tolist() == [[0.5, 1.0, 0.0, 1.0]]
    assert targets.tolist() == [[0, 0, 1, 1, 0]]


def test_windows_with_an_unknown_label_are_left_out_of_training():
    windows = sample_windows(1, 20)
    some = windows.labels.copy()
    some[:5, 1] = UNKNOWN
    trained = head.train(head.initial_model(0), Windows(windows.inputs, some), PLAN, 0, 1)
    assert trained.samples == 15
    alone = head.train(head.initial_model(0), windows.take(np.arange(5, 20)), PLAN, 0, 1)
    assert np.array_equal(trained.model[WEIGHT], alone.model[WEIGHT])
    with pytest.raises(Malformed, match="none of them"):
        head.train(head.initial_model(0), Windows(windows.inputs, np.full_like(some, UNKNOWN)), PLAN, 0, 1)


def test_it_learns_and_says_probabilities():
    trained = head.train(head.initial_model(0), sample_windows(1, 200), PLAN, 0, 1).model
    held_back = sample_windows(2, 200)
    before, after = (head.evaluate(model, held_back) for model in (head.initial_model(0), trained))
    assert after.accuracy > 0.75 > before.accuracy  # a class between two others is never a line's best
    assert after.loss < before.loss
    for name, given in head.predict(trained, held_back.inputs).items():
        assert given.shape == (200, len(next(h for h in HEADS if h.name == name).classes))
        assert np.allclose(given.sum(axis=1), 1, atol=1e-5)


def test_attribution_adds_up_to_the_score_of_the_predicted_class_without_its_constant():
    trained = head.train(head.initial_model(0), sample_windows(1, 200), PLAN, 0, 1).model
    inputs = sample_windows(3, 4).inputs
    inputs[:, :, :2] = np.clip(inputs[:, :, :2], 0, 10)
    attributed, predicted = head.attribute(trained, inputs), head.predict(trained, inputs)
    features = head.rows(Windows(inputs, np.zeros((4, 2), np.int64)))[0]
    start = 0
    for each in HEADS:
        columns = start + predicted[each.name].argmax(axis=1)
        due = (features[:, :-1] * trained[WEIGHT][:-1, columns].T).sum(axis=1)
        assert np.allclose(attributed[each.name].sum(axis=(1, 2)), due, atol=1e-4)
        start += len(each.classes)


def test_scores_beyond_eight_are_refused_and_not_trained_on():
    with pytest.raises(Malformed, match="beyond ± 8"):
        head.train({WEIGHT: np.full((4, 5), 9, np.float32)}, sample_windows(1), PLAN, 0, 1)
    with pytest.raises(Malformed, match="beyond ± 8"):
        head.train(head.initial_model(0), sample_windows(1), TrainingPlan(500, 1, 9.0), 0, 1)


@pytest.mark.parametrize(
    "model",
    [{}, {WEIGHT: np.zeros((3, 5), np.float32)}, {WEIGHT: np.full((4, 5), np.nan, np.float32)}],
    ids=["nothing", "other shape", "not finite"],
)
def test_model_of_another_task_is_malformed(model):
    for use in (head.evaluate, lambda model, windows: head.train(model, windows, PLAN, 0, 1)):
        with pytest.raises(Malformed):
            use(model, sample_windows(1))


def test_windows_of_another_task_are_malformed():
    with pytest.raises(Malformed, match="3 columns count"):
        head.predict(head.initial_model(0), np.zeros((1, 6, 4), np.float32))
    wrong = Windows(sample_windows(1, 2).inputs, np.array([[0, 0], [3, 0]]))
    for use in (head.evaluate, lambda model, windows: head.train(model, windows, PLAN, 0, 1)):
        with pytest.raises(Malformed, match="not the number of a class"):
            use(head.initial_model(0), wrong)
