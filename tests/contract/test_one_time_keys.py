"""The sealing ports under one-time keys: honest rounds, what each party may do, the plan, and test vectors."""

import hashlib

import numpy as np
import pytest
from msgspec.structs import replace

from gemel.errors import ConfigError, Malformed, PeerError, Refused
from gemel.sealing.budget import BODY_HEADER_BYTES, budget_of
from gemel.sealing.frames import BodyKind
from gemel.sealing.onetime import ring
from gemel.sealing.onetime.context import RoundContext
from gemel.sealing.onetime.custodian import KeyCustodian
from gemel.sealing.onetime.frames import head_of, join_planes, planes
from gemel.sealing.onetime.letters import (
    KeyTotal,
    divide,
    join_totals,
    letter_bytes,
    members_digest,
    parts_of,
    sign_letter,
)
from gemel.sealing.onetime.opener import OneTimeOpener
from gemel.sealing.onetime.plan import MODULUS, RING_DEGREE, SIGMA, plan_of
from gemel.sealing.onetime.sealer import OneTimeSealer
from gemel.sealing.onetime.summer import OneTimeSummer
from gemel.sealing.ports import KeyCustodianPort, OpenerPort, SealerPort, SummerPort
from gemel.sealing.schemes import sealer_of, summer_of
from gemel.sealing.sealer import Sealer
from gemel.sealing.summer import Summer
from gemel.wire.messages import SealingPolicy
from gemel.wire.reasons import Reason
from gemel.wire.types import sha256
from tests.support.onetime import CAP, OneTimeRound


def policy_of(bits=4, contributors=10) -> SealingPolicy:
    return SealingPolicy("one-time-keys", bits, 0.1, contributors, CAP)


def stream(label: bytes):
    """Randomness that is the same every time: for vectors only."""
    calls = iter(range(1000))
    return lambda count: hashlib.shake_256(label + bytes([next(calls)])).digest(count)


class Played:
    """Three agents have sealed, and custodians have their letters."""

    def __init__(self, **options) -> None:
        self.round = OneTimeRound(**options)
        self.sealed = [self.round.seal(agent) for agent in range(len(self.round.identities))]
        self.letters = [self.round.signed(agent, sealed) for agent, sealed in enumerate(self.sealed)]
        for letters in self.letters:
            self.round.deliver(letters)
        self.bodies = [sealed.body for sealed in self.sealed]
        self.members = [self.round.member(agent, body) for agent, body in enumerate(self.bodies)]


@pytest.fixture(scope="module")
def played() -> Played:
    return Played()


# --- sums ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("custodians", [1, 3])
@pytest.mark.parametrize(("agents", "bits", "parameters"), [(3, 4, 30_000), (10, 8, 5000), (10, 4, 1), (100, 4, 300)])
def test_opened_sum_is_exactly_the_sum_of_what_agents_quantised(agents, bits, parameters, custodians):
    played = Played(agents=agents, bits=bits, parameters=parameters, custodians=custodians)
    opened = played.round.opener(played.members).open(played.round.sum_of(played.bodies), agents)
    assert np.array_equal(played.round.sums(opened), sum(played.round.quantised(agent) for agent in range(agents)))


@pytest.mark.parametrize("pair", [(0, 1), (0, 2), (1, 2), (2, 1), (0, 1, 2)])
def test_any_two_custodians_of_three_open_the_same_bytes(played, pair):
    total = played.round.sum_of(played.bodies)
    first = played.round.opener(played.members, (0, 1)).open(total, 3)
    assert played.round.opener(played.members, pair).open(total, 3) == first


def test_same_bodies_give_the_same_sum_in_any_order(played):
    assert played.round.sum_of(played.bodies) == played.round.sum_of(played.bodies[::-1])


def test_same_update_sealed_twice_shares_neither_words_nor_letters(played):
    first, second = played.round.seal(0), played.round.seal(0)
    assert first.body != second.body
    assert not set(first.letters) & set(second.letters)
    assert np.array_equal(first.residual, second.residual)


def test_largest_words_of_a_thousand_contributors_do_not_overflow():
    policy = policy_of(bits=8, contributors=1000)
    plan, round_ = plan_of(policy, 100), OneTimeRound(3, parameters=100)
    assert plan.dropped_bits > 0
    summer = OneTimeSummer(round_.context, policy, 100)
    body = OneTimeSealer(round_.context, policy, 100, round_.identities[0].address).seal(
        round_.zeros, 1, round_.zeros
    )
    for _ in range(1000):
        summer.add(body.body[:BODY_HEADER_BYTES] + b"\xff" * (len(body.body) - BODY_HEADER_BYTES))
    word = 2 ** (8 * plan.word_bytes) - 1
    expected = (1000 * (word << plan.dropped_bits)) % MODULUS
    head = head_of(plan, round_.facts.digest, BodyKind.SUM, 1000)
    assert (join_planes(planes(summer.sum(), head), 7) == expected).all()
    with pytest.raises(ValueError, match="allows 1000"):
        summer.add(body.body)


