"""A logistic head trained on ciphertexts, held against the same training in the open."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from gemel.demo.rig import read_cycles
from gemel.errors import ConfigError, Malformed, Refused
from gemel.learning import linear_head
from gemel.learning.splits import split_cycles
from gemel.learning.tasks.hydraulic import linear
from gemel.sealing.encrypted_training import work
from gemel.sealing.encrypted_training.frames import Kind, Shape
from gemel.sealing.encrypted_training.plan import (
    HIDING_BITS,
    LARGEST_ERROR,
    LARGEST_VALUE_BITS,
    LARGEST_WEIGHT_BITS,
    P1,
    P3,
    RING_DEGREE,
    SCALE_BITS,
    HeadPlan,
    check_policy,
    features_of,
    head_plan,
)
from gemel.sealing.encrypted_training.refresher import Refresher, create_key, public_context_of, refresh, release
from gemel.sealing.encrypted_training.release import seal_masked, unmask
from gemel.sealing.encrypted_training.ring import residues, whole
from gemel.sealing.encrypted_training.trainer import Trainer, seal_rows
from gemel.sealing.frames import OpenedSum
from gemel.sealing.opener import Opener
from gemel.sealing.packing import largest_value
from gemel.sealing.work import check_body as check_frame_body
from gemel.sealing.work import seal_update
from gemel.wire.envelope import HEADER_BYTES
from gemel.wire.messages import Policy, SealingPolicy, TrainingPlan
from gemel.wire.reasons import Reason
from gemel.wire.tensors import manifest_of
from gemel.wire.types import sha256
from tests.support.sealing import Plant

PLAN = HeadPlan(features=3, outputs=2, rows=40, steps=2, rate=0.5)


@pytest.fixture(scope="module")
def refresher() -> Refresher:
    return Refresher.create()


def sample(plan: HeadPlan, seed: int = 1) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Features, labels and a base that is not zero."""
    rng = np.random.default_rng(seed)
    features = rng.uniform(-1, 1, (plan.rows, plan.features))
    labels = (features[:, :1] + rng.normal(0, 0.3, (plan.rows, plan.outputs)) > 0).astype(np.float64)
    return features, labels, rng.normal(0, 0.3, (plan.features, plan.outputs))


def in_the_open(plan: HeadPlan, features: np.ndarray, labels: np.ndarray, base: np.ndarray) -> np.ndarray:
    """The same steps in numpy: what the weights are after them."""
    weights = base.copy()
    for _ in range(plan.steps):
        z = features @ weights
        weights -= plan.rate / plan.rows * features.T @ (0.5 + P1 * z + P3 * z**3 - labels)
    return weights


def on_ciphertexts(
    refresher: Refresher, plan: HeadPlan, features: np.ndarray, labels: np.ndarray, base: np.ndarray, factor: float
) -> np.ndarray:
    """The change of the weights times `factor`, as integers."""
    trainer = Trainer(refresher.public_context(), plan, base)
    rows = seal_rows(trainer.context, plan, features, labels)
    for _ in range(plan.steps):
        trainer.accept(refresher.refresh(plan, trainer.request(rows)))
    message, masks = trainer.release(factor)
    integers = refresher.round_off(plan, message)
    found = [value - mask for value, mask in zip(integers, masks, strict=True)]
    return np.array(found).reshape(plan.features, plan.outputs)


# --- against plain training -----------------------------------------------------------------------


@pytest.mark.parametrize(
    "plan",
    [
        PLAN,
        HeadPlan(features=2, outputs=1, rows=5, steps=2, rate=1.0),
        HeadPlan(features=2, outputs=9, rows=600, steps=1, rate=1.0),  # 16 lanes, 256 rows at once: three blocks
    ],
    ids=["two outputs", "one output", "several blocks of rows"],
)
def test_ciphertexts_learn_what_numbers_in_the_open_learn(refresher, plan):
    features, labels, base = sample(plan)
    factor = 5000.0
    found = on_ciphertexts(refresher, plan, features, labels, base, factor) / factor
    due = in_the_open(plan, features, labels, base) - base
    assert np.abs(due).max() > 0.05  # it has moved at all
    assert np.abs(found - due).max() < 2e-3
    assert np.abs(found - due).max() < 1.5 / factor + 0.005 * np.abs(due).max()


