"""Scheme ckks: how exact it is, by how much its openings are flooded, and the attack that this is for."""

import math

import numpy as np
import pytest
import tenseal as ts

from gemel.errors import ConfigError, Refused
from gemel.sealing.bfv import public_bytes
from gemel.sealing.ckks.context import Loader, create_context, decrypt, load_context, load_public
from gemel.sealing.ckks.flooding import flooded, gaussian, transform
from gemel.sealing.ckks.frames import PRIMES, body_words
from gemel.sealing.ckks.opener import CkksOpener
from gemel.sealing.ckks.plan import (
    CHUNK_BYTES,
    FLOODING_BITS,
    KEY_MODULUS,
    LARGEST_SIGMA,
    MODULI,
    RING_DEGREE,
    SLOTS,
    flooding_sigma,
    plan_of,
)
from gemel.sealing.stored_key import StoredKey
from gemel.wire.types import sha256
from tests.support.ckks import coefficients, encoded, key_from
from tests.support.sealing import CAP, PARAMETERS, Plant, policy_of, updates_of, zeros

SEED = bytes(range(32))


class Observed:
    """A sum of two agents' zeros in two chunks, as it is opened: flooded, and (which nobody gets) not."""

    def __init__(self) -> None:
        self.parameters = 2 * SLOTS
        self.plant = Plant(policy_of("ckks", contributors=3), self.parameters)
        self.plan = plan_of(self.plant.policy, self.parameters)
        self.total = self.plant.sum_of([self.plant.seal(zeros(self.parameters))] * 2)
        self.chunks = list(body_words(self.total))
        self.secret = load_context(self.plant.opener._secret)
        self.loader = Loader(load_context(self.plant.context), self.plan.scale_bits)

    def open(self, chunks) -> list[np.ndarray]:
        return [decrypt(self.secret, self.loader.vector(words)) for words in chunks]

    def flooded(self) -> list[np.ndarray]:
        digest = sha256(self.total)
        return [self.plant.opener._flooded(words, digest, index) for index, words in enumerate(self.chunks)]


@pytest.fixture(scope="module")
def observed() -> Observed:
    return Observed()


# --- the attack -----------------------------------------------------------------------------------


def test_without_flooding_an_opened_sum_of_known_values_gives_the_key_and_with_it_the_round(observed):
    """The control: what is opened is the flooding less."""
    key = key_from(observed.open(observed.chunks), observed.chunks, observed.plan.scale_bits)
    assert set(np.unique(key)) == {-1, 0, 1}
    # It opens another agent's frame: decoded, c0 + c1 · s is that agent's update.
    update = updates_of(1, observed.parameters)[0][0]
    words = next(iter(body_words(observed.plant.seal(update))))
    phase = (words[0, 0].astype(object) + words[1, 0].astype(object) * transform(key)[0].astype(object)) % MODULI[0]
    truth = encoded(np.clip(update[:SLOTS].astype(float), -0.1, 0.1) / 0.1, 2.0**observed.plan.scale_bits)
    error = coefficients(((phase - truth.astype(object)) % MODULI[0]).astype(np.uint64))
    assert np.abs(error).max() < 2**26  # of a scale of 2^75: nothing but noise, and what doubles round


def test_with_flooding_the_same_attack_gets_no_key(observed):
    key = key_from(observed.open(observed.flooded()), observed.chunks, observed.plan.scale_bits)
    assert np.abs(key).max() > MODULI[0] // 4  # anything below the prime
    assert (np.abs(key) <= 1).mean() < 0.01


def test_opener_gives_out_what_was_flooded_and_rounded_and_nothing_finer(observed):
    opened = observed.plant.opened(observed.total, 2)
    slots = np.concatenate(observed.open(observed.flooded()))
    assert np.array_equal(opened, np.rint(slots * 127).astype(np.int64))
    assert not np.array_equal(slots, np.concatenate(observed.open(observed.chunks)))


# --- how much -------------------------------------------------------------------------------------