def test_whole_word_above_the_modulus_is_refused():
    policy = policy_of(bits=4, contributors=1000)
    assert plan_of(policy, 100).word_bytes == 7  # nothing is rounded off in this round
    round_ = OneTimeRound(3, parameters=100)
    summer = OneTimeSummer(round_.context, policy, 100)
    body = OneTimeSealer(round_.context, policy, 100, round_.identities[0].address).seal(
        round_.zeros, 1, round_.zeros
    )
    with pytest.raises(Refused, match="below the modulus"):
        summer.add(body.body[:BODY_HEADER_BYTES] + b"\xff" * (len(body.body) - BODY_HEADER_BYTES))


# --- scheme by policy ------------------------------------------------------------------------------


def test_policy_selects_the_scheme(played):
    agent = played.round.identities[0].address
    sealer: SealerPort = sealer_of(played.round.context, played.round.policy, 5000, agent)
    summer: SummerPort = summer_of(played.round.context, played.round.policy, 5000)
    opener: OpenerPort = played.round.opener(played.members)
    custodian: KeyCustodianPort = played.round.custodians[0]
    assert isinstance(sealer, OneTimeSealer)
    assert isinstance(summer, OneTimeSummer)
    assert opener.public_context() == played.round.context
    assert custodian.total(played.members)


def test_each_scheme_refuses_the_others_policy(played):
    default = SealingPolicy("bfv-packed", 4, 0.1, 10, CAP)
    for party in (Sealer, Summer):
        with pytest.raises(ConfigError, match="bfv-packed, got one-time-keys"):
            party(played.round.context, played.round.policy, 5000)
    with pytest.raises(ConfigError, match="scheme"):
        OneTimeSummer(played.round.context, default, 5000)
    with pytest.raises(ConfigError, match="bfv-packed, got one-time-keys"):
        budget_of(played.round.policy, 5000).check()


# --- levels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("level", [0, 2, 4])
def test_update_is_in_a_sum_once_or_not_at_all(played, level):
    summer = OneTimeSummer(played.round.context, played.round.policy, 5000)
    with pytest.raises(ValueError, match="once, or not at all"):
        summer.add(played.bodies[0], level)


def test_policy_with_levels_is_refused_because_they_would_open_single_keys(played):
    weighted = replace(played.round.policy, levels=2)
    for party in (OneTimeSummer, lambda *args: OneTimeSealer(*args, played.round.identities[0].address)):
        with pytest.raises(ConfigError, match="levels: 1: weights on these ciphertexts would open single keys"):
            party(played.round.context, weighted, 5000)


# --- the plan ------------------------------------------------------------------------------------


@pytest.mark.parametrize("bits", range(2, 17))
@pytest.mark.parametrize("contributors", [1, 2, 3, 10, 37, 100, 500, 1000])
def test_every_plan_is_exact_with_room_or_refused(bits, contributors):
    plan = plan_of(policy_of(bits, contributors), 1000)
    plan.check()
    worst_noise = 12 * np.sqrt(contributors * (SIGMA**2 + (4**plan.dropped_bits / 12 if plan.dropped_bits else 0)))
    assert 2 * worst_noise < plan.delta
    assert plan.base**plan.lanes * plan.delta <= MODULUS
    assert plan.key_bound < 2**15
    assert contributors * 2 ** (8 * plan.word_bytes + plan.dropped_bits) < 2**64 or plan.word_bytes == 7


def test_plan_refuses_what_does_not_fit():
    # Beyond what a policy may say, so that refusing is seen: no digit is left for a value.
    with pytest.raises(ConfigError, match="would not be exact"):
        plan_of(policy_of(32, 2**24), 1000).check()
    with pytest.raises(ConfigError, match="parameters"):
        plan_of(policy_of(), 0).check()
    with pytest.raises(ConfigError, match="max_frame_bytes"):
        plan_of(policy_of(), 1000).check(max_frame_bytes=100)


