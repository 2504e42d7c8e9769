"""Distances of sealed updates: who lies apart shows, and nothing else does."""

import numpy as np
import pytest

from gemel.errors import ConfigError
from gemel.sealing.bfv import public_bytes
from gemel.sealing.ckks import distances
from gemel.sealing.ckks.context import create_context, load_public
from gemel.sealing.ckks.distances import DistancePlan, distance, krum_scores, open_distance, seal
from gemel.sealing.ckks.frames import PRIMES
from gemel.sealing.ckks.plan import MODULI, RING_DEGREE, SLOTS
from tests.support.ckks import coefficients

CLIP = 0.1
SECRET = create_context()
PUBLIC = load_public(public_bytes(SECRET))


def fleet(parameters: int, seed: int = 1) -> list[np.ndarray]:
    """Eight agents who learn the same thing in their own ways, one who pushes the other way, and one much louder."""
    rng = np.random.default_rng(seed)
    common = rng.standard_normal(parameters) * 0.01
    updates = [common + rng.standard_normal(parameters) * 0.02 for _ in range(10)]
    updates[3] = -3 * common + rng.standard_normal(parameters) * 0.02
    updates[7] = rng.standard_normal(parameters) * 0.08
    return [update.astype(np.float32) for update in updates]


def plain_distances(updates) -> np.ndarray:
    clipped = [np.clip(update.astype(np.float64), -CLIP, CLIP) for update in updates]
    return np.array([[((a - b) ** 2).sum() for b in clipped] for a in clipped])


def sealed_distances(updates, plan: DistancePlan) -> np.ndarray:
    sealed = [seal(PUBLIC, plan, update) for update in updates]
    found = np.zeros((len(updates), len(updates)))
    for i in range(len(updates)):
        for j in range(i):
            found[i, j] = found[j, i] = open_distance(SECRET, plan, distance(PUBLIC, plan, sealed[i], sealed[j]))
    return found


@pytest.mark.parametrize("parameters", [300, 20_000])
def test_two_planted_attackers_score_worst_as_they_do_in_the_open(parameters):
    updates, plan = fleet(parameters), DistancePlan(CLIP, parameters)
    found, plain = sealed_distances(updates, plan), plain_distances(updates)
    assert set(np.argsort(krum_scores(found, 2))[-2:]) == {3, 7} == set(np.argsort(krum_scores(plain, 2))[-2:])
    off = np.abs(found - plain)[np.tril_indices(10, -1)]
    assert off.max() < 6 * plan.sigma
    assert off.max() < 0.2 * plain[np.tril_indices(10, -1)].min()


def test_flooding_of_distances_is_of_the_stated_deviation():
    plan = DistancePlan(CLIP, 300)
    sealed = [seal(PUBLIC, plan, update) for update in fleet(300)[:2]]
    total = distance(PUBLIC, plan, *sealed)
    opened = np.array([open_distance(SECRET, plan, total) for _ in range(60)])
    assert 0.6 * plan.sigma < opened.std() < 1.5 * plan.sigma
    assert abs(opened.mean() - plain_distances(fleet(300)[:2])[0, 1]) < plan.sigma


def test_noise_before_flooding_is_less_than_a_millionth_of_it(monkeypatch):
    plan = DistancePlan(CLIP, 5000)
    far = [np.full(5000, sign * CLIP, np.float32) for sign in (1, -1)]
    monkeypatch.setattr(distances, "_noise", lambda _sigma, _randomness: 0)
    opened = [
        open_distance(SECRET, plan, distance(PUBLIC, plan, *(seal(PUBLIC, plan, each) for each in far)))
        for _ in range(5)
    ]
    errors = np.abs(np.array(opened) - plain_distances(far)[0, 1])
    assert 0 < errors.max() < plan.sigma / 2**19