def test_noise_of_sums_is_what_the_plan_says_and_its_norm_below_the_bound(observed):
    plan = plan_of(policy_of("ckks", contributors=10), 1)
    plant = Plant(plan.policy, 1)
    total = next(iter(body_words(plant.sum_of(plant.seal(zeros(1)) for _ in range(10)))))
    loader = Loader(load_context(plant.context), plan.scale_bits)
    slots = decrypt(load_context(plant.opener._secret), loader.vector(total))
    noise = coefficients(encoded(slots, 2.0 ** (plan.scale_bits + 1)))  # m'(X) + m'(1/X): twice the variance
    measured = noise[1:].std() / math.sqrt(2)
    assert 0.5 * plan.noise_sigma < measured <= plan.noise_sigma
    bound = plan.flooding_sigma / 2 ** (FLOODING_BITS - 1)
    assert np.linalg.norm(noise) / math.sqrt(2) < bound < 3 * np.linalg.norm(noise)


@pytest.mark.parametrize(("contributors", "levels", "chunks"), [(3, 1, 1), (10, 1, 245), (100, 4, 25)])
def test_statistical_distance_of_openings_is_what_is_promised(contributors, levels, chunks):
    plan = plan_of(policy_of("ckks", 4, contributors, levels), chunks * SLOTS)
    worst = math.sqrt(contributors * levels**2 * (RING_DEGREE + 2) / 12 * chunks * RING_DEGREE)
    assert worst / (2 * plan.flooding_sigma) < 2.0**-FLOODING_BITS
    assert plan.flooding_cost_bits == pytest.approx(
        FLOODING_BITS - 1 + math.log2(math.sqrt(chunks * RING_DEGREE) + 10)
    )


@pytest.mark.parametrize("sigma", [2.0**31, 2.0**45, 2.0**52, LARGEST_SIGMA])
def test_noise_is_gaussian_of_its_deviation_down_to_the_lowest_bit(sigma):
    noise = gaussian(1 << 16, sigma, np.random.default_rng(3).bytes(16 << 16))
    scaled = noise / sigma
    assert abs(scaled.mean()) < 4 / 256
    assert scaled.std() == pytest.approx(1, abs=0.012)
    ordered = np.sort(scaled)
    expected = np.array([0.5 * (1 + math.erf(x / math.sqrt(2))) for x in ordered])
    assert np.abs(expected - np.linspace(0, 1, ordered.size)).max() < 1.63 / 256  # Kolmogorov and Smirnov, 1 %
    for low_bits in (1, 4):  # every residue alike: the grid of the coarse part does not show
        counts = np.bincount(noise % (1 << low_bits), minlength=1 << low_bits)
        chi = ((counts - counts.mean()) ** 2 / counts.mean()).sum()
        assert chi < 2 * (1 << low_bits) + 10
    at_border = np.bincount((noise >> 22) % 16, minlength=16)  # where in a cell of the coarse grid
    assert at_border.min() > 0.9 * at_border.mean()


@pytest.mark.parametrize("sigma", [2.0**20, 2.0**59, math.nan])
def test_noise_that_its_sampler_cannot_make_is_an_error(sigma):
    with pytest.raises(ValueError, match="sigma"):
        gaussian(2, sigma, bytes(32))


def test_noise_is_another_one_for_another_seed_sum_and_chunk_and_the_same_for_the_same():
    words = np.zeros((2, 2, RING_DEGREE), np.uint64)
    sigma, digest = flooding_sigma(30.0, 1), sha256(b"sum")

    def noise(seed=SEED, of=digest, index=0):
        result = flooded(words, sigma, seed, of, index)
        assert not result[1].any()
        assert (result < PRIMES).all()
        return coefficients(result[0, 0])

    assert np.array_equal(noise(), noise())
    for other in (noise(bytes(32)), noise(of=sha256(b"other")), noise(index=1)):
        assert (noise() == other).mean() < 0.01
    assert not words.any()  # the ciphertext itself stays as it is


