"""What the three sealing ports promise, on every scheme whose custodian holds a key: honestly and not.

What is particular to a scheme: test_sealing.py (bfv-packed), test_ckks.py. One-time keys have custodians of another
kind: test_one_time_keys.py.
"""

import numpy as np
import pytest

from gemel.errors import ConfigError, Malformed, PeerError, Refused
from gemel.sealing.candidate import candidate_model, mean_update
from gemel.sealing.frames import OpenedSum
from gemel.sealing.packing import largest_value
from gemel.sealing.schemes import sealer_of, summer_of
from gemel.wire import tensors
from gemel.wire.reasons import Reason
from gemel.wire.types import NO_ADDRESS
from tests.support.sealing import CAP, PARAMETERS, Plant, policy_of, updates_of, weighted, zeros

SCHEMES = ("bfv-packed", "ckks")


@pytest.fixture(scope="module", params=SCHEMES)
def plant(request) -> Plant:
    return Plant(policy_of(request.param))


@pytest.fixture(scope="module")
def bodies(plant) -> list[bytes]:
    updates, weights = updates_of(3)
    return [plant.seal(u, w) for u, w in zip(updates, weights, strict=True)]


# --- sums ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize(("contributors", "parameters"), [(2, 10_000), (3, 10_000), (10, 10_000), (100, 50)])
def test_opened_mean_is_the_weighted_mean_within_the_budgets_error(scheme, contributors, parameters):
    plant = Plant(policy_of(scheme, 8, contributors), parameters)
    updates, weights = updates_of(contributors, parameters)
    total = plant.sum_of(plant.seal(u, w) for u, w in zip(updates, weights, strict=True))
    opened = OpenedSum.parse(plant.opener.open(total, contributors), plant.policy, parameters)
    mean = mean_update(opened, plant.policy, sum(weights))
    fedavg = CAP * sum(weighted(u, w) for u, w in zip(updates, weights, strict=True))
    worst = plant.worst_error(contributors) * CAP / sum(weights)
    assert np.abs(mean - fedavg / sum(weights)).max() <= worst * 1.001


@pytest.mark.parametrize("scheme", SCHEMES)
@pytest.mark.parametrize("levels", [1, 4])
def test_extreme_values_of_every_contributor_open_to_their_sum(scheme, levels):
    plant = Plant(policy_of(scheme, 8, 5, levels))
    for side in (-1, 1):
        update, summer = np.full(PARAMETERS, side * 0.1, np.float32), plant.summer()
        for _ in range(5):
            summer.add(plant.seal(update), levels)
        opened = plant.opened(summer.sum(), 5 * levels)
        assert np.abs(opened - side * 5 * levels * largest_value(8)).max() <= plant.error_steps


@pytest.mark.parametrize("scheme", SCHEMES)
def test_levels_multiply_and_others_are_an_error_and_leave_the_sum_as_it_was(scheme):
    plant = Plant(policy_of(scheme, levels=3))
    body = plant.seal(updates_of(1)[0][0])
    once, thrice = plant.summer(), plant.summer()
    once.add(body, 3)
    for _ in range(3):
        thrice.add(body)
    assert once.sum() == thrice.sum()
    for level in (-1, 0, 4):
        with pytest.raises(ValueError, match=f"level {level}, 1 to 3"):
            once.add(body, level)
    assert once.sum() == thrice.sum()


def test_same_bodies_give_the_same_bytes_in_any_order(plant, bodies):
    assert plant.sum_of(bodies) == plant.sum_of(bodies) == plant.sum_of(reversed(bodies))


def test_sum_is_the_words_added_modulo(plant, bodies):
    added = sum(np.stack(plant.words(body)) for body in bodies) % plant.modulus
    assert np.array_equal(np.stack(plant.words(plant.sum_of(bodies))), added)


def test_sealing_the_same_update_twice_gives_different_ciphertexts(plant):
    update = updates_of(1)[0][0]
    first, second = (plant.sealer.seal(update, 10, zeros()) for _ in range(2))
    assert first.body != second.body
    assert np.array_equal(first.residual, second.residual)


