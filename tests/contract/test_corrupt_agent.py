"""An agent that seals dishonestly, against every scheme (docs/security.md).

Under bfv-packed it reads the round's secret key out of the opened sum. Shortened: the attacker knows one chunk of the
honest sum (a frozen layer, all zero). It adds q/t to the c1 of its own frame there, so the sum opens to the key
itself: c0 + c1 · s gains (q/t) · s, the message gains s.

Under ckks it does the same, and flooding is no help: flooding hides what noise says about the key, and this is no
noise. One chunk is enough, with the key's halves at two heights, because only real parts of slots are opened.

Under one-time keys an opened sum holds no key. It gains what was added, and the sum of the keys, which everybody may
know, opens no single update.
"""

import secrets

import numpy as np
import pytest
from tenseal import sealapi

from gemel.errors import Malformed
from gemel.sealing.bfv import load_context
from gemel.sealing.budget import MODULUS, RING_DEGREE, budget_of
from gemel.sealing.ckks.flooding import transform
from gemel.sealing.ckks.plan import ERROR_SIGMAS
from gemel.sealing.ckks.plan import RING_DEGREE as CKKS_DEGREE
from gemel.sealing.ckks.plan import SLOTS as CKKS_SLOTS
from gemel.sealing.ckks.plan import plan_of as ckks_plan
from gemel.sealing.frames import BodyKind, OpenedSum, body_words, check_body, pack_body
from gemel.sealing.onetime import ring
from gemel.sealing.onetime.frames import head_of, join_planes, planes
from gemel.sealing.onetime.frames import pack_body as pack_one_time
from gemel.sealing.onetime.letters import read_letter, sign_letter, write_letters
from gemel.sealing.onetime.plan import MODULUS as ONE_TIME_MODULUS
from gemel.sealing.onetime.plan import RING_DEGREE as ONE_TIME_DEGREE
from gemel.sealing.opener import Opener
from gemel.sealing.packing import quantise
from gemel.sealing.sealer import Sealer
from gemel.sealing.summer import Summer
from gemel.wire.messages import SealingPolicy
from tests.support.ckks import PRIME as CKKS_PRIME
from tests.support.ckks import coefficients, encoded
from tests.support.onetime import BOX_SECRETS, OneTimeRound
from tests.support.sealing import Plant, updates_of
from tests.support.sealing import policy_of as ckks_policy

CAP = 100