def test_noise_is_the_same_whole_number_under_both_primes():
    result = flooded(np.zeros((2, 2, RING_DEGREE), np.uint64), 2.0**35, SEED, sha256(b""), 0)[0]
    first = coefficients(result[0])  # 2^35 fits below a prime
    assert np.array_equal(transform(first), result)


# --- plan -----------------------------------------------------------------------------------------


def test_seal_picks_the_moduli_that_the_plan_names():
    parameters = create_context().seal_context().data.key_context_data().parms()
    assert tuple(modulus.value() for modulus in parameters.coeff_modulus()) == (*MODULI, KEY_MODULUS)
    assert parameters.poly_modulus_degree() == RING_DEGREE


@pytest.mark.parametrize(("contributors", "levels"), [(1, 1), (3, 1), (10, 1), (10, 4), (1000, 1), (1000, 4)])
def test_largest_sum_and_its_noise_fit_the_modulus_with_two_bits_left(contributors, levels):
    plan = plan_of(policy_of("ckks", 2, contributors, levels), 300)
    plan.check()
    assert 2 <= plan.headroom_bits < 3
    assert 12 * plan.flooding_sigma < 2 ** (plan.scale_bits - 1)


def test_body_is_as_long_as_the_plan_says_about_forty_bytes_a_parameter():
    plan = plan_of(policy_of("ckks"), 500_000)
    assert plan.bytes_per_parameter == pytest.approx(40.14, abs=0.01)
    assert len(Plant(policy_of("ckks"), 3000).seal(zeros(3000))) == 68 + 2 * CHUNK_BYTES


@pytest.mark.parametrize(
    ("policy", "parameters", "said"),
    [
        (policy_of("bfv-packed"), 300, "ckks"),
        (policy_of("ckks"), 0, "parameters"),
        (policy_of("ckks", bits=16), 500_000, "fewer than 16"),
        (policy_of("ckks", 2, 1000, 4), 50_000_000, "more noise"),
    ],
)
def test_policy_that_exceeds_what_ckks_gives_is_refused(policy, parameters, said):
    with pytest.raises(ConfigError, match=said):
        plan_of(policy, parameters).check()


def test_frame_larger_than_the_policy_allows_is_refused():
    with pytest.raises(ConfigError, match="at least 81988"):
        plan_of(policy_of("ckks"), 300).check(max_frame_bytes=50_000)


def test_plans_line_has_a_field_for_each_heading():
    plan = plan_of(policy_of("ckks"), 300)
    assert plan.table_line().count("|") == plan.TABLE_HEAD.splitlines()[0].count("|")


# --- keys -----------------------------------------------------------------------------------------


def test_key_file_without_a_secret_key_is_refused():
    plant = Plant(policy_of("ckks"))
    stored = StoredKey.parse(plant.opener.to_bytes())
    bare = StoredKey(stored.policy, stored.parameters, stored.public, stored.secret[:32] + plant.context)
    with pytest.raises(Exception, match="no secret key"):
        CkksOpener.from_bytes(bare.pack())


def test_weaker_ckks_context_is_refused():
    weak = ts.context(ts.SCHEME_TYPE.CKKS, 8192, coeff_mod_bit_sizes=[60, 40, 40])
    with pytest.raises(Refused, match="moduli"):
        load_public(public_bytes(weak))


def test_destroyed_opener_has_forgotten_its_seed_too():
    plant = Plant(policy_of("ckks"), PARAMETERS)
    plant.opener.destroy()
    assert plant.opener._seed == plant.opener._secret == b""


def test_clipped_rest_of_an_update_is_carried_on():
    plant = Plant(policy_of("ckks"))
    sealed = plant.sealer.seal(np.full(PARAMETERS, 0.08, np.float32), CAP, np.full(PARAMETERS, 0.05, np.float32))
    assert np.allclose(sealed.residual, 0.03, atol=1e-7)