def test_residuals_carry_what_was_not_sealed_over_rounds(plant):
    updates, weights = updates_of(2)
    residuals = [zeros(), zeros()]
    opened_total, wanted = np.zeros(PARAMETERS), np.zeros(PARAMETERS)
    for _ in range(8):
        sealed = [plant.sealer.seal(u, w, r) for u, w, r in zip(updates, weights, residuals, strict=True)]
        residuals = [s.residual for s in sealed]
        opened_total += plant.opened(plant.sum_of(s.body for s in sealed), 2) * plant.step
        wanted += sum(u.astype(np.float64) * w / CAP for u, w in zip(updates, weights, strict=True))
    exact = 1e-6 if plant.error_steps == 0 else 8 * plant.worst_error(2)
    assert np.allclose(opened_total + residuals[0] + residuals[1], wanted, rtol=0, atol=exact)


def test_candidate_is_base_and_mean_whatever_the_scheme(plant, bodies):
    base = {"a": np.ones((3, 50), np.float32), "b": zeros(150)}
    _, weights = updates_of(3)
    opened = plant.opener.open(plant.sum_of(bodies), 3)
    model = tensors.from_bytes(candidate_model(tensors.to_bytes(base), opened, plant.policy, sum(weights)))
    mean = mean_update(OpenedSum.parse(opened, plant.policy, PARAMETERS), plant.policy, sum(weights))
    assert np.array_equal(tensors.flatten(model), tensors.flatten(base) + mean)


# --- who can do what ------------------------------------------------------------------------------


def test_context_with_the_secret_key_is_refused_by_whoever_may_not_hold_it(plant):
    leaked = plant.leaked_context()
    with pytest.raises(ConfigError, match="secret key"):
        sealer_of(leaked, plant.policy, PARAMETERS, NO_ADDRESS)
    with pytest.raises(ConfigError, match="secret key"):
        summer_of(leaked, plant.policy, PARAMETERS)


def test_context_of_another_scheme_or_none_is_refused(plant):
    other = Plant(policy_of("bfv-packed" if plant.policy.scheme == "ckks" else "ckks"))
    for context in (other.context, b"", b"\0" * 100, plant.context[:-1000]):
        with pytest.raises(PeerError):
            sealer_of(context, plant.policy, PARAMETERS, NO_ADDRESS)
        with pytest.raises(PeerError):
            summer_of(context, plant.policy, PARAMETERS)


def test_body_sealed_for_another_rounds_key_is_refused_by_digest(plant, bodies):
    other = Plant(plant.policy)
    assert other.context != plant.context
    with pytest.raises(Refused) as refusal:
        other.summer().add(bodies[0])
    assert refusal.value.reason == Reason.DIGEST_MISMATCH
    with pytest.raises(Refused, match="digest_mismatch"):
        other.opener.open(plant.sum_of(bodies), 3)


def test_body_of_another_scheme_is_refused_by_its_header(plant):
    other = Plant(policy_of("bfv-packed" if plant.policy.scheme == "ckks" else "ckks"))
    with pytest.raises(Refused, match="malformed"):
        plant.summer().add(other.seal(zeros()))


def test_opener_refuses_a_single_update_and_another_count(plant, bodies):
    with pytest.raises(Refused, match="malformed"):
        plant.opener.open(bodies[0], 1)
    with pytest.raises(Refused, match="forged_size"):
        plant.opener.open(plant.sum_of(bodies), 2)


def test_key_survives_a_restart_and_opens_the_same_bytes(plant, bodies):
    total = plant.sum_of(bodies)
    again = type(plant.opener).from_bytes(plant.opener.to_bytes())
    assert again.public_context() == plant.context
    assert again.open(total, 3) == plant.opener.open(total, 3) == plant.opener.open(total, 3)


@pytest.mark.parametrize("damage", [lambda b: b[:10], lambda b: b"X" + b[1:], lambda b: b[:20] + b"\xff" + b[21:]])
def test_damaged_key_file_is_malformed(plant, damage):
    with pytest.raises(PeerError):
        type(plant.opener).from_bytes(damage(plant.opener.to_bytes()))