def test_hydraulic_head_is_as_accurate_as_trained_in_the_open_and_with_the_true_sigmoid(refresher):
    cycles = read_cycles()
    split = split_cycles(cycles.labels, 1)
    features, labels = linear.rows(cycles.take(split.gateways[0]))
    plan = head_plan(TrainingPlan(4, 1, 2.0), linear.manifest.size, features_of(linear.manifest), len(features))
    assert (plan.features, plan.outputs, plan.blocks) == (9, 14, 2)
    zeros = np.zeros((plan.features, plan.outputs))
    sigmoid = zeros.copy()
    for _ in range(plan.steps):
        sigmoid -= plan.rate / plan.rows * features.T @ (1 / (1 + np.exp(-features @ sigmoid)) - labels)
    factor = 2000.0
    learnt = {
        "ciphertexts": on_ciphertexts(refresher, plan, features, labels, zeros, factor) / factor,
        "cubic": in_the_open(plan, features, labels, zeros),
        "sigmoid": sigmoid,
    }
    report = cycles.take(split.report)
    accuracy = {
        name: linear.evaluate({linear_head.WEIGHT: weights.astype(np.float32)}, report).accuracy
        for name, weights in learnt.items()
    }
    assert accuracy["sigmoid"] > 0.5  # of three and four classes: it has learnt something
    assert abs(accuracy["ciphertexts"] - accuracy["cubic"]) <= 0.01
    assert abs(accuracy["ciphertexts"] - accuracy["sigmoid"]) <= 0.01


def test_task_and_ciphertexts_take_the_same_steps(refresher):
    assert (linear_head.P1, linear_head.P3) == (P1, P3)
    cycles = read_cycles().take(np.arange(0, 2205, 50))
    features, labels = linear.rows(cycles)
    training = TrainingPlan(3, 1, 1.0)
    plan = head_plan(training, linear.manifest.size, linear.features, len(features))
    base = linear.initial_model(0)
    trained = linear.train(base, cycles, training, 0, 1).model[linear_head.WEIGHT]
    assert np.allclose(trained, in_the_open(plan, features, labels, base[linear_head.WEIGHT]), atol=1e-6)


def test_bound_is_what_the_cubic_can_push_while_scores_stay_below_eight():
    z = np.linspace(-8, 8, 100_001)
    p = 0.5 + P1 * z + P3 * z**3
    assert max(np.abs(p).max(), np.abs(p - 1).max()) <= LARGEST_ERROR


# --- becoming an ordinary update ------------------------------------------------------------------

ROUND = SealingPolicy("bfv-packed", 12, 4.0, 8, weight_cap=100)


def test_released_change_is_an_update_like_any_other_and_sums_with_sealed_ones(refresher):
    plan, share = PLAN, 0.4
    features, labels, base = sample(plan)
    plant = Plant(ROUND, plan.features * plan.outputs)
    qmax, key = largest_value(ROUND.bits), refresher.to_bytes()
    run, request = work.begin(public_context_of(key), plan, base, features, labels)
    request = work.step(run, request, refresh(key, plan, request.message))
    request = work.release(run, request, refresh(key, plan, request.message), share * qmax / ROUND.clip)
    masked = release(key, plan, request.message, plant.context, ROUND)
    body = unmask(plant.context, ROUND, masked, request.masks[0])
    check_frame_body(bytes(HEADER_BYTES) + body, ROUND, plant.parameters, sha256(plant.context))
    assert len(body) == len(masked)
    assert body != masked
    other = np.linspace(-3, 3, plant.parameters).astype(np.float32)
    sealed = seal_update(plant.context, ROUND, other, 40, np.zeros(plant.parameters, np.float32)).body
    total = plant.sum_of([body, sealed])
    found = OpenedSum.parse(plant.opener.open(total, 2), ROUND, plant.parameters).sums * ROUND.clip / qmax
    due = (in_the_open(plan, features, labels, base) - base).reshape(-1)
    assert np.abs(found - share * (due + other)).max() <= 2.1 * ROUND.clip / qmax


