import numpy as np
import pytest

from gemel.errors import Malformed
from gemel.learning.classifier import Classifier
from gemel.learning.explaining import (
    Explanation,
    HeadWeights,
    drift,
    explain_model,
    gradient_attributions,
    group_names,
    lime_attributions,
    top_inputs,
)
from gemel.learning.task import Head, Input, Windows
from gemel.wire.messages import decode

PLANTED = "B 10-20 s"


def draw(random):
    """Only input B between 10 and 20 s decides (for 'high'); A in the last segment weighs a little, for 'low'."""
    weight = np.zeros((2, 3, 60), np.float32)
    weight[1, 1, 10:20] = 0.3
    weight[0, 0, 50:60] = 0.05
    return {"weight": weight.reshape(2, -1), "bias": random.normal(size=2).astype(np.float32) * np.float32(0.01)}


def linear_network(parameters, windows):
    return {"level": windows.flatten(1) @ parameters["weight"].T + parameters["bias"]}


LINEAR = Classifier(
    name="linear",
    inputs=(Input("A", "V", -1, 1), Input("B", "V", -10, 10), Input("C", "V", 0, 2)),
    window_s=60,
    heads=(Head("level", ("low", "high")),),
    draw=draw,
    network=linear_network,
    label_smoothing=0.0,
    weight_decay=0.0,
)
MODEL = LINEAR.initial_model(0)


@pytest.fixture(scope="module")
def windows():
    random = np.random.default_rng(0)
    inputs = random.normal(0, [0.5, 5, 0.5], (40, 60, 3)).astype(np.float32)
    inputs[:, 10:20, 1] += random.choice([-4, 4], (40, 1)).astype(np.float32)
    labels = (inputs[:, 10:20, 1].mean(axis=1) > 0).astype(np.int64)[:, None]
    return Windows(inputs, labels)


def test_groups_are_named_by_input_and_seconds():
    names = group_names(LINEAR)
    assert len(names) == 3 * 6
    assert names[:2] == ("A 0-10 s", "A 10-20 s")
    assert names[-1] == "C 50-60 s"


def test_gradient_times_input_of_a_linear_network_is_weight_times_input(windows):
    inputs = windows.inputs[:5]
    scaled = inputs / np.array([1, 10, 1], np.float32) - np.array([0, 0, 1], np.float32)
    predicted = LINEAR.predict(MODEL, inputs)["level"].argmax(axis=1)
    weight = MODEL["weight"].reshape(2, 3, 60)[predicted].transpose(0, 2, 1)
    assert LINEAR.attribute(MODEL, inputs)["level"] == pytest.approx(weight * scaled, abs=1e-6)


def test_grouped_attributions_add_up_to_the_logit(windows):
    window = windows.inputs[0]
    attribution = gradient_attributions(LINEAR, MODEL, window)["level"]
    number = ("low", "high").index(attribution.class_name)
    scaled = (window / np.array([1, 10, 1]) - np.array([0, 0, 1])).T.ravel()
    assert attribution.weights.sum() == pytest.approx(float(scaled @ MODEL["weight"][number]), abs=1e-4)
    assert attribution.probability == pytest.approx(LINEAR.predict(MODEL, window[None])["level"].max())


@pytest.mark.parametrize("seed", range(3))
def test_lime_names_the_planted_group_first(windows, seed):
    for window in windows.inputs[:3]:
        attribution = lime_attributions(LINEAR, MODEL, window, windows.inputs, seed)["level"]
        assert group_names(LINEAR)[int(np.abs(attribution.weights).argmax())] == PLANTED
        planted = attribution.weights[group_names(LINEAR).index(PLANTED)]
        assert (planted > 0) == (attribution.class_name == "high")  # it speaks for 'high', against 'low'


def test_lime_follows_its_seed(windows):
    one, same, other = (
        lime_attributions(LINEAR, MODEL, windows.inputs[0], windows.inputs, seed)["level"].weights
        for seed in (1, 1, 2)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)
    assert np.corrcoef(one, other)[0, 1] > 0.9


def test_gradient_names_the_planted_group_first(windows):
    high = windows.inputs[windows.labels[:, 0] == 1][0]
    attribution = gradient_attributions(LINEAR, MODEL, high)["level"]
    assert group_names(LINEAR)[int(np.abs(attribution.weights).argmax())] == PLANTED


def test_the_inputs_that_weighed_most_come_in_order_with_their_shares(windows):
    high = windows.inputs[windows.labels[:, 0] == 1][0]
    weighed = top_inputs(LINEAR, MODEL, high, k=2)["level"]
    assert [one.input for one in weighed] == ["B", "A"]
    assert weighed[0].share == pytest.approx(1.0)
    assert len(top_inputs(LINEAR, MODEL, high)["level"]) == 3


def test_a_model_is_explained_in_canonical_bytes(windows):
    explanation = explain_model(LINEAR, MODEL, windows, seed=0)
    assert explanation.to_bytes() == explain_model(LINEAR, MODEL, windows, seed=0).to_bytes()
    assert decode(Explanation, explanation.to_bytes()) == explanation
    assert len(explanation.digest) == 64
    for weights in (explanation.heads["level"].lime, explanation.heads["level"].gradient):
        assert sum(weights) == pytest.approx(1, abs=1e-4)
    assert explanation.groups[int(np.argmax(explanation.heads["level"].lime))] == PLANTED


def explanation_of(*weights):
    return Explanation("t", ("a", "b"), {"h": HeadWeights(weights, weights)})


def test_drift_is_nothing_for_the_same_and_one_for_nothing_in_common(windows):
    explanation = explain_model(LINEAR, MODEL, windows, seed=0)
    assert drift(explanation, explanation) == pytest.approx(0, abs=1e-12)
    assert drift(explanation_of(1.0, 0.0), explanation_of(0.0, 1.0)) == 1
    assert drift(explanation_of(0.0, 0.0), explanation_of(0.0, 0.0)) == 0
    assert drift(explanation_of(0.0, 0.0), explanation_of(0.5, 0.5)) == 1
    assert drift(explanation_of(1.0, 0.0), explanation_of(0.5, 0.5)) == pytest.approx(1 - 0.5**0.5)


def test_another_seed_drifts_less_than_another_model(windows):
    other = dict(MODEL, weight=np.roll(MODEL["weight"], 20, axis=1))
    explanation = explain_model(LINEAR, MODEL, windows, seed=0)
    again = drift(explanation, explain_model(LINEAR, MODEL, windows, seed=100))
    changed = drift(explanation, explain_model(LINEAR, other, windows, seed=0))
    assert again < 0.1
    assert changed > 0.5


def test_explanations_of_different_groups_are_not_compared():
    with pytest.raises(Malformed):
        drift(explanation_of(1.0, 0.0), Explanation("t", ("a", "c"), {"h": HeadWeights((1.0, 0.0), (1.0, 0.0))}))