class Round:
    """Two honest agents and a corrupt one; `contributors` is what the policy allows."""

    def __init__(self, contributors: int) -> None:
        self.policy = SealingPolicy("bfv-packed", 4, 0.1, contributors, CAP)
        lanes = budget_of(self.policy, 1).lanes
        self.parameters = 2 * lanes * RING_DEGREE
        self.budget = budget_of(self.policy, self.parameters)
        self.opener = Opener.create(self.policy, self.parameters)
        context = self.opener.public_context()
        self.context = load_context(context)
        sealer = Sealer(context, self.policy, self.parameters)
        zeros = np.zeros(self.parameters, np.float32)
        rng = np.random.default_rng(5)
        self.updates = [zeros.copy(), zeros.copy()]
        for update in self.updates:
            update[: self.parameters // 2] = rng.standard_normal(self.parameters // 2) * 0.03
        self.honest = [sealer.seal(update, CAP, zeros).body for update in self.updates]

        words = list(body_words(sealer.seal(zeros, CAP, zeros).body))
        words[1][1, 0] = (int(words[1][1, 0]) + MODULUS // self.budget.plain_modulus) % MODULUS
        self.corrupt = pack_body(sealer._shape, words)
        check_body(self.corrupt, sealer._shape)  # a ciphertext like any other: no form gives it away

        summer = Summer(context, self.policy, self.parameters)
        for frame in (*self.honest, self.corrupt):
            summer.add(frame)
        self.sum = summer.sum()


def key_in(slots: np.ndarray, context, t: int) -> np.ndarray:
    """The polynomial (centred) whose slots these are."""
    plain = sealapi.Plaintext()
    sealapi.BatchEncoder(context.seal_context().data).encode([int(x) for x in slots], plain)
    coefficients = np.array([plain[i] for i in range(plain.coeff_count())], np.int64)
    return np.where(coefficients > t // 2, coefficients - t, coefficients)


def negacyclic(words: np.ndarray, key: np.ndarray) -> np.ndarray:
    """words · key mod (x^N + 1), mod q, by halves of 27 bits so that 64 bits hold every sum."""
    parts = [np.convolve(part.astype(np.int64), key) for part in (words & 0x7FFFFFF, words >> 27)]
    whole = [part[:RING_DEGREE] - np.append(part[RING_DEGREE:], 0) for part in parts]
    return (whole[0].astype(object) + whole[1].astype(object) * 2**27) % MODULUS


def test_corrupt_agent_reads_the_key_of_its_round_and_opens_another_agents_frame():
    played = Round(contributors=3)
    t = played.budget.plain_modulus
    data = played.opener.open(played.sum, 3)
    opened = OpenedSum.parse(data, played.policy, played.parameters)

    key = key_in(played.budget.packing.pack(opened.sums)[1], played.context, t)
    assert key.size == RING_DEGREE
    assert set(np.unique(key)) == {-1, 0, 1}  # a ternary secret, every coefficient of it

    c0, c1 = next(body_words(played.honest[0]))
    phase = (c0.astype(object) + negacyclic(c1, key)) % MODULUS
    scaled = [(int(value) * t + MODULUS // 2) // MODULUS % t for value in phase]
    terms = [f"{value:X}x^{power}" for power, value in enumerate(scaled) if value]
    message = sealapi.Plaintext(" + ".join(reversed(terms)))
    slots = np.array(sealapi.BatchEncoder(played.context.seal_context().data).decode_int64(message))
    stolen = played.budget.packing.unpack(slots[None, :], played.parameters // 2)
    zeros = np.zeros(played.parameters, np.float32)
    secret = quantise(played.updates[0], zeros, clip=0.1, bits=4, share=1.0).values[: played.parameters // 2]
    assert np.array_equal(stolen, secret)


@pytest.mark.parametrize("contributors", [4, 10])
def test_key_does_not_fit_into_a_sum_of_fewer_contributors_than_the_policy_allows(contributors):
    played = Round(contributors)
    with pytest.raises(Malformed, match="outside"):
        played.opener.open(played.sum, 3)


def test_under_ckks_the_corrupt_agent_reads_the_key_through_the_flooding_and_opens_another_agents_frame():
    """It adds A + 8 A · x^2048 to its c1: real parts of s and of x^2048 · s are small, so digits of one number."""
    parameters = 2 * CKKS_SLOTS
    plant = Plant(ckks_policy("ckks", 16, 3), parameters)
    plan = ckks_plan(plant.policy, parameters)
    updates = updates_of(2, parameters)[0]
    for update in updates:
        update[CKKS_SLOTS:] = 0  # a frozen layer
    height = 2 ** (plan.scale_bits - 10)  # far above the flooding, far below what two contributors may say
    assert height > 2 * ERROR_SIGMAS * plan.flooding_sigma
    added = np.zeros(CKKS_DEGREE, np.int64)
    added[0], added[CKKS_DEGREE // 2] = 1, 8
    words = plant.words(plant.seal(np.zeros(parameters, np.float32)))
    primes = plant.modulus.astype(object)
    words[1][1] = (words[1][1].astype(object) + transform(added).astype(object) * height) % primes
    corrupt = plant.body(words)  # a ciphertext like any other: the summer takes it
    total = plant.sum_of([*(plant.seal(update) for update in updates), corrupt])

    opened = plant.opened(total, 3)[CKKS_SLOTS:] * plant.step / plant.policy.clip
    doubled = coefficients(encoded(opened, 2.0 * 2**10))  # h / height, with h = m'(X) + m'(1/X)
    key = _halves(doubled)
    assert set(np.unique(key)) == {-1, 0, 1}

    first = next(iter(plant.words(plant.seal(updates[0]))))
    secret = np.clip(updates[0][:CKKS_SLOTS].astype(float), -0.1, 0.1) / 0.1
    phase = (first[0, 0].astype(object) + first[1, 0].astype(object) * transform(key)[0].astype(object)) % CKKS_PRIME
    due = encoded(secret, 2.0**plan.scale_bits).astype(object)
    error = coefficients(((phase - due) % CKKS_PRIME).astype(np.uint64))
    assert np.abs(error).max() < 2**26  # of 2^75: that agent's update


def _halves(doubled: np.ndarray) -> np.ndarray:
    """The key s from h = u(X) + u(1/X) with u = (1 + 8 x^(N/2)) · s, N = 4096.

    At i, s(X) + s(1/X) has s_i - s_(N-i); at N/2 - i, the same of x^(N/2) · s has -s_(N-i) - s_i. Each is within 2,
    so as digits of base 8 they come apart.
    """
    half = CKKS_DEGREE // 2
    low = (doubled + 4) % 8 - 4
    high = (doubled - low) // 8
    key = np.zeros(CKKS_DEGREE, np.int64)
    key[0] = low[0] // 2  # 2 s_0
    key[half] = -high[0] // 2  # x^(N/2) · s has -s_half at 0
    for i in range(1, half):
        difference, total = low[i], -high[half - i]
        key[i], key[CKKS_DEGREE - i] = (total + difference) // 2, (total - difference) // 2
    return key


@pytest.mark.parametrize("added", [0, 1, 12345, "delta", "5 delta", "half", "largest"])
@pytest.mark.parametrize("custodian", [0, 1, 2])
def test_under_one_time_keys_the_same_agent_learns_no_key_and_opens_nobody(added, custodian):
    """The agent adds a multiple of its choice to its own body, has every body, the opened sum and one custodian."""
    played = OneTimeRound(4, parameters=20_000)
    plan, digest = played.plan, played.facts.digest
    head = head_of(plan, digest, BodyKind.UPDATE, 1)
    chosen = {
        "delta": plan.delta,
        "5 delta": 5 * plan.delta,
        "half": plan.delta // 2,
        "largest": ONE_TIME_MODULUS - 1,
    }
    constant = chosen.get(added, added)

    def words_of(body: bytes) -> np.ndarray:
        return join_planes(planes(body, head), plan.word_bytes) << np.uint64(plan.dropped_bits)

    sealed = [played.seal(agent) for agent in range(3)]
    own, own_key = played.seal_and_keep_the_key(3)
    words = words_of(own.body)
    words[0] = (words[0] + np.uint64(constant)) % ONE_TIME_MODULUS
    corrupt = pack_one_time(head, words >> np.uint64(plan.dropped_bits))
    letters = [played.signed(agent, each) for agent, each in enumerate(sealed)]
    unsigned = write_letters(played.facts, played.member(3, corrupt), own_key, secrets.token_bytes)
    letters.append([sign_letter(letter, played.identities[3], played.facts) for letter in unsigned])
    for each in letters:
        played.deliver(each)
    bodies = [*(each.body for each in sealed), corrupt]
    opener = played.opener([played.member(agent, body) for agent, body in enumerate(bodies)])

    # The sum gains what was added, or shows too much noise. It has nothing else to give: it holds no key.
    honest = sum(played.quantised(agent) for agent in range(4))
    try:
        gained = played.sums(opener.open(played.sum_of(bodies), 4)) - honest
    except Malformed:
        assert added == "half"
    else:
        assert gained[0] == {"delta": 1, "5 delta": 5}.get(
            added, round(constant / plan.delta) if added == 12345 else 0
        )
        assert not gained[1:].any()

    key_sum = opener._key_sum
    share = read_letter(letters[0][custodian], played.facts, custodian, BOX_SECRETS[custodian])
    two_parts = sum(share.parts.values(), np.zeros(ONE_TIME_DEGREE, np.uint16)).view(np.int16).astype(np.int64)
    guesses = [key_sum, key_sum - own_key, own_key, (key_sum - own_key) // 3, two_parts]
    assert not any(_opens(played, words_of(bodies[0]), guess) for guess in guesses)
    other = letters[0][(custodian + 1) % 3]  # the control: with a second custodian it would
    others = read_letter(other, played.facts, (custodian + 1) % 3, BOX_SECRETS[(custodian + 1) % 3]).parts
    whole = sum({**share.parts, **others}.values(), np.zeros(ONE_TIME_DEGREE, np.uint16))
    assert _opens(played, words_of(bodies[0]), whole.view(np.int16).astype(np.int64))


def _opens(played: OneTimeRound, words: np.ndarray, key: np.ndarray) -> bool:
    """Whether the first polynomial of a body lies within the noise bound of multiples of delta with this key."""
    plan = played.plan
    element = ring.public_element(played.facts.digest, 0)
    product = ring.transform_back(ring.multiply(element, ring.transform(ring.residues(key))))
    error = ring.centred((words[:ONE_TIME_DEGREE] + product) % ONE_TIME_MODULUS) % plan.delta
    share = ((error < plan.noise_bound) | (error > plan.delta - plan.noise_bound)).mean()
    by_chance = 2 * plan.noise_bound / plan.delta
    assert share == 1.0 or abs(share - by_chance) < 0.05  # nothing in between: no key is nearly right
    return bool(share == 1.0)