@pytest.mark.parametrize("scheme", SCHEMES)
def test_destroyed_key_opens_nothing_and_is_not_written_down(scheme):
    plant = Plant(policy_of(scheme))
    total = plant.sum_of([plant.seal(zeros())])
    plant.opener.destroy()
    with pytest.raises(Refused, match="destroyed"):
        plant.opener.open(total, 1)
    with pytest.raises(Refused, match="destroyed"):
        plant.opener.to_bytes()


@pytest.mark.parametrize("weight", [0, -1, CAP + 1])
def test_weight_outside_the_cap_is_refused(plant, weight):
    with pytest.raises(Refused, match="overweight"):
        plant.sealer.seal(zeros(), weight, zeros())


def test_update_of_another_length_or_not_finite_is_not_sealed(plant):
    with pytest.raises(ValueError, match="parameters expected"):
        plant.sealer.seal(zeros(7), 1, zeros(7))
    with pytest.raises(ValueError, match="not finite"):
        plant.sealer.seal(np.full(PARAMETERS, np.nan, np.float32), 1, zeros())


# --- bad bodies -----------------------------------------------------------------------------------


def test_refused_body_leaves_the_sum_as_it_was(plant, bodies):
    summer = plant.summer()
    summer.add(bodies[0])
    for bad in (bodies[1][:-1], bodies[1] + b"\0", bodies[1][:5], b"plaintext", plant.sum_of(bodies)):
        with pytest.raises(Refused):
            summer.add(bad)
    summer.add(bodies[1])
    assert summer.sum() == plant.sum_of(bodies[:2])


def test_word_that_is_not_below_its_modulus_is_refused(plant, bodies):
    words = plant.words(bodies[0])
    words[0].reshape(-1)[-1] = int(plant.modulus.max()) + 1
    with pytest.raises(Refused, match="not below"):
        plant.summer().add(plant.body(words))


def test_ciphertext_that_hides_nothing_is_refused(plant, bodies):
    words = plant.words(bodies[0])
    words[0][1] = 0
    with pytest.raises(Refused, match="plaintext"):
        plant.summer().add(plant.body(words))


def test_negative_of_somebody_elses_body_is_refused_before_the_sum_lies_open(plant, bodies):
    negated = plant.body([(plant.modulus - words) % plant.modulus for words in plant.words(bodies[0])])
    plant.summer().add(negated)  # on its own a ciphertext like any other
    summer = plant.summer()
    summer.add(bodies[0])
    with pytest.raises(Refused, match="plaintext"):
        summer.add(negated)
    assert summer.sum() == plant.sum_of(bodies[:1])


def test_own_minus_somebody_elses_body_opens_a_thirds_update(plant, bodies):
    """Ciphertexts can be mauled: commitments are what stops it (test_sealing.py plays those)."""
    pairs = zip(plant.words(bodies[2]), plant.words(bodies[0]), strict=True)
    mauled = plant.body([(own + plant.modulus - others) % plant.modulus for own, others in pairs])
    updates, weights = updates_of(3)
    opened = plant.opened(plant.sum_of([bodies[0], bodies[1], mauled]), 3) * plant.step
    known = updates[2].astype(np.float64) * weights[2] / CAP
    secret = weighted(updates[1], weights[1])
    assert np.abs(opened - known - secret).max() <= 2 * plant.worst_error(3)


@pytest.mark.parametrize("scheme", SCHEMES)
def test_no_more_contributors_than_the_policy_allows_and_no_empty_sum(scheme):
    plant = Plant(policy_of(scheme, contributors=1))
    with pytest.raises(ValueError, match="nothing"):
        plant.summer().sum()
    summer = plant.summer()
    body = plant.seal(zeros())
    summer.add(body)
    with pytest.raises(ValueError, match="allows 1"):
        summer.add(body)


def test_sum_larger_than_its_contributors_can_make_it_is_malformed(plant, bodies):
    """Two agents say that they are one: the custodian sees that the sum is too large for one."""
    large = plant.seal(np.full(PARAMETERS, 0.1, np.float32))
    summed = plant.sum_of([large, large, large])
    forged = summed[:8] + (1).to_bytes(4, "little") + summed[12:]
    with pytest.raises(Malformed, match="opened sum"):
        plant.opener.open(forged, 1)