def test_masks_that_wrap_around_the_plain_modulus_come_off_exactly_in_every_lane():
    policy = SealingPolicy("bfv-packed", 4, 1.0, 8, 100)
    rng = np.random.default_rng(5)
    values = rng.integers(-7, 8, 9000)
    opener = Opener.create(policy, values.size)
    context = opener.public_context()
    masks = [int(mask) for mask in rng.integers(0, 1 << (LARGEST_VALUE_BITS + HIDING_BITS), values.size)]
    integers = [int(value) + mask for value, mask in zip(values, masks, strict=True)]
    body = unmask(context, policy, seal_masked(context, policy, integers), masks)
    plant = Plant.__new__(Plant)
    plant.policy, plant.parameters, plant.context, plant.opener = policy, values.size, context, opener
    opened = plant.opened(plant.sum_of([body]), 1)
    assert np.array_equal(opened, values)


def test_rounding_is_unbiased(refresher):
    plan = HeadPlan(features=1, outputs=1, rows=2, steps=1, rate=0.5)
    trainer = Trainer(refresher.public_context(), plan, np.zeros((1, 1)))
    rows = seal_rows(trainer.context, plan, np.ones((2, 1)), np.ones((2, 1)))
    trainer.accept(refresher.refresh(plan, trainer.request(rows)))
    found = []  # a change of 0.25 times 1.2: 0.3, which rounds to 0 or 1
    for _ in range(80):
        message, masks = trainer.release(1.2)
        found.append(refresher.round_off(plan, message)[0] - masks[0])
    assert set(found) == {0, 1}
    assert 0.12 < np.mean(found) < 0.48  # 0.3 within 3.5 standard errors


# --- what the custodian sees ----------------------------------------------------------------------


