"""What the accuracy benchmark leaves out, encryption, would have changed nothing; and its interval is Student's."""

import numpy as np
import pytest

from benchmarks import digits
from benchmarks.claims import claims
from benchmarks.rounding import SealedAverage, Trial, compare
from gemel.learning.simulator import fed_avg
from gemel.sealing.candidate import candidate_model
from gemel.sealing.opener import Opener
from gemel.sealing.sealer import Sealer
from gemel.sealing.summer import Summer
from gemel.wire import tensors
from gemel.wire.messages import SealingPolicy

POLICY = SealingPolicy("bfv-packed", bits=4, clip=0.1, contributors=8, weight_cap=600)
PARAMETERS, WEIGHTS = 30_000, (600, 41, 300)


def updates_of(round_):
    rng = np.random.default_rng(round_)
    return [(rng.standard_normal(PARAMETERS) * 0.05).astype(np.float32) for _ in WEIGHTS]


def test_sealed_updates_open_to_the_bytes_and_the_model_that_the_benchmark_computes():
    """Two rounds with one residual each: the second depends on what the first left over."""
    average, opening = SealedAverage(POLICY, len(WEIGHTS)), SealedAverage(POLICY, len(WEIGHTS))
    model = {"w": np.random.default_rng(7).standard_normal(PARAMETERS).astype(np.float32)}
    residuals = [np.zeros(PARAMETERS, np.float32) for _ in WEIGHTS]
    for round_ in range(2):
        opener = Opener.create(POLICY, PARAMETERS)
        sealer = Sealer(opener.public_context(), POLICY, PARAMETERS)
        summer = Summer(opener.public_context(), POLICY, PARAMETERS)
        updates = updates_of(round_)
        for agent, (update, weight) in enumerate(zip(updates, WEIGHTS, strict=True)):
            sealed = sealer.seal(update, weight, residuals[agent])
            residuals[agent] = sealed.residual
            summer.add(sealed.body)
        opened = opener.open(summer.sum(), len(WEIGHTS))
        assert opening.opened(updates, WEIGHTS).pack(POLICY) == opened

        candidate = candidate_model(tensors.to_bytes(model), opened, POLICY, sum(WEIGHTS))
        flat = average(tensors.flatten(model), updates, WEIGHTS)
        assert candidate == tensors.to_bytes({"w": flat})
        model = {"w": flat}


def test_what_rounding_leaves_over_comes_in_later_rounds():
    average = SealedAverage(POLICY, len(WEIGHTS))
    update = np.full(PARAMETERS, 0.011, np.float32)  # below one step of 0.0143, whatever the weight
    flat = np.zeros(PARAMETERS, np.float32)
    for _ in range(20):
        flat = average(flat, [update] * len(WEIGHTS), WEIGHTS)
    step = POLICY.clip / 7
    worst = 0.5 * step * len(WEIGHTS) * POLICY.weight_cap / sum(WEIGHTS)  # one rounding, not twenty
    assert np.abs(flat - 20 * 0.011).max() <= worst + 1e-5


def test_digits_learn_and_a_seed_repeats_them():
    plain = digits.federated(0, None, rounds=4)
    assert digits.federated(0, None, rounds=4) == plain > 0.4
    assert digits.federated(0, digits.POLICY, rounds=4) == pytest.approx(plain, abs=0.1)


def test_fed_avg_and_the_sealed_average_agree_where_nothing_is_rounded_away():
    fine = SealingPolicy("bfv-packed", bits=16, clip=1.0, contributors=4, weight_cap=600)
    updates, base = updates_of(3), np.ones(PARAMETERS, np.float32)
    sealed = SealedAverage(fine, len(WEIGHTS))(base, updates, WEIGHTS)
    assert sealed == pytest.approx(fed_avg(base, updates, WEIGHTS), abs=1e-4)


def losing(seed, policy):
    """A task on which rounding costs 0.4, 0.5, 0.6 points, and with fewer than four bits two points more."""
    if policy is None:
        return 0.9
    return 0.9 - (0.4 + 0.1 * seed + 2 * (policy.bits < 4)) / 100


def test_interval_over_the_pairs_is_students_and_decides_the_claim():
    trial = Trial("made up", "none", losing)
    coarse = SealingPolicy("bfv-packed", 3, 0.1, 8, 600)
    four, three = compare(trial, [POLICY, coarse], range(3))
    half = 4.302653 * 0.1 / 3**0.5  # t of 0.975 with two degrees of freedom
    assert four["difference_points"] == -0.5
    assert four["interval_95"] == pytest.approx([-0.5 - half, -0.5 + half], abs=1e-3)
    assert four["excludes_a_loss_of_one_point"]
    assert three["difference_points"] == -2.5
    assert not three["excludes_a_loss_of_one_point"]
    assert [claim["holds"] for claim in claims({"accuracy": [four, three]})] == [True, False]


def test_claims_fail_for_figures_beyond_their_limits():
    row = {"scheme": "bfv-packed", "bits": 4, "parameters": 500_000, "contributors": 10, "exact": True}
    good = row | {"bytes_per_parameter": 3.05}
    assert all(claim["holds"] for claim in claims({"rows": [good]}))
    (bytes_claim, exact) = claims({"rows": [row | {"bytes_per_parameter": 3.2, "exact": False}]})
    assert not bytes_claim["holds"]
    assert not exact["holds"]
    assert claims({"rows": [good | {"parameters": 50_000, "bytes_per_parameter": 9.0}]}) == [
        {"claim": "every sum exact", "measured": 1, "holds": True}
    ]
    frames = [{"form": "packed-frame", "signed": True, "mutations": 10_000, "accepted": 1, "crashed": True}]
    assert [claim["holds"] for claim in claims({"frames": frames})] == [False, False]
    memory = [{"scheme": "bfv-packed", "bits": 4, "difference_mb": 64.1}]
    assert [claim["holds"] for claim in claims({"memory": memory})] == [False]
    assert claims({"memory": [{"scheme": "ckks", "bits": 8, "refused": "fewer parameters"}]}) == []