@pytest.mark.parametrize(("bits", "limit"), [(4, 1.1), (8, 1.7)])
def test_everything_an_agent_sends_for_half_a_million_parameters_stays_within_its_figure(bits, limit):
    sent = plan_of(policy_of(bits), 500_000).body_bytes + sum(letter_bytes(index, 3) for index in range(3))
    assert sent / 500_000 <= limit


# --- arithmetic ------------------------------------------------------------------------------------


def test_products_are_exact_at_the_edges_and_in_between():
    rng = np.random.default_rng(1)
    edges = [0, 1, 2, MODULUS // 2, MODULUS // 2 + 1, MODULUS - 2, MODULUS - 1]
    left = np.array(edges * len(edges) + rng.integers(0, MODULUS, 20_000).tolist(), np.uint64)
    right = np.array(sorted(edges * len(edges)) + rng.integers(0, MODULUS, 20_000).tolist(), np.uint64)
    products = ring.multiply(left, right)
    assert products.tolist() == [a * b % MODULUS for a, b in zip(left.tolist(), right.tolist(), strict=True)]


def test_transform_multiplies_polynomials_modulo_x_to_the_n_plus_one():
    shifted, one = np.zeros(RING_DEGREE, np.uint64), np.zeros(RING_DEGREE, np.uint64)
    shifted[RING_DEGREE - 1], one[1] = 5, 7  # 5 x^2047 · 7 x = -35
    product = ring.transform_back(ring.multiply(ring.transform(shifted), ring.transform(one)))
    assert product[0] == MODULUS - 35
    assert not product[1:].any()


def test_gaussians_have_the_deviation_that_the_plan_rests_on():
    drawn = ring.gaussian(400_000, stream(b"deviation"))
    assert abs(drawn.std() - SIGMA) < 0.03
    assert abs(drawn.mean()) < 0.05
    assert np.abs(drawn).max() <= 64
    expected = np.exp(-(np.arange(-10, 11) ** 2) / (2 * SIGMA**2)) / (SIGMA * np.sqrt(2 * np.pi))
    assert np.allclose([(drawn == k).mean() for k in range(-10, 11)], expected, atol=0.002)


def test_test_vectors_hold():
    """What another implementation must give: public elements, Gaussians, parts, a body and its sum."""
    round_ = OneTimeRound(3, parameters=1000)
    element = ring.public_element(round_.facts.digest, 3)
    sealer = OneTimeSealer(round_.context, round_.policy, 1000, round_.identities[0].address, stream(b"vector"))
    update = np.linspace(-0.1, 0.1, 1000).astype(np.float32)
    body = sealer.seal(update, 60, round_.zeros).body
    parts = divide(np.arange(-1024, 1024), 3, stream(b"parts"))
    assert {
        "context": round_.facts.digest,
        "element": [int(word) for word in element[:2]] + [int(element[-1])],
        "gaussian": ring.gaussian(8, stream(b"gauss")).tolist(),
        "parts": sha256(b"".join(parts)),
        "body": sha256(body),
        "sum": sha256(round_.sum_of([body, body])),
    } == VECTORS


VECTORS = {
    "context": "1753a47afcb780ce844dd25ea4c75e3a0ab5dec176896038fdfb810bd80dcf34",
    "element": [17731865901704832, 16939389721543644, 3463262530111173],
    "gaussian": [-6, 12, 2, 0, 1, 2, 0, 1],
    "parts": "f4d3b14e47b2288cbe6f26ff0088fa364d1e698d16b2efcbfcbdcf584eeb17e5",
    "body": "91f99a6aaeb3a8e8918a72916be341a21dcd5e6514ba930399054d4de3ff75eb",
    "sum": "70bfef487487491005c6183f7694773722d2b4736c21f11312160fe64bb8893c",
}


def test_words_are_what_schoolbook_arithmetic_gives():
    """The formula in plan.py, by hand: the vectors above rest on it."""
    round_ = OneTimeRound(3, parameters=1000)
    plan = round_.plan
    sealer = OneTimeSealer(round_.context, round_.policy, 1000, round_.identities[0].address, stream(b"vector"))
    body = sealer.seal(np.full(1000, 0.1, np.float32), CAP, round_.zeros).body
    draws = stream(b"vector")
    key = ring.gaussian(RING_DEGREE, draws).tolist()
    errors = ring.gaussian(plan.words, draws).tolist()
    element = ring.transform_back(ring.public_element(round_.facts.digest, 0)).tolist()
    head = head_of(plan, round_.facts.digest, BodyKind.UPDATE, 1)
    words = join_planes(planes(body, head), plan.word_bytes).tolist()
    message = sum(7 * plan.base**lane for lane in range(plan.lanes))  # 7 is the largest value of 4 bits
    for index in range(5):
        low = sum(element[i] * key[index - i] for i in range(index + 1))
        high = sum(element[i] * key[RING_DEGREE + index - i] for i in range(index + 1, RING_DEGREE))
        whole = (plan.delta * message + errors[index] - low + high) % MODULUS
        assert words[index] == (whole + (1 << plan.dropped_bits >> 1)) >> plan.dropped_bits


# --- letters, custodians, totals -------------------------------------------------------------------


@pytest.mark.parametrize("custodians", [1, 3])
def test_letters_have_exactly_the_length_that_their_form_says(custodians):
    played = Played(custodians=custodians)
    assert [len(letter) for letter in played.letters[0]] == [letter_bytes(j, custodians) for j in range(custodians)]


def test_parts_add_up_and_two_of_them_are_seeds_or_masked():
    key = ring.gaussian(RING_DEGREE, stream(b"key"))
    first, second = divide(key, 3, stream(b"one")), divide(key, 3, stream(b"two"))
    assert [len(part) for part in first] == [32, 32, 4096]
    assert first[2] != second[2]
    assert [parts_of(custodian, 3) for custodian in range(3)] == [(1, 2), (0, 2), (0, 1)]


def changed(letter: bytes, offset: int) -> bytes:
    return letter[:offset] + bytes([letter[offset] ^ 1]) + letter[offset + 1 :]


@pytest.mark.parametrize(
    ("offset", "reason"),
    [
        (0, Reason.MALFORMED),
        (4, Reason.MALFORMED),
        (5, Reason.NOT_ADDRESSED),
        (6, Reason.MALFORMED),
        (8, Reason.DIGEST_MISMATCH),
        (40, Reason.BAD_SIGNATURE),  # the agent
        (60, Reason.BAD_SIGNATURE),  # the update
        (200, Reason.BAD_SIGNATURE),  # the box
        (-1, Reason.BAD_SIGNATURE),
    ],
)
def test_changed_letter_is_refused(played, offset, reason):
    letter = played.letters[0][0]
    with pytest.raises(Refused) as refusal:
        played.round.custodian(0).receive(changed(letter, offset % len(letter)))
    assert refusal.value.reason == reason


def test_letter_to_another_custodian_or_of_another_round_or_length_is_refused(played):
    custodian = played.round.custodian(0)
    with pytest.raises(Refused, match="not_addressed"):
        custodian.receive(played.letters[0][1])  # as long as its own
    with pytest.raises(Refused, match="wrong_length"):
        custodian.receive(played.letters[0][2])
    with pytest.raises(Refused, match="digest_mismatch"):
        custodian.receive(Played(number=8).letters[0][0])


def test_letter_of_an_unregistered_agent_is_refused(played):
    custodian = played.round.custodian(0, registered=set())
    with pytest.raises(Refused, match="unregistered"):
        custodian.receive(played.letters[0][0])


def test_agents_first_letter_stands_and_the_same_again_changes_nothing(played):
    custodian = played.round.custodian(0)
    for _ in range(2):
        custodian.receive(played.letters[0][0])
    with pytest.raises(Refused, match="another key"):
        custodian.receive(played.round.signed(0, played.round.seal(0))[0])


@pytest.mark.parametrize("key", [b"\0" * 32, b"\1" + b"\0" * 31])
def test_custodians_key_of_low_order_gets_no_letter(played, key):
    """Libsodium would agree with everybody on one secret under such a key."""
    context = played.round.context[:-32] + key
    sealer = OneTimeSealer(context, played.round.policy, 5000, played.round.identities[0].address)
    with pytest.raises(Malformed, match="no usable key"):
        sealer.seal(played.round.zeros, 1, played.round.zeros)


@pytest.mark.parametrize("point", [b"\0" * 32, b"\1" + b"\0" * 31, b"\xff" * 32])
def test_box_with_a_point_of_low_order_is_refused_though_its_agent_signs_it(played, point):
    letter = played.sealed[0].letters[0]
    forged = letter[:92] + point + letter[124:]
    with pytest.raises(Refused, match="does not open"):
        played.round.custodian(0).receive(sign_letter(forged, played.round.identities[0], played.round.facts))


def test_agent_signs_only_its_own_letters(played):
    with pytest.raises(ValueError, match="a letter of"):
        sign_letter(played.sealed[0].letters[0], played.round.identities[1], played.round.facts)


def test_custodian_gives_out_no_total_for_too_few_an_unknown_body_or_an_agent_twice(played):
    custodian, members = played.round.custodians[0], played.members
    other_body = [members[0]._replace(update="0" * 64), *members[1:]]
    for wrong, reason in ((members[:2], "too_few"), (other_body, "missing"), ([*members, members[0]], "twice")):
        with pytest.raises(Refused, match=reason):
            custodian.total(wrong)
    assert custodian.total(members) == custodian.total(members[::-1])


def test_minimum_below_three_and_a_strangers_secret_are_refused(played):
    with pytest.raises(ValueError, match="at least 3"):
        played.round.custodian(0, minimum=2)
    with pytest.raises(ValueError, match="not in"):
        KeyCustodian(played.round.context, b"\7" * 32, registered=(), minimum=3, witness=played.round.witness)


def test_destroyed_custodian_takes_and_gives_nothing():
    played = Played()
    played.round.custodians[0].destroy()
    with pytest.raises(Refused, match="destroyed"):
        played.round.custodians[0].total(played.members)
    with pytest.raises(Refused, match="destroyed"):
        played.round.custodians[0].receive(played.letters[0][0])


def test_totals_of_one_custodian_of_different_sums_or_in_disagreement_are_refused(played):
    totals = [KeyTotal.parse(custodian.total(played.members)) for custodian in played.round.custodians]
    with pytest.raises(Malformed, match="another custodian is needed"):
        join_totals(totals[:1])
    with pytest.raises(Malformed, match="not of one sum"):
        join_totals([totals[0], KeyTotal(1, 3, 3, totals[0].context, "0" * 64, totals[1].parts)])
    lie = {part: values + (part == 2) for part, values in totals[1].parts.items()}
    with pytest.raises(Malformed, match="disagree about part 2"):
        join_totals([totals[0], KeyTotal(1, 3, 3, totals[1].context, totals[1].members, lie)])


def test_members_have_one_name_in_any_order(played):
    assert members_digest(played.members) == members_digest(played.members[::-1])
    assert members_digest(played.members) != members_digest(played.members[:2])


# --- openers and contexts ---------------------------------------------------------------------------


def test_opener_survives_a_restart_and_a_destroyed_one_opens_nothing(played):
    total = played.round.sum_of(played.bodies)
    opener = played.round.opener(played.members)
    again = OneTimeOpener.from_bytes(opener.to_bytes())
    assert again.open(total, 3) == opener.open(total, 3)
    opener.destroy()
    for action in (lambda: opener.open(total, 3), opener.to_bytes):
        with pytest.raises(Refused, match="destroyed"):
            action()


def test_opener_refuses_another_count_a_single_update_and_another_rounds_totals(played):
    opener = played.round.opener(played.members)
    with pytest.raises(Refused, match="not 2"):
        opener.open(played.round.sum_of(played.bodies[:2]), 2)
    with pytest.raises(Refused, match="malformed"):
        opener.open(played.bodies[0], 3)
    other = Played(number=8)
    totals = [custodian.total(other.members) for custodian in other.round.custodians]
    with pytest.raises(Malformed, match="another round"):
        OneTimeOpener.from_totals(played.round.context, played.round.policy, totals)


def test_sum_that_lacks_an_update_does_not_open_with_everybodys_keys(played):
    lacking = played.round.sum_of([*played.bodies[:2], played.bodies[1]])
    with pytest.raises(Malformed, match="not the sum of these keys"):
        played.round.opener(played.members).open(lacking, 3)


def test_context_comes_back_as_it_was_and_nothing_else_is_one(played):
    context = played.round.context
    assert RoundContext.parse(context) == played.round.facts
    for wrong in (b"", context[:-1], context + b"\0", b"X" + context[1:], context[:5] + b"\2" + context[6:]):
        with pytest.raises(PeerError):
            RoundContext.parse(wrong)
    with pytest.raises(Malformed, match="different"):
        RoundContext.parse(context[:-32] + context[-64:-32])
    for party in (OneTimeSummer, lambda *a: OneTimeSealer(*a, played.round.identities[0].address)):
        with pytest.raises(Refused, match="forged_size"):
            party(context, played.round.policy, 4999)


@pytest.mark.parametrize("weight", [0, CAP + 1])
def test_weight_outside_the_cap_is_refused(played, weight):
    sealer = OneTimeSealer(played.round.context, played.round.policy, 5000, played.round.identities[0].address)
    with pytest.raises(Refused, match="overweight"):
        sealer.seal(played.round.zeros, weight, played.round.zeros)
    with pytest.raises(ValueError, match="parameters expected"):
        sealer.seal(played.round.zeros[:7], 1, played.round.zeros[:7])