def masked_numbers(refresher: Refresher, plan: HeadPlan, data: tuple[np.ndarray, np.ndarray, np.ndarray]) -> tuple:
    """Everything that the custodian decrypts: of a request and of a release, as shares of the masks' ranges."""
    features, labels, base = data
    requests, releases = [], []
    for _ in range(4):
        trainer = Trainer(refresher.public_context(), plan, base)
        rows = seal_rows(trainer.context, plan, features, labels)
        message = trainer.request(rows)
        items = Shape(plan, sha256(refresher.public_context()), Kind.REQUEST).parse(message)
        for item in items:
            requests += refresher._numbers(item, RING_DEGREE // plan.coefficients)
        trainer.accept(refresher.refresh(plan, message))
        message, _ = trainer.release(1000.0)
        items = Shape(plan, sha256(refresher.public_context()), Kind.RELEASE).parse(message)
        releases += [refresher._numbers(item, RING_DEGREE)[0] for item in items]
    half = 2.0 ** (SCALE_BITS + LARGEST_WEIGHT_BITS + HIDING_BITS)
    whole_range = 2.0 ** (LARGEST_VALUE_BITS + HIDING_BITS + SCALE_BITS)
    return (np.array(requests, np.float64) + half) / (2 * half), np.array(releases, np.float64) / whole_range


def distance_from_uniform(shares: np.ndarray) -> float:
    """Kolmogorov and Smirnov's, times the root of the sample's size: above 1.95 once in a thousand."""
    ordered, count = np.sort(shares), len(shares)
    steps = np.arange(count + 1) / count
    return float(max((steps[1:] - ordered).max(), (ordered - steps[:-1]).max()) * np.sqrt(count))


def test_custodian_decrypts_uniform_numbers_whatever_was_learnt_from(refresher):
    plan = replace(PLAN, outputs=4)
    rows, outputs = plan.rows, plan.outputs
    extreme = (np.ones((rows, 3)), np.ones((rows, outputs)), np.full((3, outputs), 2.0))
    for data in (sample(plan), extreme):
        for shares in masked_numbers(refresher, plan, data):
            assert len(shares) >= 48
            assert -1e-9 < shares.min() < 0.2
            assert 0.8 < shares.max() < 1 + 1e-9
            assert distance_from_uniform(shares) < 2.5  # one in 200,000


def test_without_masks_the_test_above_would_see_what_was_learnt(refresher):
    """What makes it a test: the same numbers, their masks taken off, are nothing like uniform."""
    plan = replace(PLAN, outputs=8)
    features, labels, base = sample(plan)
    trainer = Trainer(refresher.public_context(), plan, base, randomness=lambda bits: 1 << (bits - 1))
    message = trainer.request(seal_rows(trainer.context, plan, features, labels))
    items = Shape(plan, sha256(refresher.public_context()), Kind.REQUEST).parse(message)
    numbers = [n for item in items for n in refresher._numbers(item, RING_DEGREE // plan.coefficients)]
    half = 2.0 ** (SCALE_BITS + LARGEST_WEIGHT_BITS + HIDING_BITS)
    assert distance_from_uniform((np.array(numbers, np.float64) + half) / (2 * half)) > 2.5


def test_masked_numbers_do_not_wrap_around_the_primes_that_carry_them():
    request = (1 << (SCALE_BITS + LARGEST_WEIGHT_BITS + HIDING_BITS)) + (1 << (SCALE_BITS + LARGEST_WEIGHT_BITS))
    released = (1 << (LARGEST_VALUE_BITS + HIDING_BITS + SCALE_BITS)) + (1 << (LARGEST_VALUE_BITS + SCALE_BITS))
    for number in (request, -request, released, -released):
        assert whole(residues([number], 2)) == [number]


# --- what does not hold ---------------------------------------------------------------------------


def test_public_context_with_a_secret_key_is_refused(refresher):
    stored = refresher.to_bytes()
    secret = stored[4 + int.from_bytes(stored[:4], "little") :]
    with pytest.raises(ConfigError, match="only the custodian may hold it"):
        Trainer(secret, PLAN, np.zeros((3, 2)))


def test_context_of_the_rounds_own_scheme_or_garbage_is_refused():
    with pytest.raises(Refused, match="a context of BFV"):
        Trainer(Plant(ROUND, 6).context, PLAN, np.zeros((3, 2)))
    with pytest.raises(Refused, match="not a sealing context"):
        Trainer(b"nonsense", PLAN, np.zeros((3, 2)))


def test_stored_key_without_a_secret_is_malformed(refresher):
    public = refresher.public_context()
    with pytest.raises(Malformed, match="no secret key"):
        Refresher.from_bytes(len(public).to_bytes(4, "little") + public + public)


@pytest.mark.parametrize(
    ("features", "labels", "what"),
    [
        (np.zeros((40, 4)), np.zeros((40, 2)), "not those of the plan"),
        (np.zeros((41, 3)), np.zeros((41, 2)), "not those of the plan"),
        (np.zeros((40, 3)), np.zeros((40, 3)), "not those of the plan"),
        (np.full((40, 3), 1.1), np.zeros((40, 2)), "outside"),
        (np.full((40, 3), np.nan), np.zeros((40, 2)), "outside"),
        (np.zeros((40, 3)), np.full((40, 2), 0.5), "other than 0 and 1"),
    ],
)
def test_rows_of_another_shape_or_range_are_refused(refresher, features, labels, what):
    trainer = Trainer(refresher.public_context(), PLAN, np.zeros((3, 2)))
    with pytest.raises(ValueError, match=what):
        seal_rows(trainer.context, PLAN, features, labels)


@pytest.mark.parametrize("base", [np.zeros((2, 3)), np.full((3, 2), 15.5), np.full((3, 2), np.nan)])
def test_base_of_another_shape_or_too_large_for_the_masks_is_refused(refresher, base):
    with pytest.raises((ValueError, Malformed), match="base"):
        Trainer(refresher.public_context(), PLAN, base)


@pytest.mark.parametrize(
    ("plan", "what"),
    [
        (replace(PLAN, features=0), "features"),
        (replace(PLAN, outputs=257), "outputs"),
        (replace(PLAN, steps=0), "steps"),
        (replace(PLAN, rate=float("nan")), "steps, rate"),
        (replace(PLAN, steps=100), "fewer steps or less rate"),
    ],
)
def test_plan_that_does_not_fit_is_refused_before_a_key_is_used(plan, what):
    with pytest.raises(ConfigError, match=what):
        Trainer(b"", plan, np.zeros((3, 2)))


def test_answer_or_request_of_another_length_kind_context_or_plan_is_refused(refresher):
    features, labels, base = sample(PLAN)
    trainer = Trainer(refresher.public_context(), PLAN, base)
    request = trainer.request(seal_rows(trainer.context, PLAN, features, labels))
    answer = refresher.refresh(PLAN, request)
    for message, reason in (
        (request[:-1], Reason.WRONG_LENGTH),
        (request + b"\0", Reason.WRONG_LENGTH),
        (b"", Reason.WRONG_LENGTH),
        (answer, Reason.WRONG_LENGTH),
        (b"XREF" + request[4:], Reason.MALFORMED),
        (request[:5] + b"\2" + request[6:], Reason.MALFORMED),
        (request[:12] + bytes(32) + request[44:], Reason.DIGEST_MISMATCH),
        (request[:-6] + b"\xff" * 6, Reason.MALFORMED),
    ):
        with pytest.raises(Refused) as refused:
            refresher.refresh(PLAN, message)
        assert refused.value.reason == reason
    with pytest.raises(Refused) as refused:
        Refresher.create().refresh(PLAN, request)
    assert refused.value.reason == Reason.DIGEST_MISMATCH
    for wrong in (answer[:-1], answer[:-6] + b"\xff" * 6, request):
        with pytest.raises(Refused):
            trainer.accept(wrong)
    trainer.accept(answer)  # nothing of that has spoilt the trainer


# --- policies -------------------------------------------------------------------------------------


def policy_with(clip: float = 4.0, scheme: str = "bfv-packed", encrypted: bool = True) -> Policy:
    sealing = SealingPolicy(scheme, 12, clip, 8, 100)  # type: ignore[arg-type]  # of our own making
    return Policy(sealing, TrainingPlan(2, 1, 0.5, encrypted), 3, 200_000)


@pytest.mark.parametrize("scheme", ["one-time-keys", "ckks"])
def test_other_schemes_are_refused_with_encrypted_training(scheme):
    with pytest.raises(ValueError, match=r"training.encrypted: only under bfv-packed"):
        policy_with(scheme=scheme)


def test_clip_below_what_weights_can_move_is_refused():
    check_policy(policy_with(1.06), PLAN)
    with pytest.raises(ConfigError, match=r"at least 1.05 with training.encrypted"):
        check_policy(policy_with(1.04), PLAN)


def test_model_of_several_tensors_is_no_linear_head():
    with pytest.raises(ConfigError, match="only for a linear head"):
        features_of(manifest_of({"a": np.zeros((2, 2), np.float32), "b": np.zeros(2, np.float32)}))
    with pytest.raises(ConfigError, match="a divisor of 7 parameters"):
        head_plan(TrainingPlan(2, 1, 0.5, True), 7, 3, 10)


def test_policy_that_does_not_encrypt_training_keeps_its_digest():
    assert policy_with(encrypted=False).digest == (
        Policy(SealingPolicy("bfv-packed", 12, 4.0, 8, 100), TrainingPlan(2, 1, 0.5), 3, 200_000).digest
    )
    assert policy_with().digest != policy_with(encrypted=False).digest


def test_key_survives_as_bytes():
    key = create_key()
    assert public_context_of(key.secret) == key.public