def test_farthest_updates_of_all_fit_the_modulus():
    plan = DistancePlan(CLIP, 3 * SLOTS)
    far = [np.full(plan.parameters, sign * 1.0, np.float32) for sign in (1, -1)]  # clipped
    opened = open_distance(SECRET, plan, distance(PUBLIC, plan, *(seal(PUBLIC, plan, each) for each in far)))
    assert abs(opened - plan.parameters * 4 * CLIP**2) < 6 * plan.sigma


# --- nothing but the distance ---------------------------------------------------------------------


def test_key_holder_sees_uniform_coefficients_beside_the_constant_one():
    plan = DistancePlan(CLIP, 300)
    same = seal(PUBLIC, plan, fleet(300)[0])
    plain = coefficients(distances._decrypted(SECRET, plan, distance(PUBLIC, plan, same, same))[0])
    counts, _ = np.histogram(plain[1:], bins=16, range=(-MODULI[0] / 2, MODULI[0] / 2))
    assert ((counts - 4095 / 16) ** 2 / (4095 / 16)).sum() < 45  # 15 degrees of freedom, once in 10^4
    assert abs(plain[0]) < MODULI[0] / 2**10  # no distance


def unmasked(words: np.ndarray) -> np.ndarray:
    """The first polynomial of a square of one chunk, from the two others: c1^2 / (4 c2), under the first prime."""
    _, c1, c2 = (polynomial[0].astype(object) for polynomial in words)
    quarter = np.array([pow(4 * int(value), -1, MODULI[0]) for value in c2], object)
    return (c1 * c1 * quarter % MODULI[0]).astype(np.uint64)


def test_square_of_one_chunk_gives_its_mask_away_unless_its_other_polynomials_are_hidden_too(monkeypatch):
    plan = DistancePlan(CLIP, 300)
    left, right = (seal(PUBLIC, plan, update) for update in fleet(300)[:2])
    difference = (left[0] + PRIMES - right[0]) % PRIMES
    square = (difference[0, 0].astype(object) ** 2 % MODULI[0]).astype(np.uint64)
    hidden = distance(PUBLIC, plan, left, right)
    assert (unmasked(hidden) == square).mean() < 0.01

    monkeypatch.setattr(distances, "words_of", lambda _: np.zeros((2, 2, RING_DEGREE), np.uint64))
    bare = distance(PUBLIC, plan, left, right)  # the control
    assert np.array_equal(unmasked(bare), square)


def test_sealed_distance_is_another_one_each_time():
    plan = DistancePlan(CLIP, 300)
    sealed = [seal(PUBLIC, plan, update) for update in fleet(300)[:2]]
    first, second = (distance(PUBLIC, plan, *sealed) for _ in range(2))
    assert (first == second).mean() < 0.01


def test_public_context_opens_no_distance():
    plan = DistancePlan(CLIP, 300)
    same = seal(PUBLIC, plan, fleet(300)[0])
    with pytest.raises(ConfigError, match="secret key"):
        open_distance(PUBLIC, plan, distance(PUBLIC, plan, same, same))


# --- bad input ------------------------------------------------------------------------------------


def test_other_lengths_and_values_that_are_not_finite_are_errors():
    plan = DistancePlan(CLIP, 300)
    for bad in (np.zeros(299, np.float32), np.full(300, np.nan, np.float32)):
        with pytest.raises(ValueError, match="300 finite"):
            seal(PUBLIC, plan, bad)
    chunks = seal(PUBLIC, plan, np.zeros(300, np.float32))
    for pair in (([], []), (chunks, chunks * 2), (chunks * 2, chunks * 2)):
        with pytest.raises(ValueError, match="chunks"):
            distance(PUBLIC, plan, *pair)


def test_krum_wants_more_agents_than_corrupt_ones_could_outweigh():
    with pytest.raises(ConfigError, match="at least 7"):
        krum_scores(np.zeros((6, 6)), 2)
    square = np.array([[0, 1, 9], [1, 0, 9], [9, 9, 0]], float)
    assert krum_scores(square, 0).tolist() == [1, 1, 9]
    assert square[0, 0] == 0  # the argument stays as it is
